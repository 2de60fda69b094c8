"""Turn, mirror, crop and pad an array and its affine as one step of index arithmetic.

Nothing is interpolated, so every voxel keeps its value and its place in the patient, and the way
back is exact. Letters name the direction in which an index grows, slice index first: L R along
x, P A along y, H F along z of the patient (PS3.3 C.7.6.1.1.1). An oblique array takes the
nearest axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.imaging.values import Floats

_DIRECTION: Final = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "H": (0.0, 0.0, 1.0),
    "F": (0.0, 0.0, -1.0),
}
_Number = TypeVar("_Number", bound=np.generic)
_Three = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class GridTransform:
    """How the indices of a target array follow from those of a source array.

    Attributes:
        source: Shape of the source array.
        order: The source axis that becomes target axis 0, 1 and 2.
        mirrored: Whether each of these then runs backwards.
        start: Index of the turned source at which each target axis begins; negative pads.
        shape: Shape of the target array.
    """

    source: _Three
    order: _Three
    mirrored: tuple[bool, bool, bool]
    start: _Three
    shape: _Three

    def apply(self, array: NDArray[_Number], fill: float = 0) -> NDArray[_Number]:
        """Return the target array; a view where nothing is padded."""
        turned = self._mirror(array.transpose(self.order))
        return _window(turned, self.start, self.shape, fill)

    def undo(self, array: NDArray[_Number], fill: float = 0) -> NDArray[_Number]:
        """Return an array of the source's shape; what was cropped away becomes `fill`."""
        turned = tuple(self.source[axis] for axis in self.order)
        back = tuple(-begin for begin in self.start)
        whole = self._mirror(_window(array, back, turned, fill))
        return whole.transpose(tuple(int(axis) for axis in np.argsort(self.order)))

    def affine(self, source: Floats) -> Floats:
        """Return the affine of the target array from that of the source array."""
        index: Floats = np.zeros((4, 4))  # target index to source index
        index[3, 3] = 1.0
        for target, axis in enumerate(self.order):
            sign = -1.0 if self.mirrored[target] else 1.0
            index[axis, target] = sign
            far = self.source[axis] - 1 if self.mirrored[target] else 0
            index[axis, 3] = far + sign * self.start[target]
        moved: Floats = source @ index
        return moved

    def cropped(self, start: _Three, shape: _Three) -> GridTransform:
        """Return the same turn with a window of the target; it may reach outside and pad."""
        first, second, third = (a + b for a, b in zip(self.start, start, strict=True))
        return replace(self, start=(first, second, third), shape=shape)

    def _mirror(self, array: NDArray[_Number]) -> NDArray[_Number]:
        return array[tuple(slice(None, None, -1 if back else 1) for back in self.mirrored)]


def _window(
    array: NDArray[_Number], start: tuple[int, ...], shape: tuple[int, ...], fill: float
) -> NDArray[_Number]:
    """Return the part of an array that begins at `start`, padded where it reaches outside."""
    inside = tuple(
        slice(max(0, begin), max(0, min(begin + count, length)))
        for begin, count, length in zip(start, shape, array.shape, strict=True)
    )
    found = array[inside]
    if found.shape == shape:
        return found
    padded: NDArray[_Number] = np.full(shape, fill, dtype=array.dtype)
    places = tuple(
        slice(part.start - begin, part.start - begin + count)
        for part, begin, count in zip(inside, start, found.shape, strict=True)
    )
    padded[places] = found
    return padded


def turn(shape: _Three, order: _Three, mirrored: tuple[bool, bool, bool]) -> GridTransform:
    """Return the transform that only reorders and mirrors axes."""
    first, second, third = (shape[axis] for axis in order)
    return GridTransform(shape, order, mirrored, (0, 0, 0), (first, second, third))


def turn_to(orientation: str, shape: _Three, affine: Floats) -> GridTransform:
    """Return the turn after which the indices grow as three letters say, such as `HPL`."""
    wanted = np.array([_DIRECTION[letter] for letter in orientation]).T  # column per target axis
    return turn_along(wanted, shape, affine)


def turn_along(directions: NDArray[Any], shape: _Three, affine: Floats) -> GridTransform:
    """Return the turn that brings each array axis nearest to a direction.

    Args:
        directions: Column a is where target axis a shall point, shape (3, 3), any length.
        shape: Shape of the source array.
        affine: Index to LPS mm of the source array, shape (4, 4).
    """
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = (directions / np.linalg.norm(directions, axis=0)).T @ steps  # [target, source]
    order = max(
        permutations(range(3)),
        key=lambda axes: sum(abs(cosines[target, axis]) for target, axis in enumerate(axes)),
    )
    first, second, third = (bool(cosines[target, axis] < 0) for target, axis in enumerate(order))
    return turn(shape, (order[0], order[1], order[2]), (first, second, third))
