"""Where a frame shows a picture, for images whose header does not say it.

In a cine what changes over time is picture; scales, text and borders stand still. In a still what
is densely filled is picture; text is thin strokes on the background. Either way the largest piece
is taken. This is a crop for a network to look at, never a measure.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Frames

Box = tuple[int, int, int, int]
"""First row, first column, and the row and column behind the last."""

_SAMPLES: Final = 12
"""Frames of a cine that are looked at, evenly spread."""

_CHANGES: Final = 1.0  # standard deviation over time, in steps of 255
_FILLED: Final = 8.0  # steps of 255 from the background
_AROUND: Final = 11  # pixels of the square whose filling counts
_DENSE: Final = 0.6  # of it; burned-in text fills less than half
_LEAST: Final = 0.02  # of the image; a smaller picture is not believed


def content_box(frames: Frames) -> Box:
    """Return the part of every frame that shows a picture; the whole matrix if none stands out."""
    count, rows, columns = frames.plan.shape
    wanted = sorted({round(at) for at in np.linspace(0, count - 1, min(count, _SAMPLES))})
    sample = frames.read(wanted).astype(np.float32)
    if sample.max() > 255:
        sample *= 255.0 / sample.max()
    if len(wanted) > 1:
        box = _largest(sample.std(axis=0) > _CHANGES, dense=0.3)
        if box is not None:
            return box
    still = sample[0]
    edge = np.concatenate([still[0], still[-1], still[:, 0], still[:, -1]])
    box = _largest(np.abs(still - np.median(edge)) > _FILLED, dense=_DENSE)
    return box or (0, 0, rows, columns)


def tissue_box(frames: Frames) -> Box:
    """Return the box around every tissue region, or the content where the header names none.

    What may be shown to people: text that is burned in lies outside.
    """
    boxes = [region.box for region in frames.plan.regions]
    if not boxes:
        return content_box(frames)
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def _largest(mask: NDArray[np.bool_], *, dense: float) -> Box | None:
    """Return the box around the largest densely filled piece of a mask, or None."""
    filled = ndimage.uniform_filter(mask.astype(np.float32), _AROUND, mode="nearest") > dense
    pieces, count = ndimage.label(filled)
    if count == 0:
        return None
    sizes = np.bincount(pieces.ravel())[1:]
    if sizes.max() < _LEAST * mask.size:
        return None
    piece = pieces == int(sizes.argmax()) + 1
    # The filter rounds corners off: what is filled within its reach belongs to the picture.
    reach = ndimage.binary_dilation(piece, iterations=_AROUND // 2) & mask
    rows, columns = np.flatnonzero(reach.any(axis=1)), np.flatnonzero(reach.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
