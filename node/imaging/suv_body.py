"""Body weight and what other SUV are normalised to, for turning those into SUVbw.

SUVbw = SUVx x weight / x, with x from sex, height and weight by the rule that the Standard gives
for the type. Refused are `LBM` (written for at least two different rules), a sex other than M or
F where the rule asks for it, and heights and weights that no patient has.
Source: PS3.3 C.8.9.1 (SUV Type), PS3.16 Annex D (SUVbw, SUVbsa, SUVibw, SUVlbm); Du Bois 1916,
James 1976, Janmahasatian 2005.
"""

from __future__ import annotations

import math
from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import number, text
from node.imaging.suv_refusal import NoSuvError
from node.reasons import Reason

LIGHTEST_KG: Final = 2.0
HEAVIEST_KG: Final = 400.0
SHORTEST_M: Final = 0.3
TALLEST_M: Final = 2.6

LEAN: Final = frozenset({"LBMJAMES128", "LBMJANMA"})


def weight_kg(header: Dataset) -> float:
    """Return PatientWeight (0010,1030); refuse what no patient weighs."""
    found = number(header, "PatientWeight")
    if found is None:
        raise NoSuvError(Reason.SUV_WEIGHT, "PatientWeight is absent or not a number.")
    if not LIGHTEST_KG <= found <= HEAVIEST_KG:
        raise NoSuvError(
            Reason.SUV_WEIGHT,
            f"PatientWeight is {found:g} kg, outside {LIGHTEST_KG:g} to {HEAVIEST_KG:g} kg.",
        )
    return found


def to_body_weight(header: Dataset, units: str) -> float:
    """Return what turns the SUV of a GML or CM2ML image into SUVbw.

    Args:
        header: One slice.
        units: Units (0054,1001), GML or CM2ML.

    Raises:
        NoSuvError: `suv-type` or `suv-weight`.
    """
    kind = text(header, "SUVType").upper()
    if units == "CM2ML":
        if kind not in ("", "BSA"):
            raise NoSuvError(Reason.SUV_TYPE, f"Units CM2ML with SUVType {kind} is no SUV.")
        weight, height_cm = weight_kg(header), _height_m(header) * 100
        surface_cm2 = 71.84 * math.pow(weight, 0.425) * math.pow(height_cm, 0.725)
        return weight * 1000 / surface_cm2
    if kind in ("", "BW"):
        return 1.0
    if kind == "IBW":
        return weight_kg(header) / _ideal_kg(header)
    if kind in LEAN:
        return weight_kg(header) / _lean_kg(header, kind)
    raise NoSuvError(
        Reason.SUV_TYPE,
        f"SUVType {kind} is not normalised by one known rule, so body weight cannot be put back.",
    )


def _height_m(header: Dataset) -> float:
    found = number(header, "PatientSize")
    if found is None or not SHORTEST_M <= found <= TALLEST_M:
        raise NoSuvError(
            Reason.SUV_TYPE, "PatientSize is absent or no height in metres, which SUVType needs."
        )
    return found


def _is_male(header: Dataset) -> bool:
    sex = text(header, "PatientSex").upper()
    if sex not in ("M", "F"):
        raise NoSuvError(
            Reason.SUV_TYPE, "PatientSex is neither M nor F, and SUVType has a rule for each."
        )
    return sex == "M"


def _ideal_kg(header: Dataset) -> float:
    height_cm = _height_m(header) * 100
    ideal = 48.0 + 1.06 * (height_cm - 152) if _is_male(header) else 45.5 + 0.91 * (height_cm - 152)
    return _possible(ideal)


def _lean_kg(header: Dataset, kind: str) -> float:
    weight, height_m = weight_kg(header), _height_m(header)
    male = _is_male(header)
    if kind == "LBMJANMA":
        index = weight / height_m**2
        return 9270 * weight / (6680 + 216 * index if male else 8780 + 244 * index)
    squared = (weight / (height_m * 100)) ** 2
    return _possible(1.10 * weight - 128 * squared if male else 1.07 * weight - 148 * squared)


def _possible(kilograms: float) -> float:
    """Return a mass above 1 kg; the rules turn negative for bodies they were not made for."""
    if kilograms <= 1.0:
        raise NoSuvError(Reason.SUV_TYPE, "The rule of SUVType does not hold for this body.")
    return kilograms
