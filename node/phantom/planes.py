"""Where a picture's pixels lie in the patient: the one place that knows the sampling grid.

Every shape of the phantom is a function of x, y, z in LPS mm. For a plane along the axes each
coordinate varies along one image axis only; it is then kept as a thin array, and numpy's
broadcasting spares most of the work. An oblique plane gets full arrays and the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Coordinates in LPS mm; x, y and z broadcast to one shape."""

    x: F32
    y: F32
    z: F32


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice of a sampling grid.

    Attributes:
        origin: LPS mm of pixel (0, 0).
        down: LPS mm from one row to the next.
        across: LPS mm from one column to the next; at right angles to `down`.
        shape: Rows, columns.
        thickness_mm: Slice thickness.
    """

    origin: F64
    down: F64
    across: F64
    shape: tuple[int, int]
    thickness_mm: float

    @property
    def normal(self) -> F64:
        """Unit vector of row x column."""
        cross = np.cross(self.across, self.down)
        return np.asarray(cross / np.linalg.norm(cross))

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance of rows, of columns."""
        return float(np.linalg.norm(self.down)), float(np.linalg.norm(self.across))

    @property
    def pixel_mm(self) -> float:
        """Side of a square as large as a pixel: how soft a border is drawn."""
        row, column = self.spacing_mm
        return float(np.sqrt(row * column))

    def points(self, rows: slice = slice(None), columns: slice = slice(None)) -> Points:
        """Return the coordinates of a box of pixels, thin where they vary along one axis."""
        r = np.arange(self.shape[0], dtype=np.float64)[rows, None]
        c = np.arange(self.shape[1], dtype=np.float64)[None, columns]
        found = []
        for k in range(3):
            value = np.full((1, 1), self.origin[k])
            if abs(self.down[k]) > 1e-9:
                value = value + self.down[k] * r
            if abs(self.across[k]) > 1e-9:
                value = value + self.across[k] * c
            found.append(value.astype(np.float32))
        return Points(*found)

    def to_plane(self, points: F64) -> F64:
        """Return (row mm, column mm, mm along the normal) of LPS points, shape (n, 3)."""
        row, column = self.spacing_mm
        basis = np.stack([self.down / row, self.across / column, self.normal])
        # Not a matrix product: smooth.py says why.
        return np.asarray(np.einsum("ij,kj->ik", points - self.origin, basis))

    def box_round(self, centre: Sequence[float], reach_mm: float) -> tuple[slice, slice] | None:
        """Return the pixels within a reach of an LPS point, or None where there are none."""
        row, column, off = self.to_plane(np.asarray([centre]))[0]
        if abs(off) > reach_mm:
            return None
        return self.box(
            (float(row) - reach_mm, float(column) - reach_mm),
            (float(row) + reach_mm, float(column) + reach_mm),
        )

    def box(self, low: Sequence[float], high: Sequence[float]) -> tuple[slice, slice] | None:
        """Return the pixels between two corners in plane mm, or None where there are none."""
        cut = []
        for k in range(2):
            step = self.spacing_mm[k]
            first = max(int(np.floor(low[k] / step)), 0)
            last = min(int(np.ceil(high[k] / step)) + 1, self.shape[k])
            if last <= first:
                return None
            cut.append(slice(first, last))
        return cut[0], cut[1]


def planes_of(affine: F64, shape: tuple[int, int, int], thickness_mm: float) -> list[Plane]:
    """Return the slices of a grid.

    Args:
        affine: Index [slice, row, column, 1] to LPS mm.
        shape: Slices, rows, columns.
        thickness_mm: Slice thickness.

    Raises:
        ValueError: Rows and columns are not at right angles.
    """
    down, across = affine[:3, 1], affine[:3, 2]
    if abs(float(down @ across)) > 1e-6 * float(np.linalg.norm(down) * np.linalg.norm(across)):
        raise ValueError("rows and columns of the affine are not at right angles")
    return [
        Plane(affine[:3, 3] + k * affine[:3, 0], down, across, shape[1:], thickness_mm)
        for k in range(shape[0])
    ]


def axial_affine(
    z_mm: float,
    shape: tuple[int, int],
    *,
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float],
) -> F64:
    """Return the affine of an axial stack with its first slice at `z_mm`.

    Args:
        z_mm: Level of the first slice.
        shape: Rows, columns.
        spacing_mm: Distance of slices, rows, columns.
        centre_mm: x and y of the image centre.
    """
    dz, dy, dx = spacing_mm
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = dz, dy, dx, 1
    affine[:3, 3] = (
        centre_mm[0] - dx * (shape[1] - 1) / 2,
        centre_mm[1] - dy * (shape[0] - 1) / 2,
        z_mm,
    )
    return affine
