"""Variation on the fly: turned, stretched, warped, mirrored, brighter, noisier examples.

One function for slices and for volumes, for labels and for shares of a voxel. Numbers are drawn
in one fixed order, and a change that a recipe does not have draws none.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from node.training.recipe import Augmentation

_WARP_NODES: Final = 6
_POOL: Final = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


def augment(
    images: Tensor,
    labels: Tensor,
    how: Augmentation,
    *,
    background: float | Tensor,
    limits: tuple[float, float] | None = None,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Return changed copies.

    Args:
        images: float32 (b, 1, [slices,] rows, columns).
        labels: int64 labels or float32 shares (b, [slices,] rows, columns).
        how: The ranges.
        background: What comes in from outside the image; of each example by itself as a tensor
            that broadcasts over the images.
        limits: What the values are cut to in the end.
        rng: Source of randomness; the only one.
    """
    count = len(images)
    grid = _grid(how, count, images.shape[2:], rng)  # (b, [slices,] rows, columns, axes)
    moved = functional.grid_sample(
        images - background, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    moved = moved + background
    shares = labels.is_floating_point()
    classes = functional.grid_sample(
        labels[:, None].float(),
        grid,
        mode="bilinear" if shares else "nearest",
        padding_mode="zeros",
        align_corners=False,
    )
    changed = classes[:, 0] if shares else classes[:, 0].round().long()
    mirrored = torch.from_numpy(rng.random(count) < how.flip)
    if mirrored.any():
        moved[mirrored] = moved[mirrored].flip(-1)
        changed[mirrored] = _swapped(changed[mirrored].flip(-1), how.swaps)
    over = torch.from_numpy(rng.random(count) < how.upside_down)
    if over.any():
        moved[over] = moved[over].flip(-2)
        changed[over] = changed[over].flip(-2)
    if how.over:
        slices = torch.from_numpy(rng.random(count) < how.over)
        moved[slices] = moved[slices].flip(-3)
        changed[slices] = changed[slices].flip(-3)
    moved = _changed_values(moved, how, background, rng)
    return (moved.clamp(*limits) if limits else moved), changed


def _changed_values(
    moved: Tensor, how: Augmentation, background: float | Tensor, rng: np.random.Generator
) -> Tensor:
    count, axes = len(moved), moved.dim() - 2
    factor = _column(rng.normal(1, how.contrast, count), axes)
    offset = _column(rng.normal(0, how.offset, count), axes)
    spread = _column(rng.uniform(0, how.noise, count) * (rng.random(count) < 0.5), axes)
    noise = torch.from_numpy(rng.standard_normal(moved.shape, dtype=np.float32))
    if how.blur:
        soft = torch.from_numpy(rng.random(count) < how.blur)
        if soft.any():
            ends = functional.pad(moved[soft], (1, 1) * axes, mode="replicate")
            moved[soft] = _POOL[axes](ends, 3, stride=1)
    if how.speckle:
        grain = _column(rng.uniform(0, how.speckle, count), axes)
        waves = torch.from_numpy(rng.standard_normal(moved.shape, dtype=np.float32))
        moved = moved + (moved - background) * grain * waves
    if how.gain:
        depth = torch.linspace(-1, 1, moved.shape[-2])[:, None]
        moved = moved + _column(rng.normal(0, how.gain, count), axes) * depth
    return (moved - background) * factor + background + offset + spread * noise


def _grid(
    how: Augmentation, count: int, shape: tuple[int, ...], rng: np.random.Generator
) -> Tensor:
    """Return where each voxel of the result lies in the example, -1 to 1, columns first."""
    axes = len(shape)
    angle = np.deg2rad(rng.normal(0, how.rotation_deg, count))
    if how.spin:
        any_angle = rng.uniform(-np.pi, np.pi, count)
        angle = np.where(rng.random(count) < how.spin, any_angle, angle)
    size = np.exp(rng.normal(0, how.scale, count))
    stretch = np.exp(rng.normal(0, how.stretch, count))
    shift = rng.normal(0, 2 * how.shift, (count, axes))  # the grid runs from -1 to 1
    matrix = np.zeros((count, axes, axes + 1))
    matrix[:, 0, 0] = np.cos(angle) * size * stretch
    matrix[:, 0, 1] = -np.sin(angle) * size
    matrix[:, 1, 0] = np.sin(angle) * size
    matrix[:, 1, 1] = np.cos(angle) * size / stretch
    if axes == 3:
        matrix[:, 2, 2] = size
        for other in (0, 1):
            tilt = np.deg2rad(rng.normal(0, how.tilt_deg, count))
            matrix[:, :, :3] = matrix[:, :, :3] @ _tilted(tilt, other)
    sides = np.array(shape[::-1], float)  # columns first, as the grid counts
    matrix[:, :, :axes] *= sides[None, :] / sides[:, None]  # a turn is one in voxels, not in shares
    matrix[:, :, axes] = shift
    grid = functional.affine_grid(
        torch.from_numpy(matrix.astype(np.float32)), [count, 1, *shape], align_corners=False
    )
    if not how.elastic:
        return grid
    nodes = rng.normal(0, 2 * how.elastic, (count, axes, *[_WARP_NODES] * axes))
    warp = functional.interpolate(
        torch.from_numpy(nodes.astype(np.float32)),
        size=shape,
        mode="bicubic" if axes == 2 else "trilinear",
        align_corners=True,
    )
    return grid + warp.movedim(1, -1)


def _tilted(angle: NDArray[np.float64], other: int) -> NDArray[np.float64]:
    """Return (b, 3, 3): turns in the plane of the slice axis and `other` (0 columns, 1 rows)."""
    turn = np.tile(np.eye(3), (len(angle), 1, 1))
    turn[:, other, other] = turn[:, 2, 2] = np.cos(angle)
    turn[:, other, 2], turn[:, 2, other] = -np.sin(angle), np.sin(angle)
    return turn


def _swapped(labels: Tensor, swaps: tuple[tuple[int, int], ...]) -> Tensor:
    result = labels.clone()
    for a, b in swaps:
        result[labels == a] = b
        result[labels == b] = a
    return result


def _column(values: NDArray[np.float64], axes: int) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, *[1] * axes)
