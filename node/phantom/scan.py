"""The phantom scanner's measurement: anatomy on the grid of a profile, with its truth.

Arrays are `[slice, row, column]`, slices ascending along row x column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.phantom import chest, mr, pet
from node.phantom.grid import AXIAL, Floats, Grid, centred_grid, grid_of
from node.phantom.pet_objects import StoredPet, stored_pet
from node.phantom.pixels import FORMATS, Values, outside_circle
from node.phantom.profile import Profile

_CHEST_EXTENT_MM: Final = (400.0, 300.0)
_HEAD_EXTENT_MM: Final = (230.0, 250.0, 260.0)
_TRUNK_EXTENT_MM: Final = (330.0, 330.0, 200.0)
_HEAD_CENTRE_MM: Final = (0.0, 0.0, -60.0)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of the image series.

    Attributes:
        labels: uint8, shape [slice, row, column], slices ascending along row x column.
        affine: float64 (4, 4), index [slice, row, column, 1] to LPS mm.
        spacing_mm: Distance of slices, rows, columns.
        names: Label value to name: `right lung`, `left lung`, or `lesion`.
        exact_ml: Volume by name from the shape, not from counting voxels, where it is known.
        marker_mm: Centre of the marker on the patient's right, LPS; None where there is none.
        lesions: Nodules and masses of a chest, inside the grid or not.
        lesion_side: `right`, `left`, or empty where there is no one lesion.
        fraction: float32: share of each voxel that is lesion, of PET only.
        suv: float64: SUVbw that the stored cells hold, of PET only.
    """

    labels: NDArray[np.uint8]
    affine: Floats
    spacing_mm: tuple[float, float, float]
    names: Mapping[int, str]
    exact_ml: Mapping[str, float]
    marker_mm: tuple[float, float, float] | None
    lesions: tuple[chest.Lesion, ...] = ()
    lesion_side: str = ""
    fraction: NDArray[np.float32] | None = None
    suv: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a scanner has measured, before it is written.

    Attributes:
        values: int16, shape [slice, row, column]: HU, arbitrary for MR, cells for PET.
        grid: Where they lie.
        truth: What is known, on the same grid.
    """

    values: Values
    grid: Grid
    truth: Truth


def _grid(
    profile: Profile, extent_mm: tuple[float, float, float], centre_mm: tuple[float, float, float]
) -> Grid:
    """Return the grid of `profile`; without a spacing it covers `extent_mm` (x, y, z)."""
    shape = profile.shape
    spacing = profile.spacing_mm
    if spacing is None:
        normal, field_mm = np.abs(profile.orientation.normal), max(extent_mm)
        spacing = (
            float(normal @ np.array(extent_mm)) / shape[0],
            field_mm / max(shape[1:]),
            field_mm / max(shape[1:]),
        )
    return centred_grid(shape, spacing, orientation=profile.orientation, centre_mm=centre_mm)


def scan_chest(seed: int, profile: Profile) -> Scan:
    """Scan a chest."""
    if profile.orientation == AXIAL:
        scanned = chest.volume(
            seed,
            slices=profile.shape[0],
            rows=profile.shape[1],
            columns=profile.shape[2],
            spacing_mm=profile.spacing_mm,
            thickness_mm=profile.thickness_mm,
            hard=profile.hard,
            healthy=profile.healthy,
            nodules=profile.nodules,
        )
        patient, exact = scanned.patient, dict(scanned.truth.organs_ml)
        values, labels, grid = scanned.hu, scanned.labels, grid_of(scanned.affine, profile.shape)
    else:
        patient = chest.ChestPatient.draw(
            seed, hard=profile.hard, healthy=profile.healthy, nodules=profile.nodules
        )
        exact, height = {}, patient.lung_height_mm
        grid = _grid(profile, (*_CHEST_EXTENT_MM, 1.1 * height), (0.0, 0.0, height / 2))
        values, labels = chest.sample(
            patient, grid.affine, profile.shape, thickness_mm=profile.thickness_mm
        )
    if FORMATS[profile.cell_format].padding is not None:
        # What became padding cannot be seen, so it is not asked for.
        labels = labels.copy()
        labels[:, outside_circle(profile.shape[1], profile.shape[2])] = 0
    truth = Truth(
        labels,
        grid.affine,
        grid.spacing_mm,
        {chest.RIGHT_LUNG: "right lung", chest.LEFT_LUNG: "left lung"},
        exact,
        patient.marker_mm,
        lesions=chest.lesions_of(patient),
    )
    return Scan(values, grid, truth)


def scan_head(seed: int, profile: Profile) -> Scan:
    """Scan a head."""
    patient = mr.HeadPatient.draw(seed, lesion_mm=profile.lesion_mm)
    grid = _grid(profile, _HEAD_EXTENT_MM, _HEAD_CENTRE_MM)
    values, labels = mr.sample(patient, grid.affine, profile.shape)
    truth = Truth(
        labels,
        grid.affine,
        grid.spacing_mm,
        {mr.LESION: "lesion"},
        {"lesion": patient.volume_ml},
        mr.MARKER_MM,
        lesion_side=patient.side,
    )
    return Scan(values, grid, truth)


def scan_trunk(seed: int, profile: Profile) -> tuple[Scan, StoredPet, pet.TrunkPatient]:
    """Scan a trunk; the values of the scan are the cells as they are stored."""
    grid = _grid(profile, _TRUNK_EXTENT_MM, (0.0, 0.0, 0.0))
    patient = pet.TrunkPatient.draw(seed, lesion_mm=profile.lesion_mm)
    suv, fraction = pet.sample(
        patient, grid.affine, profile.shape, blur_mm=profile.blur_mm, noise=profile.noise
    )
    stored = stored_pet(suv, patient, profile.writing)
    only = len(patient.lesions) == 1
    truth = Truth(
        (fraction > 0.5).astype(np.uint8) * np.uint8(pet.LESION),
        grid.affine,
        grid.spacing_mm,
        {pet.LESION: "lesion"},
        {"lesion": patient.lesion_ml},
        pet.MARKER_MM,
        lesion_side=("right" if patient.lesions[0].centre_mm[0] < 0 else "left") if only else "",
        fraction=fraction,
        suv=stored.suv,
    )
    return Scan(stored.cells, grid, truth), stored, patient
