"""The program that reads somebody else's file: tensors out of it, under limits, and it dies alone.

Run as a script by `foreign.py` with FORMAT, SOURCE and TARGET. Writes the tensors to TARGET as
safetensors and prints one JSON object: their shapes and a few plain facts, or what was wrong. The
kernel holds it to memory, processor seconds and file size; it is given no environment, and where
the kernel allows it a network of its own with nothing in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(
    0, str(Path(__file__).resolve().parents[3])
)  # `python -I` knows no packages of ours

from safetensors.torch import save_file

from node.models.imports import onnx_file, pt2_file, torch_file

CPU_S: Final = 120
SPARE_BYTES: Final = 1 << 30
"""Beside what the interpreter holds already and four times the file: room for one more copy."""
LARGEST_TARGET: Final = 8 << 30

_READERS: Final = {"torch": torch_file.read, "onnx": onnx_file.read, "pt2": pt2_file.read}
# unshare(2); a user that is not root may have a network of its own only with a user namespace.
_NEW_NETWORK: Final = 0x40000000
_NEW_USER: Final = 0x10000000


def main(kind: str, source: Path, target: Path) -> dict[str, object]:
    """Write the tensors of `source` to `target` and say what they are, or what was wrong."""
    _limit(source)
    try:
        found, facts = _READERS[kind](source)
    except torch_file.NoTensors as error:
        return {"error": "no-tensors", "detail": str(error)}
    except torch_file.Refused as error:
        return {"error": "refused", "detail": str(error)}
    except (ValueError, OSError, MemoryError) as error:
        return {"error": "unreadable", "detail": f"{error}"}
    if not found:
        return {"error": "no-tensors", "detail": "it is empty"}
    tensors = {name: value.detach().clone().contiguous() for name, value in found.items()}
    save_file(tensors, target)
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    return {"shapes": shapes, "facts": _as_json(facts)}


def _limit(source: Path) -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = held + 4 * source.stat().st_size + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_TARGET, LARGEST_TARGET))
    # Refused inside some containers; the readers open no connection either way.
    flags = _NEW_NETWORK if os.geteuid() == 0 else _NEW_NETWORK | _NEW_USER
    ctypes.CDLL(None).unshare(ctypes.c_int(flags))


def _as_json(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if value is not None}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
