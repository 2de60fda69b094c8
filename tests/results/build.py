"""Sources for the tests of this room, written with pydicom alone, and volumes over them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    SegmentationStorage,
)

from node.imaging.values import (
    Code,
    InstanceFile,
    ModelIdentity,
    Outcome,
    Segment,
    Segmentation,
    SliceSource,
    SourceInstance,
    Verdict,
    Volume,
)
from node.results.part10 import file_head
from node.results.sources import dataset_start
from node.results.uids import content_uid

ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
LUNG = Code("39607008", "SCT", "Lung")
RIGHT = Code("24028007", "SCT", "Right")
LEFT = Code("7771000", "SCT", "Left")

ORIENTATIONS: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.95533649, 0.0, -0.29552021, 0.05872664, 0.98006658, 0.18984755),
}

MODEL = ModelIdentity(
    name="lung-ct",
    version="1.2",
    digest=hashlib.sha256(b"weights").hexdigest(),
    settings_digest=hashlib.sha256(b"settings").hexdigest(),
    intended_use="Research use only.",
)

Change = Callable[[Dataset, int], None]


def uid(*parts: object) -> str:
    number = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:12], "big")
    return f"1.2.826.0.1.3680043.10.511.{number}"


def _identity(header: Dataset) -> None:
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName = "Smith^Jane"
    header.PatientID = "P-4711"
    header.IssuerOfPatientID = "GENERAL"
    header.PatientBirthDate = "19600102"
    header.PatientSex = "F"
    header.PatientAge = "066Y"
    header.PatientWeight = "71.5"
    header.StudyInstanceUID = uid("study")
    header.StudyDate = "20260102"
    header.StudyTime = "101112"
    header.StudyID = "7"
    header.AccessionNumber = "A-100"
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    header.IssuerOfAccessionNumberSequence = [issuer]
    header.ReferringPhysicianName = "Doe^John"
    header.StudyDescription = "CT chest"
    header.SeriesInstanceUID = uid("series")
    header.SeriesNumber = 3
    header.Modality = "CT"
    header.Manufacturer = "Scanner Works"
    header.ManufacturerModelName = "One"
    header.StationName = "CT1"
    header.FrameOfReferenceUID = uid("frame of reference")
    header.PositionReferenceIndicator = ""
    header.PatientPosition = "HFS"
    header.BodyPartExamined = "CHEST"
    header.ContentDate = "20260102"


def affine_of(
    orientation: Sequence[float], spacing_mm: tuple[float, float, float], origin: Sequence[float]
) -> NDArray[np.float64]:
    """Return index [slice, row, column, 1] to LPS mm."""
    along_row = np.asarray(orientation[:3], np.float64)
    along_column = np.asarray(orientation[3:], np.float64)
    affine = np.eye(4)
    affine[:3, 0] = np.cross(along_row, along_column) * spacing_mm[0]
    affine[:3, 1] = along_column * spacing_mm[1]
    affine[:3, 2] = along_row * spacing_mm[2]
    affine[:3, 3] = origin
    return affine


def _write(header: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta = meta
    header.save_as(path, enforce_file_format=True)


def _pixels(header: Dataset, array: NDArray[np.int16]) -> None:
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = array.shape[-2:]
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 1
    header.RescaleIntercept = 0
    header.RescaleSlope = 1
    header.add_new(0x7FE00010, "OW", array.tobytes())


def build_volume(
    folder: Path,
    *,
    shape: tuple[int, int, int] = (6, 10, 14),
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.9),
    orientation: str | tuple[float, ...] = "axial",
    origin: tuple[float, float, float] = (-120.25, 33.5, -401.125),
    change: Change | None = None,
    raw: dict[int, bytes] | None = None,
) -> Volume:
    """Write a classic CT series and return the volume over it.

    Args:
        change: Called with each header and its slice number before it is written.
        raw: Text elements that get exactly these bytes in every file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    turn = ORIENTATIONS[orientation] if isinstance(orientation, str) else orientation
    affine = affine_of(turn, spacing_mm, origin)
    array = np.random.default_rng(7).integers(-1000, 400, shape).astype(np.int16)
    paths = []
    for index in range(shape[0]):
        header = Dataset()
        _identity(header)
        header.SOPClassUID = CTImageStorage
        header.SOPInstanceUID = uid("slice", index)
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        header.InstanceNumber = shape[0] - index
        header.ContentTime = f"1012{index % 60:02d}"
        header.ImageOrientationPatient = [f"{value:.8g}" for value in turn]
        header.ImagePositionPatient = [
            f"{value:.10g}" for value in affine[:3, 3] + index * affine[:3, 0]
        ]
        header.PixelSpacing = [f"{spacing_mm[1]:.8g}", f"{spacing_mm[2]:.8g}"]
        header.SliceThickness = "3"
        _pixels(header, array[index])
        if change is not None:
            change(header, index)
        path = folder / f"{(index * 7919) % 1000:03d}-{index}.dcm"
        _write(header, path)
        if raw:
            _force_bytes(path, raw)
        paths.append(path)
    return volume_over(paths, array, affine, spacing_mm)


def _force_bytes(path: Path, raw: dict[int, bytes]) -> None:
    """Rewrite root elements of a file with given bytes, below pydicom's own encoding."""
    data = path.read_bytes()
    for tag, given in raw.items():
        value = given + b" " * (len(given) % 2)
        at = data.index((tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little"))
        end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
        data = data[: at + 6] + len(value).to_bytes(2, "little") + value + data[end:]
    path.write_bytes(data)


def volume_over(
    paths: Sequence[Path],
    array: NDArray[np.int16],
    affine: NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
) -> Volume:
    """Return the volume over single-frame files, one per slice in ascending order."""
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    return Volume(
        array=array,
        affine=affine,
        spacing_mm=spacing_mm,
        units="HU",
        modality=str(headers[0].Modality),
        series_uid=str(headers[0].SeriesInstanceUID),
        part=1,
        instances=tuple(
            SourceInstance(InstanceFile(path), header)
            for path, header in zip(paths, headers, strict=True)
        ),
        slices=tuple(SliceSource(index, None) for index in range(len(paths))),
    )


def build_enhanced(
    folder: Path,
    *,
    shape: tuple[int, int, int] = (5, 9, 11),
    spacing_mm: tuple[float, float, float] = (2.0, 0.6, 0.8),
    per_frame_only: bool = True,
    skip_first: int = 2,
) -> Volume:
    """Write one enhanced CT whose frames lie in shuffled order, behind frames of another stack."""
    folder.mkdir(parents=True, exist_ok=True)
    turn = ORIENTATIONS["oblique"]
    affine = affine_of(turn, spacing_mm, (10.0, -20.0, 30.0))
    array = np.random.default_rng(8).integers(-1000, 400, shape).astype(np.int16)
    order = [(index * 3 + 1) % shape[0] for index in range(shape[0])]
    header = Dataset()
    _identity(header)
    header.SOPClassUID = EnhancedCTImageStorage
    header.SOPInstanceUID = uid("enhanced")
    header.InstanceNumber = 1
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    header.ContentTime = "101200"
    header.NumberOfFrames = shape[0] + skip_first
    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing = list(spacing_mm[1:])
    measures.SliceThickness = "2.5"
    measures.SpacingBetweenSlices = "5"
    orientation = Dataset()
    orientation.ImageOrientationPatient = [f"{value:.8g}" for value in turn]
    groups = []
    for frame in range(shape[0] + skip_first):
        group = Dataset()
        position = Dataset()
        index = order[frame - skip_first] if frame >= skip_first else -20 - frame
        position.ImagePositionPatient = [
            f"{value:.10g}" for value in affine[:3, 3] + index * affine[:3, 0]
        ]
        group.PlanePositionSequence = [position]
        groups.append(group)
    for holder in groups if per_frame_only else [shared]:
        holder.PixelMeasuresSequence = [measures]
        holder.PlaneOrientationSequence = [orientation]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = groups
    stored = np.concatenate([array[:skip_first], array[order]])
    _pixels(header, stored)
    path = folder / "enhanced.dcm"
    _write(header, path)
    read = dcmread(path, stop_before_pixels=True)
    return Volume(
        array=array,
        affine=affine,
        spacing_mm=spacing_mm,
        units="HU",
        modality="CT",
        series_uid=str(read.SeriesInstanceUID),
        part=1,
        instances=(SourceInstance(InstanceFile(path), read),),
        slices=tuple(
            SliceSource(0, order.index(index) + skip_first + 1) for index in range(shape[0])
        ),
    )


def segments(count: int) -> tuple[Segment, ...]:
    return tuple(
        Segment(
            number=number,
            label=f"part {number}",
            category=ANATOMY,
            type=LUNG,
            modifiers=(RIGHT if number % 2 else LEFT,),
            colour=((37 * number) % 256, (91 * number) % 256, (53 * number) % 256),
        )
        for number in range(1, count + 1)
    )


def asymmetric_labels(shape: tuple[int, int, int], count: int = 2) -> NDArray[np.uint8]:
    """Return labels that no flip, swap or shift maps onto themselves."""
    labels = np.zeros(shape, np.uint8)
    rng = np.random.default_rng(11)
    for number in range(1, count + 1):
        free = np.flatnonzero(labels.ravel() == 0)
        chosen = rng.choice(
            free, size=max(1, min(free.size // (2 * count), 3 + number)), replace=False
        )
        labels.ravel()[chosen] = number
    labels[0, 0, -1] = 1
    return labels


def segmentation_of(
    labels: NDArray[np.uint8], *, count: int = 2, model: ModelIdentity = MODEL
) -> Segmentation:
    return Segmentation(
        labels=labels,
        segments=segments(count),
        measurements=(),
        verdict=Verdict(Outcome.ACCEPT),
        model=model,
        runtime={},
    )


def without_segment_codes(segmentation: Segmentation) -> Segmentation:
    """Return the same with plain segments, as a card with few words gives them."""
    plain = tuple(replace(segment, modifiers=()) for segment in segmentation.segments)
    return replace(segmentation, segments=plain)


def signed(seg: Dataset) -> bytes:
    """Return a dataset as bytes under the UID that follows from them."""
    del seg.SOPInstanceUID
    stream = BytesIO()
    seg.save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    uid = content_uid(hashlib.sha256(data[dataset_start(data) :]).hexdigest())
    seg.SOPInstanceUID = uid
    stream = BytesIO()
    seg.save_as(stream, enforce_file_format=True)
    data = stream.getvalue()
    head = file_head(SegmentationStorage, uid, ExplicitVRLittleEndian)
    return head + data[dataset_start(data) :]
