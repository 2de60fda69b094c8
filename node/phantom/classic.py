"""A series as one object per slice: CT, MR and PET Image (PS3.3 A.3, A.4, A.21).

The modules of PET are added by `pet_objects`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from node.phantom.headers import Header
from node.phantom.objects import (
    STUDY_DATE,
    ImageSeries,
    decimal,
    decimals,
    new_dataset,
    orientation_text,
    put_series,
    spacing_text,
    time_of,
    window,
)
from node.phantom.pixels import FORMATS, describe_cells, put_pixels, stored_cells

CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
PET_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.128"
_CLASSES: Final = {"CT": CT_IMAGE, "MR": MR_IMAGE, "PT": PET_IMAGE}


def classic_datasets(series: ImageSeries, header: Header) -> Iterator[Dataset]:
    """Yield one dataset per slice of `series`, in the order of its slices."""
    for index in range(series.grid.shape[0]):
        yield _slice_dataset(series, header, index)


def _slice_dataset(series: ImageSeries, header: Header, index: int) -> Dataset:
    """Return slice `index` of `series`."""
    dataset = new_dataset(
        header,
        sop_class=_CLASSES[series.modality],
        sop_uid=series.instance_uid(index),
        syntax=series.syntax,
    )
    put_series(dataset, series)
    dataset.QualityControlImage = "YES"
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = series.instance_numbers[index]
    dataset.AcquisitionDate = dataset.ContentDate = STUDY_DATE
    dataset.AcquisitionTime = dataset.ContentTime = time_of(index)
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PatientOrientation = ""
    position = series.grid.position_mm(index)
    dataset.PixelSpacing = spacing_text(series.grid)
    dataset.ImageOrientationPatient = orientation_text(series.grid.orientation)
    dataset.ImagePositionPatient = decimals(position)
    dataset.SliceThickness = decimal(series.thickness_mm)
    dataset.SliceLocation = decimal(float(position @ series.grid.orientation.normal))
    centre, width = window(series)
    dataset.WindowCenter = decimal(centre)
    dataset.WindowWidth = decimal(width)
    if series.modality == "CT":
        _put_ct(dataset)
    elif series.modality == "MR":
        _put_mr(dataset, series)
    _, rows, columns = series.grid.shape
    describe_cells(dataset, series.cells, rows=rows, columns=columns)
    form = FORMATS[series.cells]
    if form.rescaled:
        dataset.RescaleIntercept = decimal(form.intercept)
        dataset.RescaleSlope = "1"
        if series.modality == "CT":
            dataset.RescaleType = "HU"
    put_pixels(
        dataset, stored_cells(series.values[index : index + 1], series.cells)[0], series.syntax
    )
    return dataset


def _put_ct(dataset: Dataset) -> None:
    """Write the CT image module (PS3.3 C.8.2.1)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.KVP = "120"
    dataset.XRayTubeCurrent = "200"
    dataset.ExposureTime = "500"
    dataset.FilterType = "BODY FILTER"
    dataset.ConvolutionKernel = "PHANTOM"
    dataset.DataCollectionDiameter = "500"
    dataset.GantryDetectorTilt = "0"
    dataset.RotationDirection = "CW"


def _put_mr(dataset: Dataset, series: ImageSeries) -> None:
    """Write the MR image module (PS3.3 C.8.3.1): a T2-weighted spin echo."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence = "SE"
    dataset.SequenceVariant = "SK"
    dataset.ScanOptions = "FS"
    dataset.MRAcquisitionType = "2D"
    dataset.SequenceName = "PHANTOM_T2"
    dataset.RepetitionTime = "4000"
    dataset.EchoTime = "90"
    dataset.EchoTrainLength = 16
    dataset.EchoNumbers = 1
    dataset.MagneticFieldStrength = "1.5"
    dataset.ImagingFrequency = "63.87"
    dataset.ImagedNucleus = "1H"
    dataset.NumberOfAverages = "1"
    dataset.FlipAngle = "90"
    dataset.PixelBandwidth = "200"
    dataset.SpacingBetweenSlices = decimal(series.grid.spacing_mm[0])
    dataset.InPlanePhaseEncodingDirection = "ROW"
