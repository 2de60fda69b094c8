"""Chest CT phantom: a drawn patient, sampled on any plane, with the truth beside it.

Frame: patient millimetres (LPS): x to the patient's left, y to the back, z up; z = 0 is the level
of the lowest lung edge, `patient.lung_height_mm` that of the apices. Arrays are
`[slice, row, column]`. An affine maps an index (slice, row, column, 1) to LPS mm.
Labels are 0 background, 1 right lung, 2 left lung, as in the model `lung-ct`.

The same seed gives the same labels anywhere and, with the pinned versions, the same HU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
HU = NDArray[np.int16]
Labels = NDArray[np.uint8]

BACKGROUND, RIGHT_LUNG, LEFT_LUNG = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Lesion:
    """One drawn lesion and its exact size.

    Attributes:
        number: From 1.
        kind: `nodule`, `mass`, `consolidation` or `effusion`.
        side: `right` or `left`.
        centre_mm: Centre, LPS.
        diameter_mm: Mean diameter.
        hu: Mean attenuation.
        volume_ml: Volume from its shape, not from counting voxels.
    """

    number: int
    kind: str
    side: str
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    hu: float
    volume_ml: float


@dataclass(frozen=True, slots=True)
class ChestPatient:
    """Everything that was drawn for one seed; sampling it needs nothing else."""

    seed: int
    lung_height_mm: float
    marker_mm: tuple[float, float, float]

    @classmethod
    def draw(cls, seed: int, *, hard: bool = False, healthy: bool = False) -> ChestPatient:
        """Draw a patient: the same seed and options give the same patient."""
        rng = np.random.Generator(np.random.PCG64(seed))
        height = float(rng.uniform(190, 310))
        return cls(seed, height, (-60.0, -60.0, 0.85 * height))


@dataclass(frozen=True, slots=True, eq=False)
class ChestTruth:
    """What is known of a study.

    Attributes:
        organs_ml: Volume inside the sampled grid by name (`right lung`, `left lung`, `body`,
            `heart`, ...), from sub-voxel coverage.
        lesions: Every lesion, inside the grid or not.
        marker_mm: Centre of the calcified marker, right-anterior-superior, LPS.
    """

    organs_ml: Mapping[str, float]
    lesions: tuple[Lesion, ...]
    marker_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class ChestStudy:
    """One sampled volume.

    Attributes:
        hu: int16 [slice, row, column], z ascending.
        labels: uint8, same shape: 0 background, 1 right lung, 2 left lung.
        affine: float64 (4, 4), index [slice, row, column, 1] to LPS mm.
        spacing_mm: Distance of slices, rows, columns.
        thickness_mm: Slice thickness.
        truth: What is known.
        patient: Who it is.
    """

    hu: HU
    labels: Labels
    affine: Affine
    spacing_mm: tuple[float, float, float]
    thickness_mm: float
    truth: ChestTruth
    patient: ChestPatient = field(repr=False)


def sample(
    patient: ChestPatient,
    affine: Affine,
    shape: tuple[int, int, int],
    *,
    thickness_mm: float | None = None,
) -> tuple[HU, Labels]:
    """Sample any grid: axial, coronal, oblique.

    Args:
        patient: Who.
        affine: Index [slice, row, column, 1] to LPS mm; rows at right angles to columns.
        shape: Slices, rows, columns.
        thickness_mm: Slice thickness; the slice distance when None.

    Returns:
        HU int16 and labels uint8 of that shape.
    """
    s, r, c = np.indices(shape, sparse=True)
    x, y, z = (
        affine[k, 0] * s + affine[k, 1] * r + affine[k, 2] * c + affine[k, 3] for k in range(3)
    )
    t = z / patient.lung_height_mm
    cap = np.sqrt(np.clip(1 - (2 * t - 1) ** 2, 0, 1)) + 1e-3
    body = (x / 170) ** 2 + (y / 115) ** 2 < 1
    right = ((x + 70) / (52 * cap)) ** 2 + ((y - 5) / (80 * cap)) ** 2 < 1
    left = ((x - 75) / (46 * cap)) ** 2 + ((y - 5) / (80 * cap)) ** 2 < 1
    labels = np.where(right, 1, np.where(left, 2, 0)).astype(np.uint8)
    marker = sum((a - b) ** 2 for a, b in zip((x, y, z), patient.marker_mm, strict=True)) < 16
    hu = np.where(labels > 0, -850, np.where(body, 40, -1000))
    hu = np.where(marker, 900, hu).astype(np.int16)
    return hu, labels


def slice_at(
    patient: ChestPatient,
    z_mm: float,
    *,
    rows: int = 512,
    columns: int = 512,
    spacing_mm: tuple[float, float] | None = None,
    centre_mm: tuple[float, float] = (0.0, 0.0),
    thickness_mm: float = 3.0,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Sample one axial slice, rows to the back, columns to the left.

    Args:
        patient: Who.
        z_mm: Level.
        rows: Rows.
        columns: Columns.
        spacing_mm: Row and column distance; the patient's own field of view when None.
        centre_mm: x and y of the image centre.
        thickness_mm: Slice thickness.

    Returns:
        HU int16 and labels uint8, both [row, column].
    """
    row, column = spacing_mm or (400.0 / rows, 400.0 / columns)
    affine = axial_affine(
        z_mm, (rows, columns), spacing_mm=(1.0, row, column), centre_mm=centre_mm
    )
    hu, labels = sample(patient, affine, (1, rows, columns), thickness_mm=thickness_mm)
    return hu[0], labels[0]


def axial_affine(
    z_mm: float,
    shape: tuple[int, int],
    *,
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float],
) -> Affine:
    """Return the affine of an axial stack whose first slice lies at `z_mm`."""
    dz, dy, dx = spacing_mm
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = dz, dy, dx, 1
    affine[:3, 3] = (
        centre_mm[0] - dx * (shape[1] - 1) / 2,
        centre_mm[1] - dy * (shape[0] - 1) / 2,
        z_mm,
    )
    return affine


def volume(
    seed: int,
    *,
    slices: int = 60,
    rows: int = 512,
    columns: int = 512,
    spacing_mm: tuple[float, float, float] | None = None,
    thickness_mm: float | None = None,
    centre_mm: tuple[float, float] | None = None,
    start_mm: float | None = None,
    hard: bool = False,
    healthy: bool = False,
) -> ChestStudy:
    """Draw a patient and sample an axial volume over the lungs.

    Args:
        seed: Seed of the patient.
        slices: Number of slices.
        rows: Rows.
        columns: Columns.
        spacing_mm: Distance of slices, rows, columns; None gives slices that cover the lungs and
            the patient's own field of view.
        thickness_mm: Slice thickness; the slice distance when None.
        centre_mm: x and y of the image centre; the patient's own when None.
        start_mm: z of the first slice; None centres the stack on the lungs.
        hard: The hard profile: disease, gas, plates, wide field of view, noise.
        healthy: No disease.

    Returns:
        The study, z ascending.
    """
    patient = ChestPatient.draw(seed, hard=hard, healthy=healthy)
    height = patient.lung_height_mm
    spacing = spacing_mm or (1.1 * height / slices, 400.0 / rows, 400.0 / columns)
    z0 = (height - (slices - 1) * spacing[0]) / 2 if start_mm is None else start_mm
    affine = axial_affine(
        z0, (rows, columns), spacing_mm=spacing, centre_mm=centre_mm or (0.0, 0.0)
    )
    hu, labels = sample(patient, affine, (slices, rows, columns), thickness_mm=thickness_mm)
    ml = float(np.prod(spacing)) / 1000
    organs = {
        "right lung": float((labels == RIGHT_LUNG).sum()) * ml,
        "left lung": float((labels == LEFT_LUNG).sum()) * ml,
    }
    return ChestStudy(
        hu=hu,
        labels=labels,
        affine=affine,
        spacing_mm=spacing,
        thickness_mm=thickness_mm or spacing[0],
        truth=ChestTruth(organs, (), patient.marker_mm),
        patient=patient,
    )
