"""Read many headers of one series: an element that equals the one before is not parsed again.

The headers of a series differ in a dozen of some hundred and fifty elements. Each header is
walked beside the last one: bytes that are the same give the same raw element, and only the others
are taken apart. Only explicit little endian is walked, and only what the walk understands
without doubt; for anything else `read` answers None and pydicom reads the file. What comes
out is what pydicom's reader gives, held against it in a test. Source: PS3.5 7.1, PS3.10 7.1.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from typing import Final, cast

from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pydicom.values import convert_string

from node.imaging.attributes import DAMAGE
from node.imaging.values import InstanceFile, PixelPlace, SourceInstance

FIRST_READ_BYTES: Final = 1 << 15
"""Read of the first header; later ones read as much as the last one took."""

LARGEST_HEADER_BYTES: Final = 1 << 22
"""A header beyond 4 MiB is left to pydicom."""

_SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_OTHERS: Final = frozenset(
    str(uid)
    for uid in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian)
)
_PIXELS: Final = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_CHARACTER_SET: Final = 0x00080005
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_HEAD: Final = struct.Struct("<HH2sH")
_TAG_LENGTH: Final = struct.Struct("<HHL")
_LENGTH: Final = struct.Struct("<L")
_EXPLICIT_LITTLE: Final = {"is_implicit_vr": False, "is_little_endian": True}

Element = RawDataElement | DataElement


class _DoubtError(Exception):
    """The walk met something that pydicom shall judge."""


class _ShortError(Exception):
    """The header goes on behind the bytes that were read."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """One element of the last header: its bytes as they stood in the file, and its value."""

    tag: int
    encoded: bytes
    element: Element


class HeaderReader:
    """Reads headers one after another; for one thread."""

    def __init__(self) -> None:
        self._meta: list[_Seen] = []
        self._body: list[_Seen] = []
        self._size = FIRST_READ_BYTES

    def read(self, file: InstanceFile) -> SourceInstance | None:
        """Return the header and the place of the pixels, or None where pydicom must read it.

        Raises:
            OSError: The file cannot be opened or read.
        """
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            most = min(file.length or LARGEST_HEADER_BYTES, LARGEST_HEADER_BYTES)
            size = min(self._size, most)
            while True:
                data = os.pread(descriptor, size, file.offset)
                try:
                    return self._instance(file, data)
                except _ShortError:
                    if len(data) < size or size >= most:
                        return None  # the file ends here, or the header is longer than it may be
                    size = min(4 * size, most)
                except (_DoubtError, *DAMAGE):
                    return None
        finally:
            os.close(descriptor)

    def _instance(self, file: InstanceFile, data: bytes) -> SourceInstance:
        if data[128:132] != b"DICM":
            raise _DoubtError
        meta, start = _walk(data, 132, self._meta, in_meta=True)
        file_meta = FileMetaDataset({BaseTag(seen.tag): seen.element for seen in meta})
        syntax = str(file_meta.get("TransferSyntaxUID", ""))
        if not syntax or syntax in _OTHERS:
            raise _DoubtError
        file_meta.set_original_encoding(**_EXPLICIT_LITTLE, character_encoding=default_encoding)
        body, end = _walk(data, start, self._body, in_meta=False)
        header = Dataset({BaseTag(seen.tag): seen.element for seen in body})
        header.set_original_encoding(**_EXPLICIT_LITTLE, character_encoding=_encodings(body))
        header.file_meta = file_meta
        self._meta, self._body = meta, body
        self._size = max(self._size, min(end + 1024, LARGEST_HEADER_BYTES))
        return SourceInstance(file, header, _pixel_place(data, end, syntax))


def _walk(data: bytes, at: int, before: list[_Seen], *, in_meta: bool) -> tuple[list[_Seen], int]:
    """Return the elements from `at`, and where the pixel element or the dataset begins."""
    found: list[_Seen] = []
    place, last = 0, -1
    while True:
        if place < len(before):
            known = before[place]
            if data.startswith(known.encoded, at):
                found.append(known)
                at += len(known.encoded)
                last = known.tag
                place += 1
                continue
        if at + 12 > len(data):
            raise _ShortError
        group, number, _, _ = _HEAD.unpack_from(data, at)
        tag = group << 16 | number
        if (group != 2) if in_meta else (tag in _PIXELS):
            return found, at
        if tag <= last:
            raise _DoubtError  # out of order, or twice
        seen = _element(data, at, tag, found)
        found.append(seen)
        at += len(seen.encoded)
        last = tag
        while place < len(before) and before[place].tag <= tag:
            place += 1


def _element(data: bytes, at: int, tag: int, before: list[_Seen]) -> _Seen:
    """Take one element apart."""
    _, _, vr, short = _HEAD.unpack_from(data, at)
    if vr in _SHORT_VRS:
        start, length = at + 8, short
    elif vr in _LONG_VRS:
        start, length = at + 12, _LENGTH.unpack_from(data, at + 8)[0]
    else:
        raise _DoubtError
    if length == _UNDEFINED:
        if vr != b"SQ":
            raise _DoubtError
        end = _behind_items(data, start)
        element = _sequence(data[at:end], tag, _encodings(before))
        return _Seen(tag, data[at:end], element)
    end = start + length
    if end > len(data):
        raise _ShortError
    name = vr.decode("ascii")
    value = data[start:end] if length else cast("bytes | None", empty_value_for_VR(name, raw=True))
    raw = RawDataElement(
        BaseTag(tag), name, length, value, start, is_implicit_VR=False, is_little_endian=True
    )
    return _Seen(tag, data[at:end], raw)


def _behind_items(data: bytes, at: int) -> int:
    """Return where a sequence of undefined length ends; items may nest."""
    depth = [_SEQUENCE_END]
    while depth:
        if at + 8 > len(data):
            raise _ShortError
        group, number, length = _TAG_LENGTH.unpack_from(data, at)
        tag = group << 16 | number
        if tag == depth[-1]:
            depth.pop()
            at += 8
        elif depth[-1] == _SEQUENCE_END:
            if tag != _ITEM:
                raise _DoubtError
            at += 8
            if length == _UNDEFINED:
                depth.append(_ITEM_END)
            else:
                at += length
        else:
            at = _behind_element(data, at, depth)
    return at


def _behind_element(data: bytes, at: int, depth: list[int]) -> int:
    """Return where an element inside an item ends, or where its first item begins."""
    if at + 12 > len(data):
        raise _ShortError
    _, _, vr, short = _HEAD.unpack_from(data, at)
    if vr in _SHORT_VRS:
        return at + 8 + int(short)
    if vr not in _LONG_VRS:
        raise _DoubtError
    length = int(_LENGTH.unpack_from(data, at + 8)[0])
    if length != _UNDEFINED:
        return at + 12 + length
    if vr != b"SQ":
        raise _DoubtError
    depth.append(_SEQUENCE_END)
    return at + 12


def _sequence(encoded: bytes, tag: int, encodings: str | list[str]) -> Element:
    read = read_dataset(
        io.BytesIO(encoded),
        is_implicit_VR=False,
        is_little_endian=True,
        parent_encoding=encodings,
    )
    found = read.get_item(BaseTag(tag))
    if len(read) != 1 or found is None:
        raise _DoubtError
    return found


def _encodings(elements: list[_Seen]) -> str | list[str]:
    """Return Python's names of the character sets of a dataset."""
    for seen in elements:
        if seen.tag > _CHARACTER_SET:
            break
        if seen.tag == _CHARACTER_SET and isinstance(seen.element, RawDataElement):
            encodings: str | list[str] = convert_encodings(
                convert_string(seen.element.value or b"", True)  # noqa: FBT003  # pydicom's own
            )
            return encodings
    return default_encoding


def _pixel_place(data: bytes, at: int, syntax: str) -> PixelPlace:
    group, number, vr, short = _HEAD.unpack_from(data, at)
    if vr in _LONG_VRS:
        start, length = at + 12, int(_LENGTH.unpack_from(data, at + 8)[0])
    else:
        start, length = at + 8, int(short)
    return PixelPlace(
        keyword=_PIXELS[group << 16 | number],
        transfer_syntax=syntax,
        vr=vr.decode("ascii"),
        big_endian=False,
        offset=start,
        length=None if length == _UNDEFINED else length,
    )
