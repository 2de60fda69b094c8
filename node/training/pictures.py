"""Pictures with masks (PNG, JPEG) as single frames of ultrasound; their pixels have no size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from node.errors import setup_error
from node.imaging.values import (
    FrameRegion,
    Frames,
    FramesPlan,
    InstanceFile,
    Labels,
    SourceInstance,
)

Box = tuple[int, int, int, int]


def read_picture_pair(image: Path, mask: Path, *, tissue: Box) -> tuple[Frames, Labels]:
    """Return a picture as one frame, and its labels.

    Args:
        image: Any picture; colours become grey.
        mask: Grey or one bit; what is not 0 has label 1.
        tissue: First row, first column, and the row and column behind the last.

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
    return frame_of(grey, tissue), (marked[None] > 0).astype(np.uint8)


def frame_of(grey: NDArray[np.uint8], tissue: Box) -> Frames:
    """Return a grey picture as one frame that came from no instance."""
    plan = FramesPlan(
        series_uid="",
        study_uid="",
        part=1,
        modality="US",
        shape=(1, *grey.shape),
        spacing_mm=(None, None, None),
        units="grey",
        instance=SourceInstance(InstanceFile(Path()), Dataset()),
        frame_numbers=(None,),
        regions=(FrameRegion(tissue, None),),
    )
    return Frames(plan, lambda indices: np.stack([grey for _ in indices]))
