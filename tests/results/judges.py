"""Programs that others wrote, asked what they think of our objects."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.imaging.values import Volume

ALLOWED: dict[str, str] = {
    # pattern of a dciodvfy line: why it may stand
    "</Laterality(0020,0060)> - Attribute present when condition unsatisfied": "type 2C for paired "
    "body parts; the tool cannot know which are paired, and the source's own side is carried",
}


def dciodvfy(path: Path) -> list[str]:
    """Return the Error lines of dciodvfy that are not allowed."""
    answer = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (answer.stdout + answer.stderr).splitlines()
    assert any("Segmentation" in line for line in lines), lines
    return [
        line
        for line in lines
        if line.startswith("Error") and not any(part in line for part in ALLOWED)
    ]


def dcentvfy(paths: Sequence[Path]) -> list[str]:
    """Return what dcentvfy says of files that should agree on patient, study and frame."""
    answer = subprocess.run(
        ["dcentvfy", *map(str, paths)], capture_output=True, text=True, check=False, timeout=60
    )
    return (answer.stdout + answer.stderr).splitlines()


def dcmqi_labels(path: Path, volume: Volume, folder: Path) -> tuple[NDArray[np.uint8], str]:
    """Read a SEG with dcmqi and put its voxels back on a volume's grid, by position alone.

    Returns:
        The labels, and what dcmqi printed.
    """
    folder.mkdir()
    answer = subprocess.run(
        [
            str(Path(sys.executable).parent / "segimage2itkimage"),
            "--inputDICOM",
            str(path),
            "--outputDirectory",
            str(folder),
            "--mergeSegments",
            "--outputType",
            "nrrd",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    labels = np.zeros(volume.array.shape, np.uint8)
    for name in sorted(folder.glob("*.nrrd")):
        data, affine = _nrrd(name)
        _place(labels, data, np.linalg.inv(volume.affine) @ affine)
    return labels, answer.stdout + answer.stderr


def _place(
    labels: NDArray[np.uint8], data: NDArray[np.generic], change: NDArray[np.float64]
) -> None:
    """Put an array where a map from its indices to those of `labels` says, by whole voxels."""
    steps = np.rint(change)
    off = np.abs(change - steps) * [*data.shape, 1]
    assert off.max() < 0.05, change
    order = np.abs(steps[:3, :3]).argmax(axis=1)
    assert sorted(order) == [0, 1, 2]
    start = []
    for axis, source in enumerate(order):
        if steps[axis, source] < 0:
            data = np.flip(data, source)
        begin = min(0, int(steps[axis, source])) * (data.shape[source] - 1)
        start.append(int(steps[axis, 3]) + begin)
    data = data.transpose(order)
    part = tuple(slice(at, at + size) for at, size in zip(start, data.shape, strict=True))
    assert min(start) >= 0
    np.maximum(labels[part], data.astype(np.uint8), out=labels[part])


def _nrrd(path: Path) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Return the voxels [i, j, k] of an NRRD file and their affine to LPS mm."""
    head, body = path.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    assert fields["space"] == "left-posterior-superior"
    sizes = [int(size) for size in fields["sizes"].split()]
    raw = gzip.decompress(body) if fields["encoding"] == "gzip" else body
    kind = {"short": "<i2", "unsigned char": "u1", "unsigned short": "<u2"}[fields["type"]]
    data = np.frombuffer(raw, kind).reshape(sizes, order="F")
    affine = np.eye(4)
    for axis, text in enumerate(fields["space directions"].split(" ")):
        affine[:3, axis] = [float(value) for value in text.strip("()").split(",")]
    affine[:3, 3] = [float(value) for value in fields["space origin"].strip("()").split(",")]
    return data, affine
