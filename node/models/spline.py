"""Prepare a whole volume as nnU-Net does: crop, intensity steps, then splines of order three.

nnU-Net networks are trained on volumes that were prepared in this order and this way, so a card
that says `downsample = "spline"` gets the same numbers: steps on native voxels, voxel centres
mapped (not corners), edges held, values kept within the range of the input. Slices that are more
than three times as thick as pixels are wide are resampled in their plane by splines and between
planes by taking the nearest. Unlike the other ways this holds the volume in memory, twice.

Source: the description in Isensee et al., Nature Methods 18, 203-211 (2021), supplement; what
nnU-Net 2.8 gives for the same input, which `bench/nnunet_parity.py` compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.models.axis import Axis, cropped_axis
from node.models.card import Card
from node.models.intensity import apply_steps, fix_steps
from node.models.parts import ZScore

THICK: Final = 3.0
"""Longest over shortest distance above which an axis counts as thick, nnU-Net's own number."""

Mask = NDArray[np.bool_]
Values = NDArray[np.float32]
Three = tuple[int, int, int]


def prepare_whole(
    array: NDArray[np.int16] | NDArray[np.float32],
    padding: Mask | None,
    spacing: tuple[float, float, float],
    card: Card,
) -> tuple[Values, tuple[Axis, Axis, Axis]]:
    """Return the network's whole grid, steps done and padded with zero, and its axes.

    Args:
        array: Native voxels with the card's axes.
        padding: True where a voxel was not measured.
        spacing: Distances along these axes, mm.
        card: The model.
    """
    mask = ndimage.binary_fill_holes(array != 0)
    box = _box(mask) if card.voxels.crop == "nonzero" else _all(array.shape)
    outside = None if padding is None else padding[box]
    values = _normalised(array[box], mask[box], outside, card)
    wanted = [want or have for want, have in zip(card.voxels.spacing_mm, spacing, strict=True)]
    shape = [
        max(1, round(have / want * count))
        for have, want, count in zip(spacing, wanted, values.shape, strict=True)
    ]
    grid = resample(values, cast(Three, tuple(shape)), thick_axis(spacing, wanted))
    # On the way back the network's distances come first, as nnU-Net asks them.
    thick = thick_axis(wanted, spacing)
    patch = card.inference.patch or (1, 1, 1)
    axes = [
        cropped_axis(array.shape[i], box[i], shape[i], at_least=patch[i], thick=i == thick)
        for i in range(3)
    ]
    return np.pad(grid, [axis.margin for axis in axes]), (axes[0], axes[1], axes[2])


def thick_axis(first: Sequence[float], second: Sequence[float]) -> int | None:
    """Return the one axis that is much coarser than the others, in `first` or else in `second`."""
    for spacing in (first, second):
        if max(spacing) / min(spacing) > THICK:
            coarse = [axis for axis, one in enumerate(spacing) if one == max(spacing)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample(values: Values, shape: Three, thick: int | None) -> Values:
    """Return the same extent on a grid of another shape.

    Args:
        values: [slice, row, column].
        shape: Wanted.
        thick: Axis along which the nearest plane is taken, None for splines on all.
    """
    if values.shape == shape:
        return values
    exact = values.astype(np.float64)
    if thick is None:
        return _zoomed(exact, shape).astype(np.float32)
    planes = np.moveaxis(exact, thick, 0)
    sides = tuple(side for axis, side in enumerate(shape) if axis != thick)
    flat = np.stack([_zoomed(plane, sides) for plane in planes])
    count = shape[thick]
    centres = (np.arange(count) + 0.5) * (len(flat) / count) - 0.5
    nearest = np.clip(np.floor(centres + 0.5).astype(np.intp), 0, len(flat) - 1)
    resampled: Values = np.moveaxis(flat[nearest], 0, thick).astype(np.float32)
    return resampled


def _zoomed(values: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    if values.shape == shape:
        return values
    factors = [side / count for side, count in zip(shape, values.shape, strict=True)]
    found = ndimage.zoom(values, factors, order=3, mode="nearest", grid_mode=True)
    kept: NDArray[np.float64] = np.clip(found, values.min(), values.max())
    return kept


def _normalised(
    array: NDArray[np.int16] | NDArray[np.float32], mask: Mask, padding: Mask | None, card: Card
) -> Values:
    """Return the values after the card's steps; a step within `nonzero` changes nothing outside."""
    values = array.astype(np.float32)
    for step in card.steps:
        if isinstance(step, ZScore) and step.within == "nonzero":
            unseen = ~mask if padding is None else ~mask | padding
            apply = fix_steps([step], values, unseen)
            values[mask] = apply_steps(apply, values[mask])
        else:
            apply_steps(fix_steps([step], values, padding), values)
    return values


def _box(mask: Mask) -> tuple[slice, slice, slice]:
    found = ndimage.find_objects(mask.view(np.uint8))
    return found[0] if found else _all(mask.shape)


def _all(shape: Sequence[int]) -> tuple[slice, slice, slice]:
    first, second, third = (slice(0, count) for count in shape)
    return first, second, third
