"""From a frame to what the network sees of it and back: one crop, one scale, one place.

The crop is resized by two small matrices, one per axis, with voxel edges as `axis.py` counts
them; where the scale is 1 they select pixels and both ways are exact. Scores come back to the
crop's own pixels, and labels are pasted into a frame of the full matrix. Training and inference
share this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.imaging.content import Box, content_box
from node.imaging.values import Frames, FramesPlan, Grey
from node.models.axis import Axis, Matrix, window_axis
from node.models.card import Card
from node.models.frame_scale import chosen_regions, pixel_sizes
from node.models.intensity import apply_steps, fix_steps

_SAME_SCALE: Final = 1e-4
"""Scales this near to 1 are 1, so that a crop of the window's size is not blurred."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameWindow:
    """One crop of every frame, and the window of the network over it.

    Attributes:
        box: First row, first column, and the row and column behind the last.
        spacing_mm: Between the crop's rows, columns; None where it is not known.
        rows: The crop's rows and the network's.
        columns: The crop's columns and the network's.
        card: Steps and background.
        forward: Matrices to the network's rows and columns.
        backward: Matrices to the crop's rows and columns, on CPU.
    """

    box: Box
    spacing_mm: tuple[float, float] | None
    rows: Axis
    columns: Axis
    card: Card
    forward: tuple[Matrix, Matrix] = field(repr=False)
    backward: tuple[Tensor, Tensor] = field(repr=False)

    def to_network(self, frame: Grey) -> NDArray[np.float32]:
        """Return what the network sees of one frame.

        Statistics of the steps are those of this frame's crop, because gain may change within a
        cine.

        Args:
            frame: (rows, columns) of the full matrix.

        Returns:
            float32, the window's rows and columns.
        """
        top, left, bottom, right = self.box
        crop = frame[top:bottom, left:right].astype(np.float32)
        background = np.float32(self.card.voxels.background)
        seen = self.forward[0] @ (crop - background) @ self.forward[1].T
        steps = fix_steps(self.card.steps, crop[None], None)
        return apply_steps(steps, seen + background)

    def to_native(self, scores: Tensor) -> Tensor:
        """Return scores (outputs, rows, columns) of the crop from those of the window."""
        rows, columns = (matrix.to(scores.device) for matrix in self.backward)
        return rows @ (scores @ columns.T)


def frame_windows(frames: Frames, card: Card) -> tuple[FrameWindow, ...]:
    """Return the windows of a card over frames: one, or one per region where it wants each.

    Raises:
        ValueError: The card is not one for frames.
    """
    return tuple(
        window_over(box, spacing, card) for box, spacing in _crops(frames, frames.plan, card)
    )


def window_over(box: Box, spacing_mm: tuple[float, float] | None, card: Card) -> FrameWindow:
    """Return the window of a card over one crop.

    Args:
        box: The crop.
        spacing_mm: Between rows, columns; None where it is not known.
        card: A card for frames.

    Raises:
        ValueError: The card is not one for frames.
    """
    if card.frames is None or card.voxels.size is None:
        raise ValueError(f"{card.name} is no card for frames")
    height, width = box[2] - box[0], box[3] - box[1]
    rows, columns = card.voxels.size
    if card.frames.ratio == "stretch":
        scales = height / rows, width / columns
    else:
        row_mm, column_mm = spacing_mm or (1.0, 1.0)
        step = max(height * row_mm / rows, width * column_mm / columns)
        scales = step / row_mm, step / column_mm
    down, back = card.voxels.downsample, card.voxels.back
    along = window_axis(height, _plain(scales[0]), count=rows, centre=height / 2)
    across = window_axis(width, _plain(scales[1]), count=columns, centre=width / 2)
    return FrameWindow(
        box=box,
        spacing_mm=spacing_mm,
        rows=along,
        columns=across,
        card=card,
        forward=(along.forward(down), across.forward(down)),
        backward=(
            torch.from_numpy(along.backward(back)),
            torch.from_numpy(across.backward(back)),
        ),
    )


def _plain(scale: float) -> float:
    return 1.0 if abs(scale - 1.0) < _SAME_SCALE else scale


def _crops(
    frames: Frames, plan: FramesPlan, card: Card
) -> list[tuple[Box, tuple[float, float] | None]]:
    """Return each crop with the distance of its pixels."""
    if card.frames is None:
        raise ValueError(f"{card.name} is no card for frames")
    sizes = pixel_sizes(plan, card.frames)
    chosen = chosen_regions(plan, card.frames)
    if chosen:
        return list(zip((region.box for region in chosen), sizes, strict=True))
    box = (0, 0, *plan.shape[1:]) if card.frames.crop == "image" else content_box(frames)
    return [(box, sizes[0])]
