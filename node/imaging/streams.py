"""Look at a compressed frame before any decoder does: size, precision, end.

Decoders return a picture for most damaged streams, and some need seconds to fail on a cut one.
The first bytes of a stream say what it is, the last ones whether it is whole; both are compared
with the header here, in plain Python, without following anything the stream claims.
Source: ISO 10918-1 B.2, ISO 14495-1 C, ISO 15444-1 A.5, PS3.5 G.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from node.imaging.pixel_format import PixelFormat
from node.imaging.syntaxes import Codec
from node.reasons import Reason

_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_LS_FRAME: Final = 0xF7
_ALONE: Final = frozenset(range(0xD0, 0xD8)) | {0x01}
"""Markers without a length."""

_LONGEST_HEAD_BYTES: Final = 1 << 16
"""How far into a stream its size may stand: one application segment of the largest length."""


@dataclass(frozen=True, slots=True)
class StreamSize:
    """What the head of a stream says of its picture."""

    rows: int
    columns: int
    components: int
    precision: int


def check_stream(codec: Codec, data: bytes, form: PixelFormat) -> tuple[Reason, str] | None:
    """Return why a compressed frame must not be decoded, or None."""
    if codec is Codec.RLE:
        return _check_rle(data, form)
    size = _size(codec, data)
    if size is None:
        return Reason.DECODE_MISMATCH, f"the stream does not start as {codec} does"
    if (size.rows, size.columns, size.components) != (form.rows, form.columns, form.samples):
        return (
            Reason.DECODE_MISMATCH,
            f"the stream has {size.rows} x {size.columns} x {size.components}, the header "
            f"{form.rows} x {form.columns} x {form.samples}",
        )
    if not form.bits_stored <= size.precision <= form.bits_allocated:
        return (
            Reason.DECODE_MISMATCH,
            f"the stream has {size.precision} bits, the header {form.bits_stored} of "
            f"{form.bits_allocated}",
        )
    if not data.endswith(b"\xff\xd9") and not data[:-1].endswith(b"\xff\xd9"):  # one pad byte
        return Reason.TRUNCATED_FRAME, "the stream has no end marker"
    return None


def starts_frame(codec: Codec, data: bytes) -> bool:
    """Return whether a fragment begins a frame; RLE frames are one fragment each."""
    if codec in (Codec.JPEG_2000, Codec.HTJ2K):
        return data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "))
    return codec is Codec.RLE or data.startswith(b"\xff\xd8")


def _size(codec: Codec, data: bytes) -> StreamSize | None:
    if codec in (Codec.JPEG_2000, Codec.HTJ2K):
        return _size_of_codestream(data)
    return _size_of_jpeg(data, lossless_ls=codec is Codec.JPEG_LS)


def _size_of_jpeg(data: bytes, *, lossless_ls: bool) -> StreamSize | None:
    """Walk the markers up to the frame header."""
    if not data.startswith(b"\xff\xd8"):
        return None
    wanted = frozenset({_JPEG_LS_FRAME}) if lossless_ls else _START_OF_FRAME
    at = 2
    while at + 10 <= min(len(data), _LONGEST_HEAD_BYTES) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in wanted:
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, at + 4)
            return StreamSize(rows, columns, components, precision)
        else:
            at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return None


def _size_of_codestream(data: bytes) -> StreamSize | None:
    """Read the SIZ segment; a JP2 box may stand around the codestream."""
    at = data.find(b"\xff\x4f\xff\x51", 0, _LONGEST_HEAD_BYTES)
    if at < 0 or (at > 0 and data[4:8] != b"jP  ") or len(data) < at + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    components = int(struct.unpack_from(">H", data, at + 40)[0])
    return StreamSize(bottom - top, right - left, components, (data[at + 42] & 0x7F) + 1)


def _check_rle(data: bytes, form: PixelFormat) -> tuple[Reason, str] | None:
    """Check the 64-byte head: one segment per byte of a cell, offsets that rise."""
    if len(data) < 64:
        return Reason.TRUNCATED_FRAME, "the RLE head is cut short"
    count, *offsets = struct.unpack_from("<16I", data)
    if count != form.samples * form.bits_allocated // 8:
        return (
            Reason.DECODE_MISMATCH,
            f"{count} RLE segments for {form.samples} x {form.bits_allocated} bits",
        )
    used = offsets[:count]
    if used[0] != 64 or used != sorted(set(used)):
        return Reason.DECODE_MISMATCH, "the RLE segment offsets do not rise"
    if used[-1] >= len(data):
        return Reason.TRUNCATED_FRAME, "the last RLE segment lies behind the end"
    return None
