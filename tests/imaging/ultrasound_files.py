"""Ultrasound files written with pydicom alone: pictures with colour, regions and frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from node.imaging.frame_reader import open_frames
from node.imaging.images import find_images
from node.imaging.read import read_folder
from node.imaging.values import FramesPlan, Grey

from .build import save, set_pixels

ROWS, COLUMNS = 48, 70
Colours = NDArray[np.uint8]


def tissue(frames: int = 1) -> Colours:
    """Return grey frames that no flip, swap or shift maps onto themselves."""
    k, r, c = np.indices((frames, ROWS, COLUMNS))
    return ((3 * r + 2 * c + 11 * k + (r * c) // 9) % 251).astype(np.uint8)


def picture(
    pixels: NDArray[Any], *, photometric: str = "MONOCHROME2", planar: int | None = None
) -> Dataset:
    """Return an ultrasound image: (rows, columns[, 3]), or with frames in front a cine."""
    colour = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    frames = pixels.ndim - (3 if colour else 2)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = UltrasoundMultiFrameImageStorage if frames else UltrasoundImageStorage
    data.SOPInstanceUID = "2.25.700"
    data.ImageType = ["ORIGINAL", "PRIMARY", "SMALL PARTS", "0001"]
    data.Modality = "US"
    data.PatientID, data.PatientName = "PHANTOM", "PHANTOM^US"
    data.StudyInstanceUID, data.SeriesInstanceUID = "2.25.71", "2.25.72"
    data.InstanceNumber = 1
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = photometric
    if planar is not None:
        data.PlanarConfiguration = planar
    elif colour:
        data.PlanarConfiguration = 0
    if frames:
        data.NumberOfFrames = pixels.shape[0]
        data.FrameTime = "40"
    data.Rows, data.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    stored = np.moveaxis(pixels, -1, -3) if planar == 1 else pixels
    set_pixels(data, stored)
    return data


def region(box: Sequence[int], *, delta: float | None = 0.02, **changes: object) -> Dataset:
    """Return a region item; the box is x0, y0, x1, y1 as DICOM says it, ends included."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 2
    item.RegionLocationMinX0, item.RegionLocationMinY0 = box[0], box[1]
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box[2], box[3]
    if delta is not None:
        item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
        item.PhysicalDeltaX = item.PhysicalDeltaY = delta
    for keyword, value in changes.items():
        setattr(item, keyword, value)
    return item


def with_regions(data: Dataset, *regions: Dataset) -> Dataset:
    data.SequenceOfUltrasoundRegions = Items(regions)
    return data


def plan_of(folder: Path, *data: Dataset) -> FramesPlan:
    """Write one image and return its plan."""
    (plan,) = find_images(read_folder(save(folder, list(data))))
    assert isinstance(plan, FramesPlan), plan
    return plan


def grey_of(plan: FramesPlan, *, colour_accepted: bool = True) -> Grey:
    """Return every frame of a plan."""
    with open_frames(plan, colour_accepted=colour_accepted) as frames:
        return frames.read(range(plan.shape[0]))
