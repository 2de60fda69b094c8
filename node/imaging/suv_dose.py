"""The administered dose in Bq, whatever unit a header meant.

RadionuclideTotalDose is in Bq in a PET Image and in MBq in an Enhanced PET Image (PS3.3
C.8.9.2, C.8.22.4), and some classic files hold MBq as well. A value is read in another unit only
if that is the one reading of all that a person may have been given: 368 in a classic image is
368 MBq, because 368 Bq and 368 kBq show nothing and 368 mCi or GBq are more than anyone gets.
20 could be MBq or mCi, so it is refused.
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import number
from node.imaging.suv_refusal import NoSuvError
from node.reasons import Reason

LEAST_BQ: Final = 1e6
MOST_BQ: Final = 1e10
"""Believed as written: 1 MBq in a small child to 10 GBq of yttrium 90."""

MOST_OTHER_BQ: Final = 2.3e9
"""Believed of another reading: 60 mCi of rubidium 82, the most that is given for imaging."""

_READINGS: Final = {"Bq": 1.0, "kBq": 1e3, "MBq": 1e6, "mCi": 3.7e7, "GBq": 1e9}


def dose_bq(item: Dataset, *, enhanced: bool) -> tuple[float, tuple[str, ...]]:
    """Return the dose of an item of RadiopharmaceuticalInformationSequence in Bq, and notes.

    Args:
        item: The item.
        enhanced: Whether it is of an Enhanced PET Image, whose unit is MBq.

    Raises:
        NoSuvError: `suv-dose`: absent, or no dose that is given for imaging.
    """
    written = number(item, "RadionuclideTotalDose")
    if written is None or written <= 0:
        raise NoSuvError(Reason.SUV_DOSE, "RadionuclideTotalDose is absent or not above 0.")
    standard = 1e6 if enhanced else 1.0
    if LEAST_BQ <= written * standard <= MOST_BQ:
        return written * standard, ()
    possible = [
        unit for unit, size in _READINGS.items() if LEAST_BQ <= written * size <= MOST_OTHER_BQ
    ]
    other = "Bq" if enhanced else "MBq"
    if possible == [other]:
        return written * _READINGS[other], (
            f"RadionuclideTotalDose {written:g} is a dose in {other} only, and was read so.",
        )
    guess = f"; it may be in {' or '.join(possible)}" if possible else ""
    raise NoSuvError(
        Reason.SUV_DOSE,
        f"RadionuclideTotalDose {written:g} is no dose in {'MBq' if enhanced else 'Bq'} that is "
        f"given for imaging{guess}. Correct the header.",
    )
