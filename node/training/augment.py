"""Variation on the fly: turned, stretched, warped, mirrored, brighter, noisier slices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from node.training.recipe import Augmentation

_WARP_NODES = 6


def augment(
    images: Tensor,
    labels: Tensor,
    how: Augmentation,
    *,
    background: float,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Return changed copies.

    Args:
        images: float32 (b, 1, rows, columns).
        labels: int64 (b, rows, columns).
        how: The ranges.
        background: What comes in from outside the image.
        rng: Source of randomness; the only one.
    """
    count, _, rows, columns = images.shape
    grid = _grid(how, count, rows, columns, rng)  # (b, rows, columns, 2)
    moved = functional.grid_sample(
        images - background, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    moved = moved + background
    classes = functional.grid_sample(
        labels[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    changed = classes[:, 0].round().long()
    mirrored = torch.from_numpy(rng.random(count) < how.flip)
    if mirrored.any():
        moved[mirrored] = moved[mirrored].flip(-1)
        changed[mirrored] = _swapped(changed[mirrored].flip(-1), how.swaps)
    over = torch.from_numpy(rng.random(count) < how.upside_down)
    if over.any():
        moved[over] = moved[over].flip(-2)
        changed[over] = changed[over].flip(-2)
    factor = _column(rng.normal(1, how.contrast, count))
    offset = _column(rng.normal(0, how.offset, count))
    spread = _column(rng.uniform(0, how.noise, count) * (rng.random(count) < 0.5))
    noise = torch.from_numpy(rng.standard_normal(moved.shape, dtype=np.float32))
    moved = (moved - background) * factor + background + offset + spread * noise
    return moved.clamp(-1.0, 1.0) if background == -1.0 else moved, changed


def _grid(
    how: Augmentation, count: int, rows: int, columns: int, rng: np.random.Generator
) -> Tensor:
    angle = np.deg2rad(rng.normal(0, how.rotation_deg, count))
    size = np.exp(rng.normal(0, how.scale, count))
    stretch = np.exp(rng.normal(0, how.stretch, count))
    shift = rng.normal(0, 2 * how.shift, (count, 2))  # the grid runs from -1 to 1
    matrix = np.empty((count, 2, 3))
    matrix[:, 0, 0] = np.cos(angle) * size * stretch
    matrix[:, 0, 1] = -np.sin(angle) * size
    matrix[:, 1, 0] = np.sin(angle) * size
    matrix[:, 1, 1] = np.cos(angle) * size / stretch
    matrix[:, :, 2] = shift
    grid = functional.affine_grid(
        torch.from_numpy(matrix.astype(np.float32)), [count, 1, rows, columns], align_corners=False
    )
    nodes = rng.normal(0, 2 * how.elastic, (count, 2, _WARP_NODES, _WARP_NODES))
    warp = functional.interpolate(
        torch.from_numpy(nodes.astype(np.float32)),
        size=(rows, columns),
        mode="bicubic",
        align_corners=True,
    )
    return grid + warp.permute(0, 2, 3, 1)  # (b, rows, columns, 2)


def _swapped(labels: Tensor, swaps: tuple[tuple[int, int], ...]) -> Tensor:
    result = labels.clone()
    for a, b in swaps:
        result[labels == a] = b
        result[labels == b] = a
    return result


def _column(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]
