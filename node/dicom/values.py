"""The raw values of an instance's header: what one bounded walk finds, undecoded.

`header` turns them into facts, and into what routes may ask. Standard library only: the receiver
imports this.

Source: DICOM PS3.5 sections 6 and 7, PS3.6 (keywords).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from node.dicom.walk import (
    CUT_SHORT,
    ITEM,
    UNDEFINED,
    Encoding,
    HeaderError,
    refuse,
    walk,
)

MAX_VALUE_BYTES: Final = 4096
"""Longest value that is looked at; the longest wanted VR (LO, many values) stays far below."""

MAX_INFLATED_BYTES: Final = 1024 * 1024
"""How much of a deflated data set is inflated to find its header: a bomb costs 1 MiB."""

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"

ROUTING: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        0x00080008: ("ImageType", "CS"),
        0x00080016: ("SOPClassUID", "UI"),
        0x00080020: ("StudyDate", "DA"),
        0x00080021: ("SeriesDate", "DA"),
        0x00080060: ("Modality", "CS"),
        0x00080070: ("Manufacturer", "LO"),
        0x00080080: ("InstitutionName", "LO"),
        0x00081010: ("StationName", "SH"),
        0x00081030: ("StudyDescription", "LO"),
        0x0008103E: ("SeriesDescription", "LO"),
        0x00081040: ("InstitutionalDepartmentName", "LO"),
        0x00081090: ("ManufacturerModelName", "LO"),
        0x00100040: ("PatientSex", "CS"),
        0x00101010: ("PatientAge", "AS"),
        0x00100200: ("QualityControlSubject", "CS"),
        0x00180010: ("ContrastBolusAgent", "LO"),
        0x00180015: ("BodyPartExamined", "CS"),
        0x00180020: ("ScanningSequence", "CS"),
        0x00180021: ("SequenceVariant", "CS"),
        0x00180022: ("ScanOptions", "CS"),
        0x00180023: ("MRAcquisitionType", "CS"),
        0x00180024: ("SequenceName", "SH"),
        0x00180050: ("SliceThickness", "DS"),
        0x00180060: ("KVP", "DS"),
        0x00180080: ("RepetitionTime", "DS"),
        0x00180081: ("EchoTime", "DS"),
        0x00180082: ("InversionTime", "DS"),
        0x00180087: ("MagneticFieldStrength", "DS"),
        0x00180088: ("SpacingBetweenSlices", "DS"),
        0x00181030: ("ProtocolName", "LO"),
        0x00181210: ("ConvolutionKernel", "SH"),
        0x00181314: ("FlipAngle", "DS"),
        0x00185100: ("PatientPosition", "CS"),
        0x00200011: ("SeriesNumber", "IS"),
        0x00200052: ("FrameOfReferenceUID", "UI"),
        0x00200060: ("Laterality", "CS"),
        0x00280002: ("SamplesPerPixel", "US"),
        0x00280004: ("PhotometricInterpretation", "CS"),
        0x00280008: ("NumberOfFrames", "IS"),
        0x00280010: ("Rows", "US"),
        0x00280011: ("Columns", "US"),
        0x00280030: ("PixelSpacing", "DS"),
        0x00280051: ("CorrectedImage", "CS"),
        0x00280100: ("BitsAllocated", "US"),
        0x00280301: ("BurnedInAnnotation", "CS"),
        0x00321060: ("RequestedProcedureDescription", "LO"),
        0x00541001: ("Units", "CS"),
    }
)
"""What routes may ask of a series: tag -> (keyword, VR). The VR is ours, not the header's."""

CHARSET: Final = 0x00080005
SOP_CLASS: Final = 0x00080016
SOP_UID: Final = 0x00080018
STUDY_DATE: Final = 0x00080020
ACCESSION: Final = 0x00080050
MODALITY: Final = 0x00080060
STUDY_DESCRIPTION: Final = 0x00081030
PATIENT_NAME: Final = 0x00100010
PATIENT_ID: Final = 0x00100020
ISSUER: Final = 0x00100021
STUDY_UID: Final = 0x0020000D
SERIES_UID: Final = 0x0020000E

IDENTITY: Final[Mapping[int, str]] = MappingProxyType(
    {
        CHARSET: "SpecificCharacterSet",
        SOP_CLASS: "SOPClassUID",
        SOP_UID: "SOPInstanceUID",
        ACCESSION: "AccessionNumber",
        PATIENT_NAME: "PatientName",
        PATIENT_ID: "PatientID",
        ISSUER: "IssuerOfPatientID",
        STUDY_UID: "StudyInstanceUID",
        SERIES_UID: "SeriesInstanceUID",
    }
)
"""What says whose instance it is. A value of these that is too long is refused, never dropped."""

_UID_MAX: Final = 64  # PS3.5 section 9.1
_is_uid_value: Final = re.compile(rb"[0-9.]{1,64}[\0 ]*").fullmatch
_UIDS: Final = (STUDY_UID, SERIES_UID, SOP_UID, SOP_CLASS)

_SHARED_GROUPS: Final = 0x52009229  # Shared Functional Groups Sequence
_SHARED_GROUPS_BYTES: Final = 256 * 1024
"""How much of it is looked at; real ones have some kilobytes."""

_GROUPS: Final = frozenset({0x00289110})
"""Sequences in it that are looked into: Pixel Measures (thickness and spacings)."""

_WANTED: Final = frozenset(IDENTITY) | frozenset(ROUTING)

_PACKED: Final = struct.Struct("<IH")
_PACKED_BYTES: Final = 6


class Values(NamedTuple):
    """Bytes of the wanted elements, the first of each tag, as they stand in the data set.

    Attributes:
        by_tag: Tag (group in the upper 16 bits) -> value with its padding.
        little: Whether binary values are little endian.
        in_order: Whether the tags ascend, as PS3.5 7.1 wants; kept either way.
    """

    by_tag: Mapping[int, bytes]
    little: bool
    in_order: bool

    def uid(self, tag: int) -> str:
        """Return a UID without its padding.

        Raises:
            HeaderError: It is absent, or is no UID.
        """
        try:
            value = self.by_tag[tag]
        except KeyError:
            raise refuse("header-uid-missing", f"{IDENTITY[tag]} is absent.", at=0) from None
        uid = value.rstrip(b"\0 ").decode("ascii", errors="replace")
        if not is_uid(uid):
            what = f"{IDENTITY[tag]} is not a UID of 1 to {_UID_MAX} digits and dots."
            raise refuse("header-uid-malformed", what, at=0)
        return uid

    def pack(self) -> bytes:
        """Return the values as bytes that `unpack` reads."""
        pack = _PACKED.pack
        parts = [b"%c%c" % (self.little, self.in_order)]
        for tag, value in self.by_tag.items():
            parts.append(pack(tag, len(value)))
            parts.append(value)
        return b"".join(parts)


def unpack(packed: bytes) -> Values:
    """Return the values that `Values.pack` gave."""
    by_tag = {}
    at = 2
    while at < len(packed):
        tag, length = _PACKED.unpack_from(packed, at)
        at += _PACKED_BYTES
        by_tag[tag] = packed[at : at + length]
        at += length
    return Values(by_tag, little=bool(packed[0]), in_order=bool(packed[1]))


def is_uid(text: str) -> bool:
    """Return whether `text` is 1 to 64 digits and dots.

    The finer rules of PS3.5 section 9.1 (no leading zeros) are broken by real devices.
    """
    return 0 < len(text) <= _UID_MAX and not text.strip("0123456789.")


def read_values(
    dataset: bytes | bytearray | memoryview, transfer_syntax: str, *, whole: bool = True
) -> Values:
    """Return what one walk over the header of an encoded data set finds.

    Args:
        dataset: The data set's bytes, without preamble and file meta information.
        transfer_syntax: UID of the syntax it is in. Every syntax that is not implicit, big endian
            or deflated is explicit VR little endian outside the pixels (PS3.5 annex A).
        whole: Whether that is all of it. If it is only a beginning, and that ends before the
            pixel data, a HeaderError with the code `CUT_SHORT` asks for more.

    Raises:
        HeaderError: The bytes stop making sense, a limit is exceeded, or one of the four UIDs
            (study, series, SOP instance, SOP class) is absent or is not a UID.
    """
    encoding = Encoding(
        explicit=transfer_syntax != IMPLICIT_LITTLE, little=transfer_syntax != EXPLICIT_BIG
    )
    if transfer_syntax == DEFLATED:
        inflated = memoryview(_inflate(dataset))
        beginning = len(inflated) == MAX_INFLATED_BYTES
        values = _collect(inflated, encoding, whole=not beginning, enough=beginning)
    else:
        values = _collect(memoryview(dataset), encoding, whole=whole)
    return checked(values)


def checked(values: Values) -> Values:
    """Return `values` if the four UIDs are there.

    Raises:
        HeaderError: One is absent or is no UID.
    """
    for tag in _UIDS:
        if not _is_uid_value(values.by_tag.get(tag, b"")):
            values.uid(tag)  # says what is wrong with it
    return values


def _collect(data: memoryview, encoding: Encoding, *, whole: bool, enough: bool = False) -> Values:
    """Return the wanted values; with `enough`, those before an early end of the bytes."""
    by_tag: dict[int, bytes] = {}
    last, in_order = 0, True
    try:
        for tag, start, length in walk(data, encoding, whole=whole):
            if tag <= last:
                in_order = False
            last = tag
            if tag in _WANTED:
                if tag not in by_tag and _is_short_enough(tag, start, length):
                    by_tag[tag] = bytes(data[start : start + length])
            elif tag == _SHARED_GROUPS:
                part = data[start : start + min(length, _SHARED_GROUPS_BYTES)]
                for inner, value in _in_shared_groups(part, encoding):
                    by_tag.setdefault(inner, value)
    except HeaderError as error:
        if not (enough and error.fault.code == CUT_SHORT):
            raise
    return Values(by_tag, encoding.little, in_order)


def _is_short_enough(tag: int, start: int, length: int) -> bool:
    if length <= MAX_VALUE_BYTES:
        return True
    if tag in IDENTITY:
        size = "undefined length" if length == UNDEFINED else f"{length} bytes"
        what = f"{IDENTITY[tag]} has {size}, more than {MAX_VALUE_BYTES} bytes."
        raise refuse("header-value-too-long", what, at=start)
    return False


def _in_shared_groups(data: memoryview, encoding: Encoding) -> Iterator[tuple[int, bytes]]:
    """Yield what routing wants of a multi-frame object's Shared Functional Groups (PS3.3 C.7.6.16).

    Slice thickness and pixel spacing of an enhanced object stand there. Where the bytes stop
    making sense the looking stops: these values help to route, nothing else hangs on them.
    """
    if len(data) < 8:
        return
    group, number, length = struct.unpack_from("<HHI" if encoding.little else ">HHI", data)
    if (group << 16) | number != ITEM:
        return
    body = data[8:] if length == UNDEFINED else data[8 : 8 + length]
    with suppress(HeaderError):
        for tag, start, size in walk(body, encoding, whole=False):
            if tag in _GROUPS:
                yield from _in_shared_groups(body[start : start + min(size, len(body))], encoding)
            elif tag in ROUTING and size <= MAX_VALUE_BYTES:
                yield tag, bytes(body[start : start + size])


def _inflate(data: bytes | bytearray | memoryview) -> bytes:
    """Return the beginning of a deflated data set."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflater.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error:
        raise refuse("header-not-deflated", "The data set cannot be inflated.", at=0) from None
