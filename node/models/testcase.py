"""A model's own test case: one small volume beside the card, to try a runtime on.

The file holds voxels and their geometry, nothing of a header; which labels are right is what
torch in float32 gives for it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as format_safetensors

from node.errors import setup_error
from node.imaging.values import Volume
from node.models.parts import OwnCase

TEST_CASE_FILE: Final = "test-case.safetensors"
_LARGEST_BYTES: Final = 64 << 20
"""A test case is run at every start of a worker; one this large would take minutes."""


def read_test_case(folder: Path, case: OwnCase) -> Volume:
    """Return the volume of a card's test case.

    Raises:
        SetupError: The file is absent, not that of the card, or holds something else.
    """
    path = folder / case.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != case.sha256:
        raise _unusable(path, f"has the SHA-256 {found}, the card wants {case.sha256}")
    try:
        return _parse(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _unusable(path, f"is not a test case: {error!r}") from error


def write_test_case(folder: Path, volume: Volume) -> OwnCase:
    """Write a volume's voxels and geometry beside a card.

    Raises:
        SetupError: The volume is too large.
    """
    if volume.array.nbytes > _LARGEST_BYTES:
        raise setup_error(
            "test-case-large",
            f"The volume has {volume.array.nbytes >> 20} MB, a test case has at most "
            f"{_LARGEST_BYTES >> 20} MB.",
            where=f"series {volume.series_uid}",
            remedy="Take a smaller series, or fewer of its slices with --slices FIRST:LAST.",
        )
    said = json.dumps({"units": volume.units, "modality": volume.modality})
    data = format_safetensors(
        {
            "voxels": np.ascontiguousarray(volume.array),
            "affine": np.asarray(volume.affine, np.float64),
            "spacing_mm": np.asarray(volume.spacing_mm, np.float64),
            "said": np.frombuffer(said.encode("ascii"), np.uint8),
        }
    )
    (folder / TEST_CASE_FILE).write_bytes(data)
    return OwnCase(TEST_CASE_FILE, hashlib.sha256(data).hexdigest())


def some_slices(volume: Volume, first: int, last: int) -> Volume:
    """Return slices first..last-1 of a volume, where they lie in the patient, without sources."""
    affine = np.array(volume.affine, np.float64)
    affine[:3, 3] += first * affine[:3, 0]
    return Volume(
        array=volume.array[first:last],
        affine=affine,
        spacing_mm=volume.spacing_mm,
        units=volume.units,
        modality=volume.modality,
        series_uid=volume.series_uid,
        part=volume.part,
        instances=(),
        slices=(),
    )


def card_text_with(text: str, case: OwnCase) -> str:
    """Return card.toml with this [test_case], put before [accepts] or in place of the old one."""
    table = f'[test_case]\nfile = "{case.file}"\nsha256 = "{case.sha256}"\n'
    old = re.search(r"^\[test_case\][^\n]*\n(?:(?!\[)[^\n]*\n)*", text, re.MULTILINE)
    if old is not None:
        return text[: old.start()] + table + "\n" + text[old.end() :]
    at = re.search(r"^\[accepts\]", text, re.MULTILINE)
    where = len(text) if at is None else at.start()
    return text[:where] + table + "\n" + text[where:]


def _parse(data: bytes) -> Volume:
    tensors = parse_safetensors(data)
    voxels, affine = tensors["voxels"], tensors["affine"]
    if voxels.ndim != 3 or voxels.dtype not in (np.int16, np.float32) or affine.shape != (4, 4):
        raise ValueError(f"voxels {voxels.shape} {voxels.dtype}, affine {affine.shape}")
    said = json.loads(tensors["said"].tobytes())
    spacing = cast(tuple[float, float, float], tuple(map(float, tensors["spacing_mm"])))
    return Volume(
        array=voxels,
        affine=affine,
        spacing_mm=spacing,
        units=str(said["units"]),
        modality=str(said["modality"]),
        series_uid="",
        part=1,
        instances=(),
        slices=(),
    )


def _unusable(path: Path, what: str) -> Exception:
    return setup_error(
        "test-case-unusable",
        f"The test case {path.name} {what}.",
        where=str(path),
        remedy="Make it again with `limner models test-case FOLDER --from DICOMFOLDER`, or take "
        "[test_case] out of the card: the model then runs on torch in fp32.",
    )
