"""Find DICOM instances in a folder and read their headers, whatever state they are in.

Headers only: reading stops at the pixel element, whose place is kept. A damaged file gives a
`Refusal` with `bad-header`; no exception leaves this module for what is inside a file. A file
without a preamble is recognised by its first element, because a forced read would take any text
file for an empty dataset.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.imaging.attributes import DAMAGE, text, tolerated
from node.imaging.header_reader import HeaderReader
from node.imaging.values import InstanceFile, PixelPlace, Refusal, SourceInstance
from node.reasons import Reason

MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"

LARGEST_INFLATED_BYTES: Final = 1 << 30
"""Bound of a deflated dataset: 1 GiB is twice the largest multi-frame CT seen; more is a bomb."""

_PIXEL_TAGS: Final = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN"})
_UNDEFINED: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class FolderListing:
    """What a folder holds.

    Attributes:
        instances: Files that look like DICOM, sorted by path; not yet read.
        ignored: Number of other files, DICOMDIR among them.
    """

    instances: tuple[InstanceFile, ...]
    ignored: int


def list_folder(folder: Path) -> FolderListing:
    """List the DICOM files below `folder`, or the one file that `folder` is."""
    found, ignored = [], 0
    for path in _files(folder):
        if looks_like_dicom(path):
            found.append(InstanceFile(path))
        else:
            ignored += 1
    return FolderListing(tuple(found), ignored)


def read_folder(folder: Path) -> list[InstanceFile]:
    """Return the DICOM files below `folder`, sorted by path; other files are left out."""
    return list(list_folder(folder).instances)


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.is_file():
                yield path


def looks_like_dicom(path: Path) -> bool:
    """Return whether a file starts as DICOM does and is no DICOMDIR."""
    try:
        with path.open("rb") as stream:
            head = stream.read(1024)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return MEDIA_STORAGE_DIRECTORY.encode() not in head[132:400]
    return _starts_with_an_element(head)


def _starts_with_an_element(head: bytes) -> bool:
    """Return whether the first bytes are an element of group 0002 or 0008."""
    if len(head) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack_from(order + "HH", head)
        if group not in (2, 8) or element > 0x0100:
            continue
        if head[4:6].isalpha() and head[4:6].isupper():
            return True
        if int(struct.unpack_from(order + "I", head, 4)[0]) <= 128:
            return True
    return False


class _Region(io.RawIOBase):
    """A part of a file as a stream of its own, so that offsets count from its first byte."""

    def __init__(self, stream: BinaryIO, offset: int, length: int) -> None:
        self._stream, self._offset, self._length, self._at = stream, offset, length, 0
        self.name = stream.name  # pydicom asks every buffered stream for one

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # typeshed names it by a protocol
        wanted = max(0, min(len(view), self._length - self._at))
        self._stream.seek(self._offset + self._at)
        data = self._stream.read(wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def open_instance(file: InstanceFile) -> Iterator[BinaryIO]:
    """Open the bytes of one instance; position 0 is its first byte."""
    with file.path.open("rb") as stream:
        if file.offset == 0 and file.length == 0:
            yield stream
            return
        length = file.length or max(0, file.path.stat().st_size - file.offset)
        region = io.BufferedReader(_Region(stream, file.offset, length))
        yield cast("BinaryIO", region)  # a BufferedReader is one; typeshed keeps them apart


def inflate(data: bytes) -> bytes:
    """Return the raw-deflate stream inflated; ValueError beyond the bound or when damaged."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = machine.decompress(data, LARGEST_INFLATED_BYTES)
    except zlib.error as error:
        raise ValueError("the deflated dataset is damaged") from error
    if machine.unconsumed_tail or not machine.eof:
        raise ValueError("the deflated dataset is cut short or too large")
    return plain


def read_header(file: InstanceFile, reader: HeaderReader | None = None) -> SourceInstance | Refusal:
    """Read the header of one instance up to its pixel element.

    Args:
        file: Its bytes.
        reader: For callers that read many headers; what it does not understand pydicom reads.

    Returns:
        The instance, or a refusal `bad-header` if it cannot be read or lacks one of the four
        UIDs that say what it is and where it belongs.
    """
    try:
        with tolerated():
            instance = reader.read(file) if reader else None
            if instance is None:
                with open_instance(file) as stream:
                    instance = _read(file, stream)
            missing = [name for name in _IDENTITY if not text(instance.header, name)]
    except DAMAGE as error:
        return _bad(file, f"the header cannot be read ({type(error).__name__})")
    if missing:
        return _bad(
            file, f"the header lacks {', '.join(missing)}", text(instance.header, "SOPInstanceUID")
        )
    return instance


_IDENTITY: Final = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


def _bad(file: InstanceFile, what: str, sop_uid: str = "") -> Refusal:
    return Refusal(
        reason=Reason.BAD_HEADER,
        explanation=f"{file.path.name}: {what}.",
        instances=(sop_uid,) if sop_uid else (),
    )


def _read(file: InstanceFile, stream: BinaryIO) -> SourceInstance:
    head = stream.read(2048)
    stream.seek(0)
    # pydicom would inflate without a bound, so deflated files are taken apart here.
    if DeflatedExplicitVRLittleEndian.encode() in head:
        meta = _read_meta(stream)
        stream = io.BytesIO(inflate(stream.read()))
        header = read_dataset(
            stream, is_implicit_VR=False, is_little_endian=True, stop_when=_at_pixels
        )
        header.file_meta = FileMetaDataset(meta)
        syntax, implicit, little = str(DeflatedExplicitVRLittleEndian), False, True
    else:
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        implicit, little = (bool(flag) for flag in header.original_encoding)
        syntax = _transfer_syntax(header, implicit=implicit, little=little)
    pixels = _pixel_place(stream, syntax, implicit=implicit, little=little)
    return SourceInstance(file, header, pixels)


def read_deflated(file: InstanceFile) -> bytes:
    """Return the inflated dataset of a deflated instance; ValueError if it is damaged."""
    with open_instance(file) as stream:
        _read_meta(stream)
        return inflate(stream.read())


def _read_meta(stream: BinaryIO) -> Dataset:
    """Read the file meta group and leave the stream at the dataset."""
    stream.seek(132)
    return read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)


def _behind_meta(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != 2


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_TAGS


def _transfer_syntax(header: Dataset, *, implicit: bool, little: bool) -> str:
    declared = text(header.file_meta, "TransferSyntaxUID")
    if declared:
        return declared
    implied: UID = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return str(ImplicitVRLittleEndian if implicit else implied)


def _pixel_place(
    stream: BinaryIO, syntax: str, *, implicit: bool, little: bool
) -> PixelPlace | None:
    """Read the element header at which pydicom stopped."""
    start = stream.tell()
    head = stream.read(12)
    order = "<" if little else ">"
    if len(head) < 8:
        return None
    group, element = struct.unpack_from(order + "HH", head)
    keyword = _PIXEL_TAGS.get(group << 16 | element)
    if keyword is None:
        return None
    vr = b"" if implicit else head[4:6]
    if implicit:
        size, length = 8, int(struct.unpack_from(order + "I", head, 4)[0])
    elif vr in _LONG_VRS:
        size, length = 12, int(struct.unpack_from(order + "I", head, 8)[0])
    else:
        size, length = 8, int(struct.unpack_from(order + "H", head, 6)[0])
    return PixelPlace(
        keyword=keyword,
        transfer_syntax=syntax,
        vr=vr.decode("ascii"),
        big_endian=not little,
        offset=start + size,
        length=None if length == _UNDEFINED else length,
    )
