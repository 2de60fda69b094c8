"""Values out of a received dataset, without trust: absent, empty and malformed look the same.

pydicom converts an element when it is first asked for, and raises on nonsense (`DS` "abc", a
`US` of three bytes, a NumberOfFrames of "1A"). Geometry code wants a number or nothing; these
functions give that. What a missing value means is decided by whoever asks.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, Tag

DAMAGE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom was seen to raise on damaged bytes; anything else is a bug and flies."""


_PLAIN_VRS: Final = frozenset(
    ("AE", "AS", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "SL", "SS", "TM", "UI", "UL", "US")
)
"""VRs without the character set and without sequences: the bytes alone are the value."""

_REMEMBERED_BYTES: Final = 256


@contextmanager
def tolerated() -> Iterator[None]:
    """Silence what pydicom warns and logs about odd values.

    What is wrong is said by our own reasons; pydicom's messages quote values, which may be those
    of a patient.
    """
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


@cache
def _tag(keyword: str) -> BaseTag:
    found = tag_for_keyword(keyword)
    if found is None:
        raise LookupError(f"{keyword} is no DICOM keyword")
    return Tag(found)


def values(dataset: Dataset, keyword: str) -> tuple[object, ...]:
    """Return the values of an element, an empty tuple if it is absent, empty or malformed."""
    tag = _tag(keyword)
    # By tag: a look-up by keyword costs pydicom ten times as much when the element is absent.
    if tag not in dataset:
        return ()
    try:
        element: object = dataset.get_item(tag)  # pydicom types it as a converted one
        if isinstance(element, RawDataElement) and element.VR in _PLAIN_VRS:
            data = element.value
            if data is not None and len(data) <= _REMEMBERED_BYTES:
                return _plain_values(tag, element.VR, data, element.is_little_endian)
        return _as_tuple(dataset[tag].value)
    except DAMAGE:
        return ()


@lru_cache(maxsize=4096)
def _plain_values(tag: BaseTag, vr: str, data: bytes, little: bool) -> tuple[object, ...]:  # noqa: FBT001
    """Convert an explicit element whose value depends on its bytes alone.

    The slices of a series say the same thing again and again; pydicom takes ten times as long to
    convert it as to look it up.
    """
    raw = RawDataElement(tag, vr, len(data), data, 0, is_implicit_VR=False, is_little_endian=little)
    return _as_tuple(convert_raw_data_element(raw).value)


def _as_tuple(value: object) -> tuple[object, ...]:
    if value is None or isinstance(value, Items) or value == "":
        return ()
    if isinstance(value, MultiValue | list | tuple):
        return tuple(value)
    return (value,)


def is_given(dataset: Dataset, keyword: str) -> bool:
    """Say whether an element has a value, be it malformed."""
    tag = _tag(keyword)
    if tag not in dataset:
        return False
    element: object = dataset.get_item(tag)  # not converted yet, if it was read
    if isinstance(element, RawDataElement):
        return bool((element.value or b"").strip(b" \0"))
    return values(dataset, keyword) != ()


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as stripped texts."""
    return tuple(str(value).strip(" \0") for value in values(dataset, keyword))


def text(dataset: Dataset, keyword: str) -> str:
    """Return the first value of an element as a stripped text, or an empty one."""
    found = texts(dataset, keyword)
    return found[0] if found else ""


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return exactly `count` finite numbers, or an empty tuple."""
    found = values(dataset, keyword)
    if len(found) != count:
        return ()
    try:
        converted = tuple(
            float(value) if isinstance(value, int | float) else float(str(value)) for value in found
        )
    except (ValueError, OverflowError):
        return ()
    return converted if all(math.isfinite(value) for value in converted) else ()


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return one finite number, or None."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return one whole number, or None."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found == int(found) else None


def items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Return the items of a sequence, none if it is absent or malformed."""
    tag = _tag(keyword)
    if tag not in dataset:
        return ()
    try:
        value = dataset[tag].value
    except DAMAGE:
        return ()
    return tuple(value) if isinstance(value, Items) else ()


def decimals(dataset: Dataset, keyword: str) -> int:
    """Return how many digits after the point the most precise value of a DS element shows."""
    most = 0
    for value in texts(dataset, keyword):
        try:
            exponent = Decimal(value).as_tuple().exponent
        except InvalidOperation:
            continue
        if isinstance(exponent, int):
            most = max(most, -exponent)
    return most
