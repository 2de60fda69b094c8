"""A PS3.10 file of our own: preamble, file meta group with names of our own, elements, pixels.

One function for the writer, which puts it before the dataset, and the gate, which compares it;
everything in it follows from the SOP class, the UID and the transfer syntax.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from pydicom.uid import ExplicitVRLittleEndian

from node.results.explicit import element
from node.results.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    content_uid,
)

_SOP_INSTANCE_UID: Final = 0x00080018
_LONGEST_PIXELS: Final = 0xFFFFFFFE
"""Native pixel data has a 32-bit length of even value (PS3.5 7.1.2)."""


def file_head(sop_class: str, sop_uid: str, transfer_syntax: str) -> bytes:
    """Return preamble and file meta group of an object (PS3.10 7.1)."""
    meta = (
        element(0x00020001, "OB", b"\x00\x01")
        + element(0x00020002, "UI", sop_class.encode())
        + element(0x00020003, "UI", sop_uid.encode())
        + element(0x00020010, "UI", transfer_syntax.encode())
        + element(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode())
        + element(0x00020013, "SH", IMPLEMENTATION_VERSION_NAME.encode())
    )
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta


def object_file(
    elements: Mapping[int, bytes], sop_class: str, pixels: Sequence[bytes] | None = None
) -> tuple[bytes, str]:
    """Return a PS3.10 file and its SOP Instance UID, which follows from all other bytes.

    Args:
        elements: Everything but SOP Instance UID and Pixel Data, which comes last.
        sop_class: SOP Class UID.
        pixels: Pixel Data in pieces, None for an object without; a large one is put together
            once.
    """
    before = [elements[tag] for tag in sorted(elements) if tag < _SOP_INSTANCE_UID]
    behind = [elements[tag] for tag in sorted(elements) if tag > _SOP_INSTANCE_UID]
    if pixels is not None:
        length = sum(map(len, pixels))
        if length > _LONGEST_PIXELS:
            raise ValueError(f"{length} bytes of pixels do not fit one object")
        behind.append(b"\xe0\x7f\x10\x00OB" + struct.pack("<HI", 0, length + length % 2))
        behind.extend(pixels)
        behind.append(b"\0" * (length % 2))
    digest = hashlib.sha256()
    for piece in (*before, *behind):
        digest.update(piece)
    sop_uid = content_uid(digest.hexdigest())
    head = file_head(sop_class, sop_uid, ExplicitVRLittleEndian)
    own = element(_SOP_INSTANCE_UID, "UI", sop_uid.encode())
    return b"".join([head, *before, own, *behind]), sop_uid
