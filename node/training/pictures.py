"""Pictures with masks (PNG, JPEG) as volumes of one slice, in pixels where no size is known."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from node.errors import setup_error
from node.imaging.values import Labels, Volume

PIXEL: Final = 1.0
"""What stands for millimetres where the size of a pixel is not known; nothing is measured then."""


def read_picture_pair(
    image: Path, mask: Path, *, box: tuple[slice, slice]
) -> tuple[Volume, Labels]:
    """Return the part of a picture that shows tissue, and its labels.

    Args:
        image: Any picture; colours become grey.
        mask: Grey or one bit; what is not 0 has label 1.
        box: Rows and columns that are kept.

    Raises:
        SetupError: The sizes differ.
    """
    with Image.open(image) as opened:
        grey = np.asarray(opened.convert("L"))
    with Image.open(mask) as opened:
        marked = np.asarray(opened.convert("L"))
    if grey.shape != marked.shape:
        raise setup_error(
            "label-grid",
            f"The mask is {marked.shape}, the picture {grey.shape}.",
            where=str(mask),
            remedy="Give masks of the size of their pictures.",
        )
    return frame_volume(grey[box]), np.ascontiguousarray(marked[box][None] > 0).astype(np.uint8)


def frame_volume(grey: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> Volume:
    """Return a grey frame as a volume of one slice."""
    return Volume(
        array=np.ascontiguousarray(grey[None]).astype(np.int16),
        affine=np.array(
            [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0, 0, 0, 1]]
        ),
        spacing_mm=(PIXEL, PIXEL, PIXEL),
        units="arbitrary",
        modality="US",
        series_uid="",
        part=1,
        instances=(),
        slices=(),
    )
