"""The head of a PS3.10 file: preamble and file meta group, with names of our own.

One function for the writer, which puts it before the dataset, and the gate, which compares it;
everything in it follows from the SOP class, the UID and the transfer syntax.
"""

from __future__ import annotations

import struct

from node.results.explicit import element
from node.results.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


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
