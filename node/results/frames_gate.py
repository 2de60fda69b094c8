"""The last check of a SEG on ultrasound frames against its source; see `gate` for volumes.

There is no geometry to compare, so a frame is right if it names its own source frame, has the
matrix of the source and the pixels that were meant; and the object must not claim a place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from node.errors import PeerError
from node.imaging.attributes import tolerated
from node.imaging.values import FramesPlan, Segmentation
from node.results.gate import (
    MALFORMED,
    identity_faults,
    name_faults,
    reference_faults,
    said,
    segment_faults,
)
from node.results.reader import MaskFrame, frame_index, mask_frames, open_segmentation
from node.results.sources import open_header

_PLACES: Final = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")


def check_frames_result(
    data: bytes, plan: FramesPlan, segmentation: Segmentation
) -> tuple[str, ...]:
    """Return what is wrong with a finished SEG, a sentence each; empty if it may go out.

    Args:
        data: The PS3.10 file as it will be stored.
        plan: The source image, with its file.
        segmentation: The labels and segments that were meant.
    """
    headers = [open_header(plan.instance.file)]
    with tolerated():
        try:
            seg = open_segmentation(data)
        except PeerError as error:
            return (error.fault.what,)
        except MALFORMED as error:
            return (f"The object cannot be read: {type(error).__name__}.",)
        checks = (
            name_faults(data, seg, plan),
            identity_faults(seg, plan, headers),
            reference_faults(seg, plan),
            segment_faults(seg, segmentation),
            _placeless(seg),
            _pixels(seg, plan, segmentation),
        )
        return tuple(sentence for check in checks for sentence in said(check))


def _placeless(seg: Dataset) -> Iterator[str]:
    if "FrameOfReferenceUID" in seg:
        yield "The object claims a Frame of Reference that ultrasound frames do not have."
    groups = (*seg.SharedFunctionalGroupsSequence, *seg.PerFrameFunctionalGroupsSequence)
    for keyword in _PLACES:
        if any(keyword in group for group in groups):
            yield f"The object holds a {keyword}, but ultrasound frames have no place."


def _pixels(seg: Dataset, plan: FramesPlan, segmentation: Segmentation) -> Iterator[str]:
    """Compare every frame with what was meant for its source frame."""
    if (int(seg.Rows), int(seg.Columns)) != plan.shape[1:]:
        yield "The matrix is not the source's."
        return
    labels = np.zeros(plan.shape, np.uint8)
    for frame in mask_frames(seg):
        index = frame_index(frame, plan)
        if not _indexed(frame, index + 1):
            yield f"Frame {frame.number} is not numbered as its source frame."
        if np.any(labels[index], where=frame.mask):
            yield f"Frame {frame.number} covers pixels of another segment."
        np.copyto(labels[index], frame.segment, where=frame.mask)
    if not np.array_equal(labels, segmentation.labels):
        yield (
            f"{int((labels != segmentation.labels).sum())} pixels have another label than was "
            "computed for them."
        )


def _indexed(frame: MaskFrame, number: int) -> bool:
    content = frame.groups.FrameContentSequence[0]
    indices = [int(value) for value in content.DimensionIndexValues]
    return int(content.InStackPositionNumber) == number and indices == [frame.segment, number]
