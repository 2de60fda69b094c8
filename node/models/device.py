"""Which device a worker runs on, and what this machine lacks, in sentences said once at start."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path

import torch

from node.errors import setup_error


def choose_device(wanted: str) -> torch.device:
    """Return the device for `auto` (a GPU if there is one), `cpu` or `cuda`.

    Raises:
        SetupError: `cuda` was asked for and there is none, or the word is not known.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise setup_error(
            "device-unknown",
            f"The device must be auto, cpu or cuda, is '{wanted}'.",
            where="worker.device",
            remedy='Write device = "auto".',
        )
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise setup_error(
            "device-missing",
            "A CUDA device was asked for and torch sees none.",
            where="worker.device",
            remedy='Check the driver with nvidia-smi, or write device = "auto" or "cpu".',
        )
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def device_name(device: torch.device) -> str:
    """Return `cuda` or `cpu` with the maker's name of it."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({_cpu_name()})"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes in bf16 by itself.

    Without instructions for it a CPU works it out number by number: a 2D network of 0.5 M
    parameters took over 90 s per plane that way, and 0.5 s in fp32 (measured, AVX2).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not _cpu_flags().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def what_is_missing(device: torch.device) -> tuple[str, ...]:
    """Return a sentence for each thing that would make inference faster here."""
    if device.type == "cuda":
        return ()
    sentences = ["There is no GPU that torch can use: networks run on the CPU."]
    if not has_bf16(device):
        sentences.append(
            "The CPU has no bf16 instructions (AMX or AVX-512 BF16): bf16 models run in fp32."
        )
    elif "amx_bf16" not in _cpu_flags():
        sentences.append("The CPU has no AMX: bf16 models run on its slower bf16 instructions.")
    if importlib.util.find_spec("openvino") is None:
        sentences.append("OpenVINO is not installed: torch runs the networks.")
    return tuple(sentences)


def _cpu_flags() -> frozenset[str]:
    return frozenset(_cpu_line("flags").split() + _cpu_line("Features").split())  # x86, ARM


def _cpu_name() -> str:
    return _cpu_line("model name") or platform.machine()


def _cpu_line(key: str) -> str:
    """Return a value of /proc/cpuinfo, empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return ""
