"""In what two data sets with one SOP Instance UID differ: a pure comparison of their elements.

Only used when a UID arrives again with other bytes, so it may be slow; it is bounded like every
walk. A comparison in doubt says `header`, which a person looks at.

Source: DICOM PS3.5 sections 7.5 (two forms of a sequence) and A.4 (pixel data); design 10.15.
"""

from __future__ import annotations

from typing import Final

import xxhash

from node.dicom.values import DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE
from node.dicom.walk import (
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    PIXELS,
    SEQUENCE_END,
    UNDEFINED,
    Encoding,
    HeaderError,
    Reader,
    refuse,
)
from storage.instances import Difference

Tree = tuple[tuple[int, "bytes | Tree"], ...]

_PACKING: Final = frozenset({0x00280004, 0x00280006})
"""PhotometricInterpretation and PlanarConfiguration: another encoding may change them lawfully."""

_LONG_BYTES: Final = 65_536
"""A longer value is compared by its checksum: it would only be copied to be thrown away."""

_ITEM_BYTES: Final = b"\xfe\xff\x00\xe0"


def find_difference(
    first: bytes | memoryview, first_syntax: str, second: bytes | memoryview, second_syntax: str
) -> Difference:
    """Return what differs between two data sets whose bytes are not equal."""
    same_syntax = first_syntax == second_syntax
    if not {first_syntax, second_syntax}.isdisjoint({DEFLATED, EXPLICIT_BIG}):
        return Difference.HEADER
    try:
        one, one_pixels = _tree(memoryview(first), first_syntax)
        two, two_pixels = _tree(memoryview(second), second_syntax)
    except HeaderError:
        return Difference.HEADER
    if not same_syntax:
        one = tuple(element for element in one if element[0] not in _PACKING)
        two = tuple(element for element in two if element[0] not in _PACKING)
    if one != two:
        return Difference.HEADER
    if same_syntax and first[one_pixels:] != second[two_pixels:]:
        return Difference.PIXELS
    return Difference.ENCODING


def _tree(data: memoryview, syntax: str) -> tuple[Tree, int]:
    """Return all elements before the pixel data, and the offset where those start."""
    reader = Reader(data, Encoding(explicit=syntax != IMPLICIT_LITTLE, little=True))
    return _elements(reader, data, 0, len(data), depth=0)


def _elements(
    reader: Reader, data: memoryview, at: int, end: int, *, depth: int
) -> tuple[Tree, int]:
    """Return the elements from `at` to `end` or to an item delimiter, and the offset after them."""
    if depth > MAX_DEPTH:
        raise refuse("header-too-deep", f"Sequences nest deeper than {MAX_DEPTH}.", at=at)
    found: list[tuple[int, bytes | Tree]] = []
    while at < end and (depth or end - at >= 8):
        tag, start, length, is_un = reader.count(at)
        if tag == ITEM_END:
            return tuple(found), start
        if not depth and tag >= PIXELS:
            break
        if is_un and length == UNDEFINED:
            raise refuse("header-unknown", "A sequence of unknown form is not compared.", at=at)
        stop = len(data) if length == UNDEFINED else start + length
        if length == UNDEFINED or bytes(data[start : start + 4]) == _ITEM_BYTES:
            items, at = _items(reader, data, start, stop, depth=depth + 1)
            found.append((tag, items or b""))
        else:
            at = stop
            # Group lengths depend on the encoding; padding is no content.
            if tag & 0xFFFF:
                found.append((tag, _content(data[start:stop])))
    return tuple(found), at


def _content(value: memoryview) -> bytes:
    """Return a value without its padding, or what stands for it if it is long."""
    if len(value) <= _LONG_BYTES:
        return bytes(value).rstrip(b"\0 ")
    last = bytes(value[-1:])
    return xxhash.xxh3_128_digest(value[:-1] if last in b"\0 " else value)


def _items(reader: Reader, data: memoryview, at: int, end: int, *, depth: int) -> tuple[Tree, int]:
    found: list[tuple[int, bytes | Tree]] = []
    while at < end:
        tag, start, length, _ = reader.count(at)
        if tag == SEQUENCE_END:
            return tuple(found), start
        if tag != ITEM:
            raise refuse("header-bad-item", "Something stands for an item.", at=at)
        stop = len(data) if length == UNDEFINED else start + length
        inside, at = _elements(reader, data, start, stop, depth=depth)
        found.append((ITEM, inside))
    return tuple(found), at
