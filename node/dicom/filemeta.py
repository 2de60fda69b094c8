"""The preamble and file meta information that turn a received data set into a PS3.10 file.

Written as bytes by us, never taken from a peer: a preamble of zeros (a peer's preamble can make
the file an executable of another kind, CVE-2019-11687) and the syntax that was negotiated.

Source: DICOM PS3.10 section 7.1, PS3.5 section 7.1.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from node.dicom.walk import cut_short, refuse

IMPLEMENTATION_CLASS_UID: Final = "2.25.88589623244343850274632124716294994028"
"""Ours: `2.25.` and the number of a UUID that was drawn once for this project."""

IMPLEMENTATION_VERSION: Final = "LIMNER_01"

PREFIX: Final = bytes(128) + b"DICM"
_SOURCE_AE: Final = 0x0016
_LONG_VRS: Final = frozenset({b"OB", b"OW", b"UN", b"SQ", b"UT"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMeta:
    """What the file meta information of one of our files says.

    Attributes:
        source_ae: Calling AE title of the sender, as (0002,0016).
    """

    sop_class: str
    sop_uid: str
    transfer_syntax: str
    source_ae: str


def encode_file_meta(meta: FileMeta) -> bytes:
    """Return preamble, prefix and group 0002 for a data set; the same facts give the same bytes."""
    before, after = _around(meta.sop_class, meta.transfer_syntax, meta.source_ae)
    group = before + _element(0x0003, b"UI", meta.sop_uid.encode("ascii")) + after
    return PREFIX + _element(0x0000, b"UL", struct.pack("<I", len(group))) + group


@lru_cache(maxsize=256)
def _around(sop_class: str, transfer_syntax: str, source_ae: str) -> tuple[bytes, bytes]:
    """Return what stands before and after (0002,0003); the instances of a series share it."""
    before = (
        _element(0x0001, b"OB", b"\0\x01"),
        _element(0x0002, b"UI", sop_class.encode("ascii")),
    )
    after = (
        _element(0x0010, b"UI", transfer_syntax.encode("ascii")),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")),
        _element(_SOURCE_AE, b"AE", source_ae.encode("ascii", errors="replace")),
    )
    return b"".join(before), b"".join(after)


def read_file_meta(data: bytes | memoryview) -> tuple[FileMeta, int]:
    """Return the meta information at the start of a PS3.10 file, and the data set's offset.

    Group 0002 ends where another group starts; its length element is not believed, because real
    writers get it wrong.

    Raises:
        HeaderError: The prefix is absent or an element is cut short.
    """
    view = memoryview(data)
    if bytes(view[128:132]) != b"DICM":
        raise refuse("not-dicom", "The prefix 'DICM' is absent at byte 128.", at=0)
    values: dict[int, str] = {}
    at = len(PREFIX)
    while bytes(view[at : at + 2]) == b"\x02\x00":
        try:
            number, vr = struct.unpack_from("<H2s", view, at + 2)
            is_long = vr in _LONG_VRS
            form, length_at = ("<I", at + 8) if is_long else ("<H", at + 6)
            (length,) = struct.unpack_from(form, view, length_at)
        except struct.error:
            raise cut_short("A meta element is incomplete.", at=at) from None
        start = at + (12 if is_long else 8)
        at = start + length
        if at > len(view):
            raise cut_short(f"(0002,{number:04X}) reaches past the end.", at=start)
        values[number] = bytes(view[start:at]).rstrip(b"\0 ").decode("ascii", errors="replace")
    meta = FileMeta(
        sop_class=values.get(0x0002, ""),
        sop_uid=values.get(0x0003, ""),
        transfer_syntax=values.get(0x0010, ""),
        source_ae=values.get(_SOURCE_AE, ""),
    )
    return meta, at


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b" " if vr in (b"AE", b"SH") else b"\0"
    length = (
        b"\0\0" + struct.pack("<I", len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    )
    return struct.pack("<HH", 0x0002, number) + vr + length + value
