"""Voxels and a header into DICOM datasets: what every object of a phantom has in common.

An `ImageSeries` says everything about one series; `classic.py` writes it as one file per slice,
`enhanced.py` as one multi-frame object. Nothing here is drawn or timed: dates are fixed and UIDs
come from the seed, so the same series gives the same bytes. Every object says that it is a
phantom: QualityControlSubject and QualityControlImage are YES, and the maker is ours.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from node.phantom.grid import Floats, Grid, Orientation
from node.phantom.headers import Header
from node.phantom.pixels import Cells, Syntax, Values
from node.phantom.uids import derive_uid

MANUFACTURER: Final = "LIMNER PHANTOM"
MODEL: Final = "LIMNER PHANTOM 1"
STUDY_DATE: Final = "20260105"
STUDY_TIME: Final = "080000"
IMPLEMENTATION_CLASS_UID: Final = derive_uid("implementation")
IMPLEMENTATION_VERSION: Final = "LIMNER_PHANTOM_1"


@dataclass(frozen=True, slots=True, eq=False)
class ImageSeries:
    """One image series before it is cut into objects.

    Attributes:
        seed: Seed of the study.
        number: Series Number; with the seed it gives the series its UIDs.
        modality: `CT`, `MR` or `PT`.
        body_part: Body Part Examined (0018,0015), a defined term.
        description: Series Description.
        values: int16, shape [slice, row, column]: HU, arbitrary for MR, cells for PET.
        grid: Where they lie.
        thickness_mm: Slice Thickness; need not be the distance.
        cells: How values become cells.
        syntax: The transfer syntax.
        patient_position: Patient Position (0018,5100), such as `HFS`.
        instance_numbers: Instance Number (or place of the frame, from 1) of each slice.
        study_key: What tells this study from others of the same seed.
    """

    seed: int
    number: int
    modality: str
    body_part: str
    description: str
    values: Values
    grid: Grid
    thickness_mm: float
    cells: Cells
    syntax: Syntax
    patient_position: str
    instance_numbers: tuple[int, ...]
    study_key: str = "study"

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return derive_uid(self.seed, self.study_key)

    @property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return derive_uid(self.seed, self.study_key, self.number)

    @property
    def frame_of_reference_uid(self) -> str:
        """Frame of Reference UID, one for the whole study."""
        return derive_uid(self.seed, self.study_key, "frame-of-reference")

    def instance_uid(self, name: int | str) -> str:
        """Return the SOP Instance UID of slice `name`, or of a named object of the series."""
        return derive_uid(self.seed, self.study_key, self.number, name)


def decimal(value: float) -> str:
    """Return `value` as a DS of at most 16 characters, never with an exponent (PS3.5 6.2)."""
    text = f"{round(float(value), 9) + 0.0:.9f}"[:16].rstrip("0").rstrip(".")
    return text if text not in ("-0", "") else "0"


def decimals(values: Floats | tuple[float, ...]) -> list[str]:
    """Return each of `values` as a DS."""
    return [decimal(float(value)) for value in values]


def orientation_text(orientation: Orientation) -> list[str]:
    """Return Image Orientation (Patient): row direction, then column direction."""
    return decimals((*orientation.row, *orientation.column))


def time_of(index: int) -> str:
    """Return the acquisition time of the slice with this index: half a second each."""
    seconds = 600 + index * 0.5
    minutes, rest = divmod(seconds, 60)
    return f"08{int(minutes):02d}{rest:09.6f}"


def new_dataset(header: Header, *, sop_class: str, sop_uid: str, syntax: Syntax) -> Dataset:
    """Return a dataset with file meta, patient, study, equipment and SOP common modules."""
    dataset = Dataset()
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    dataset.file_meta = meta
    if header.character_set:
        dataset.SpecificCharacterSet = list(header.character_set)
    dataset.SOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = UID(sop_uid)
    dataset.InstanceCreationDate = STUDY_DATE
    dataset.InstanceCreationTime = "083000"
    _put_identity(dataset, header)
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = "1"
    dataset.StationName = "PHANTOM"
    return dataset


def _put_identity(dataset: Dataset, header: Header) -> None:
    """Write the patient and general study modules."""
    dataset.PatientName = header.patient_name
    dataset.PatientID = header.patient_id
    if header.issuer:
        dataset.IssuerOfPatientID = header.issuer
    dataset.PatientBirthDate = header.birth_date
    dataset.PatientSex = header.sex
    if header.age:
        dataset.PatientAge = header.age
    dataset.QualityControlSubject = "YES"
    dataset.StudyDate = STUDY_DATE
    dataset.StudyTime = STUDY_TIME
    dataset.AccessionNumber = header.accession
    dataset.StudyID = header.study_id
    dataset.ReferringPhysicianName = header.referring
    if header.study_description:
        dataset.StudyDescription = header.study_description
    if header.institution:
        dataset.InstitutionName = header.institution


def put_series(dataset: Dataset, series: ImageSeries) -> None:
    """Write study and series UIDs, general series and frame of reference modules."""
    dataset.StudyInstanceUID = series.study_uid
    dataset.SeriesInstanceUID = series.series_uid
    dataset.Modality = series.modality
    dataset.SeriesNumber = series.number
    dataset.SeriesDescription = series.description
    dataset.SeriesDate = STUDY_DATE
    dataset.SeriesTime = "081000"
    dataset.BodyPartExamined = series.body_part
    dataset.ProtocolName = f"PHANTOM {series.body_part}"
    dataset.PatientPosition = series.patient_position
    dataset.FrameOfReferenceUID = series.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""


def spacing_text(grid: Grid) -> list[str]:
    """Return Pixel Spacing: between rows, between columns."""
    return decimals(grid.spacing_mm[1:])


def extremes(values: Values) -> tuple[float, float]:
    """Return window centre and width that show nearly all of `values`."""
    low, high = np.percentile(values[:: max(1, len(values) // 8), ::4, ::4], (1, 99.5))
    return float(round((low + high) / 2)), float(max(1, round(high - low)))


def window(series: ImageSeries) -> tuple[float, float]:
    """Return window centre and width: fixed for CT, from the values for MR."""
    return (-300.0, 1500.0) if series.modality == "CT" else extremes(series.values)


def part10(dataset: Dataset) -> bytes:
    """Return `dataset` as a DICOM file: preamble, file meta, data."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
