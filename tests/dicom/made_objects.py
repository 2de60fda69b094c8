"""Small DICOM objects for the tests of this room, and their bytes."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


def made_ct(number: int = 1, *, study_uid: str = "1.2.3.4", size: int = 16) -> Dataset:
    """Return a small CT image; the same number gives the same object."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = f"{study_uid}.1.{number}"
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = f"{study_uid}.1"
    dataset.StudyDate = "20240131"
    dataset.AccessionNumber = "A1"
    dataset.Modality = "CT"
    dataset.StudyDescription = "CT Thorax nativ"
    dataset.PatientName = "Prüfung^Anna"
    dataset.PatientID = "P1"
    dataset.IssuerOfPatientID = "HOSPITAL"
    dataset.SeriesDescription = "Lunge 1,25 mm"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SliceThickness = "1.25"
    dataset.PixelSpacing = ["0.7", "0.7"]
    dataset.InstanceNumber = number
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = size
    dataset.Columns = size
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = bytes([number % 256, 1]) * (size * size)
    return dataset


def encoded(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    """Return a data set's bytes in a native transfer syntax."""
    buffer = DicomBytesIO()
    buffer.is_little_endian = UID(syntax).is_little_endian
    buffer.is_implicit_VR = UID(syntax).is_implicit_VR
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def saved(dataset: Dataset, path: Path, syntax: str = EXPLICIT) -> Path:
    """Write a PS3.10 file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    dataset.file_meta = meta
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def fresh_uid() -> str:
    return str(generate_uid(prefix=None))
