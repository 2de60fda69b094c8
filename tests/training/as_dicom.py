"""Cases become DICOM: classic MR and PET series and ultrasound, written with pydicom alone.

Stored values are whole numbers, so that a case changes a little on its way. Each function gives
back the case as it was stored: what the evaluator scores must be what the node reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from imaging.build import save
from imaging.ultrasound_files import picture, region, with_regions
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from node.imaging.values import Frames, Volume
from node.training.cases import Case, case_of

WEIGHT_KG = 80.0
DOSE_BQ = 80e6
BQML_PER_SUV = DOSE_BQ / (WEIGHT_KG * 1000)


def mr_series(case: Case, folder: Path, labels: int) -> Case:
    """Write a case as a classic MR series of whole numbers from 0 to 4000."""
    values = _volume(case).array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    stored = np.rint((values - low) / max(high - low, 1e-9) * 4000).astype(np.uint16)
    data = [_slice(case, k, plane, MRImageStorage) for k, plane in enumerate(stored)]
    for each in data:
        each.ScanningSequence, each.SequenceVariant, each.MRAcquisitionType = "GR", "SP", "3D"
        each.SeriesDescription = "HippoCrop"
        each.EchoTime, each.RepetitionTime = 3.0, 8.0
    save(folder, data)
    return _as_stored(case, stored.astype(np.int16), labels)


def pet_series(case: Case, folder: Path, labels: int) -> Case:
    """Write a case in SUV as a classic PET series in Bq/ml, with a slope for each slice."""
    data, read = [], np.empty(_volume(case).array.shape, np.float32)
    for k, plane in enumerate(_volume(case).array.astype(np.float64)):
        slope = round(max(float(plane.max()), 1e-3) * BQML_PER_SUV / 32000, 8)
        stored = np.rint(plane * BQML_PER_SUV / slope).astype(np.int16)
        each = _slice(case, k, stored, PositronEmissionTomographyImageStorage)
        each.RescaleSlope, each.RescaleIntercept = slope, 0
        _pet_facts(each)
        data.append(each)
        read[k] = stored * slope / BQML_PER_SUV
    save(folder, data)
    return _as_stored(case, read, labels)


def _pet_facts(data: Dataset) -> None:
    data.Manufacturer, data.Units, data.DecayCorrection = "Maker", "BQML", "ADMIN"
    data.CorrectedImage = ["NORM", "ATTN", "SCAT", "DECY"]
    data.SeriesType = ["STATIC", "IMAGE"]
    data.SeriesDate = data.AcquisitionDate = "20250102"
    data.SeriesTime = data.AcquisitionTime = "110000"
    data.FrameReferenceTime, data.ActualFrameDuration = 150_000, 300_000
    data.PatientWeight, data.PatientSize, data.PatientSex = WEIGHT_KG, 1.8, "M"
    item = Dataset()
    item.RadiopharmaceuticalStartDateTime = "20250102100000"
    item.RadionuclideTotalDose, item.RadionuclideHalfLife = DOSE_BQ, 6586.2
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "77004003", "SCT"
    code.CodeMeaning = "^18^Fluorine"
    item.RadionuclideCodeSequence = Items([code])
    data.RadiopharmaceuticalInformationSequence = Items([item])


def _slice(case: Case, index: int, pixels: NDArray[Any], sop_class: str) -> Dataset:
    affine = _volume(case).affine
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = sop_class
    data.SOPInstanceUID = generate_uid(entropy_srcs=[case.digest, "instance", str(index)])
    data.StudyInstanceUID = generate_uid(entropy_srcs=[case.digest, "study"])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[case.digest, "series"])
    data.FrameOfReferenceUID = generate_uid(entropy_srcs=[case.digest, "frame"])
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.Modality = _volume(case).modality
    data.PatientName, data.PatientID, data.PatientBirthDate = "CASE^TEST", case.digest[:12], ""
    data.PatientSex = "O"
    data.StudyDate, data.StudyTime, data.StudyID = "20250102", "101112", "1"
    data.ContentDate, data.ContentTime = "20250102", "101112"
    data.AccessionNumber, data.ReferringPhysicianName = "", ""
    data.SeriesNumber, data.InstanceNumber = 3, index + 1
    data.ImagePositionPatient = [float(v) for v in affine[:3, 0] * index + affine[:3, 3]]
    data.ImageOrientationPatient = [float(v) for v in (*steps[:, 2], *steps[:, 1])]
    data.PixelSpacing = [float(_volume(case).spacing_mm[1]), float(_volume(case).spacing_mm[2])]
    data.SliceThickness = float(_volume(case).spacing_mm[0])
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data["PixelData"].VR = "OW"
    return data


def _as_stored(case: Case, array: NDArray[Any], labels: int) -> Case:
    volume = dataclasses.replace(_volume(case), array=array)
    return case_of(case.name, case.patient, volume, case.reference, labels)


def _volume(case: Case) -> Volume:
    assert isinstance(case.image, Volume)
    return case.image


def us_cine(cases: Sequence[Case], folder: Path) -> Path:
    """Write frames of one subject as one ultrasound multi-frame image that names its region."""
    frames = np.concatenate([case.array for case in cases]).astype(np.uint8)
    image = cases[0].image
    assert isinstance(image, Frames)
    top, left, bottom, right = image.plan.regions[0].box
    data = picture(frames)
    data.StudyDate, data.StudyTime, data.StudyID = "20250102", "101112", "1"
    data.ContentDate, data.ContentTime = "20250102", "101112"
    data.AccessionNumber, data.ReferringPhysicianName, data.PatientBirthDate = "", "", ""
    data.PatientSex, data.SeriesNumber = "O", 3
    tissue = region((left, top, right - 1, bottom - 1), delta=None)
    return save(folder, [with_regions(data, tissue)])
