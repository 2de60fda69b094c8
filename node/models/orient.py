"""Turn a volume's axes to those a card asks for, and back: index operations, nothing else.

Letters name the direction in which an index grows (PS3.3 C.7.6.1.1.1): L R along x, P A along y,
H F along z of the patient. An oblique volume takes the nearest axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Final, TypeVar

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


@dataclass(frozen=True, slots=True)
class Turn:
    """How native axes become the card's.

    Attributes:
        order: The native axis that becomes slice, row, column.
        flipped: Whether each of these then runs backwards.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def apply(self, array: NDArray[_Number]) -> NDArray[_Number]:
        """Return a view with the card's axes."""
        return self._flip(array.transpose(self.order))

    def undo(self, array: NDArray[_Number]) -> NDArray[_Number]:
        """Return a view with the native axes again."""
        return self._flip(array).transpose(tuple(int(axis) for axis in np.argsort(self.order)))

    def turned(self, values: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return one value per native axis in the card's order."""
        first, second, third = (values[axis] for axis in self.order)
        return first, second, third

    def _flip(self, array: NDArray[_Number]) -> NDArray[_Number]:
        steps = tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)
        return array[steps]


AS_IT_IS: Final = Turn((0, 1, 2), (False, False, False))


def turn_to(orientation: str, affine: Floats) -> Turn:
    """Return the turn that brings a volume to `orientation`.

    Args:
        orientation: Three letters for slice, row, column, or `native`.
        affine: (4, 4), index [slice, row, column, 1] to LPS mm.
    """
    if orientation == "native":
        return AS_IT_IS
    steps = affine[:3, :3]
    natives = steps / np.linalg.norm(steps, axis=0)  # column a: where native axis a points
    wanted = np.array([_DIRECTION[letter] for letter in orientation])
    cosines = wanted @ natives  # [wanted axis, native axis]
    best = max(
        permutations(range(3)),
        key=lambda order: sum(abs(cosines[w, n]) for w, n in enumerate(order)),
    )
    first, second, third = (bool(cosines[w, n] < 0) for w, n in enumerate(best))
    return Turn((best[0], best[1], best[2]), (first, second, third))
