"""Where a phantom's voxels lie: orientation, spacing, centre, affine.

Arrays are `[slice, row, column]`. `affine` maps an index (slice, row, column, 1) to LPS mm.
Slices ascend along the normal, row direction x column direction, as volumes do everywhere in
this project (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Orientation:
    """Image Orientation (Patient) (0020,0037): two unit vectors in LPS.

    Attributes:
        row: The direction in which the column index grows.
        column: The direction in which the row index grows.
    """

    row: tuple[float, float, float]
    column: tuple[float, float, float]

    @property
    def normal(self) -> Floats:
        """Row x column: the direction in which slices ascend."""
        return np.cross(np.array(self.row, float), np.array(self.column, float))


AXIAL: Final = Orientation((1, 0, 0), (0, 1, 0))
"""Seen from the feet, back of the patient at the bottom; slices ascend to the head."""

CORONAL: Final = Orientation((1, 0, 0), (0, 0, -1))
"""Seen from the front; slices ascend to the back."""

SAGITTAL: Final = Orientation((0, 1, 0), (0, 0, -1))
"""Seen from the left, nose to the left of the picture; slices ascend to the right."""


def rotated(orientation: Orientation, *, degrees: tuple[float, float, float]) -> Orientation:
    """Return `orientation` turned about x, then y, then z of the patient: an oblique scan."""
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    turn = about_z @ about_y @ about_x
    row, column = turn @ np.array(orientation.row), turn @ np.array(orientation.column)
    return Orientation(
        (float(row[0]), float(row[1]), float(row[2])),
        (float(column[0]), float(column[1]), float(column[2])),
    )


def axis_orders() -> tuple[Orientation, ...]:
    """Return all 24 orientations along the patient's axes.

    With slices filed upwards or downwards these are the 48 axis orders of an array.
    """
    axes = [
        tuple(float(sign * (k == axis)) for k in range(3)) for axis in range(3) for sign in (1, -1)
    ]
    return tuple(
        Orientation((r[0], r[1], r[2]), (c[0], c[1], c[2]))
        for r in axes
        for c in axes
        if not np.any(np.logical_and(r, c))
    )


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A regular grid of voxels in the patient.

    Attributes:
        shape: Slices, rows, columns.
        spacing_mm: Distance between slices, rows, columns in mm.
        orientation: Directions of rows and columns.
        origin_mm: LPS position of the centre of voxel (0, 0, 0).
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: Orientation
    origin_mm: tuple[float, float, float]

    @property
    def affine(self) -> Floats:
        """Index (slice, row, column, 1) to LPS mm, float64, shape (4, 4)."""
        affine = np.eye(4)
        affine[:3, 0] = self.orientation.normal * self.spacing_mm[0]
        affine[:3, 1] = np.array(self.orientation.column) * self.spacing_mm[1]
        affine[:3, 2] = np.array(self.orientation.row) * self.spacing_mm[2]
        affine[:3, 3] = self.origin_mm
        return affine

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def position_mm(self, index: int) -> Floats:
        """Return the LPS position of the first voxel of slice `index`."""
        return np.array(self.origin_mm) + self.affine[:3, 0] * index


def centred_grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    *,
    orientation: Orientation = AXIAL,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Grid:
    """Return the grid whose middle lies at `centre_mm`."""
    at_zero = Grid(shape, spacing_mm, orientation, (0.0, 0.0, 0.0))
    middle = at_zero.affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    origin = np.array(centre_mm) - middle
    return Grid(
        shape, spacing_mm, orientation, (float(origin[0]), float(origin[1]), float(origin[2]))
    )


def grid_of(affine: Floats, shape: tuple[int, int, int]) -> Grid:
    """Return the grid that `affine` describes.

    Args:
        affine: Index (slice, row, column, 1) to LPS mm; axes at right angles, slices ascending.
        shape: Slices, rows, columns.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    row, column, origin = affine[:3, 2] / spacing[2], affine[:3, 1] / spacing[1], affine[:3, 3]
    return Grid(
        shape,
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        Orientation(
            (float(row[0]), float(row[1]), float(row[2])),
            (float(column[0]), float(column[1]), float(column[2])),
        ),
        (float(origin[0]), float(origin[1]), float(origin[2])),
    )
