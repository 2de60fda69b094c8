"""Several registered series as one volume: the grid of the first, the others sampled on it.

Registered means that the scanner says so: one Frame of Reference (PS3.3 C.7.4.1). Nothing is
moved to fit. Values are interpolated linearly in patient space; where the grid is coarser than
the series, a Gaussian takes away first what the grid cannot hold (sigma = 0.5 sqrt(f^2 - 1) voxels
for a grid f times as coarse).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Floats, Refusal, Volume, VolumePlan
from node.imaging.volume import load_volume

_HALF: Final = 0.5 + 1e-3
"""A voxel reaches half a step beyond its centre; a thousandth more forgives rounded headers."""


def load_registered(plan: VolumePlan, backgrounds: Sequence[float]) -> Volume | Refusal:
    """Read the voxels of a plan and of the plans beside it, those on the grid of the first.

    Args:
        plan: With its `others`; without any, this is `load_volume`.
        backgrounds: What lies outside each of the others, in its units.
    """
    volume = load_volume(plan)
    if isinstance(volume, Refusal):
        return volume
    others = []
    for other, background in zip(plan.others, backgrounds, strict=True):
        loaded = load_volume(other)
        if isinstance(loaded, Refusal):
            return loaded
        others.append(on_grid(loaded, volume.affine, volume.array.shape, background))
    return replace(volume, others=tuple(others))


def on_grid(volume: Volume, affine: Floats, shape: Sequence[int], background: float) -> Volume:
    """Return a volume sampled on another grid; its sources stay.

    Args:
        volume: Any volume.
        affine: (4, 4), index [slice, row, column, 1] of the grid to LPS mm.
        shape: Slices, rows, columns of the grid.
        background: What lies outside the volume, in its units.
    """
    to_source = np.linalg.solve(volume.affine, affine)  # grid index to the volume's index
    steps = np.linalg.norm(to_source[:3, :3], axis=1)  # how many voxels one step of the grid is
    values: NDArray[np.float32] = volume.array.astype(np.float32)
    sigma = [0.5 * float(np.sqrt(max(step**2 - 1.0, 0.0))) for step in steps]
    if max(sigma) > 1e-3:
        values = ndimage.gaussian_filter(values, sigma, mode="nearest")
    rows, columns = np.indices(tuple(shape[1:])).reshape(2, -1)
    plane = to_source[:3, 1:3] @ np.stack([rows, columns]) + to_source[:3, 3:]  # (3, n)
    last = np.array(volume.array.shape)[:, None] - 1
    result = np.empty(tuple(shape), np.float32)
    outside = np.empty(tuple(shape), np.bool_)
    for index in range(shape[0]):
        places = plane + index * to_source[:3, :1]
        sampled = ndimage.map_coordinates(values, places, order=1, mode="nearest")
        away = ((places < -_HALF) | (places > last + _HALF)).any(axis=0)
        sampled[away] = background
        result[index] = sampled.reshape(shape[1:])
        outside[index] = away.reshape(shape[1:])
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return replace(
        volume,
        array=result,
        affine=affine,
        spacing_mm=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
        padding=outside if outside.any() else None,
    )
