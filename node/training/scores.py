"""Scores of a segmentation against a reference: Dice, thirds, false and missed millilitres.

All figures are of the model as the node runs it, on the native grid. `raw` is before the card's
post-processing, `final` after it: post-processing hides what a network does not know, so both
are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How labels agree with a reference.

    Attributes:
        dice: All labels as one.
        dice_by_label: Per label of the reference, in order.
        thirds: Dice of the lowest, middle and highest third of the reference's slices.
        false_ml: Labelled where the reference has nothing.
        missed_ml: Not labelled where the reference has something.
        crossed: Voxels with one label where the reference has another.
    """

    dice: float
    dice_by_label: tuple[float, ...]
    thirds: tuple[float, float, float]
    false_ml: float
    missed_ml: float
    crossed: int


@dataclass(frozen=True, slots=True)
class StudyScore:
    """Scores of one study.

    Attributes:
        name: Which study.
        raw: Before post-processing.
        final: After it.
        reference_ml: Volume of the reference.
    """

    name: str
    raw: Overlap
    final: Overlap
    reference_ml: float


def dice_of(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient; 1 where both are empty."""
    total = int(found.sum()) + int(wanted.sum())
    return 2 * int((found & wanted).sum()) / total if total else 1.0


def overlap_of(labels: Labels, reference: Labels, *, voxel_ml: float, count: int) -> Overlap:
    """Compare labels with a reference of the same shape.

    Args:
        labels: uint8 [slice, row, column], slices from the feet up.
        reference: The same.
        voxel_ml: Volume of a voxel.
        count: Number of labels.
    """
    found, wanted = labels > 0, reference > 0
    filled = np.flatnonzero(wanted.any(axis=(1, 2)))
    cuts = np.array_split(filled, 3) if len(filled) >= 3 else [filled] * 3
    base, middle, apex = (dice_of(found[cut], wanted[cut]) for cut in cuts)
    return Overlap(
        dice=dice_of(found, wanted),
        dice_by_label=tuple(dice_of(labels == k, reference == k) for k in range(1, count + 1)),
        thirds=(base, middle, apex),
        false_ml=int((found & ~wanted).sum()) * voxel_ml,
        missed_ml=int((wanted & ~found).sum()) * voxel_ml,
        crossed=int((found & wanted & (labels != reference)).sum()),
    )


def median_dice(scores: Sequence[StudyScore]) -> tuple[float, float]:
    """Return the median Dice, raw and final."""
    return (
        float(np.median([s.raw.dice for s in scores])),
        float(np.median([s.final.dice for s in scores])),
    )
