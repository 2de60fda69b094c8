"""A volume and its labels as a BINARY SEG (PS3.3 A.51), every byte of it ours to explain.

Order of the frames: segment by segment, and within a segment from the highest position along
row x column to the lowest, as highdicom writes them, while volumes ascend; `frame_order` is the
one place that turns one into the other. Only slices with content have a frame; where nothing is
labelled at all, each segment has one empty frame, because an object of planes x segments zeros
helps nobody. What readers have been seen to get wrong is decided here:

- Spacing Between Slices is the distance of the positions; readers drop slices otherwise.
- Segment Identification stands in each frame's group, also for one segment; some readers look
  nowhere else.
- Dimension Organization Type says `3D` only for one segment without a gap.
- Frames are packed without padding between them, also where rows x columns is no multiple of 8.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from node.imaging.attributes import numbers, text, texts
from node.imaging.values import Labels, Refusal, Segmentation, Sourced, Volume, every_source
from node.results.explicit import element, sequence
from node.results.identity import Identity, read_identity
from node.results.part10 import object_file
from node.results.planes import Planes, read_planes
from node.results.template import NodeFacts, equipment_sequence, seg_template
from node.results.uids import derived_uid

_FRAMES_AT_ONCE: Final = 8
"""Eight frames of any size end on a byte, so they can be packed apart from all others."""


@dataclass(frozen=True, slots=True)
class WrittenSeg:
    """A SEG as bytes, with what a row says of it.

    Attributes:
        data: The PS3.10 file.
        sop_uid: SOP Instance UID.
        series_uid: Series Instance UID.
        voxels: Voxels per segment number, from 1.
    """

    data: bytes
    sop_uid: str
    series_uid: str
    voxels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SegFrame:
    """One frame: which segment, which slice of the volume (or frame of the source), which rank."""

    segment: int
    index: int
    rank: int


def binary_seg(
    volume: Volume,
    segmentation: Segmentation,
    *,
    key: str,
    node: NodeFacts,
    marked: bool = False,
    empty_patient_id_allowed: bool = False,
) -> WrittenSeg | Refusal:
    """Write a segmentation as a BINARY SEG in explicit VR little endian.

    Args:
        volume: The source, with the files it was read from.
        segmentation: Labels on its grid.
        key: The result's key.
        node: Who makes the object.
        marked: Whether the series description begins with the verdict.
        empty_patient_id_allowed: See `identity.read_identity`.

    Returns:
        The object, or a refusal where identity or orientation of the source is in doubt.

    Raises:
        ValueError: The labels have another shape than the volume, or numbers without a segment.
        SetupError: The segments are not numbered 1, 2, ...
    """
    counts = label_counts(segmentation, volume.array.shape)
    identity = read_identity(volume, empty_patient_id_allowed=empty_patient_id_allowed)
    if isinstance(identity, Refusal):
        return identity
    planes = read_planes(volume)
    if isinstance(planes, Refusal):
        return planes
    series_uid = derived_uid("series", key, identity.digest, node.name, node.version)
    headers = [instance.header for instance in volume.instances]
    content_date, content_hour = content_time(headers)
    elements = seg_template(
        volume,
        segmentation,
        node=node,
        key=key,
        series_uid=series_uid,
        content_date=content_date,
        content_time=content_hour,
        marked=marked,
    )
    frames = _frames(counts)
    rows, columns = segmentation.labels.shape[1:]
    elements |= identity.carried
    elements |= identity.elements
    elements |= lossy_history(headers)
    elements |= references(volume, identity)
    elements |= {
        0x0018A001: equipment_sequence(identity.equipment, segmentation, node),
        0x00280008: element(0x00280008, "IS", str(len(frames)).encode()),
        0x00280010: element(0x00280010, "US", struct.pack("<H", rows)),
        0x00280011: element(0x00280011, "US", struct.pack("<H", columns)),
        0x52009229: _shared_groups(planes),
        0x52009230: sequence(0x52009230, _frame_groups(frames, planes)),
    }
    if _contiguous(frames):
        elements[0x00209311] = element(0x00209311, "CS", b"3D")
    pixels = list(packed_frames(segmentation.labels, frames))
    data, sop_uid = object_file(elements, SegmentationStorage, pixels)
    return WrittenSeg(
        data=data,
        sop_uid=sop_uid,
        series_uid=series_uid,
        voxels=tuple(
            int(counts[:, number].sum()) for number in range(1, len(segmentation.segments) + 1)
        ),
    )


def frame_order(slices: int) -> range:
    """Return the indices of a volume's slices in the order in which frames are written."""
    return range(slices - 1, -1, -1)


def content_time(headers: Iterable[Dataset]) -> tuple[str, str]:
    """Return the latest content (else acquisition, series, study) date and time of a source.

    No clock goes into an object; when it was computed stands in the database. A source without
    any readable date gets 1900-01-01, because the element may not be empty.
    """
    latest = {"Content": ("", ""), "Acquisition": ("", ""), "Series": ("", ""), "Study": ("", "")}
    for header in headers:
        for kind, known in latest.items():
            day = text(header, f"{kind}Date")
            hour = text(header, f"{kind}Time")
            if _is_date(day):
                latest[kind] = max(known, (day, hour if _TIME.fullmatch(hour) else "000000"))
    return next((known for known in latest.values() if known[0]), ("19000101", "000000"))


_TIME: Final = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]){2}(\.[0-9]{1,6})?")
"""TM with all of hours, minutes and seconds (PS3.5 6.2)."""


def _is_date(value: str) -> bool:
    if not re.fullmatch(r"[0-9]{8}", value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def lossy_history(headers: Sequence[Dataset]) -> dict[int, bytes]:
    """Return the lossy compression elements: once lossy on any slice, lossy for ever.

    PS3.3 C.7.6.1.1.5. Each method stands once, with the highest ratio any slice says.
    """
    if not any(text(header, "LossyImageCompression") == "01" for header in headers):
        return {0x00282110: element(0x00282110, "CS", b"00")}
    found = {0x00282110: element(0x00282110, "CS", b"01")}
    highest: dict[str, float] = {}
    for header in headers:
        methods = texts(header, "LossyImageCompressionMethod")
        ratios = numbers(header, "LossyImageCompressionRatio", len(methods))
        for method, ratio in zip(methods, ratios, strict=False):
            highest[method] = max(highest.get(method, 0.0), ratio)
    if highest:
        ratio_text = "\\".join(f"{ratio:.6g}" for ratio in highest.values())
        found[0x00282112] = element(0x00282112, "DS", ratio_text.encode())
        found[0x00282114] = element(0x00282114, "CS", "\\".join(highest).encode())
    return found


def label_counts(segmentation: Segmentation, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return voxels per slice (or frame) and label number, shape (slices, segments + 1).

    Raises:
        ValueError: The labels have another shape, or numbers without a segment.
    """
    labels = segmentation.labels
    if labels.shape != shape or labels.dtype != np.uint8:
        raise ValueError(f"labels {labels.dtype} {labels.shape} on a grid {shape}")
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in labels])
    if counts[:, len(segmentation.segments) + 1 :].any():
        raise ValueError("labels hold numbers that no segment describes")
    return counts[:, : len(segmentation.segments) + 1]


def _frames(counts: NDArray[np.int64]) -> list[SegFrame]:
    """Return the frames to write, in order; one empty frame per segment if nothing is labelled."""
    slices, labels = counts.shape
    used = [index for index in frame_order(slices) if counts[index, 1:].any()]
    if not used:
        top = next(iter(frame_order(slices)))
        return [SegFrame(segment, top, 1) for segment in range(1, labels)]
    return [
        SegFrame(segment, index, rank)
        for segment in range(1, labels)
        for rank, index in enumerate(used, start=1)
        if counts[index, segment]
    ]


def _contiguous(frames: list[SegFrame]) -> bool:
    """Return whether the frames are one stack without a gap (PS3.3 C.7.6.17)."""
    one_segment = len({frame.segment for frame in frames}) == 1
    return (
        one_segment and len(frames) > 1 and (frames[0].index - frames[-1].index == len(frames) - 1)
    )


def packed_frames(labels: Labels, frames: Sequence[SegFrame]) -> Iterator[bytes]:
    """Yield the frames as bits, the first pixel lowest (PS3.5 8.1.1), without gaps."""
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        some = frames[start : start + _FRAMES_AT_ONCE]
        bits = np.concatenate([(labels[one.index] == one.segment).ravel() for one in some])
        yield np.packbits(bits, bitorder="little").tobytes()


def _shared_groups(planes: Planes) -> bytes:
    """Return what all frames share; the spacing is that of the positions."""
    orientation = sequence(0x00209116, [element(0x00200037, "DS", planes.orientation.encode())])
    measures = sequence(
        0x00289110,
        [
            element(0x00180050, "DS", planes.thickness.encode())
            + element(0x00180088, "DS", planes.distance.encode())
            + element(0x00280030, "DS", planes.pixel_spacing.encode())
        ],
    )
    return sequence(0x52009229, [orientation + measures])


def _frame_groups(frames: list[SegFrame], planes: Planes) -> Iterator[bytes]:
    """Yield the functional groups of each frame, its own source and place in them."""
    fixed = {
        index: (
            derivation_of(
                planes.planes[index].class_uid,
                planes.planes[index].uid,
                planes.planes[index].frame,
            ),
            sequence(
                0x00209113,
                [element(0x00200032, "DS", planes.planes[index].position.encode())],
            ),
        )
        for index in {frame.index for frame in frames}
    }
    for frame in frames:
        derivation, position = fixed[frame.index]
        dimensions = struct.pack("<II", frame.segment, frame.rank)
        yield (
            derivation
            + sequence(0x00209111, [element(0x00209157, "UL", dimensions)])
            + position
            + sequence(0x0062000A, [element(0x0062000B, "US", struct.pack("<H", frame.segment))])
        )


def derivation_of(class_uid: str, uid: str, frame: int | None) -> bytes:
    """Return Derivation Image Sequence: one slice or frame, the same voxels."""
    number = b"" if frame is None else element(0x00081160, "IS", str(frame).encode())
    source = (
        element(0x00081150, "UI", class_uid.encode())
        + element(0x00081155, "UI", uid.encode())
        + number
        + element(0x0028135A, "CS", b"YES")
        + _coded(0x0040A170, b"121322", b"Source image for image processing operation")
    )
    return sequence(
        0x00089124,
        [sequence(0x00082112, [source]) + _coded(0x00089215, b"113076", b"Segmentation")],
    )


def _coded(tag: int, value: bytes, meaning: bytes) -> bytes:
    return sequence(
        tag,
        [
            element(0x00080100, "SH", value)
            + element(0x00080102, "SH", b"DCM")
            + element(0x00080104, "LO", meaning)
        ],
    )


def references(source: Sourced, identity: Identity) -> dict[int, bytes]:
    """Return the references to every instance of every series, with content or without."""
    uids = [identity.series_uid, *(other.series_uid for other in source.others)]
    pairs = [
        [
            element(0x00081150, "UI", instance.sop_class_uid.encode())
            + element(0x00081155, "UI", instance.sop_instance_uid.encode())
            for instance in each.instances
        ]
        for each in every_source(source)
    ]
    series = [
        sequence(0x0008114A, some) + element(0x0020000E, "UI", uid.encode())
        for uid, some in zip(uids, pairs, strict=True)
    ]
    return {
        0x00081115: sequence(0x00081115, series),
        0x00082112: sequence(0x00082112, [pair for some in pairs for pair in some]),
    }
