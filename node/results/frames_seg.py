"""Ultrasound frames and their labels as a BINARY SEG (PS3.3 A.51) without a place in the patient.

Such an image has no Frame of Reference, so each frame of the SEG names its source frame and
nothing else: no position, no orientation, no distances. highdicom refuses to write this for more
than one frame, and readers that place frames in space refuse to read it; viewers that follow the
references show it. Frames stand segment by segment in the order of the source. InStackPosition
Number and the second dimension index are both the source's frame number, because validators want
them equal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import SegmentationStorage

from node.imaging.values import FramesPlan, Refusal, Segmentation
from node.results.explicit import element, sequence
from node.results.identity import read_identity
from node.results.part10 import object_file
from node.results.seg import (
    SegFrame,
    WrittenSeg,
    content_time,
    derivation_of,
    label_counts,
    lossy_history,
    packed_frames,
    references,
)
from node.results.template import NodeFacts, equipment_sequence, seg_template
from node.results.uids import derived_uid

_SEGMENT_IDENTIFICATION: Final = 0x0062000A
_REFERENCED_SEGMENT: Final = 0x0062000B
_FRAME_CONTENT: Final = 0x00209111
_IN_STACK_POSITION: Final = 0x00209057


def frames_seg(
    plan: FramesPlan,
    segmentation: Segmentation,
    *,
    key: str,
    node: NodeFacts,
    marked: bool = False,
    empty_patient_id_allowed: bool = False,
) -> WrittenSeg | Refusal:
    """Write labels of frames as a BINARY SEG in explicit VR little endian.

    Args:
        plan: The image the labels were made on.
        segmentation: Labels [frames, rows, columns].
        key: The result's key.
        node: Who makes the object.
        marked: Whether the series description begins with the verdict.
        empty_patient_id_allowed: See `identity.read_identity`.

    Returns:
        The object, or a refusal where the identity of the source is in doubt.

    Raises:
        ValueError: The labels have another shape than the frames, or numbers without a segment.
        SetupError: The segments are not numbered 1, 2, ...
    """
    counts = label_counts(segmentation, plan.shape)
    identity = read_identity(plan, empty_patient_id_allowed=empty_patient_id_allowed)
    if isinstance(identity, Refusal):
        return identity
    series_uid = derived_uid("series", key, identity.digest, node.name, node.version)
    headers = [plan.instance.header]
    content_date, content_hour = content_time(headers)
    elements = seg_template(
        plan,
        segmentation,
        node=node,
        key=key,
        series_uid=series_uid,
        content_date=content_date,
        content_time=content_hour,
        marked=marked,
    )
    frames = _frames(counts)
    _, rows, columns = plan.shape
    elements |= identity.carried
    elements |= identity.elements
    elements |= lossy_history(headers)
    elements |= references(plan, identity)
    elements |= {
        0x0018A001: equipment_sequence(identity.equipment, segmentation, node),
        0x00200020: element(0x00200020, "CS", b""),  # Patient Orientation, type 2C
        0x00209222: _dimensions(derived_uid("dimensions", key)),
        0x00280008: element(0x00280008, "IS", str(len(frames)).encode()),
        0x00280010: element(0x00280010, "US", struct.pack("<H", rows)),
        0x00280011: element(0x00280011, "US", struct.pack("<H", columns)),
        0x52009229: sequence(0x52009229, [b""]),
        0x52009230: sequence(0x52009230, _frame_groups(frames, plan)),
    }
    pixels = list(packed_frames(segmentation.labels, frames))
    data, sop_uid = object_file(elements, SegmentationStorage, pixels)
    return WrittenSeg(
        data=data,
        sop_uid=sop_uid,
        series_uid=series_uid,
        voxels=tuple(int(count) for count in counts[:, 1:].sum(axis=0)),
    )


def _frames(counts: NDArray[np.int64]) -> list[SegFrame]:
    """Return the frames to write, in order; one empty frame per segment if nothing is labelled."""
    frames = [
        SegFrame(segment, int(index), int(index) + 1)
        for segment in range(1, counts.shape[1])
        for index in np.flatnonzero(counts[:, segment])
    ]
    return frames or [SegFrame(segment, 0, 1) for segment in range(1, counts.shape[1])]


def _dimensions(uid: str) -> bytes:
    """Return Dimension Index Sequence: segment, then source frame."""
    items = [
        element(0x00209164, "UI", uid.encode())
        + element(0x00209165, "AT", _tag(pointer))
        + element(0x00209167, "AT", _tag(group))
        + element(0x00209421, "LO", label)
        for pointer, group, label in (
            (_REFERENCED_SEGMENT, _SEGMENT_IDENTIFICATION, b"Segment Number"),
            (_IN_STACK_POSITION, _FRAME_CONTENT, b"Source Frame Number"),
        )
    ]
    return sequence(0x00209222, items)


def _tag(tag: int) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF)


def _frame_groups(frames: Sequence[SegFrame], plan: FramesPlan) -> Iterator[bytes]:
    """Yield the functional groups of each frame: its source frame and its segment."""
    source = plan.instance
    for frame in frames:
        number = plan.frame_numbers[frame.index]
        content = (
            element(0x00209056, "SH", b"1")  # Stack ID
            + element(_IN_STACK_POSITION, "UL", struct.pack("<I", frame.rank))
            + element(0x00209157, "UL", struct.pack("<II", frame.segment, frame.rank))
        )
        yield (
            derivation_of(source.sop_class_uid, source.sop_instance_uid, number)
            + sequence(_FRAME_CONTENT, [content])
            + sequence(
                _SEGMENT_IDENTIFICATION,
                [element(_REFERENCED_SEGMENT, "US", struct.pack("<H", frame.segment))],
            )
        )
