"""Chest CT phantom: a drawn patient, sampled on any plane, with the truth beside it.

Frame: patient millimetres (LPS): x to the patient's left, y to the back, z up; z = 0 is the level
of the lowest lung edge, `patient.lung_height_mm` that of the apices. Arrays are
`[slice, row, column]`. An affine maps an index (slice, row, column, 1) to LPS mm.
Labels are 0 background, 1 right lung, 2 left lung, as in the model `lung-ct`.

The same seed gives the same labels anywhere and, with the pinned versions, the same HU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.phantom.patient import ChestPatient
from node.phantom.planes import F64, Plane, axial_affine, planes_of
from node.phantom.render import BACKGROUND, LEFT_LUNG, RIGHT_LUNG, Slice, render

__all__ = [
    "BACKGROUND",
    "LEFT_LUNG",
    "RIGHT_LUNG",
    "ChestPatient",
    "ChestStudy",
    "ChestTruth",
    "Lesion",
    "axial_affine",
    "lesions_of",
    "sample",
    "slice_at",
    "volume",
]


@dataclass(frozen=True, slots=True)
class Lesion:
    """One drawn lesion and its exact size.

    Attributes:
        number: From 1.
        kind: `nodule` (lung by the label's rule) or `mass` (over 30 mm, not lung).
        side: `right` or `left` of the patient's midline.
        centre_mm: Centre, LPS.
        diameter_mm: Mean diameter.
        hu: Mean attenuation.
        volume_ml: Volume from its shape, not from counting voxels; where lesions or organs
            overlap, each counts whole.
    """

    number: int
    kind: str
    side: str
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    hu: float
    volume_ml: float


@dataclass(frozen=True, slots=True, eq=False)
class ChestTruth:
    """What is known of a study.

    Attributes:
        organs_ml: Volume inside the sampled grid by name, from sub-voxel coverage: `body`,
            `right lung`, `left lung`, `heart`, `spine`, `airway`, `abdomen` (what of the cage
            lies under the diaphragm), `effusion`, `consolidation` (with masses).
        lesions: Nodules and masses, inside the grid or not.
        marker_mm: Centre of the calcified marker, right-anterior-superior, LPS, or None.
    """

    organs_ml: Mapping[str, float]
    lesions: tuple[Lesion, ...]
    marker_mm: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class ChestStudy:
    """One sampled volume.

    Attributes:
        hu: int16 [slice, row, column], z ascending. Beyond the circle of reconstruction it may
            hold -2000 or -3024, as some scanners write.
        labels: uint8, same shape: 0 background, 1 right lung, 2 left lung.
        affine: float64 (4, 4), index [slice, row, column, 1] to LPS mm.
        spacing_mm: Distance of slices, rows, columns.
        thickness_mm: Slice thickness.
        truth: What is known.
        patient: Who it is.
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: F64
    spacing_mm: tuple[float, float, float]
    thickness_mm: float
    truth: ChestTruth
    patient: ChestPatient = field(repr=False)


def sample(
    patient: ChestPatient,
    affine: F64,
    shape: tuple[int, int, int],
    *,
    thickness_mm: float | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Sample any grid: axial, coronal, oblique.

    Args:
        patient: Who.
        affine: Index [slice, row, column, 1] to LPS mm; rows at right angles to columns.
        shape: Slices, rows, columns.
        thickness_mm: Slice thickness; the slice distance when None.

    Returns:
        HU int16 and labels uint8 of that shape.
    """
    thickness = thickness_mm or float(np.linalg.norm(affine[:3, 0]))
    hu, labels, _ = _stack(patient, planes_of(affine, shape, thickness))
    return hu, labels


def slice_at(
    patient: ChestPatient,
    z_mm: float,
    *,
    rows: int = 512,
    columns: int = 512,
    spacing_mm: tuple[float, float] | None = None,
    centre_mm: tuple[float, float] | None = None,
    thickness_mm: float = 3.0,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Sample one axial slice, rows to the back, columns to the left.

    Args:
        patient: Who.
        z_mm: Level.
        rows: Rows.
        columns: Columns.
        spacing_mm: Row and column distance; the patient's own field of view when None.
        centre_mm: x and y of the image centre; the patient's own when None.
        thickness_mm: Slice thickness.

    Returns:
        HU int16 and labels uint8, both [row, column].
    """
    side = patient.formation.field_mm / max(rows, columns)
    row, column = spacing_mm or (side, side)
    affine = axial_affine(
        z_mm,
        (rows, columns),
        spacing_mm=(1.0, row, column),
        centre_mm=centre_mm or patient.formation.centre_mm,
    )
    hu, labels = sample(patient, affine, (1, rows, columns), thickness_mm=thickness_mm)
    return hu[0], labels[0]


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
    marker: bool = True,
    nodules: Sequence[tuple[float, float]] = (),
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
        healthy: No disease but a few nodules.
        marker: With the calcified marker.
        nodules: Further nodules on order, as (diameter in mm, HU).

    Returns:
        The study, z ascending.
    """
    patient = ChestPatient.draw(seed, hard=hard, healthy=healthy, marker=marker, nodules=nodules)
    height = patient.lung_height_mm
    side = patient.formation.field_mm / max(rows, columns)
    spacing = spacing_mm or ((height + 40) / slices, side, side)
    z0 = (height - (slices - 1) * spacing[0]) / 2 if start_mm is None else start_mm
    affine = axial_affine(
        z0,
        (rows, columns),
        spacing_mm=spacing,
        centre_mm=centre_mm or patient.formation.centre_mm,
    )
    thickness = thickness_mm or spacing[0]
    planes = planes_of(affine, (slices, rows, columns), thickness)
    hu, labels, sums = _stack(patient, planes)
    ml = float(np.prod(spacing)) / 1000
    return ChestStudy(
        hu=hu,
        labels=labels,
        affine=affine,
        spacing_mm=spacing,
        thickness_mm=thickness,
        truth=ChestTruth(
            organs_ml={name: total * ml for name, total in sums.items()},
            lesions=lesions_of(patient),
            marker_mm=patient.marker_mm,
        ),
        patient=patient,
    )


def lesions_of(patient: ChestPatient) -> tuple[Lesion, ...]:
    """Return the patient's nodules and masses with their exact volumes."""
    found = []
    for number, lump in enumerate(patient.disease.lumps, start=1):
        middle = float(patient.trunk.middle_x(np.asarray(lump.centre[2], np.float32)))
        found.append(
            Lesion(
                number=number,
                kind="mass" if lump.is_mass else "nodule",
                side="right" if lump.centre[0] < middle else "left",
                centre_mm=lump.centre,
                diameter_mm=lump.diameter_mm,
                hu=lump.hu,
                volume_ml=lump.volume_ml(),
            )
        )
    return tuple(found)


def _stack(
    patient: ChestPatient, planes: Sequence[Plane]
) -> tuple[NDArray[np.int16], NDArray[np.uint8], dict[str, float]]:
    """Render slices two at a time, straight into the arrays: no volume of floats is kept."""
    shape = (len(planes), *planes[0].shape)
    hu = np.empty(shape, np.int16)
    labels = np.empty(shape, np.uint8)
    sums: list[dict[str, float]] = [{} for _ in planes]

    def one(k: int) -> None:
        done: Slice = render(patient, planes[k])
        hu[k], labels[k] = done.hu, done.labels
        sums[k] = {name: float(cover.sum()) for name, cover in done.covers.items()}

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(one, range(len(planes))))
    return hu, labels, {name: sum(s[name] for s in sums) for name in sums[0]}
