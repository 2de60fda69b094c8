"""Small pictures of ultrasound frames with the segments drawn on them, for the pages.

Ultrasound has names, dates and hospitals burned in beside the picture. Only the given crop is
shown, so that a preview never carries what the tissue does not.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from node.imaging.content import Box
from node.imaging.values import Frames, Segmentation
from node.results.pictures import as_jpeg, overlaid

_AT_ONCE: Final = 8
"""Frames in memory at a time."""


def frame_pictures(
    frames: Frames, segmentation: Segmentation, *, box: Box, longest_side: int = 384
) -> list[bytes]:
    """Return one JPEG per frame, in their order.

    Args:
        frames: The source, opened.
        segmentation: Labels on its frames and the segments' colours.
        box: The part of each frame that is shown: first row, first column, and the row and
            column behind the last.
        longest_side: Pixels of the longer side of each picture.

    Raises:
        RefusedError: A frame cannot be read (from `node.imaging.planes`).
    """
    colours = np.zeros((256, 3), np.uint8)
    for segment in segmentation.segments:
        colours[segment.number] = segment.colour
    top, left, bottom, right = box
    _, row_mm, column_mm = frames.plan.spacing_mm
    height, width = (bottom - top) * (row_mm or 1.0), (right - left) * (column_mm or 1.0)
    scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pictures = []
    count = frames.plan.shape[0]
    for first in range(0, count, _AT_ONCE):
        some = range(first, min(first + _AT_ONCE, count))
        for index, grey in zip(some, frames.read(some), strict=True):
            part = grey[top:bottom, left:right]
            if part.dtype != np.uint8:
                part = (part * (255.0 / max(float(part.max()), 1.0))).astype(np.uint8)
            labels = np.ascontiguousarray(segmentation.labels[index, top:bottom, left:right])
            shown = Image.fromarray(np.ascontiguousarray(part))
            shown = shown.resize(size, Image.Resampling.BILINEAR)
            drawn = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
            picture = Image.fromarray(overlaid(np.asarray(shown), np.asarray(drawn), colours))
            pictures.append(as_jpeg(picture))
    return pictures
