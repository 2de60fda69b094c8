"""PET Image objects in every way that vendors write what SUV is made of.

One picture, many headers: each `Writing` stores other numbers for the same SUV, and by its own rule
what was stored can be turned back. The factor from rescaled value to SUV is computed here from
dose, weight and time as they were chosen, not read from a header, so that a reader is held
against something it had no part in. Source: PS3.3 A.21, C.8.9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.phantom.classic import classic_datasets
from node.phantom.headers import Header
from node.phantom.objects import ImageSeries, decimal
from node.phantom.pet import Image, TrunkPatient
from node.phantom.profile import Writing

HALF_LIFE_S: Final = 6586.2  # fluorine 18
DOSE_BQ: Final = 312_450_000.0
INJECTED: Final = datetime(2026, 1, 5, 7, 10)  # noqa: DTZ001  a wall clock, as in a DA and TM
SCANNED: Final = datetime(2026, 1, 5, 8, 13, 20)  # noqa: DTZ001
_MIDNIGHT: Final = timedelta(hours=16, minutes=20)  # moves the injection to 23:30
FRAME_S: Final = 180.0
SLICES_PER_BED: Final = 16
_FULL: Final = 32_000
"""Largest stored value of a slice; each slice has a slope of its own, as GE writes them."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredPet:
    """A PET series as numbers.

    Attributes:
        cells: int16, shape [slice, row, column].
        slopes: RescaleSlope of each slice as it is written.
        to_suv: What turns the rescaled value of each slice into SUVbw.
        suv: float64: cells x slope x to_suv, what an exact reader finds.
    """

    cells: NDArray[np.int16]
    slopes: tuple[str, ...]
    to_suv: tuple[float, ...]
    suv: Image


def stored_pet(suv: Image, patient: TrunkPatient, writing: Writing) -> StoredPet:
    """Return the cells, slopes and factors that hold `suv`."""
    to_suv = tuple(_factor(patient, writing, index) for index in range(len(suv)))
    slopes = tuple(
        decimal(max(float(plane.max()), 1e-3) / factor / _FULL)
        for plane, factor in zip(suv, to_suv, strict=True)
    )
    scale = np.array([float(text) * one for text, one in zip(slopes, to_suv, strict=True)])
    cells = np.rint(suv / scale[:, None, None]).astype(np.int16)
    return StoredPet(cells, slopes, to_suv, cells * scale[:, None, None])


def _decay(seconds: float) -> float:
    """Return the share of the dose that is left."""
    return math.exp2(-seconds / HALF_LIFE_S)


def _frame_start_s(index: int) -> float:
    """Return seconds from the start of the scan to the bed position of a slice."""
    return index // SLICES_PER_BED * FRAME_S


def _mean_activity() -> float:
    """Return mean over a frame / activity at its start."""
    decays = math.log(2) * FRAME_S / HALF_LIFE_S
    return -math.expm1(-decays) / decays


def _mean_time_s() -> float:
    """Return when in a frame the activity is its mean."""
    return -HALF_LIFE_S * math.log2(_mean_activity())


def _factor(patient: TrunkPatient, writing: Writing, index: int) -> float:
    """Return SUV / rescaled value of a slice."""
    grams_per_bq = patient.weight_kg * 1000 / DOSE_BQ
    waited_s = (SCANNED - INJECTED).total_seconds()
    if writing is Writing.GML:
        return 1.0
    if writing is Writing.PHILIPS_SUV:
        return float(_PHILIPS_SUV)
    if writing is Writing.ADMIN:
        return grams_per_bq
    if writing is Writing.NONE:
        return grams_per_bq / (_decay(waited_s + _frame_start_s(index)) * _mean_activity())
    if writing is Writing.PHILIPS_ACTIVITY:
        return float(_PHILIPS_ACTIVITY) * grams_per_bq / _decay(waited_s)
    return grams_per_bq / _decay(waited_s)


_PHILIPS_SUV: Final = "0.000437"
_PHILIPS_ACTIVITY: Final = "1.618"


def pet_datasets(
    series: ImageSeries, header: Header, stored: StoredPet, patient: TrunkPatient, writing: Writing
) -> Iterator[Dataset]:
    """Yield one PET Image per slice.

    Args:
        series: Its values are the cells.
        header: The identity.
        stored: Slopes.
        patient: Weight and height.
        writing: Which vendor's way.
    """
    moved = _MIDNIGHT if writing is Writing.MIDNIGHT else timedelta()
    for index, dataset in enumerate(classic_datasets(series, header)):
        _put_series(dataset, series, patient, writing, SCANNED + moved)
        _put_isotope(dataset, writing, INJECTED + moved)
        _put_image(dataset, stored, writing, index, SCANNED + moved)
        _put_private(dataset, writing, SCANNED + moved)
        yield dataset


def _put_series(
    dataset: Dataset,
    series: ImageSeries,
    patient: TrunkPatient,
    writing: Writing,
    scanned: datetime,
) -> None:
    """Write patient study, PET series and patient orientation modules."""
    dataset.PatientWeight, dataset.PatientSize = decimal(patient.weight_kg), str(patient.height_m)
    dataset.SeriesDate, dataset.SeriesTime = _date(scanned), _time(scanned)
    if writing in (Writing.REWRITTEN, Writing.GE_PRIVATE):
        later = scanned + timedelta(hours=3)
        dataset.SeriesDate, dataset.SeriesTime = _date(later), _time(later)
    units = {
        Writing.GML: "GML",
        Writing.PHILIPS_SUV: "CNTS",
        Writing.PHILIPS_ACTIVITY: "CNTS",
    }
    dataset.Units = units.get(writing, "BQML")
    if writing is Writing.GML:
        dataset.SUVType = "BW"
    dataset.CountsSource = "EMISSION"
    dataset.SeriesType = ["WHOLE BODY", "IMAGE"]
    dataset.NumberOfSlices = series.grid.shape[0]
    corrected = {Writing.ADMIN: "ADMIN", Writing.NONE: "NONE"}
    dataset.DecayCorrection = corrected.get(writing, "START")
    done = ["NORM", "DTIM", "ATTN", "SCAT", "RAN"]
    dataset.CorrectedImage = done if writing is Writing.NONE else [*done, "DECY"]
    dataset.RandomsCorrectionMethod = "DLYD"
    dataset.AttenuationCorrectionMethod = "PHANTOM"
    dataset.ScatterCorrectionMethod = "PHANTOM"
    dataset.ReconstructionMethod = "PHANTOM"
    dataset.ReconstructionDiameter = "500"
    dataset.CollimatorType = "NONE"
    del dataset.PatientPosition  # PET says it by codes, and then not twice (PS3.3 C.7.3.1)
    dataset.PatientOrientationCodeSequence = Sequence([_code("102538003", "recumbent")])
    dataset.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = Sequence(
        [_code("40199007", "supine")]
    )
    dataset.PatientGantryRelationshipCodeSequence = Sequence([_code("102540008", "headfirst")])


def _put_isotope(dataset: Dataset, writing: Writing, injected: datetime) -> None:
    """Write the PET isotope module; at midnight there is a time without a date."""
    item = Dataset()
    item.Radiopharmaceutical = "Fluorodeoxyglucose F^18^"
    item.RadiopharmaceuticalStartTime = _time(injected)
    if writing is not Writing.MIDNIGHT:
        item.RadiopharmaceuticalStartDateTime = f"{_date(injected)}{_time(injected)}"
    item.RadionuclideTotalDose = decimal(DOSE_BQ)
    item.RadionuclideHalfLife = decimal(HALF_LIFE_S)
    item.RadionuclidePositronFraction = "0.97"
    item.RadionuclideCodeSequence = Sequence([_code("77004003", "^18^Fluorine")])
    item.RadiopharmaceuticalCodeSequence = Sequence([_code("35321007", "Fluorodeoxyglucose F^18^")])
    dataset.RadiopharmaceuticalInformationSequence = Sequence([item])


def _put_image(
    dataset: Dataset, stored: StoredPet, writing: Writing, index: int, scanned: datetime
) -> None:
    """Write the PET image module of one slice."""
    start_s = _frame_start_s(index)
    began = scanned + timedelta(seconds=start_s)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.AcquisitionDate = dataset.ContentDate = _date(began)
    dataset.AcquisitionTime = dataset.ContentTime = _time(began)
    dataset.ActualFrameDuration = round(FRAME_S * 1000)
    dataset.FrameReferenceTime = decimal((start_s + _mean_time_s()) * 1000)
    corrected_s = start_s
    if writing is Writing.ADMIN:
        corrected_s += (SCANNED - INJECTED).total_seconds()
    if writing is not Writing.NONE:
        dataset.DecayFactor = decimal(1 / _decay(corrected_s))
    dataset.ImageIndex = index + 1
    dataset.RescaleIntercept, dataset.RescaleSlope = "0", stored.slopes[index]


def _put_private(dataset: Dataset, writing: Writing, scanned: datetime) -> None:
    """Write what the vendor keeps for itself, in blocks that are not the usual ones."""
    if writing is Writing.GE_PRIVATE:
        block = dataset.private_block(0x0009, "GEMS_PETD_01", create=True)
        block.add_new(0x0D, "DT", f"{_date(scanned)}{_time(scanned)}")
    elif writing is Writing.PHILIPS_SUV:
        block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x00, "DS", _PHILIPS_SUV)
    elif writing is Writing.PHILIPS_ACTIVITY:
        block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x09, "DS", _PHILIPS_ACTIVITY)


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _date(at: datetime) -> str:
    return at.strftime("%Y%m%d")


def _time(at: datetime) -> str:
    return at.strftime("%H%M%S.%f")
