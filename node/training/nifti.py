"""NIfTI images with their labels as volumes: the reference must lie on the image's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np

from node.errors import setup_error
from node.imaging.values import Floats, Labels, Volume

_RAS_FROM_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_NEAR_MM: Final = 0.01


def read_nifti_pair(
    image: Path, labels: Path, *, units: str, modality: str
) -> tuple[Volume, Labels]:
    """Return a volume and its labels.

    The last axis of the file becomes the slices, the second the rows, the first the columns.

    Args:
        image: NIfTI with one value per voxel.
        labels: NIfTI with whole numbers, on the same grid.
        units: Of the values.
        modality: As DICOM spells it.

    Raises:
        SetupError: The grids differ, or a label is not a whole number of 0 to 255.
    """
    picture: Any = nib.load(image)  # nibabel is typed in part
    reference: Any = nib.load(labels)
    if picture.shape != reference.shape or not np.allclose(
        picture.affine, reference.affine, atol=_NEAR_MM
    ):
        raise setup_error(
            "label-grid",
            "The labels do not lie on the grid of the image.",
            where=str(labels),
            remedy="Give labels on the image's own grid; they are never resampled.",
        )
    found = np.asanyarray(reference.dataobj)
    whole = found.astype(np.uint8)
    if not np.array_equal(whole, found):
        raise setup_error(
            "label-values",
            "The labels are not whole numbers of 0 to 255.",
            where=str(labels),
            remedy="Give one whole number per voxel: 0 for background, labels from 1.",
        )
    values = np.asarray(picture.dataobj, np.float32)
    affine = volume_affine(np.asarray(picture.affine, np.float64))
    volume = Volume(
        array=np.ascontiguousarray(values.transpose(2, 1, 0)),
        affine=affine,
        spacing_mm=_spacing(affine),
        units=units,
        modality=modality,
        series_uid="",
        part=1,
        instances=(),
        slices=(),
    )
    return volume, np.ascontiguousarray(whole.transpose(2, 1, 0))


def volume_affine(nifti: Floats) -> Floats:
    """Return index [slice, row, column, 1] to LPS mm from a NIfTI affine (i, j, k to RAS mm)."""
    affine: Floats = (_RAS_FROM_LPS @ nifti)[:, [2, 1, 0, 3]]
    return affine


def _spacing(affine: Floats) -> tuple[float, float, float]:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return float(lengths[0]), float(lengths[1]), float(lengths[2])
