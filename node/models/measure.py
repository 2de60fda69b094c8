"""Numbers about segments, each with its code, its unit and the way it was measured.

Where a model gives tissue fractions they are the weights, else every labelled voxel counts whole.
A voxel with a fraction but no label belongs to the segment whose voxel is nearest.
Codes: PS3.16 CID 7469, 7466; SUV statistics after the PET community's definitions (peak: the
highest mean of a sphere of 1 mL whose centre is a voxel of the segment).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.pet import SUV as IN_SUV
from node.imaging.values import (
    VOLUME,
    Code,
    Floats,
    Fractions,
    Labels,
    Measurement,
    Segment,
    Volume,
)

MILLILITRE: Final = Code("mL", "UCUM", "milliliter")
SUV: Final = Code("126401", "DCM", "SUVbw")
SUV_UNIT: Final = Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight")
GLYCOLYSIS: Final = Code("126033", "DCM", "Total Lesion Glycolysis")
GRAM: Final = Code("g", "UCUM", "gram")
MAXIMUM: Final = Code("56851009", "SCT", "Maximum")
MEAN: Final = Code("373098007", "SCT", "Mean")
PEAK: Final = Code("126031", "DCM", "Peak Value Within ROI")

_PEAK_RADIUS_MM: Final = 10 * (3 / (4 * math.pi)) ** (1 / 3)  # of a sphere of 1 mL
_FINE: Final = 5
"""A voxel on the sphere's surface counts by its share, sampled at 5 x 5 x 5 points."""

_COUNTED: Final = "Number of labelled voxels times the volume of a voxel."
_SUMMED: Final = "Sum of the tissue fractions of all voxels times the volume of a voxel."


@dataclass(frozen=True, slots=True, eq=False)
class Weighted:
    """To which segment each voxel belongs, and how much of it.

    Attributes:
        owners: uint8, [slice, row, column]: segment number, 0 for none.
        fractions: Weights of the voxels; None counts each one whole.
    """

    owners: Labels
    fractions: Fractions | None


def weighted(
    labels: Labels, fractions: Fractions | None, spacing_mm: tuple[float, float, float]
) -> Weighted:
    """Return labels with the fractions around them given to the nearest one."""
    if fractions is None or not labels.any():
        return Weighted(labels, fractions)
    box = ndimage.find_objects(((fractions > 0) | (labels > 0)).view(np.uint8))[0]
    nearest = ndimage.distance_transform_edt(
        labels[box] == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    owners = np.zeros_like(labels)
    owners[box] = np.where(fractions[box] > 0, labels[box][tuple(nearest)], 0)
    return Weighted(owners, fractions)


def volumes_ml(voxels: Weighted, segments: Sequence[Segment], affine: Floats) -> dict[int, float]:
    """Return the volume of each segment in mL, from fractions where there are any."""
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0
    total = np.zeros(256)
    for index, plane in enumerate(voxels.owners):
        weights = None if voxels.fractions is None else voxels.fractions[index].ravel()
        total += np.bincount(plane.ravel(), weights=weights, minlength=256)
    return {segment.number: float(total[segment.number]) * voxel_ml for segment in segments}


def measure(
    volume: Volume, labels: Labels, fractions: Fractions | None, segments: Sequence[Segment]
) -> tuple[Measurement, ...]:
    """Return the volume of each segment, and of PET in SUV maximum, mean, peak and glycolysis.

    Args:
        volume: The source; its values are looked at if they are SUV.
        labels: uint8, its shape.
        fractions: float32, its shape, or None.
        segments: What the labels are; an empty one has a volume of 0 and nothing else.
    """
    voxels = weighted(labels, fractions, volume.spacing_mm)
    volumes = volumes_ml(voxels, segments, volume.affine)
    method = _COUNTED if fractions is None else _SUMMED
    found = [
        Measurement(number, VOLUME, ml, MILLILITRE, method=method) for number, ml in volumes.items()
    ]
    if volume.units == IN_SUV:
        found += _uptake(volume, labels, voxels, volumes)
    return tuple(found)


def _uptake(
    volume: Volume, labels: Labels, voxels: Weighted, volumes: Mapping[int, float]
) -> list[Measurement]:
    found = []
    ball = _ball(volume.spacing_mm)
    fractional = voxels.fractions is not None
    weights = "weighted by tissue fraction" if fractional else "of the labelled voxels"
    for number, ml in volumes.items():
        places = np.nonzero(labels == number)
        if not places[0].size:
            continue
        owned = voxels.owners == number
        share = None if voxels.fractions is None else voxels.fractions[owned].astype(np.float64)
        mean = float(np.average(volume.array[owned].astype(np.float64), weights=share))
        highest = float(volume.array[places].max())
        peak = _peak(volume.array, places, ball)
        found += [
            Measurement(number, SUV, highest, SUV_UNIT, MAXIMUM, "Highest labelled voxel."),
            Measurement(number, SUV, mean, SUV_UNIT, MEAN, f"Mean {weights}."),
            Measurement(
                number,
                SUV,
                peak,
                SUV_UNIT,
                PEAK,
                "Highest mean of a sphere of 1 mL whose centre is a labelled voxel.",
            ),
            Measurement(
                number, GLYCOLYSIS, mean * ml, GRAM, method=f"Mean uptake {weights} times volume."
            ),
        ]
    return found


def _ball(spacing_mm: tuple[float, float, float]) -> dict[tuple[int, int, int], float]:
    """Return the share of each voxel around one that lies in a sphere of 1 mL."""
    reach = [math.ceil(_PEAK_RADIUS_MM / one + 0.5) for one in spacing_mm]
    inner = (np.arange(_FINE) + 0.5) / _FINE - 0.5
    along = [
        (np.arange(-far, far + 1)[:, None] + inner) * one  # (voxels, points) in mm
        for far, one in zip(reach, spacing_mm, strict=True)
    ]
    squared = (
        along[0][:, None, None, :, None, None] ** 2
        + along[1][None, :, None, None, :, None] ** 2
        + along[2][None, None, :, None, None, :] ** 2
    )
    shares = (squared <= _PEAK_RADIUS_MM**2).mean(axis=(3, 4, 5))
    indices = product(*(range(-far, far + 1) for far in reach))
    return {
        (z, y, x): float(share)
        for (z, y, x), share in zip(indices, shares.ravel(), strict=True)
        if share > 0
    }


def _peak(
    array: NDArray[np.int16] | NDArray[np.float32],
    places: tuple[NDArray[np.intp], ...],
    ball: Mapping[tuple[int, int, int], float],
) -> float:
    """Return the highest mean of the ball over the places; outside the image counts as nothing."""
    total = np.zeros(places[0].size)
    weight = np.zeros(places[0].size)
    for step, share in ball.items():
        moved = [place + one for place, one in zip(places, step, strict=True)]
        inside = np.logical_and.reduce(
            [(place >= 0) & (place < size) for place, size in zip(moved, array.shape, strict=True)]
        )
        total[inside] += share * array[tuple(place[inside] for place in moved)]
        weight[inside] += share
    return float((total / weight).max())
