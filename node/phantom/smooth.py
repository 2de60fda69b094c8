"""Smooth random fields in the patient: uneven walls, mottled tissue, patches of disease.

One periodic lattice of random numbers per patient, read through cubic B-splines at any scale and
shift, so that a field costs no memory and is the same on whatever plane it is sampled. On planes
along the axes the spline is evaluated axis by axis, about 1 ms at 512 x 512.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.phantom.planes import F32, Points

_SIDE = 32
"""Nodes per side of the lattice; a field repeats after this many times its scale."""

_GAIN = 3.0
"""Brings the spline-smoothed lattice back to a standard deviation of about one."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A smooth random field with mean 0 and standard deviation about 1.

    Attributes:
        nodes: float32 lattice [z, y, x].
        scale_mm: Distance of nodes along z, y, x: the size of the bumps.
        shift: Nodes by which this field is shifted.
    """

    nodes: F32
    scale_mm: tuple[float, float, float]
    shift: tuple[float, float, float]

    def at(self, points: Points) -> F32:
        """Return the field's values, broadcast shape of the points."""
        axes = [
            np.asarray(c, np.float32) / s + d
            for c, s, d in zip(
                (points.z, points.y, points.x), self.scale_mm, self.shift, strict=True
            )
        ]
        if _separable(axes):
            return _by_axes(self.nodes, axes)
        grid = np.stack(np.broadcast_arrays(*axes))
        found = ndimage.map_coordinates(
            self.nodes, grid, order=3, prefilter=False, mode="grid-wrap", output=np.float32
        )
        return np.asarray(found)


def draw_lattice(rng: np.random.Generator) -> F32:
    """Draw the lattice that all fields of a patient read."""
    return rng.standard_normal((_SIDE, _SIDE, _SIDE), dtype=np.float32) * np.float32(_GAIN)


def draw_field(
    rng: np.random.Generator, nodes: F32, scale_mm: float | tuple[float, float, float]
) -> Field:
    """Draw a field of its own from the patient's lattice: another shift, another scale."""
    scale = (scale_mm,) * 3 if isinstance(scale_mm, float | int) else scale_mm
    shift = rng.uniform(0, _SIDE, 3)
    return Field(nodes, scale, (float(shift[0]), float(shift[1]), float(shift[2])))


def _separable(axes: list[NDArray[np.float32]]) -> bool:
    """Say whether each image axis moves at most one of the coordinates, and none moves by two."""
    if any(a.ndim != 2 for a in axes):
        return False
    rows = sum(a.shape[0] > 1 for a in axes)
    columns = sum(a.shape[1] > 1 for a in axes)
    both = any(a.shape[0] > 1 and a.shape[1] > 1 for a in axes)
    return rows <= 1 and columns <= 1 and not both


def _by_axes(nodes: F32, axes: list[NDArray[np.float32]]) -> F32:
    """Evaluate the spline axis by axis, the axes that do not move first."""
    value: F32 = nodes
    # Rows last: the result then lies in memory as a picture does.
    for axis in sorted(range(3), key=lambda k: (axes[k].size > 1, axes[k].shape[0])):
        value = _along(value, axis, axes[axis].ravel())
    rows = next((k for k in range(3) if axes[k].shape[0] > 1), None)
    columns = next((k for k in range(3) if axes[k].shape[1] > 1), None)
    still = tuple(k for k in range(3) if k not in (rows, columns))
    flat = value.squeeze(axis=still) if still else value
    if rows is not None and columns is not None and rows > columns:
        flat = flat.T
    shape = (
        1 if rows is None else axes[rows].shape[0],
        1 if columns is None else axes[columns].shape[1],
    )
    return np.ascontiguousarray(flat.reshape(shape), dtype=np.float32)


def _along(value: F32, axis: int, u: F32) -> F32:
    """Replace one axis of nodes by the spline's values at u.

    Sums of four, not matrix products: BLAS gives other last bits on other numbers of threads, and
    its threads made slices that are drawn side by side three times slower.
    """
    base = np.floor(u).astype(np.intp)
    f = (u - base).astype(np.float32)
    weights = (
        (1 - f) ** 3 / 6,
        (3 * f**3 - 6 * f**2 + 4) / 6,
        (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6,
        f**3 / 6,
    )
    shape = [1, 1, 1]
    shape[axis] = -1
    total: F32 | None = None
    for k, weight in enumerate(weights):
        part = np.take(value, (base + k - 1) % value.shape[axis], axis=axis)
        part *= weight.astype(np.float32).reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    if total is None:
        raise AssertionError("there are four weights")
    return total
