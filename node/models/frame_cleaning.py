"""Post-processing of one frame: the steps of a card on a plane, in pixels or millimetres.

`keep_largest` and `fill_holes` look at the whole frame. `drop_small` and `close` look at one crop
at a time, with the size of its own pixels, so that on a split screen nothing is measured by the
other side's scale or bridged across the border; a pixel that several crops cover is the first
one's. What lies outside a crop is background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.imaging.values import Labels
from node.models.frame_scale import needs_scale
from node.models.frame_window import FrameWindow
from node.models.parts import Close, DropSmall, PostStep
from node.models.postprocess import close_planes, drop_pieces, postprocess

_NOWHERE: Final = np.eye(4)  # frames have no place in the patient


class FrameCleaner:
    """Applies a card's steps to frames, one after the other."""

    def __init__(
        self, steps: Sequence[PostStep], windows: Sequence[FrameWindow], shape: tuple[int, int]
    ) -> None:
        """Take what stays the same from frame to frame.

        Args:
            steps: As in the card.
            windows: The crops, the one that counts first.
            shape: Rows and columns of a frame.

        Raises:
            ValueError: A step is in millimetres and a crop has no scale; `refusal_of_frames` is
                asked first.
        """
        self._steps = steps
        self._parts = tuple(zip(windows, _own_pixels(windows, shape), strict=True))
        if any(map(needs_scale, steps)) and any(one.spacing_mm is None for one in windows):
            raise ValueError("a step is in millimetres, and the frames have no scale")

    def clean(self, frame: Labels) -> int:
        """Clean a frame (1, rows, columns) in place; return how many pixels lost their label."""
        before = frame.copy()
        for step in self._steps:
            if isinstance(step, DropSmall | Close):
                for window, own in self._parts:
                    _clean_crop(frame, step, window, own)
            else:
                whole = postprocess(frame, (step,), affine=_NOWHERE, spacing_mm=(1.0, 1.0, 1.0))
                frame[...] = whole.labels
        return int(np.count_nonzero((before != 0) & (frame == 0)))


def _own_pixels(windows: Sequence[FrameWindow], shape: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Return for each crop which of its pixels no crop before it covers."""
    taken = np.zeros(shape, np.bool_)
    own = []
    for window in windows:
        top, left, bottom, right = window.box
        here = taken[top:bottom, left:right]
        own.append(~here)
        here[...] = True
    return own


def _clean_crop(
    frame: Labels, step: DropSmall | Close, window: FrameWindow, own: NDArray[np.bool_]
) -> None:
    """Apply a step to the pixels that are a crop's own."""
    top, left, bottom, right = window.box
    part = frame[0, top:bottom, left:right]
    if isinstance(step, DropSmall):
        view = np.where(own, part, 0)[None]
        scale = window.spacing_mm if step.min_mm > 0 else None
        each = scale[0] * scale[1] if scale else 1.0
        least = math.pi / 4 * step.min_mm**2 if scale else step.min_px
        drop_pieces(view, step.labels, each=each, least=least)
        np.copyto(part, view[0], where=own)
        return
    scale = window.spacing_mm if step.radius_mm > 0 else None
    pixel = scale or (1.0, 1.0)
    radius = step.radius_mm if scale else step.radius_px
    rows, columns = (math.ceil(radius / one) + 1 for one in pixel)
    view = np.pad(np.where(own, part, 0), ((rows, rows), (columns, columns)))[None]
    close_planes(view, step.labels, radius=radius, pixel=pixel)
    np.copyto(part, view[0, rows:-rows, columns:-columns], where=own)
