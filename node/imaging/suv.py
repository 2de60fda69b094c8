"""SUVbw of a PET series: headers in, one factor per slice or a typed refusal out; pure.

SUVbw = value x weight / dose, with the value in Bq/ml and the dose decayed to the time to which
the value is corrected. Which value, and which time, depends on Units and DecayCorrection and on
what vendors do with them. Whatever is absent, contradicts itself or is known to be written for
different things is refused: a wrong SUV looks like a right one.
Source: PS3.3 C.8.9, C.8.22; the SUV vendor-neutral pseudo-code of QIBA (2018); IBSI.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import items, number, text, texts
from node.imaging.nuclides import half_life_s
from node.imaging.suv_body import to_body_weight, weight_kg
from node.imaging.suv_dose import dose_bq
from node.imaging.suv_private import ACTIVITY_FACTOR, SUV_FACTOR, private_factor
from node.imaging.suv_refusal import NoSuvError
from node.imaging.suv_times import administered, decay_reference, mean_time
from node.imaging.values import Refusal
from node.reasons import Reason

ENHANCED_PET: Final = "1.2.840.10008.5.1.4.1.1.130"

_SERIES_WIDE: Final = (
    "Units",
    "SUVType",
    "DecayCorrection",
    "DecayCorrectionDateTime",
    "CorrectedImage",
    "PatientWeight",
    "PatientSize",
    "PatientSex",
    "SeriesDate",
    "SeriesTime",
    "TimezoneOffsetFromUTC",
)
_RADIOPHARMACEUTICAL: Final = (
    "RadiopharmaceuticalStartDateTime",
    "RadiopharmaceuticalStartTime",
    "RadionuclideTotalDose",
    "RadionuclideHalfLife",
)


@dataclass(frozen=True, slots=True)
class SuvScale:
    """What makes SUVbw of the rescaled values of a volume.

    Attributes:
        factors: One per slice: rescaled value x factor = SUVbw.
        notes: Sentences on what was assumed or put right.
    """

    factors: tuple[float, ...]
    notes: tuple[str, ...] = ()


def suv_scale(series: Sequence[Dataset], slices: Sequence[Dataset]) -> SuvScale | Refusal:
    """Return the factors that make SUVbw of a volume's values, or why there are none.

    Args:
        series: The header of every image of the series, for its earliest acquisition.
        slices: The header of each slice of the volume, in its order; of an enhanced image the
            flat headers of `suv_enhanced`.
    """
    try:
        return _scale(series, slices)
    except NoSuvError as refused:
        return Refusal(refused.reason, refused.explanation)


def _scale(series: Sequence[Dataset], slices: Sequence[Dataset]) -> SuvScale:
    _refuse_mixed(slices)
    _refuse_rescale(slices)
    first = slices[0]
    units = text(first, "Units").upper()
    if units in ("GML", "CM2ML"):
        _require(first, "ATTN")
        return SuvScale((to_body_weight(first, units),) * len(slices))
    if units == "BQML":
        return _of_activity(series, slices)
    if units == "CNTS":
        return _of_counts(series, slices)
    raise NoSuvError(
        Reason.SUV_UNITS, f"No SUV can be made of values in Units {units or '(absent)'}."
    )


def _refuse_mixed(slices: Sequence[Dataset]) -> None:
    for keyword in _SERIES_WIDE:
        if len({texts(header, keyword) for header in slices}) > 1:
            raise NoSuvError(Reason.SUV_MIXED, f"The slices differ in {keyword}.")


def _refuse_rescale(slices: Sequence[Dataset]) -> None:
    """Refuse an intercept or a table: PET values are proportional to activity (PS3.3 C.8.9.4)."""
    for header in slices:
        if items(header, "ModalityLUTSequence") or number(header, "RescaleIntercept") not in (
            None,
            0.0,
        ):
            raise NoSuvError(
                Reason.SUV_RESCALE,
                "RescaleIntercept is not 0, or a table maps the values, so they are not "
                "proportional to activity.",
            )


def _require(header: Dataset, *wanted: str) -> None:
    """Refuse an image that was not corrected for what SUV needs; DECAY stands for DECY."""
    done = {"DECY" if value == "DECAY" else value for value in _corrections(header)}
    missing = [name for name in wanted if name not in done]
    if missing:
        raise NoSuvError(
            Reason.SUV_CORRECTION,
            f"CorrectedImage {'/'.join(sorted(done)) or '(absent)'} does not name "
            f"{' and '.join(missing)}.",
        )


def _corrections(header: Dataset) -> tuple[str, ...]:
    return tuple(value.upper() for value in texts(header, "CorrectedImage"))


def _of_counts(series: Sequence[Dataset], slices: Sequence[Dataset]) -> SuvScale:
    """Return the scale of CNTS, which only Philips' private factors make quantitative."""
    _require(slices[0], "ATTN")
    for element, name in ((SUV_FACTOR, "SUV"), (ACTIVITY_FACTOR, "activity")):
        found = [private_factor(header, element) for header in slices]
        known = [factor for factor in found if factor is not None]
        if not known:
            continue
        if len(known) < len(found):
            raise NoSuvError(
                Reason.SUV_SCALE_FACTOR,
                f"{len(found) - len(known)} of {len(found)} slices lack the private "
                f"{name} scale factor that the others have.",
            )
        factors = [factor for factor, _ in known]
        notes = [f"Values were scaled by Philips' private {name} scale factor."]
        if not all(by_creator for _, by_creator in known):
            notes.append("Its private creator is absent; it was found at its usual element.")
        if element == SUV_FACTOR:
            _refuse_other_type(slices[0])
            return SuvScale(tuple(factors), tuple(notes))
        of_activity = _of_activity(series, slices)
        return SuvScale(
            tuple(a * b for a, b in zip(factors, of_activity.factors, strict=True)),
            (*notes, *of_activity.notes),
        )
    raise NoSuvError(
        Reason.SUV_SCALE_FACTOR,
        "Units CNTS without Philips' private SUV or activity scale factor; anonymisers remove "
        "them.",
    )


def _refuse_other_type(header: Dataset) -> None:
    kind = text(header, "SUVType").upper()
    if kind not in ("", "BW"):
        raise NoSuvError(
            Reason.SUV_TYPE, f"Philips' SUV scale factor is by body weight, SUVType is {kind}."
        )


def _of_activity(series: Sequence[Dataset], slices: Sequence[Dataset]) -> SuvScale:
    """Return the scale of values in Bq/ml."""
    first = slices[0]
    weight_g = weight_kg(first) * 1000
    item, notes = _radiopharmaceutical(slices)
    dose, dose_notes = dose_bq(item, enhanced=text(first, "SOPClassUID") == ENHANCED_PET)
    notes += dose_notes
    correction = text(first, "DecayCorrection").upper()
    if correction == "ADMIN":
        _require(first, "ATTN", "DECY")
        if number(item, "RadionuclideHalfLife") is not None:
            half_life_s(item)  # the scanner corrected with it, so it has to be right
        return SuvScale(
            (weight_g / dose,) * len(slices), (*notes, "Values are corrected to administration.")
        )
    lifetime, life_notes = half_life_s(item)
    notes += life_notes
    if correction == "NONE":
        return _uncorrected(slices, item, lifetime, weight_g / dose, notes)
    _require(first, "ATTN", "DECY")
    if correction != "START":
        raise NoSuvError(
            Reason.SUV_CORRECTION,
            f"DecayCorrection is {correction or 'absent'}, not START, ADMIN or NONE.",
        )
    reference = decay_reference(series, first, lifetime)
    given = administered(item, first, reference.at, lifetime)
    delay_s = reference.at.seconds_since(given)
    if delay_s < 0:
        raise NoSuvError(
            Reason.SUV_TIMES, "The administration lies behind the time of decay correction."
        )
    factor = weight_g / dose * _decay(delay_s, lifetime)
    said = f"The dose was decayed by {delay_s:g} s, to the {reference.source}."
    return SuvScale((factor,) * len(slices), (*notes, said))


def _decay(seconds: float, lifetime_s: float) -> float:
    return math.exp(math.log(2) * seconds / lifetime_s)


def _uncorrected(
    slices: Sequence[Dataset],
    item: Dataset,
    lifetime_s: float,
    grams_per_bq: float,
    notes: tuple[str, ...],
) -> SuvScale:
    """Return the scale of values without decay correction: each slice is decayed to itself."""
    _require(slices[0], "ATTN")
    if {"DECY", "DECAY"}.intersection(_corrections(slices[0])):
        # DecayFactor is what each slice was multiplied by; it decides between the two.
        applied = {number(header, "DecayFactor") for header in slices}
        if not applied <= {None, 1.0}:
            raise NoSuvError(
                Reason.SUV_CORRECTION,
                "DecayCorrection is NONE, but CorrectedImage and DecayFactor say that decay was "
                "corrected.",
            )
        notes += ("CorrectedImage names decay correction, DecayCorrection and DecayFactor do not.",)
    factors = []
    for header in slices:
        middle = mean_time(header, lifetime_s)
        delay_s = middle.seconds_since(administered(item, header, middle, lifetime_s))
        factors.append(grams_per_bq * _decay(delay_s, lifetime_s))
    return SuvScale(
        tuple(factors), (*notes, "The dose was decayed to the mean time of each slice's frame.")
    )


def _radiopharmaceutical(slices: Sequence[Dataset]) -> tuple[Dataset, tuple[str, ...]]:
    """Return the one item of RadiopharmaceuticalInformationSequence, and notes."""
    found = [items(header, "RadiopharmaceuticalInformationSequence") for header in slices]
    if not all(found):
        raise NoSuvError(
            Reason.SUV_RADIOPHARMACEUTICAL,
            "RadiopharmaceuticalInformationSequence is absent or empty.",
        )
    said = {
        (*(text(item, keyword) for keyword in _RADIOPHARMACEUTICAL), _nuclide_code(item))
        for per_slice in found
        for item in per_slice
    }
    if len(said) > 1:
        raise NoSuvError(
            Reason.SUV_RADIOPHARMACEUTICAL,
            f"{len(said)} different radiopharmaceuticals or doses are named; which one the "
            f"image shows is not said.",
        )
    notes = ("The same radiopharmaceutical is named twice.",) if len(found[0]) > 1 else ()
    return found[0][0], notes


def _nuclide_code(item: Dataset) -> str:
    codes = items(item, "RadionuclideCodeSequence")
    return text(codes[0], "CodeValue") if codes else ""
