"""Radionuclides of PET with their half-lives, and whether a header's half-life fits its nuclide.

A wrong half-life moves every SUV without a trace in the picture, so it is held against the nuclide
that the header names. Code values are known to be wrong where the meaning is right (C-131A1 is
gallium 66 in SNOMED and stands in files that mean and measure gallium 68), so a half-life has to
fit the code or the meaning; one that fits neither is refused.
Source: PS3.16 CID 4020; half-lives: NuDat 3, National Nuclear Data Center.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import items, number, text
from node.imaging.suv_refusal import NoSuvError
from node.reasons import Reason

SAME: Final = 0.01
"""Share by which a half-life may differ: published values of one nuclide differ by 0.2 %."""


@dataclass(frozen=True, slots=True)
class Nuclide:
    """A radionuclide.

    Attributes:
        symbol: Such as `F-18`.
        name: Name of the element.
        half_life_s: Half-life in seconds.
        codes: SNOMED CT code and the retired SRT code.
    """

    symbol: str
    name: str
    half_life_s: float
    codes: tuple[str, ...]

    def names(self) -> frozenset[str]:
        """Return how texts name it, letters and digits only, in lower case."""
        element, mass = self.symbol.lower().split("-")
        return frozenset(
            pair for word in (element, self.name) for pair in (word + mass, mass + word)
        )


NUCLIDES: Final = (
    Nuclide("F-18", "fluorine", 6586.2, ("77004003", "C-111A1")),
    Nuclide("C-11", "carbon", 1221.8, ("40565003", "C-105A1")),
    Nuclide("N-13", "nitrogen", 597.9, ("21576001", "C-107A1")),
    Nuclide("O-15", "oxygen", 122.24, ("129504001", "C-B1038")),
    Nuclide("Ga-68", "gallium", 4062.6, ("35337001", "C-131A3")),
    Nuclide("Ga-66", "gallium", 33_494.0, ("79477007", "C-131A1")),
    Nuclide("Rb-82", "rubidium", 75.45, ("79197006", "C-159A2")),
    Nuclide("Cu-60", "copper", 1422.0, ("425364008", "C-127A4")),
    Nuclide("Cu-61", "copper", 12_020.0, ("71425003", "C-127A1")),
    Nuclide("Cu-62", "copper", 580.3, ("422934004", "C-127A5")),
    Nuclide("Cu-64", "copper", 45_724.0, ("3932008", "C-127A2")),
    Nuclide("Sc-44", "scandium", 14_551.0, ("126600",)),
    Nuclide("Br-76", "bromine", 58_320.0, ("79523006", "C-113A2")),
    Nuclide("Y-86", "yttrium", 53_064.0, ("10738001", "C-162A3")),
    Nuclide("Y-90", "yttrium", 230_580.0, ("14691008", "C-162A7")),
    Nuclide("Zr-89", "zirconium", 282_276.0, ("63360001", "C-168A4")),
    Nuclide("I-124", "iodine", 360_806.0, ("40937006", "C-114A5")),
)


def half_life_s(item: Dataset) -> tuple[float, tuple[str, ...]]:
    """Return the half-life of an item of RadiopharmaceuticalInformationSequence, and notes.

    Raises:
        NoSuvError: `suv-half-life`: absent, or not that of the nuclide. An absent one is not
            filled in from the nuclide: a header that lost it may have lost more.
    """
    coded, meant = _named(item)
    named = [nuclide for nuclide in (coded, meant) if nuclide is not None]
    written = number(item, "RadionuclideHalfLife")
    if written is None or written <= 0:
        raise NoSuvError(Reason.SUV_HALF_LIFE, "RadionuclideHalfLife is absent or not above 0.")
    fitting = [nuclide for nuclide in NUCLIDES if _fits(written, nuclide)]
    if named and not any(_fits(written, nuclide) for nuclide in named):
        expected = " or ".join(
            f"{nuclide.half_life_s:g} s ({nuclide.symbol})" for nuclide in dict.fromkeys(named)
        )
        raise NoSuvError(
            Reason.SUV_HALF_LIFE,
            f"RadionuclideHalfLife is {written:g} s, the named nuclide has {expected}.",
        )
    if not named and not fitting:
        raise NoSuvError(
            Reason.SUV_HALF_LIFE,
            f"RadionuclideHalfLife is {written:g} s, which no nuclide of PET has, and none is "
            f"named.",
        )
    if coded is not None and meant is not None and coded is not meant:
        note = (
            f"The nuclide's code says {coded.symbol}, its meaning {meant.symbol}; the half-life "
            f"of {written:g} s is that of {fitting[0].symbol}."
        )
        return written, (note,)
    return written, ()


def _fits(seconds: float, nuclide: Nuclide) -> bool:
    return abs(seconds / nuclide.half_life_s - 1) <= SAME


def _named(item: Dataset) -> tuple[Nuclide | None, Nuclide | None]:
    """Return the nuclide by code and by meaning, None where it is none of the table."""
    coded = meant = None
    for code in items(item, "RadionuclideCodeSequence")[:1]:
        value = text(code, "CodeValue")
        meaning = re.sub(r"[^0-9a-z]", "", text(code, "CodeMeaning").lower())
        coded = next((nuclide for nuclide in NUCLIDES if value in nuclide.codes), None)
        meant = next((nuclide for nuclide in NUCLIDES if meaning in nuclide.names()), None)
    return coded, meant
