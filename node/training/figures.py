"""Figures of held-out cases, of models and baselines alike: Dice, volumes, intervals by patient.

A case where neither the answer nor the reference has a label says nothing about that label's Dice
and is left out of its mean; it is never counted as 1. Means are over cases, then over labels,
never over slices or pooled voxels. Intervals resample patients, not cases: cases of one patient
are no independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_RESAMPLES: Final = 2000
_SEED: Final = 20_001


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """What one case gave.

    Attributes:
        case: First digits of the case's digest.
        patient: Number of the patient within the set.
        dice: Per label; NaN where neither answer nor reference has it.
        volume_ml: Per label, of the answer.
        reference_ml: Per label, of the reference.
    """

    case: str
    patient: int
    dice: tuple[float, ...]
    volume_ml: tuple[float, ...]
    reference_ml: tuple[float, ...]

    @property
    def mean_dice(self) -> float:
        """Mean over labels; NaN where there was none."""
        known = [one for one in self.dice if not math.isnan(one)]
        return float(np.mean(known)) if known else math.nan


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: Over cases.
        low: 2.5th percentile over resampled patients.
        high: 97.5th percentile.
    """

    mean: float
    low: float
    high: float


def dice_or_none(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    """Return the Dice coefficient; NaN where both are empty."""
    total = int(found.sum()) + int(wanted.sum())
    return 2 * int((found & wanted).sum()) / total if total else math.nan


def interval_of(values: Sequence[float], patients: Sequence[int]) -> Interval:
    """Return the mean of values with its interval by patient (percentile bootstrap, 2000 times).

    Args:
        values: One per case; NaN is left out.
        patients: Whose each case is.
    """
    known = [(v, p) for v, p in zip(values, patients, strict=True) if not math.isnan(v)]
    if not known:
        return Interval(math.nan, math.nan, math.nan)
    names = sorted({patient for _, patient in known})
    sums = np.array([sum(v for v, p in known if p == name) for name in names])
    counts = np.array([sum(1 for _, p in known if p == name) for name in names])
    rng = np.random.Generator(np.random.PCG64(_SEED))
    drawn = rng.integers(len(names), size=(_RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def summary_of(figures: Sequence[CaseFigures]) -> Mapping[str, int | float]:
    """Return what a card says of a set of cases."""
    dice = [one.mean_dice for one in figures]
    over = interval_of(dice, [one.patient for one in figures])
    said: dict[str, int | float] = {
        "cases": len(figures),
        "patients": len({one.patient for one in figures}),
        "dice": round(over.mean, 4),
        "dice_low": round(over.low, 4),
        "dice_high": round(over.high, 4),
        "dice_median": round(float(np.nanmedian(dice)), 4),
        "dice_worst": round(float(np.nanmin(dice)), 4),
    }
    if said["patients"] != said["cases"]:
        said["dice_by_patient"] = round(_mean_of_patients(figures), 4)
    labels = len(figures[0].dice)
    if labels > 1:
        for label in range(labels):
            each = [one.dice[label] for one in figures]
            said[f"dice_label_{label + 1}"] = round(float(np.nanmean(each)), 4)
    said["volume_ratio_median"] = round(volume_ratio(figures), 4)
    return said


def _mean_of_patients(figures: Sequence[CaseFigures]) -> float:
    """Return the mean over patients of each one's mean Dice."""
    each: dict[int, list[float]] = {}
    for one in figures:
        each.setdefault(one.patient, []).append(one.mean_dice)
    return float(np.nanmean([np.nanmean(dice) for dice in each.values()]))


def volume_ratio(figures: Sequence[CaseFigures]) -> float:
    """Return the median of answered over true volume, all labels of a case together."""
    ratios = [sum(f.volume_ml) / sum(f.reference_ml) for f in figures if sum(f.reference_ml) > 0]
    return float(np.median(ratios)) if ratios else math.nan
