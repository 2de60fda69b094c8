"""A bounded walk over the top-level elements of a data set; no length in it is believed.

Pure: bytes in, element positions out. Explicit and implicit VR, little and big endian. Sequences
are stepped over, never built. Every loop moves forward by at least 8 bytes, so the walk ends; the
limits below end it early. It stops before the pixel data, so it costs the same for 200 KB and
200 MB.

Source: DICOM PS3.5 sections 7.1 (elements) and 7.5 (sequences).
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

from node.errors import Fault, PeerError

MAX_ELEMENTS: Final = 8192
"""Top-level elements. Real headers have 30 to 400; private-heavy ones some 1 500."""

MAX_NESTED: Final = 500_000
"""Elements inside sequences of undefined length; an enhanced object of 2 000 frames has some
400 000. At about 2 us each this bounds the time a hostile header can take to a second."""

MAX_DEPTH: Final = 16
"""Sequences in sequences. The deepest real ones (SR content trees) reach 10."""

MAX_HEADER_BYTES: Final = 64 * 1024 * 1024
"""Everything before the pixel data."""

PIXELS: Final = 0x7FE00008
"""The first element of the pixel data group that the walk does not enter (PS3.3 C.7.6.3)."""

_PIXEL_GROUP: Final = PIXELS >> 16
_PLAIN_HEADER: Final = struct.Struct("<HH2sH").unpack_from

CUT_SHORT: Final = "header-cut-short"
UNDEFINED: Final = 0xFFFFFFFF
DELIMITERS: Final = 0xFFFE
"""The group of items and of what ends them."""

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD

SHORT_VRS: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN"}
    | {b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US", b"  "}
)
"""VRs with a 16-bit length; every other one, also those yet to be defined, has 32 bits
(PS3.5 7.1.2)."""


class HeaderError(PeerError):
    """A data set cannot be read, or lacks what the node needs to know of it."""


Element = tuple[int, int, int]
"""Where one top-level element's value lies: (tag, offset of the value, length). The tag has the
group in its upper 16 bits; the length is `UNDEFINED` for a sequence that ends with a delimiter."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written: with or without VR, and in which byte order."""

    explicit: bool
    little: bool


def refuse(code: str, what: str, *, at: int) -> HeaderError:
    """Return the error for a data set that stops making sense at byte `at`."""
    return HeaderError(
        Fault(
            code=code,
            what=what,
            where=f"byte {at} of the data set",
            remedy="The instance is not kept; check how the sender writes its objects.",
        )
    )


def cut_short(what: str, *, at: int) -> HeaderError:
    """Return the error for bytes that end before what they promise."""
    return refuse(CUT_SHORT, what, at=at)


def walk(data: memoryview, encoding: Encoding, *, whole: bool = True) -> Iterator[Element]:
    """Yield the top-level elements before the pixel data.

    Args:
        data: The data set.
        encoding: Its encoding.
        whole: Whether `data` is the whole data set. If it is only its beginning, and that ends
            before the pixel data, the walk ends with the error `CUT_SHORT`.

    Raises:
        HeaderError: A length reaches past the end, or a limit is exceeded.
    """
    reader = Reader(data, encoding)
    plain = encoding.explicit and encoding.little
    at, size = 0, len(data)
    count = iter(range(MAX_ELEMENTS))
    for _ in count:
        if size - at < 8 and not any(data[at:]):
            if not whole:
                raise cut_short("The beginning ends before the pixel data.", at=at)
            return
        if plain:
            at = yield from _plain_run(data, at, count)
            if size - at < 8 and not any(data[at:]):
                continue
        tag, start, length, is_un = reader.element(at)
        if tag >= PIXELS:
            return
        end = start + length
        if length == UNDEFINED:
            end = reader.skip(start, is_un=is_un, depth=1)
        if end > size:
            raise cut_short(f"{_name(tag)} claims {length} bytes.", at=at)
        if end > MAX_HEADER_BYTES:
            raise refuse("header-too-long", "The header exceeds 64 MiB.", at=at)
        yield tag, start, length
        at = end
    raise refuse("header-too-long", f"There are more than {MAX_ELEMENTS} elements.", at=at)


def _plain_run(data: memoryview, at: int, count: Iterator[int]) -> Generator[Element, None, int]:
    """Yield short explicit little endian elements from `at` on; return where something else is.

    Most elements of most instances, written out: every instance pays for them.
    """
    size, header, short = len(data), _PLAIN_HEADER, SHORT_VRS
    while at + 8 <= size and at <= MAX_HEADER_BYTES:
        group, number, vr, length = header(data, at)
        end = at + 8 + length
        if vr not in short or group >= _PIXEL_GROUP or end > size or next(count, None) is None:
            break
        yield group << 16 | number, at + 8, length
        at = end
    return at


class Reader:
    """Reads element headers in one encoding, and counts nested ones."""

    def __init__(self, data: memoryview, encoding: Encoding) -> None:
        order = "<" if encoding.little else ">"
        self._data = data
        self._explicit = encoding.explicit
        self._explicit_header = struct.Struct(order + "HH2sH").unpack_from
        self._implicit_header = struct.Struct(order + "HHI").unpack_from
        self._long = struct.Struct(order + "I").unpack_from
        self._nested = 0

    def element(self, at: int) -> tuple[int, int, int, bool]:
        """Return (tag, start of value, length, whether its VR is UN) of the element at `at`."""
        try:
            if self._explicit:
                group, number, vr, length = self._explicit_header(self._data, at)
                # Delimiters have no VR, but a length that may spell one: 20 300 is LO. Some writers
                # put implicit elements into explicit data sets, recognised by bytes that cannot be
                # a VR.
                if group != DELIMITERS:
                    if vr in SHORT_VRS:
                        return group << 16 | number, at + 8, length, False
                    if vr.isalpha() and vr.isupper():
                        (length,) = self._long(self._data, at + 8)
                        return group << 16 | number, at + 12, length, vr == b"UN"
            group, number, length = self._implicit_header(self._data, at)
        except struct.error:
            raise cut_short("An element's length is incomplete.", at=at) from None
        return group << 16 | number, at + 8, length, False

    def skip(self, at: int, *, is_un: bool, depth: int) -> int:
        """Return the offset after a sequence of undefined length whose first item is at `at`."""
        if is_un and self._explicit:
            # PS3.5 6.2.2 note: the items of an UN sequence are implicit VR little endian.
            inner = Reader(self._data, Encoding(explicit=False, little=True))
            inner._nested = self._nested
            end = inner.skip(at, is_un=False, depth=depth)
            self._nested = inner._nested
            return end
        if depth > MAX_DEPTH:
            raise refuse("header-too-deep", f"Sequences nest deeper than {MAX_DEPTH}.", at=at)
        while True:
            tag, start, length, _ = self.count(at)
            if tag == SEQUENCE_END:
                return start
            if tag != ITEM:
                raise refuse("header-bad-item", f"{_name(tag)} stands for an item.", at=at)
            at = self._skip_item(start, depth) if length == UNDEFINED else start + length

    def _skip_item(self, at: int, depth: int) -> int:
        while True:
            tag, start, length, is_un = self.count(at)
            if tag == ITEM_END:
                return start
            if length == UNDEFINED:
                at = self.skip(start, is_un=is_un, depth=depth + 1)
            else:
                at = start + length

    def count(self, at: int) -> tuple[int, int, int, bool]:
        """Return the nested element at `at`, as `element` does, and count it."""
        self._nested += 1
        if self._nested > MAX_NESTED:
            raise refuse("header-too-long", f"More than {MAX_NESTED} nested elements.", at=at)
        return self.element(at)


def _name(tag: int) -> str:
    return f"Element ({tag >> 16:04X},{tag & 0xFFFF:04X})"
