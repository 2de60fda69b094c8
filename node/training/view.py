"""What the network sees of a case, volume or frame, and the way of references to it and back.

Images come out of the very preparation that inference has, so that training cannot differ from it
in grid, window or intensity. References are brought to the same grid by exact overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.imaging.values import Frames
from node.models.axis import Axis, native_axis
from node.models.card import Card
from node.models.frame_window import frame_windows
from node.models.intensity import apply_steps, fix_steps
from node.models.prepare import prepare
from node.training.cases import Case, Reference

_Number = TypeVar("_Number", bound=np.number[Any])


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A case as the network sees it.

    Attributes:
        image: float32 [slice or frame, row, column] on the network's grid, after the steps.
        axes: From the native grid, turned or cut, to the network's.
        cut: Turns or cuts an array of the case's shape to what the axes count.
        uncut: The way back; what was cut away is 0.
    """

    image: NDArray[np.float32]
    axes: tuple[Axis, Axis, Axis]
    cut: Callable[[Reference], Reference]
    uncut: Callable[[Reference], Reference]

    def shares(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return what share of each of the network's voxels a native mask fills."""
        result = self.cut(mask.astype(np.uint8)).astype(np.float32)
        for place, axis in enumerate(self.axes):
            overlap = (axis.shared() / axis.ratio).astype(np.float32)
            result = np.moveaxis(np.tensordot(overlap, result, axes=(1, place)), 0, place)
        return np.ascontiguousarray(result)

    def labels(self, reference: Reference, count: int) -> Reference:
        """Return, for each of the network's voxels, the label with the largest share.

        Args:
            reference: Native labels.
            count: Number of labels.
        """
        if all(axis.is_shift for axis in self.axes):
            shifted = sum(k * self.shares(reference == k) for k in range(1, count + 1))
            return np.rint(shifted).astype(np.uint8)
        shares = np.stack([self.shares(reference == k) for k in range(1, count + 1)])
        outside = 1 - shares.sum(axis=0, keepdims=True)
        best: Reference = np.argmax(np.concatenate([outside, shares]), axis=0).astype(np.uint8)
        return best

    def native(self, answer: Reference) -> Reference:
        """Return labels of the network's grid on the native one, by the nearest voxel."""
        for place, axis in enumerate(self.axes):
            nearest = np.zeros(axis.native_count, np.intp)
            nearest[axis.inside] = np.argmax(axis.backward("linear"), axis=1)
            answer = np.take(answer, nearest, axis=place)
        return np.ascontiguousarray(self.uncut(answer))


def view_of(case: Case, card: Card) -> View:
    """Return what the network of a card sees of a case."""
    if isinstance(case.image, Frames):
        return _frames_view(case, case.image, card)
    prepared = prepare(case.image, card)
    return View(
        image=prepared.planes(0, prepared.shape[0]),
        axes=prepared.axes,
        cut=lambda native: prepared.turn.apply(native),
        uncut=lambda turned: prepared.turn.undo(turned),
    )


def normalised(case: Case, card: Card) -> NDArray[np.float32]:
    """Return the case's native voxels after the card's intensity steps."""
    array = case.array
    padding = None if isinstance(case.image, Frames) else case.image.padding
    seen: Any = array  # the steps take what volumes hold; frames hold whole numbers too
    if isinstance(case.image, Frames):
        seen = array.astype(np.float32)
    return apply_steps(fix_steps(card.steps, seen, padding), array.astype(np.float32))


def _frames_view(case: Case, frames: Frames, card: Card) -> View:
    """Return the view of frames through their first window."""
    window = frame_windows(frames, card)[0]
    top, left, bottom, right = window.box
    shape = case.reference.shape

    def uncut(part: Reference) -> Reference:
        whole = np.zeros(shape, np.uint8)
        whole[:, top:bottom, left:right] = part
        return whole

    return View(
        image=np.stack([window.to_network(frame) for frame in case.array]),
        axes=(native_axis(shape[0], at_least=1, multiple=1), window.rows, window.columns),
        cut=lambda native: native[:, top:bottom, left:right],
        uncut=uncut,
    )
