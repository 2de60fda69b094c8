"""Small DICOM series, written with pydicom alone, for tests of reading.

The picture is asymmetric in every axis and its spacings, rows and columns all differ, so that a
swap, a flip or a lost slice changes the array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

SLICES, ROWS, COLUMNS = 12, 20, 24
GAP, DY, DX = 3.0, 2.0, 2.5
ORIGIN = (-30.25, -25.5, 100.125)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.941649, 0.200351, -0.270474, -0.097769, 0.931717, 0.349779)


def phantom(slices: int = SLICES, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.uint16]:
    """Stored values: a ramp that differs along each axis, with one bright voxel per slice."""
    k, r, c = np.indices((slices, rows, columns))
    values = 200 + 90 * k + 7 * r + 3 * c
    values[:, 0, :][k[:, 0, :] == c[:, 0, :]] = 3000
    return values.astype(np.uint16)


def place(index: float, orientation: Sequence[float] = AXIAL) -> list[float]:
    """Return the position of a slice `index` steps along the normal."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    return [round(float(v), 6) for v in np.array(ORIGIN) + index * GAP * normal]


def slice_dataset(
    index: int, pixels: NDArray[Any], orientation: Sequence[float] = AXIAL
) -> Dataset:
    """Return one CT slice as a dataset."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = f"2.25.1000{index}"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Modality = "CT"
    data.PatientID = "PHANTOM"
    data.StudyInstanceUID = "2.25.1"
    data.SeriesInstanceUID = "2.25.2"
    data.FrameOfReferenceUID = "2.25.3"
    data.InstanceNumber = 1000 - index  # against the position
    data.ImagePositionPatient = place(index, orientation)
    data.ImageOrientationPatient = list(orientation)
    data.PixelSpacing = [DY, DX]
    data.SliceThickness = 5  # contradicts the positions
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored = min(12, data.BitsAllocated)
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.RescaleIntercept, data.RescaleSlope = -1024, 1
    set_pixels(data, pixels)
    return data


def set_pixels(data: Dataset, pixels: NDArray[Any]) -> None:
    """Put native cells into a dataset."""
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"


def series(
    slices: int = SLICES, orientation: Sequence[float] = AXIAL, pixels: NDArray[Any] | None = None
) -> list[Dataset]:
    """Return a regular CT series, in the order of position."""
    values = phantom(slices) if pixels is None else pixels
    return [slice_dataset(index, plane, orientation) for index, plane in enumerate(values)]


def edited(data: list[Dataset], change: Callable[[int, Dataset], None]) -> list[Dataset]:
    """Apply a change to every slice."""
    for index, each in enumerate(data):
        change(index, each)
    return data


def compressed(data: Dataset, syntax: str, *frames: bytes) -> Dataset:
    """Replace the pixels of a dataset by compressed frames."""
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate(list(frames))
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return data


def save(folder: Path, data: Sequence[Dataset], *, names: Sequence[str] = ()) -> Path:
    """Write datasets as files; the names say nothing of the order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, each in enumerate(data):
        each.file_meta.MediaStorageSOPClassUID = each.SOPClassUID
        each.file_meta.MediaStorageSOPInstanceUID = each.SOPInstanceUID
        name = names[index] if names else f"{(index * 7919) % 1009:04d}.dcm"
        big = each.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
        pydicom.dcmwrite(
            folder / name,
            each,
            implicit_vr=each.file_meta.TransferSyntaxUID.is_implicit_VR,
            little_endian=not big,
            enforce_file_format=True,
        )
    return folder


def enhanced(order: Sequence[int], pixels: NDArray[Any] | None = None, times: int = 1) -> Dataset:
    """Return an enhanced MR instance whose frames stand in a given order of positions."""
    values = phantom(len(set(order))) if pixels is None else pixels
    planes = [values[index] for index in order]
    data = slice_dataset(0, planes[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, keyword)
    del data.RescaleSlope, data.RescaleIntercept, data.SliceThickness
    data.SOPClassUID, data.Modality = EnhancedMRImageStorage, "MR"
    data.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = Items([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [DY, DX]
    shared.PlaneOrientationSequence = Items([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    data.SharedFunctionalGroupsSequence = Items([shared])
    seen: dict[int, int] = {}
    frames = []
    for index in order:
        seen[index] = seen.get(index, 0) + 1
        frame = Dataset()
        frame.PlanePositionSequence = Items([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = place(index)
        frame.FrameContentSequence = Items([Dataset()])
        content = frame.FrameContentSequence[0]
        content.StackID, content.InStackPositionNumber = "1", index + 1
        if times > 1:
            content.TemporalPositionIndex = seen[index]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    set_pixels(data, np.stack(planes))
    return data
