"""The last check of a result against its source, before anything is stored or sent.

The finished bytes are opened again and compared with the source files and with the labels that
were meant: whose it is, what it refers to, where each voxel lies. The gate uses the reader, not
the writer. Sentences name attributes, UIDs and frame numbers, never a patient's data.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import ExplicitVRLittleEndian

from node.errors import PeerError
from node.imaging.attributes import tolerated
from node.imaging.values import (
    Floats,
    Refusal,
    Segmentation,
    Sourced,
    Volume,
    every_source,
)
from node.results.identity import identity_tags
from node.results.part10 import file_head
from node.results.planes import read_planes
from node.results.reader import open_segmentation, placed_frames, slice_of
from node.results.sources import dataset_start, open_header
from node.results.uids import content_uid

_SAME_PERSON: Final = (0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x0020000D)
"""Name, ID, issuer, birth date, sex, study: compared with every instance, not only the first."""

MALFORMED: Final = (
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom and numpy raise on a dataset that is not what it should be.

An OSError of pydicom's means bytes that end too early; the source files, whose own OSError must
reach the caller, are read before anything is caught.
"""

_SAME_RATIO: Final = 1e-3
_SAME_END: Final = 0.1
"""A spacing is right if it differs by less than this share, and by less than this part of a
voxel at the far end of the grid. Slices of one volume may differ by as much among themselves."""

_SAME_COSINE: Final = 2e-4
_SAME_POSITION_MM: Final = 1e-4
_SAME_CENTRE: Final = 0.25
"""Part of a voxel; slices may lie that far beside the straight line through all of them."""


def check_result(data: bytes, volume: Volume, segmentation: Segmentation) -> tuple[str, ...]:
    """Return what is wrong with a finished SEG, a sentence each; empty if it may go out.

    Args:
        data: The PS3.10 file as it will be stored.
        volume: The source, with its files.
        segmentation: The labels and segments that were meant.
    """
    headers = [open_header(instance.file) for instance in volume.instances]
    with tolerated():
        try:
            seg = open_segmentation(data)
        except PeerError as error:
            return (error.fault.what,)
        except MALFORMED as error:
            return (f"The object cannot be read: {type(error).__name__}.",)
        checks = (
            name_faults(data, seg, volume),
            identity_faults(seg, volume, headers),
            reference_faults(seg, volume),
            segment_faults(seg, segmentation),
            _geometry(seg, volume),
            _voxels(seg, volume, segmentation),
        )
        return tuple(sentence for check in checks for sentence in said(check))


def said(check: Iterator[str]) -> Iterator[str]:
    """Yield what a check says; one that cannot go on says why."""
    try:
        yield from check
    except PeerError as error:
        yield error.fault.what
    except MALFORMED as error:
        # Every result has these fields; one that is absent or malformed must not go out. The
        # error's own text may quote a value, so only its type is told.
        yield f"A part of the object cannot be read: {type(error).__name__}."


def name_faults(data: bytes, seg: Dataset, source: Sourced) -> Iterator[str]:
    """Yield what is wrong with the object's own UIDs and file meta group."""
    held = dataset_start(data)
    if data[:held] != file_head(seg.SOPClassUID, seg.SOPInstanceUID, ExplicitVRLittleEndian):
        yield "The file meta group does not belong to the dataset behind it."
    at = data.index(b"\x08\x00\x18\x00UI", held)
    end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    digest = hashlib.sha256(memoryview(data)[held:at])
    digest.update(memoryview(data)[end:])
    if content_uid(digest.hexdigest()) != seg.SOPInstanceUID:
        yield "The SOP Instance UID does not follow from the content, so the bytes were changed."
    if seg.SeriesInstanceUID == source.series_uid:
        yield "The result stands in the series of its source."


def identity_faults(
    seg: Dataset, source: Sourced, headers: Sequence[Dataset], *, without: Sequence[int] = ()
) -> Iterator[str]:
    """Yield where the object is not of the patient and study of every source instance.

    Args:
        seg: The object.
        source: What it was made from.
        headers: Of every instance of it, nothing decoded yet.
        without: Elements that this kind of object does not carry.
    """
    for tag in identity_tags(source):
        if tag in without:
            continue
        if not _same(seg, headers[0], tag):
            yield f"{keyword_for_tag(tag)} is not what the source says."
    for instance, header in zip(source.instances, headers, strict=True):
        for tag in _SAME_PERSON:
            if _raw(seg, tag).rstrip(b" \0") != _raw(header, tag).rstrip(b" \0"):
                yield (
                    f"{keyword_for_tag(tag)} is not what source {instance.sop_instance_uid} says."
                )


def _same(seg: Dataset, header: Dataset, tag: int) -> bool:
    """Return whether an element has the source's bytes, or is empty where the source has none."""
    if tag not in header:
        return tag not in seg or not _raw(seg, tag)
    if tag not in seg:
        return False
    if dictionary_VR(tag) == "SQ":
        return _items(seg, tag) == _items(header, tag)
    source, found = _raw(header, tag), _raw(seg, tag)
    # An odd length is the sender's mistake and must be padded; nothing else may differ.
    return found == source or (len(source) % 2 == 1 and found[:-1] == source)


def _items(dataset: Dataset, tag: int) -> list[dict[int, object]]:
    """Return a sequence's items as values, without private elements, which are never copied."""
    return [
        {
            int(one.tag): _items(item, one.tag) if one.VR == "SQ" else one.value
            for one in item
            if not one.tag.is_private
        }
        for item in dataset[tag].value or ()
    ]


def _raw(dataset: Dataset, tag: int) -> bytes:
    """Return an element's bytes as they stood in the file; a decoded character set as text."""
    if tag not in dataset:
        return b""
    held = dataset.get_item(tag)
    return (held.value or b"") if held.is_raw else repr(held.value).encode()


def reference_faults(seg: Dataset, source: Sourced) -> Iterator[str]:
    """Yield where the object does not name exactly its source's instances."""
    sources = every_source(source)
    wanted = {
        (one.sop_class_uid, one.sop_instance_uid) for each in sources for one in each.instances
    }
    series = seg.ReferencedSeriesSequence
    if [one.SeriesInstanceUID for one in series] != [each.series_uid for each in sources]:
        yield "Referenced Series Sequence does not name the source's series alone."
    referenced = [item for one in series for item in one.ReferencedInstanceSequence]
    for words, items in (
        ("Referenced Series Sequence", referenced),
        ("Source Image Sequence", seg.SourceImageSequence),
    ):
        named = {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in items}
        if named != wanted:
            yield (
                f"{words} lacks {len(wanted - named)} of {len(wanted)} source instances and "
                f"names {len(named - wanted)} others."
            )


def segment_faults(seg: Dataset, segmentation: Segmentation) -> Iterator[str]:
    """Yield which segments are not described as the model's card describes them."""
    wanted = {
        one.number: (one.label, one.type.value, one.type.scheme) for one in segmentation.segments
    }
    found = {}
    for item in seg.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        value = kind.get("CodeValue") or kind.get("LongCodeValue")
        found[int(item.SegmentNumber)] = (
            item.SegmentLabel,
            value,
            kind.CodingSchemeDesignator,
        )
    for number in sorted(wanted.keys() | found.keys()):
        if wanted.get(number) != found.get(number):
            yield f"Segment {number} is not described as the model's card describes it."


def _geometry(seg: Dataset, volume: Volume) -> Iterator[str]:
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
    # Along the normal: the slices of a tilted gantry lie on a slanted line.
    lengths[0] = abs(np.linalg.det(volume.affine[:3, :3])) / (lengths[1] * lengths[2])
    stated = [measures.get("SpacingBetweenSlices") or 0, *measures.PixelSpacing]
    words = ("Spacing Between Slices", "spacing between rows", "spacing between columns")
    for word, length, value, size in zip(words, lengths, stated, volume.array.shape, strict=True):
        share = min(_SAME_RATIO, _SAME_END / max(size - 1, 1))
        if abs(float(value) - length) > share * length:
            yield f"The {word} is {float(value):g} mm; the source's positions say {length:g} mm."
    turn = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    cosines = np.array([float(value) for value in turn.ImageOrientationPatient])
    directions = volume.affine[:3, :3] / lengths
    if np.abs(cosines - np.r_[directions[:, 2], directions[:, 1]]).max() > _SAME_COSINE:
        yield "The orientation is not the source's."


def _voxels(seg: Dataset, volume: Volume, segmentation: Segmentation) -> Iterator[str]:
    """Compare every frame with its slice, and the whole with the labels that were meant."""
    planes = read_planes(volume)
    if isinstance(planes, Refusal):
        yield planes.explanation
        return
    labels = np.zeros(volume.array.shape, np.uint8)
    count = len(segmentation.segments) + 1
    voxels = np.zeros(count, np.int64)
    moments = np.zeros((count, 3))
    for frame in placed_frames(seg):
        index = slice_of(frame, volume)
        plane = planes.planes[index]
        if frame.sources != ((plane.uid, plane.frame),):
            yield f"Frame {frame.number} names another source than the slice it lies on."
        position = np.array([float(value) for value in plane.position.split("\\")])
        if np.abs(frame.affine[:3, 3] - position).max() > _SAME_POSITION_MM:
            yield f"Frame {frame.number} does not lie where its source slice lies."
        if np.any(labels[index], where=frame.mask):
            yield f"Frame {frame.number} covers voxels of another segment."
        np.copyto(labels[index], frame.segment, where=frame.mask)
        voxels[frame.segment] += int(frame.mask.sum())
        moments[frame.segment] += _moment(frame.mask, frame.affine, 0)
    if not np.array_equal(labels, segmentation.labels):
        yield (
            f"{int((labels != segmentation.labels).sum())} voxels have another label than was "
            "computed for them."
        )
    yield from _centres(voxels, moments, volume, segmentation)


def _moment(mask: NDArray[np.bool_], affine: Floats, index: int) -> Floats:
    """Return the sum of the LPS positions in mm of the voxels of a mask on one slice."""
    in_row, in_column = mask.sum(axis=1), mask.sum(axis=0)
    count = int(in_row.sum())
    total: Floats = affine[:3] @ np.array(
        [
            index * count,
            in_row @ np.arange(in_row.size),
            in_column @ np.arange(in_column.size),
            count,
        ]
    )
    return total


def _centres(
    voxels: NDArray[np.int64],
    moments: Floats,
    volume: Volume,
    segmentation: Segmentation,
) -> Iterator[str]:
    """Compare number of voxels and centre of each segment with what the labels say."""
    meant = np.zeros_like(voxels)
    meant_moments = np.zeros_like(moments)
    for index, plane in enumerate(segmentation.labels):
        counts = np.bincount(plane.ravel(), minlength=len(voxels))
        meant += counts
        for number in np.flatnonzero(counts[1:]) + 1:
            meant_moments[number] += _moment(plane == number, volume.affine, index)
    tolerance = _SAME_CENTRE * min(volume.spacing_mm)
    for segment in range(1, len(voxels)):
        if meant[segment] != voxels[segment]:
            yield (
                f"Segment {segment} has {voxels[segment]} voxels in the object and "
                f"{meant[segment]} in the labels."
            )
        elif voxels[segment] > 0:
            apart = np.abs(moments[segment] - meant_moments[segment]).max()
            off = float(apart) / int(voxels[segment])
            if off > tolerance:
                yield f"Segment {segment} lies {off:.2f} mm from where it was computed."
