"""Read somebody else's checkpoint in a process of its own and leave plain tensors behind.

Run as a script by `convert.py`, never imported: this is the only place that opens a pickle, with
torch's weights-only reader, no network use, and limits on memory and time that the kernel
enforces. Called with SOURCE and TARGET; prints one JSON object.
"""

from __future__ import annotations

import json
import pickle
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file

CPU_S: Final = 120
SPARE_BYTES: Final = 1 << 30
"""Beside what the interpreter holds already and four times the file: room for one more copy."""

WRAPPERS: Final = ("state_dict", "model_state_dict", "model_state", "network_weights", "model")
PREFIXES: Final = ("module.", "_orig_mod.", "model.", "network.")


def main(source: Path, target: Path) -> dict[str, object]:
    """Write the tensors of `source` to `target` and say what they are, or what was wrong."""
    _limit(source)
    # Checkpoints carry a best score as a numpy scalar. It is not wanted, so it becomes None
    # and numpy's own reconstruction stays out of reach.
    harmless: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_nothing, "numpy._core.multiarray.scalar"),
        (_nothing, "numpy.core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.float64)),
        type(np.dtype(np.float32)),
    ]
    try:
        with torch.serialization.safe_globals(harmless):
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        return {"error": "refused", "detail": _first_sentence(str(error))}
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, MemoryError) as error:
        return {"error": "unreadable", "detail": f"{type(error).__name__}: {error}"}
    found = _state_dict(loaded)
    if found is None:
        return {"error": "no-tensors", "detail": f"it holds a {type(loaded).__name__}"}
    tensors = {name: value.detach().clone().contiguous() for name, value in found.items()}
    save_file(tensors, target)
    return {"shapes": {name: list(value.shape) for name, value in tensors.items()}}


def _limit(source: Path) -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = held + 4 * source.stat().st_size + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _nothing(*_: object) -> None:
    return None


def _state_dict(loaded: object) -> dict[str, torch.Tensor] | None:
    """Return the tensors by name, without wrappers, or None if there are none."""
    if not isinstance(loaded, dict):
        return None
    for key in WRAPPERS:
        inner = loaded.get(key)
        if isinstance(inner, dict):
            return _state_dict(inner)
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if not tensors or len(tensors) != len(loaded):
        return None
    return _without_prefixes(tensors)


def _without_prefixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _without_prefixes({k[len(prefix) :]: v for k, v in tensors.items()})
    return tensors


def _first_sentence(text: str) -> str:
    """Return the part of torch's long message that names what was found."""
    for line in text.splitlines():
        if "Unsupported" in line or "GLOBAL" in line or "WeightsUnpickler" in line:
            return line.strip()
    return text.splitlines()[0] if text else "not a tensor file"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
