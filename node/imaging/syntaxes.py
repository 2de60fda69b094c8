"""Which transfer syntaxes can be read, and by what.

Only permissively licensed decoders are listed. JPEG XL, deflated frames and video (MPEG-2, MPEG-4,
HEVC) are refused by name, with what to send instead.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydicom.uid import UID


class Codec(StrEnum):
    """A family of compressed streams; one decoder each in `decode_child.py`."""

    JPEG = "jpeg"  # 8-bit baseline, 12-bit extended, lossless (ISO 10918)
    JPEG_LS = "jpeg-ls"  # ISO 14495
    JPEG_2000 = "jpeg-2000"  # ISO 15444-1
    HTJ2K = "htj2k"  # ISO 15444-15
    RLE = "rle"  # PS3.5 annex G


DEFLATED: Final = "1.2.840.10008.1.2.1.99"

NATIVE: Final = frozenset(
    {
        "1.2.840.10008.1.2",  # Implicit VR Little Endian
        "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
        "1.2.840.10008.1.2.2",  # Explicit VR Big Endian (retired)
        DEFLATED,
    }
)

COMPRESSED: Final = {
    "1.2.840.10008.1.2.4.50": Codec.JPEG,
    "1.2.840.10008.1.2.4.51": Codec.JPEG,
    "1.2.840.10008.1.2.4.57": Codec.JPEG,
    "1.2.840.10008.1.2.4.70": Codec.JPEG,
    "1.2.840.10008.1.2.4.80": Codec.JPEG_LS,
    "1.2.840.10008.1.2.4.81": Codec.JPEG_LS,
    "1.2.840.10008.1.2.4.90": Codec.JPEG_2000,
    "1.2.840.10008.1.2.4.91": Codec.JPEG_2000,
    "1.2.840.10008.1.2.4.201": Codec.HTJ2K,
    "1.2.840.10008.1.2.4.202": Codec.HTJ2K,
    "1.2.840.10008.1.2.4.203": Codec.HTJ2K,
    "1.2.840.10008.1.2.5": Codec.RLE,
}


READ: Final = "uncompressed, or as JPEG, JPEG-LS, JPEG 2000, HTJ2K or RLE"
"""The families above in words, for whoever can choose how images are sent."""


def why_unread(uid: str) -> str:
    """Return why pixels in a transfer syntax cannot be read, and what to do."""
    return (
        f"The pixels are in {syntax_name(uid)}, which is not read here: have the PACS or the "
        f"scanner send them {READ}."
    )


def syntax_name(uid: str) -> str:
    """Return the name of a transfer syntax with its UID, or the UID alone if it is unknown."""
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"
