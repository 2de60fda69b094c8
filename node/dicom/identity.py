"""Whose instance it is: what the receiver must know before it answers, read as fast as can be.

Everything that says whose instance it is stands at or before the Series Instance UID (0020,000E),
if the tags ascend as PS3.5 7.1 wants. So in a usual header the walk ends there, a third of the way;
what routes ask of a series is read later, once for each series, by whoever makes its row. Whatever
is not usual (tags that do not ascend, an element without a known VR, bytes that end, values that
are too long) is left to the general walk of `values`, from the start.

Source: DICOM PS3.5 section 7.1.
"""

from __future__ import annotations

import struct
from typing import Final

from node.dicom.values import (
    DEFLATED,
    EXPLICIT_BIG,
    IDENTITY,
    IMPLICIT_LITTLE,
    MAX_VALUE_BYTES,
    MODALITY,
    SERIES_UID,
    STUDY_DATE,
    STUDY_DESCRIPTION,
    Values,
    checked,
    read_values,
)
from node.dicom.walk import DELIMITERS, MAX_ELEMENTS, SHORT_VRS, UNDEFINED

_KEPT: Final = frozenset(IDENTITY) | {STUDY_DATE, MODALITY, STUDY_DESCRIPTION}

_Bytes = bytes | bytearray | memoryview
_OTHERWISE_ENCODED: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED})
_PLAIN_HEADER: Final = struct.Struct("<HH2sHI").unpack_from  # both forms of length
_ITEM_HEADER: Final = struct.Struct("<HHI").unpack_from
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_ITEM: Final = 0xE000
_ITEM_END: Final = 0xE00D
_SEQUENCE_END: Final = 0xE0DD
_PLAIN_DEPTH: Final = 4
_PLAIN_ITEMS: Final = 4096


def read_identity(dataset: _Bytes, transfer_syntax: str, *, whole: bool = True) -> Values:
    """Return the values that say whose instance it is; arguments and errors as `read_values`.

    What comes behind them in a usual header is not looked at.
    """
    if transfer_syntax not in _OTHERWISE_ENCODED:
        by_tag = _plain_identity(dataset)
        if by_tag is not None:
            return checked(Values(by_tag, little=True, in_order=True))
    values = read_values(dataset, transfer_syntax, whole=whole)
    kept = {tag: value for tag, value in values.by_tag.items() if tag in _KEPT}
    return values._replace(by_tag=kept)


def _plain_identity(data: _Bytes) -> dict[int, bytes] | None:  # noqa: C901  written out for speed
    """Return the values of a usual explicit little endian header; None if it is not usual."""
    by_tag: dict[int, bytes] = {}
    at = last = 0
    unpack, short, wanted = _PLAIN_HEADER, SHORT_VRS, _KEPT
    limit = len(data) - 12
    for _ in range(MAX_ELEMENTS):
        if at > limit:
            return None
        group, number, vr, length, long_length = unpack(data, at)
        tag = group << 16 | number
        if tag <= last or tag > SERIES_UID:
            return None
        last = tag
        if vr in short:
            start = at + 8
        elif vr in _LONG_VRS:
            start, length = at + 12, long_length
        else:
            return None
        if length == UNDEFINED:
            at = _after_sequence(data, start, limit, _PLAIN_DEPTH) if vr == b"SQ" else 0
            if not at:
                return None
            continue
        at = start + length
        if tag in wanted:
            if length > MAX_VALUE_BYTES:
                return None
            by_tag[tag] = bytes(data[start:at])
            if tag == SERIES_UID:
                return by_tag if at <= len(data) else None
    return None


def _after_sequence(data: _Bytes, at: int, limit: int, depth: int) -> int:
    """Return the offset after a plain sequence of undefined length; 0 if it is not plain."""
    if not depth:
        return 0
    for _ in range(_PLAIN_ITEMS):
        if at > limit:
            return 0
        group, number, length = _ITEM_HEADER(data, at)
        at += 8
        if group != DELIMITERS:
            return 0
        if number == _SEQUENCE_END:
            return at
        if number != _ITEM:
            return 0
        at = _after_item(data, at, limit, depth) if length == UNDEFINED else at + length
        if not at:
            return 0
    return 0


def _after_item(data: _Bytes, at: int, limit: int, depth: int) -> int:
    """Return the offset after a plain item of undefined length; 0 if it is not plain."""
    unpack, short = _PLAIN_HEADER, SHORT_VRS
    for _ in range(_PLAIN_ITEMS):
        if at > limit:
            return 0
        group, number, vr, length, long_length = unpack(data, at)
        if group == DELIMITERS:
            return at + 8 if number == _ITEM_END else 0
        if vr in short:
            at += 8 + length
        elif vr in _LONG_VRS:
            at += 12
            if long_length != UNDEFINED:
                at += long_length
            elif vr == b"SQ":
                at = _after_sequence(data, at, limit, depth - 1)
                if not at:
                    return 0
            else:
                return 0
        else:
            return 0
    return 0
