"""Tubes: vessels, airways, bones and bowel as chains of tapering capsules.

A capsule is drawn in its own box only, boxes of like size together, so that thousands of small
vessels cost milliseconds per slice. Coverage is the share of a pixel that lies inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.phantom.planes import F32, F64, Plane

_BOXES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
"""Sides of the square boxes, pixels; a capsule goes into the smallest that holds it."""

_PIXELS_AT_ONCE = 1 << 19
"""Bounds the memory of one group of boxes: 2 MB per float32 array."""


@dataclass(frozen=True, slots=True, eq=False)
class Capsules:
    """Many tapering capsules.

    Attributes:
        starts: LPS mm, shape (n, 3).
        ends: LPS mm, shape (n, 3).
        start_mm: Radii at the starts, shape (n,).
        end_mm: Radii at the ends.
    """

    starts: F64
    ends: F64
    start_mm: F64
    end_mm: F64

    def __len__(self) -> int:
        return len(self.start_mm)

    def grown(self, by_mm: float) -> Capsules:
        """Return the same capsules with thicker (or, negative, thinner) walls."""
        return Capsules(
            self.starts,
            self.ends,
            np.maximum(self.start_mm + by_mm, 0.05),
            np.maximum(self.end_mm + by_mm, 0.05),
        )

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Capsules:
        """Return the capsules chosen by a mask or by numbers."""
        return Capsules(
            self.starts[chosen], self.ends[chosen], self.start_mm[chosen], self.end_mm[chosen]
        )


def joined(parts: Sequence[Capsules]) -> Capsules:
    """Return all capsules of several sets as one."""
    return Capsules(
        np.concatenate([p.starts for p in parts]),
        np.concatenate([p.ends for p in parts]),
        np.concatenate([p.start_mm for p in parts]),
        np.concatenate([p.end_mm for p in parts]),
    )


def tube(
    nodes: Sequence[Sequence[float] | F64], radii: Sequence[float], *, per_piece: int = 5
) -> Capsules:
    """Return a smooth tube through points (Catmull-Rom) with radii between them.

    Args:
        nodes: LPS mm, at least two.
        radii: Radius at each node.
        per_piece: Capsules between two nodes.
    """
    p = np.asarray(nodes, np.float64)
    r = np.asarray(radii, np.float64)
    padded = np.concatenate([[2 * p[0] - p[1]], p, [2 * p[-1] - p[-2]]])
    f = np.arange(per_piece) / per_piece
    line, width = [], []
    for k in range(len(p) - 1):
        a, b, c, d = padded[k : k + 4]
        u = f[:, None]
        line.append(
            0.5
            * (
                2 * b
                + (c - a) * u
                + (2 * a - 5 * b + 4 * c - d) * u**2
                + (3 * b - a - 3 * c + d) * u**3
            )
        )
        width.append(r[k] + (r[k + 1] - r[k]) * f)
    points = np.concatenate([*line, p[-1:]])
    sizes = np.concatenate([*width, r[-1:]])
    return Capsules(points[:-1], points[1:], sizes[:-1], sizes[1:])


def coverage(plane: Plane, capsules: Capsules, *, thin: bool = False) -> F32:
    """Return the largest coverage of any capsule at each pixel.

    Args:
        plane: Where.
        capsules: What.
        thin: Weaken tubes thinner than the slice, as averaging through it does.
    """
    cover = np.zeros(plane.shape, np.float32)
    for rows, columns, values in _boxes(plane, capsules, thin=thin):
        inside = (rows >= 0) & (rows < plane.shape[0]) & (columns >= 0) & (columns < plane.shape[1])
        inside &= values > 0
        flat = (rows * plane.shape[1] + columns)[inside]
        np.maximum.at(cover.reshape(-1), flat, values[inside])
    return cover


def _boxes(
    plane: Plane, capsules: Capsules, *, thin: bool
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], F32]]:
    """Yield rows, columns and coverage, shape (n, side, side), of groups of like-sized boxes."""
    if not len(capsules):
        return
    local = Capsules(
        plane.to_plane(capsules.starts),
        plane.to_plane(capsules.ends),
        capsules.start_mm,
        capsules.end_mm,
    )
    low, high = np.minimum(local.starts, local.ends), np.maximum(local.starts, local.ends)
    thick = np.maximum(local.start_mm, local.end_mm)
    reach = thick + plane.thickness_mm / 2
    near = (low[:, 2] < reach) & (high[:, 2] > -reach)
    size = np.asarray(plane.spacing_mm)
    rim = (thick + plane.pixel_mm)[:, None]
    first = np.floor((low[:, :2] - rim) / size).astype(np.intp)
    last = np.ceil((high[:, :2] + rim) / size).astype(np.intp)
    near &= np.all(last >= 0, axis=1) & np.all(first < np.asarray(plane.shape), axis=1)
    group = np.searchsorted(_BOXES, np.max(last - first, axis=1) + 1)
    for k in np.unique(group[near]):
        chosen = np.flatnonzero(near & (group == k))
        width = _BOXES[k]
        at_once = max(1, _PIXELS_AT_ONCE // width**2)
        for begin in range(0, len(chosen), at_once):
            ids = chosen[begin : begin + at_once]
            steps = np.arange(width)
            rows = first[ids, 0][:, None, None] + steps[None, :, None]
            columns = first[ids, 1][:, None, None] + steps[None, None, :]
            values = _covered(plane, local.where(ids), rows, columns, thin=thin)
            yield (
                np.broadcast_to(rows, values.shape),
                np.broadcast_to(columns, values.shape),
                values,
            )


def _covered(
    plane: Plane,
    local: Capsules,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    *,
    thin: bool,
) -> F32:
    """Return coverage of each capsule, in plane mm, over its own box."""
    half = plane.thickness_mm / 2 if thin else 0.0
    row_mm, column_mm = plane.spacing_mm
    step = (local.ends - local.starts).astype(np.float32)
    length = np.maximum(np.sum(step * step, axis=1), 1e-6)
    dr = (rows * row_mm - local.starts[:, 0, None, None]).astype(np.float32)
    dc = (columns * column_mm - local.starts[:, 1, None, None]).astype(np.float32)
    dw = (-local.starts[:, 2]).astype(np.float32)[:, None, None]
    sr, sc, sw = (step[:, k, None, None] for k in range(3))
    along = (dr * sr + dc * sc + dw * sw) / length[:, None, None]
    np.clip(along, 0, 1, out=along)
    off = np.maximum(np.abs(dw - along * sw) - np.float32(half), 0)
    gap = np.sqrt((dr - along * sr) ** 2 + (dc - along * sc) ** 2 + off**2)
    start = local.start_mm.astype(np.float32)[:, None, None]
    grow = (local.end_mm - local.start_mm).astype(np.float32)[:, None, None]
    radius = start + along * grow
    px = np.float32(plane.pixel_mm)
    cover = np.clip(0.5 + (radius - gap) / px, 0, 1) * np.minimum(2 * radius / px, 1)
    if thin:
        deep = (2 * radius + np.abs(sw)) / np.float32(plane.thickness_mm)
        cover = cover * np.minimum(deep, 1)
    return np.asarray(cover, dtype=np.float32)
