"""Read somebody else's file in the limited child and take over tensors and plain facts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.errors import setup_error
from node.models.weights import sha256_of

WALL_S: Final = 600.0
"""A busy machine gives the child little of each second; its processor time is limited to 120 s."""
LARGEST_BYTES: Final = 4 << 30
_CHILD: Final = Path(__file__).with_name("child.py")
_FORMATS: Final = (
    "docs/models.md lists what can be imported; a state dict saved with "
    "torch.save(model.state_dict(), path) always can."
)
_WHAT: Final = {
    "refused": "The file wants to run code or holds more than tensors, so it was refused",
    "unreadable": "The file is not in the format that it should be",
    "no-tensors": "The file holds no tensors",
}

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Tensors:
    """A safetensors file made from somebody else's.

    Attributes:
        path: Where it lies.
        sha256: Its digest.
        shapes: Shape of each tensor by name.
        facts: What the file said beside them, plain values.
    """

    path: Path
    sha256: str
    shapes: Shapes
    facts: Mapping[str, Any]


def read_tensors(kind: str, source: Path, target: Path, *, wall_s: float = WALL_S) -> Tensors:
    """Write the tensors of `source` to `target`.

    Args:
        kind: `torch` (a file of torch.save), `onnx` or `pt2`.
        source: Somebody else's file.
        target: A file that does not exist yet; it is gone again if this fails.
        wall_s: Longest time for reading.

    Raises:
        SetupError: The file is too large or absent, it holds anything but tensors, or reading it
            took more time or memory than allowed.
    """
    _check_size(source)
    try:
        answer = _ask_child(kind, source, target, wall_s)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Tensors(target, sha256_of(target), answer["shapes"], answer["facts"])


def _check_size(source: Path) -> None:
    try:
        size = source.stat().st_size
    except OSError as error:
        raise setup_error(
            "import-unreadable",
            f"The file cannot be read: {error}.",
            where=str(source),
            remedy="Name the file that holds the weights.",
        ) from error
    if size > LARGEST_BYTES:
        raise setup_error(
            "import-too-large",
            f"The file has {size} bytes, at most {LARGEST_BYTES} are read.",
            where=str(source),
            remedy="Save the weights without the optimiser's state.",
        )


def _ask_child(kind: str, source: Path, target: Path, wall_s: float) -> dict[str, Any]:
    """Run the child; it gets no environment, so that nothing of ours steers or leaks into it."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_CHILD), kind, str(source.resolve()), str(target.resolve())],
            env={"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=wall_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise setup_error(
            "import-too-slow",
            f"Reading the file took more than {wall_s:g} s and was stopped.",
            where=str(source),
            remedy=_FORMATS,
        ) from error
    if done.returncode != 0:
        raise setup_error(
            "import-failed",
            f"The process that read the file ended with {done.returncode} "
            "(a negative number is a signal: memory or time were used up).",
            where=str(source),
            remedy=_FORMATS,
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise setup_error(
            f"import-{answer['error']}",
            f"{_WHAT[answer['error']]}: {answer['detail']}.",
            where=str(source),
            remedy=_FORMATS,
        )
    return answer
