"""A SEG read back, by nothing but the Standard: no part of the writer is used here.

The gate, the demo and the tests read results with this, so a mistake of the writer cannot hide
in a reader that makes the same one. Frames are placed by their position in the patient, never by
their order or number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from node.errors import LimnerError, peer_error
from node.imaging.values import Floats, FramesPlan, Labels, Volume

_OFF_GRID: Final = 0.25
"""A frame further than this part of a voxel from a slice of the grid is not that slice."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedFrame:
    """One frame of a SEG.

    Attributes:
        number: Frame number from 1.
        segment: Referenced Segment Number.
        affine: float64 (4, 4), index [0, row, column, 1] to LPS mm; the first column is the
            distance to the next slice along the normal.
        mask: bool, shape (rows, columns).
        sources: SOP Instance UID and frame number (None for single-frame) of each source image.
    """

    number: int
    segment: int
    affine: Floats
    mask: NDArray[np.bool_]
    sources: tuple[tuple[str, int | None], ...]


def open_segmentation(source: bytes | Path) -> Dataset:
    """Read a SEG.

    Raises:
        PeerError: It is no BINARY SEG with uncompressed pixels.
    """
    try:
        seg = dcmread(BytesIO(source) if isinstance(source, bytes) else source)
    except InvalidDicomError as error:
        raise _not_readable("The file is not DICOM.") from error
    if seg.get("SOPClassUID") != SegmentationStorage or seg.get("SegmentationType") != "BINARY":
        raise _not_readable("The object is not a BINARY segmentation.")
    if seg.file_meta.TransferSyntaxUID.is_compressed:
        raise _not_readable("The pixels are compressed.")
    return seg


@dataclass(frozen=True, slots=True, eq=False)
class MaskFrame:
    """One frame of a SEG, wherever it lies.

    Attributes:
        number: Frame number from 1.
        segment: Referenced Segment Number.
        mask: bool, shape (rows, columns).
        sources: SOP Instance UID and frame number (None for single-frame) of each source image.
        groups: Its own functional groups.
    """

    number: int
    segment: int
    mask: NDArray[np.bool_]
    sources: tuple[tuple[str, int | None], ...]
    groups: Dataset


def mask_frames(seg: Dataset) -> Iterator[MaskFrame]:
    """Yield the frames of a SEG.

    Raises:
        PeerError: There are fewer pixels or functional groups than frames.
    """
    rows, columns = int(seg.Rows), int(seg.Columns)
    frames = int(seg.NumberOfFrames)
    own = seg.PerFrameFunctionalGroupsSequence
    if len(own) != frames or len(seg.PixelData) * 8 < frames * rows * columns:
        raise _not_readable("There are fewer pixels or functional groups than frames.")
    pixels = np.frombuffer(seg.PixelData, np.uint8)
    shared = seg.SharedFunctionalGroupsSequence[0]
    for index, groups in enumerate(own):
        identification = _either(groups, shared, "SegmentIdentificationSequence")
        yield MaskFrame(
            number=index + 1,
            segment=int(identification.ReferencedSegmentNumber),
            mask=_bits(pixels, index * rows * columns, rows * columns).reshape(rows, columns),
            sources=tuple(
                (str(source.ReferencedSOPInstanceUID), _frame_number(source))
                for derivation in groups.get("DerivationImageSequence") or ()
                for source in derivation.get("SourceImageSequence") or ()
            ),
            groups=groups,
        )


def placed_frames(seg: Dataset) -> Iterator[PlacedFrame]:
    """Yield the frames of a SEG with their place.

    Raises:
        PeerError: There are fewer pixels or functional groups than frames.
    """
    shared = seg.SharedFunctionalGroupsSequence[0]
    for frame in mask_frames(seg):
        yield PlacedFrame(
            number=frame.number,
            segment=frame.segment,
            affine=_frame_affine(frame.groups, shared),
            mask=frame.mask,
            sources=frame.sources,
        )


def slice_of(frame: PlacedFrame, volume: Volume) -> int:
    """Return the index of the slice of a volume on which a frame lies.

    Raises:
        PeerError: The frame lies beside the grid or its pixels run in other directions.
    """
    # Frame index to volume index; on the grid it is a shift along the slices alone.
    change = np.linalg.solve(volume.affine, frame.affine)
    index = round(float(change[0, 3]))
    expected = np.array([[0, 0, index], [1, 0, 0], [0, 1, 0]], np.float64)
    rows, columns = volume.array.shape[1:]
    # A wrong step adds up over the picture, so it is weighed by the rows and columns.
    off = np.abs(change[:3, 1:] - expected) * [max(rows - 1, 1), max(columns - 1, 1), 1]
    if (
        off.max() > _OFF_GRID
        or not 0 <= index < volume.array.shape[0]
        or frame.mask.shape != (rows, columns)
    ):
        raise peer_error(
            "segmentation-off-grid",
            "A frame of the segmentation does not lie on a slice of the volume.",
            where=f"frame {frame.number}, series {volume.series_uid}",
            remedy="Read it on the series it was made from.",
        )
    return index


def read_segmentation(source: bytes | Path, volume: Volume) -> Labels:
    """Return the labels of a BINARY SEG on the grid of a volume.

    Args:
        source: The file or its bytes.
        volume: Affine and shape are used. Where segments overlap the higher number stays.

    Raises:
        PeerError: It is no such SEG, or does not lie on the grid.
    """
    labels = np.zeros(volume.array.shape, np.uint8)
    for frame in placed_frames(open_segmentation(source)):
        plane = labels[slice_of(frame, volume)]
        np.maximum(plane, frame.segment, out=plane, where=frame.mask)
    return labels


def read_frames_segmentation(source: bytes | Path, plan: FramesPlan) -> Labels:
    """Return the labels of a BINARY SEG on the frames of an ultrasound image.

    Args:
        source: The file or its bytes.
        plan: The image. Where segments overlap the higher number stays.

    Raises:
        PeerError: It is no such SEG, or a frame refers to another image or has another size.
    """
    labels = np.zeros(plan.shape, np.uint8)
    for frame in mask_frames(open_segmentation(source)):
        plane = labels[frame_index(frame, plan)]
        np.maximum(plane, frame.segment, out=plane, where=frame.mask)
    return labels


def frame_index(frame: MaskFrame, plan: FramesPlan) -> int:
    """Return the index of the source frame to which a frame refers.

    Raises:
        PeerError: It refers to none or several of this image, or has another size.
    """
    wanted = {
        (plan.instance.sop_instance_uid, number): index
        for index, number in enumerate(plan.frame_numbers)
    }
    found = [wanted[source] for source in frame.sources if source in wanted]
    if len(found) != 1 or len(frame.sources) != 1 or frame.mask.shape != plan.shape[1:]:
        raise peer_error(
            "segmentation-off-grid",
            "A frame of the segmentation does not refer to one frame of the image.",
            where=f"frame {frame.number}, series {plan.series_uid}",
            remedy="Read it on the image it was made from.",
        )
    return found[0]


def _bits(pixels: NDArray[np.uint8], start: int, count: int) -> NDArray[np.bool_]:
    """Return `count` bits from bit `start`; frames need not begin on a byte (PS3.5 8.1.1)."""
    part = np.unpackbits(pixels[start // 8 : (start + count + 7) // 8], bitorder="little")
    return part[start % 8 : start % 8 + count].astype(np.bool_)


def _frame_affine(groups: Dataset, shared: Dataset) -> Floats:
    """Return index [0, row, column, 1] to LPS mm (PS3.3 C.7.6.2.1.1)."""
    position = _either(groups, shared, "PlanePositionSequence").ImagePositionPatient
    turn = _either(groups, shared, "PlaneOrientationSequence").ImageOrientationPatient
    measures = _either(groups, shared, "PixelMeasuresSequence")
    along_row = np.array([float(value) for value in turn[:3]])
    along_column = np.array([float(value) for value in turn[3:]])
    between_rows, between_columns = (float(value) for value in measures.PixelSpacing)
    distance = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0
    affine = np.eye(4)
    affine[:3, 0] = np.cross(along_row, along_column) * float(distance)
    affine[:3, 1] = along_column * between_rows
    affine[:3, 2] = along_row * between_columns
    affine[:3, 3] = [float(value) for value in position]
    return affine


def _either(groups: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """Return the item of a functional group: the frame's own, else the shared one."""
    for holder in (groups, shared):
        if holder.get(keyword):
            item: Dataset = holder[keyword].value[0]
            return item
    raise _not_readable(f"{keyword} is absent.")


def _frame_number(source: Dataset) -> int | None:
    number = source.get("ReferencedFrameNumber")
    return None if number is None else int(number)


def _not_readable(what: str) -> LimnerError:
    return peer_error(
        "segmentation-not-readable",
        what,
        where="a DICOM segmentation",
        remedy="Send a BINARY segmentation with uncompressed pixels and positions in the patient.",
    )
