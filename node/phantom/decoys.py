"""Objects that scanners send along with a series and that must not become a volume.

A localizer, an X-ray radiation dose report and a colour secondary capture, each a series of its
own in the same study.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.phantom.classic import classic_datasets
from node.phantom.grid import CORONAL, centred_grid
from node.phantom.headers import Header
from node.phantom.objects import STUDY_DATE, ImageSeries, new_dataset, put_series, time_of
from node.phantom.pixels import Cells, Syntax

DOSE_REPORT: Final = "1.2.840.10008.5.1.4.1.1.88.67"
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_OF_IMAGES: Final = ("FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition")
_LOCALIZER_SERIES, _DOSE_SERIES, _CAPTURE_SERIES = 1, 501, 502


def decoy_datasets(series: ImageSeries, header: Header) -> Iterator[Dataset]:
    """Yield a localizer, a dose report (not MR) and a secondary capture beside `series`.

    A PET scanner is a CT scanner as well: its localizer and dose report are those of CT.
    """
    if series.modality == "PT":
        series = replace(series, modality="CT")
    yield localizer_dataset(series, header)
    if series.modality == "CT":
        yield dose_report_dataset(series, header)
    yield secondary_capture_dataset(series, header)


def localizer_dataset(series: ImageSeries, header: Header) -> Dataset:
    """Return one coronal scout image of the patient."""
    slices, _, columns = series.grid.shape
    middle = series.values[:, :, columns // 2]
    rows = np.clip(np.arange(256)[::-1] * slices // 256, 0, slices - 1)
    columns_of = np.clip(np.arange(256) * middle.shape[1] // 256, 0, middle.shape[1] - 1)
    scout = replace(
        series,
        number=_LOCALIZER_SERIES,
        description="PHANTOM LOCALIZER",
        values=middle[rows][:, columns_of][None],
        grid=centred_grid((1, 256, 256), (1.0, 1.5, 1.5), orientation=CORONAL),
        cells=Cells.SIGNED if series.modality == "CT" else Cells.MAGNITUDE,
        syntax=Syntax.EXPLICIT,
        instance_numbers=(1,),
    )
    dataset = next(classic_datasets(scout, header))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    if "RescaleType" in dataset:
        del dataset.RescaleType  # a scout has no HU
    return dataset


def secondary_capture_dataset(series: ImageSeries, header: Header) -> Dataset:
    """Return a colour picture, as a workstation sends one."""
    dataset = _other_object(
        series, header, sop_class=SECONDARY_CAPTURE, number=_CAPTURE_SERIES, modality="OT"
    )
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.QualityControlImage = "YES"
    dataset.BurnedInAnnotation = "YES"
    dataset.PatientOrientation = ""
    rows, columns = 64, 96
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    y, x = np.indices((rows, columns))
    picture = np.stack([y * 3, x * 2, (x + y)], axis=-1).astype(np.uint8)
    dataset.add_new(0x7FE00010, "OW", picture.tobytes())
    return dataset


def dose_report_dataset(series: ImageSeries, header: Header) -> Dataset:
    """Return an X-Ray Radiation Dose SR with the least that TID 10011 asks."""
    dataset = _other_object(
        series, header, sop_class=DOSE_REPORT, number=_DOSE_SERIES, modality="SR"
    )
    del dataset.BodyPartExamined
    dataset.ReferencedPerformedProcedureStepSequence = Sequence()
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.PerformedProcedureCodeSequence = Sequence()
    dataset.ValueType = "CONTAINER"
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.ConceptNameCodeSequence = _code("113701", "DCM", "X-Ray Radiation Dose Report")
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "10011"
    dataset.ContentTemplateSequence = Sequence([template])
    dataset.ContentSequence = Sequence(
        [
            _coded(
                "HAS CONCEPT MOD",
                ("121058", "DCM", "Procedure reported"),
                ("77477000", "SCT", "Computed Tomography X-Ray"),
            ),
            _coded(
                "CONTAINS",
                ("113705", "DCM", "Scope of Accumulation"),
                ("113014", "DCM", "Study"),
            ),
            _number(("113830", "DCM", "Mean CTDIvol"), "5", ("mGy", "UCUM", "mGy")),
        ]
    )
    return dataset


def _other_object(
    series: ImageSeries, header: Header, *, sop_class: str, number: int, modality: str
) -> Dataset:
    """Return the start of an object outside the image series."""
    other = replace(series, number=number, modality=modality)
    dataset = new_dataset(
        header,
        sop_class=sop_class,
        sop_uid=other.instance_uid("only"),
        syntax=Syntax.EXPLICIT,
    )
    put_series(dataset, other)
    for keyword in _OF_IMAGES:
        delattr(dataset, keyword)
    dataset.SeriesDescription = "PHANTOM DOSE REPORT" if modality == "SR" else "PHANTOM CAPTURE"
    dataset.InstanceNumber = 1
    dataset.ContentDate = STUDY_DATE
    dataset.ContentTime = time_of(600)
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    """Return a code sequence with one item."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return Sequence([item])


def _coded(relation: str, name: tuple[str, str, str], value: tuple[str, str, str]) -> Dataset:
    """Return a CODE content item."""
    item = Dataset()
    item.RelationshipType = relation
    item.ValueType = "CODE"
    item.ConceptNameCodeSequence = _code(*name)
    item.ConceptCodeSequence = _code(*value)
    return item


def _number(name: tuple[str, str, str], value: str, unit: tuple[str, str, str]) -> Dataset:
    """Return a NUM content item."""
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = _code(*unit)
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    item.ValueType = "NUM"
    item.ConceptNameCodeSequence = _code(*name)
    item.MeasuredValueSequence = Sequence([measured])
    return item
