"""Stacks sheared by a tilted gantry: into an orthogonal box and back.

With a tilted gantry each slice is shifted within its plane by the same step, so the stack is a
sheared box. A network wants a box with right angles: each slice is shifted back by its own
sub-pixel distance, linearly, once; what lies outside the slices is background. The way back is
the inverse shift of each slice, and slices stay slices, so each label lies on the slice it was
computed for. A label moves by the distance to its border, which is interpolated: the nearest label
would move a whole slice by up to half a pixel (ball of 26 mm on 0.9 x 1.1 mm, 15 degrees: Dice
against the native ball 0.988 to 0.994 with the nearest label, 0.991 to 0.994 by distance).

Arrays are `[slice, row, column]`. Source: PS3.3 C.7.6.2.1.1; the shift follows from positions
alone, because GantryDetectorTilt (0018,1120) is often 0 and its sign differs between vendors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Floats, Volume

_STRAIGHT_PIXELS: Final = 1e-3
"""A whole stack that is shifted by less is one with right angles."""

_NO_STEP_PIXELS: Final = 1e-9  # what binary arithmetic leaves of a right angle

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Shear:
    """How the slices of a stack are shifted against a box with right angles.

    Attributes:
        rows: Rows by which each slice lies further along the column direction than the one before.
        columns: Likewise, columns along the row direction.
        shape: Slices, rows, columns of the stack.
        first: Row and column of the stack's first voxel at which the box begins.
        box: Slices, rows, columns of the box.
    """

    rows: float
    columns: float
    shape: tuple[int, int, int]
    first: tuple[int, int]
    box: tuple[int, int, int]

    def to_native(self, array: NDArray[_Number]) -> NDArray[_Number]:
        """Return values on the box on the stack's own grid.

        Integers are labels and move by the distance to their borders; floating point is
        interpolated, 0 outside.
        """
        native = np.zeros(self.shape, array.dtype)
        move = _moved_labels if np.issubdtype(array.dtype, np.integer) else _moved_values
        for index, out in enumerate(native):
            down, across = self._offset(index)
            out[...] = move(array[index], -down, -across, out.shape)
        return native

    def from_native(self, labels: NDArray[_Number]) -> NDArray[_Number]:
        """Return labels of the stack on the box, the nearest value, 0 outside."""
        boxed = np.zeros(self.box, labels.dtype)
        rows, columns = self.shape[1:]
        for index, plane in enumerate(labels):
            down, across = self._offset(index)
            top, left = math.floor(down + 0.5), math.floor(across + 0.5)
            boxed[index, top : top + rows, left : left + columns] = plane
        return boxed

    def straighten(self, planes: NDArray[Any], background: float) -> NDArray[np.float32]:
        """Return planes of the stack on the box, interpolated, background outside."""
        boxed = np.empty(self.box, np.float32)
        for index, plane in enumerate(planes):
            down, across = self._offset(index)
            boxed[index] = _shifted(plane, down, across, self.box[1:], background)
        return boxed

    def _offset(self, index: int) -> tuple[float, float]:
        """Return the box's row and column at which a slice's first voxel lies."""
        return self.rows * index - self.first[0], self.columns * index - self.first[1]


def mirrored_affine(affine: Floats, axis: int) -> Floats:
    """Return the affine with which a mirrored stack is straightened just as the stack is.

    Args:
        affine: Of the stack.
        axis: Along which its array is turned round: 0 slices, 1 rows, 2 columns.
    """
    mirrored = affine.copy()
    for other, step in zip((1, 2), _steps(affine), strict=True):
        if axis in (0, other) and abs(step) > _NO_STEP_PIXELS:
            mirrored[:3, 0] -= 2 * step * affine[:3, other]
    return mirrored


def _steps(affine: Floats) -> tuple[float, float]:
    """Return by how many rows and columns each slice lies further than the one before."""
    rows, columns = (
        float(affine[:3, 0] @ affine[:3, k] / (affine[:3, k] @ affine[:3, k])) for k in (1, 2)
    )
    return rows, columns


def shear_of(affine: Floats, shape: tuple[int, int, int]) -> Shear | None:
    """Return how a stack is sheared, None if its slices lie above each other.

    Args:
        affine: Index [slice, row, column, 1] to LPS mm; rows and columns at a right angle.
        shape: Slices, rows, columns.
    """
    steps = _steps(affine)
    if max(abs(step) for step in steps) * (shape[0] - 1) < _STRAIGHT_PIXELS:
        return None
    ends = [(min(0.0, step * (shape[0] - 1)), max(0.0, step * (shape[0] - 1))) for step in steps]
    first = (math.floor(ends[0][0]), math.floor(ends[1][0]))
    # One pixel more, so that the pixel behind a fraction is always there.
    rows, columns = (
        size + math.ceil(end[1]) - low + 1
        for size, end, low in zip(shape[1:], ends, first, strict=True)
    )
    return Shear(steps[0], steps[1], shape, first, (shape[0], rows, columns))


def straightened(volume: Volume, shear: Shear, background: float) -> Volume:
    """Return a sheared volume on its box, float32; what was not measured is padding.

    Args:
        volume: With the affine from which `shear` was made.
        shear: From `shear_of`.
        background: What lies outside the slices, in the volume's units.
    """
    affine = volume.affine.copy()
    affine[:3, 0] -= shear.rows * affine[:3, 1] + shear.columns * affine[:3, 2]
    affine[:3, 3] += shear.first[0] * affine[:3, 1] + shear.first[1] * affine[:3, 2]
    measured = np.ones(volume.array.shape, np.float32)
    if volume.padding is not None:
        measured[volume.padding] = 0.0
    return replace(
        volume,
        array=shear.straighten(volume.array, background),
        affine=affine,
        padding=shear.straighten(measured, 0.0) < 0.5,
    )


def _moved_values(
    plane: NDArray[Any], down: float, across: float, shape: tuple[int, ...]
) -> NDArray[Any]:
    return _shifted(plane, down, across, shape, 0.0)


def _moved_labels(
    plane: NDArray[Any], down: float, across: float, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return labels moved by a part of a pixel: at each place the label that is deepest there."""
    present = np.unique(plane)
    if len(present) == 1:
        return np.full(shape, present[0], plane.dtype)
    moved = np.zeros(shape, plane.dtype)
    deepest = np.full(shape, -np.inf, np.float32)
    for label in present:
        depth = _shifted(_depth(plane == label), down, across, shape, 0.0)
        deeper = depth > deepest
        moved[deeper] = label
        deepest[deeper] = depth[deeper]
    return moved


def _depth(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance in pixels to the border of a mask, negative outside."""
    within = ndimage.distance_transform_edt(inside)
    beyond = ndimage.distance_transform_edt(~inside)
    depth: NDArray[np.float32] = (within - beyond - np.sign(within - beyond) / 2).astype(np.float32)
    return depth


def _shifted(
    plane: NDArray[Any], down: float, across: float, shape: tuple[int, ...], background: float
) -> NDArray[np.float32]:
    """Return a plane moved by a part of a pixel, on another raster."""
    values = plane.astype(np.float32) - np.float32(background)
    moved = np.full(shape, background, np.float32)
    top, left = math.floor(down), math.floor(across)
    for row, row_share in ((top, 1 - (down - top)), (top + 1, down - top)):
        for column, share in ((left, 1 - (across - left)), (left + 1, across - left)):
            weight = np.float32(row_share * share)
            if weight:
                target, source = _overlap(row, shape[0], values.shape[0])
                wide, narrow = _overlap(column, shape[1], values.shape[1])
                moved[target, wide] += weight * values[source, narrow]
    return moved


def _overlap(start: int, size: int, count: int) -> tuple[slice, slice]:
    """Return where `count` values that begin at `start` lie within `size`, and which those are."""
    first, last = max(start, 0), max(min(start + count, size), max(start, 0))
    return slice(first, last), slice(first - start, last - start)
