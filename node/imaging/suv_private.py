"""Private elements that SUV needs: Philips' scale factors and GE's scan date-time.

A private element is looked up by its creator, because its block may lie anywhere. Anonymisers and
converters drop creators; then the fixed element is taken only if the group holds no creator at
all and manufacturer, VR and value all fit, and a note says so. Source: PS3.5 7.8; the vendors'
conformance statements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from node.imaging.attributes import DAMAGE, text


@dataclass(frozen=True, slots=True)
class PrivateBlock:
    """Where a vendor keeps its elements.

    Attributes:
        group: Group number, odd.
        creator: Private creator of the block.
        usual: Block number that the vendor uses, for files without creators.
        makers: How a fitting Manufacturer begins, in capitals.
        vrs: VRs that fit where there is no creator.
    """

    group: int
    creator: str
    usual: int
    makers: tuple[str, ...]
    vrs: frozenset[str]


PHILIPS: Final = PrivateBlock(
    0x7053, "Philips PET Private Group", 0x10, ("PHILIPS",), frozenset({"DS", "UN", "LO", "FD"})
)
GE: Final = PrivateBlock(
    0x0009, "GEMS_PETD_01", 0x10, ("GE ", "GEMS", "GENERAL ELECTRIC"), frozenset({"DT", "UN", "LO"})
)

SUV_FACTOR: Final = 0x00
"""Philips: rescaled value x factor = SUVbw."""
ACTIVITY_FACTOR: Final = 0x09
"""Philips: rescaled value x factor = Bq/ml."""
SCAN_DATETIME: Final = 0x0D
"""GE: date and time to which the scan is decay corrected."""

_LARGEST_FACTOR: Final = 1e6


@dataclass(frozen=True, slots=True)
class PrivateText:
    """The text of a private element.

    Attributes:
        value: Stripped.
        by_creator: False if it was taken from the fixed element.
    """

    value: str
    by_creator: bool


def private_text(header: Dataset, block: PrivateBlock, element: int) -> PrivateText | None:
    """Return a private element as text, or None if it is absent or cannot be trusted."""
    creators = {
        number: text_of(header, block.group, number)
        for number in range(0x10, 0x100)
        if (block.group, number) in header
    }
    for number, creator in creators.items():
        if creator == block.creator:
            value = text_of(header, block.group, number << 8 | element)
            if value:
                return PrivateText(value, by_creator=True)
    if creators:
        return None
    tag = (block.group, block.usual << 8 | element)
    value = text_of(header, *tag)
    maker = text(header, "Manufacturer").upper()
    if not value or not maker.startswith(block.makers) or header[tag].VR not in block.vrs:
        return None
    return PrivateText(value, by_creator=False)


def private_factor(header: Dataset, element: int) -> tuple[float, bool] | None:
    """Return a Philips factor above 0 and whether its creator is there, or None."""
    found = private_text(header, PHILIPS, element)
    if found is None:
        return None
    try:
        factor = float(found.value)
    except ValueError:
        return None
    if not math.isfinite(factor) or not 0 < factor <= _LARGEST_FACTOR:
        return None
    return factor, found.by_creator


def text_of(header: Dataset, group: int, element: int) -> str:
    """Return an element as stripped text; a value of unknown VR comes as bytes."""
    if (group, element) not in header:
        return ""
    try:
        return _as_text(header[group, element])
    except DAMAGE:
        return ""


def _as_text(element: DataElement) -> str:
    value = element.value
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return "" if value is None else str(value).strip(" \0")
