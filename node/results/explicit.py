"""Explicit VR little endian, written element by element, so that copied bytes stay as they were.

pydicom decodes text and encodes it again when it writes: trailing blanks go, and a name in a
damaged or unusual character set changes. What must not change (identity, the sender's equipment)
is therefore copied here as bytes, and what is repeated thousands of times (one item per frame)
is put together here without a dataset for each. Lengths are always explicit and values always
even, so equal content gives equal bytes. Source: PS3.5 7.1.2, 7.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

_LONG_FORM: Final = frozenset(
    {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
)
"""VRs with two reserved bytes and a 32-bit length (PS3.5 7.1.2)."""

_NUL_PADDED: Final = frozenset({"OB", "UI", "UN"})

_TEXT: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT"}
    | {"PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
"""VRs whose bytes do not depend on the byte order of the file they lie in."""

_ITEM: Final = b"\xfe\xff\x00\xe0"


def element(tag: int, vr: str, value: bytes) -> bytes:
    """Return one element with a value of even length.

    Args:
        tag: Group and element as one number, such as 0x00100010.
        vr: Value Representation.
        value: The value's bytes; an odd length is padded with a blank, or NUL where the VR
            asks for it.

    Raises:
        ValueError: The value does not fit the VR's 16-bit length.
    """
    if len(value) % 2:
        value += b"\0" if vr in _NUL_PADDED else b" "
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode("ascii")
    if vr in _LONG_FORM:
        return head + struct.pack("<HI", 0, len(value)) + value
    if len(value) > 0xFFFF:
        raise ValueError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {vr} of {len(value)} bytes")
    return head + struct.pack("<H", len(value)) + value


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """Return a sequence element; each item is its elements, sorted by tag, as bytes."""
    return element(
        tag, "SQ", b"".join(_ITEM + struct.pack("<I", len(item)) + item for item in items)
    )


def written(given: DataElement) -> bytes:
    """Return an element as pydicom writes it, for elements that are made here."""
    stream = DicomBytesIO()
    stream.is_little_endian = True
    stream.is_implicit_VR = False
    write_data_element(stream, given)
    return stream.getvalue()


def copied(source: Dataset, tag: int) -> bytes:
    """Return an element of a dataset that was read and not yet touched, its value byte for byte.

    Args:
        source: A dataset from `pydicom.dcmread`; its own encoding and byte order are followed.
        tag: An element that it holds.

    Returns:
        The element in explicit VR little endian. Text keeps its bytes, sequences are copied
        item by item, private elements inside them are left out; binary numbers are rewritten
        in little endian order.
    """
    held = source.get_item(tag)
    vr = str(held.VR or "UN")
    if vr == "UN" and dictionary_has_tag(tag):
        vr = dictionary_VR(tag)
    if vr == "SQ":
        return sequence(tag, (_copied_item(item) for item in source[tag].value or ()))
    if held.is_raw and vr in _TEXT:
        return element(tag, vr, held.value or b"")
    return written(source[tag])


def _copied_item(item: Dataset) -> bytes:
    return b"".join(copied(item, tag) for tag in sorted(item.keys()) if not tag.is_private)
