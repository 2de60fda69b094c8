"""Intensity steps of a card: the same function for training, inference and evaluation.

Steps that look at the volume (z-score, percentiles) are first replaced by fixed ones; after that
every step works voxel by voxel, so that it may be applied to any slab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.models.parts import (
    Add,
    Clip,
    LogOnePlus,
    Normalise,
    Percentiles,
    Scale,
    Step,
    ZScore,
)

FixedStep = Clip | Add | Scale | Normalise | LogOnePlus
Values = NDArray[np.float32]

_MOST_FOR_PERCENTILES: Final = 16_000_000
"""Values that are sorted for a percentile (64 MB); a larger volume is thinned evenly."""


def fix_steps(
    steps: Sequence[Step],
    array: NDArray[np.int16] | NDArray[np.float32],
    padding: NDArray[np.bool_] | None,
) -> tuple[FixedStep, ...]:
    """Replace every step that asks for statistics by one with numbers.

    Args:
        steps: As in the card.
        array: The native volume, [slice, row, column].
        padding: True where a voxel was not measured; such voxels count in no statistic.
    """
    fixed: list[FixedStep] = []
    for step in steps:
        if isinstance(step, ZScore):
            fixed.append(_moments(_planes(array, padding, fixed)))
        elif isinstance(step, Percentiles):
            every = max(1, -(-array.size // _MOST_FOR_PERCENTILES))
            values = np.concatenate([plane[::every] for plane in _planes(array, padding, fixed)])
            fixed += _between(values, step)
        else:
            fixed.append(step)
    return tuple(fixed)


def apply_steps(steps: Sequence[FixedStep], values: Values) -> Values:
    """Apply fixed steps in place and return `values`."""
    for step in steps:
        match step:
            case Clip(low, high):
                np.clip(values, low, high, out=values)
            case Add(value):
                values += np.float32(value)
            case Scale(low, high, to_low, to_high):
                factor = (to_high - to_low) / (high - low)
                values *= np.float32(factor)
                values += np.float32(to_low - low * factor)
            case Normalise(mean, sd):
                values -= np.float32(mean)
                values /= np.float32(sd)
            case LogOnePlus():
                np.maximum(values, 0, out=values)
                np.log1p(values, out=values)
    return values


def _planes(
    array: NDArray[np.int16] | NDArray[np.float32],
    padding: NDArray[np.bool_] | None,
    steps: Sequence[FixedStep],
) -> Iterator[Values]:
    """Yield the measured values of each plane, flat, after the steps so far."""
    for index, plane in enumerate(array):
        values = plane.ravel() if padding is None else plane[~padding[index]]
        yield apply_steps(steps, values.astype(np.float32))


def _moments(planes: Iterator[Values]) -> Normalise:
    count, total, squares = 0, 0.0, 0.0
    for plane in planes:
        exact = plane.astype(np.float64)
        count += exact.size
        total += float(exact.sum())
        squares += float(np.dot(exact, exact))
    mean = total / count if count else 0.0
    spread = max(squares / count - mean * mean, 0.0) ** 0.5 if count else 0.0
    return Normalise(mean, spread if spread > 1e-8 else 1.0)


def _between(values: Values, step: Percentiles) -> tuple[FixedStep, ...]:
    if not values.size:
        return (Clip(0.0, 0.0), Add(step.to_low))
    low, high = (float(one) for one in np.percentile(values, [step.low, step.high]))
    if high - low < 1e-8:
        return (Clip(0.0, 0.0), Add(step.to_low))
    return (Clip(low, high), Scale(low, high, step.to_low, step.to_high))
