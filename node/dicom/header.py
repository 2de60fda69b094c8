"""What the listener learns of an instance from its bytes: UIDs, identity, and a routing header.

Pure and bounded (see `walk`); no pydicom, because 0.1 ms per instance is what a scanner that sends
a thousand slices can be charged. Nothing here changes or believes the bytes: text that cannot be
decoded is shown with U+FFFD, and an instance whose UIDs cannot be read is refused with HeaderError,
the only exception that leaves this module.

Source: DICOM PS3.5 sections 6 and 7, PS3.6 (keywords), PS3.3 C.12.1.1.2 (character sets).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from node.dicom.charsets import DEFAULT_CODEC, character_set, clean_text, decode_text
from node.dicom.walk import ITEM, UNDEFINED, Encoding, HeaderError, refuse, walk

__all__ = ["HeaderError", "HeaderFacts", "is_uid", "walk_header"]

MAX_VALUE_BYTES: Final = 4096
"""Longest value that is looked at; the longest wanted VR (LO, many values) stays far below."""

MAX_INFLATED_BYTES: Final = 1024 * 1024
"""How much of a deflated data set is inflated to find its header: a bomb costs 1 MiB."""

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"

_UID_MAX: Final = 64  # PS3.5 section 9.1

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

_CHARSET: Final = 0x00080005
_SOP_CLASS: Final = 0x00080016
_SOP_UID: Final = 0x00080018
_STUDY_DATE: Final = 0x00080020
_ACCESSION: Final = 0x00080050
_MODALITY: Final = 0x00080060
_STUDY_DESCRIPTION: Final = 0x00081030
_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_ISSUER: Final = 0x00100021
_STUDY_UID: Final = 0x0020000D
_SERIES_UID: Final = 0x0020000E
_IDENTITY: Final = {
    _CHARSET: "SpecificCharacterSet",
    _SOP_CLASS: "SOPClassUID",
    _SOP_UID: "SOPInstanceUID",
    _ACCESSION: "AccessionNumber",
    _PATIENT_NAME: "PatientName",
    _PATIENT_ID: "PatientID",
    _ISSUER: "IssuerOfPatientID",
    _STUDY_UID: "StudyInstanceUID",
    _SERIES_UID: "SeriesInstanceUID",
}
_SHARED_GROUPS: Final = 0x52009229  # Shared Functional Groups Sequence
_SHARED_GROUPS_BYTES: Final = 256 * 1024
"""How much of it is looked at; real ones have some kilobytes."""

_GROUPS: Final = frozenset({0x00289110})
"""Sequences in it that are looked into: Pixel Measures (thickness and spacings)."""

_WANTED: Final = frozenset(_IDENTITY) | frozenset(ROUTING)
_TEXT_VRS: Final = frozenset({"LO", "SH", "PN"})

Routing = dict[str, str | list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderFacts:
    """What one instance's header says.

    Attributes:
        sop_class: SOPClassUID of the data set.
        patient_id: PatientID without padding; empty if absent.
        issuer: IssuerOfPatientID, likewise.
        patient_name: Decoded for people; never use it to compare identities.
        study_date: StudyDate as written (YYYYMMDD), empty if absent.
        routing: Keyword -> text, or a list of texts where there are several values. An absent
            or empty element has no key.
        in_order: Whether the tags ascend, as PS3.5 7.1 wants; kept either way.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    patient_id: str
    issuer: str
    patient_name: str
    accession: str
    study_date: str
    study_description: str
    modality: str
    routing: Routing
    in_order: bool


def walk_header(dataset: bytes | memoryview, transfer_syntax: str) -> HeaderFacts:
    """Return what the header of an encoded data set says.

    Args:
        dataset: The data set's bytes, without preamble and file meta information.
        transfer_syntax: UID of the syntax it is in. Every syntax that is not implicit, big endian
            or deflated is explicit VR little endian outside the pixels (PS3.5 annex A).

    Raises:
        HeaderError: The bytes stop making sense, a limit is exceeded, or one of the four UIDs
            (study, series, SOP instance, SOP class) is absent or is not a UID.
    """
    encoding = Encoding(
        explicit=transfer_syntax != IMPLICIT_LITTLE, little=transfer_syntax != EXPLICIT_BIG
    )
    data, whole = memoryview(dataset), True
    if transfer_syntax == DEFLATED:
        inflated, whole = _inflate(data)
        data = memoryview(inflated)
    values, in_order = _values(data, encoding, whole=whole)
    charset = character_set(values.get(_CHARSET, b""))

    def text(tag: int) -> str:
        return "\\".join(decode_text(values.get(tag, b""), charset))

    return HeaderFacts(
        study_uid=_uid(values, _STUDY_UID),
        series_uid=_uid(values, _SERIES_UID),
        sop_uid=_uid(values, _SOP_UID),
        sop_class=_uid(values, _SOP_CLASS),
        patient_id=text(_PATIENT_ID),
        issuer=text(_ISSUER),
        patient_name=text(_PATIENT_NAME).rstrip("="),
        accession=text(_ACCESSION),
        study_date=text(_STUDY_DATE),
        study_description=text(_STUDY_DESCRIPTION),
        modality=text(_MODALITY),
        routing=_routing(values, charset, little=encoding.little),
        in_order=in_order,
    )


def is_uid(text: str) -> bool:
    """Return whether `text` is 1 to 64 digits and dots.

    The finer rules of PS3.5 section 9.1 (no leading zeros) are broken by real devices.
    """
    return 0 < len(text) <= _UID_MAX and set(text) <= set("0123456789.")


def _values(data: memoryview, encoding: Encoding, *, whole: bool) -> tuple[dict[int, bytes], bool]:
    """Return the bytes of the wanted elements (the first of each tag), and whether all ascend."""
    values: dict[int, bytes] = {}
    last, in_order = 0, True
    for tag, start, length in walk(data, encoding, whole=whole):
        if tag <= last:
            in_order = False
        last = tag
        if tag == _SHARED_GROUPS:
            part = data[start : start + min(length, _SHARED_GROUPS_BYTES)]
            for inner, value in _in_shared_groups(part, encoding):
                values.setdefault(inner, value)
        if tag not in _WANTED or tag in values:
            continue
        if length <= MAX_VALUE_BYTES:
            values[tag] = bytes(data[start : start + length])
        elif tag in _IDENTITY:
            size = "undefined length" if length == UNDEFINED else f"{length} bytes"
            what = f"{_IDENTITY[tag]} has {size}, more than {MAX_VALUE_BYTES} bytes."
            raise refuse("header-value-too-long", what, at=start)
    return values, in_order


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


def _inflate(data: memoryview) -> tuple[bytes, bool]:
    """Return the beginning of a deflated data set, and whether it is all of it."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error:
        raise refuse("header-not-deflated", "The data set cannot be inflated.", at=0) from None
    return inflated, inflater.eof


def _uid(values: Mapping[int, bytes], tag: int) -> str:
    if tag not in values:
        raise refuse("header-uid-missing", f"{_IDENTITY[tag]} is absent.", at=0)
    uid = values[tag].rstrip(b"\0 ").decode("ascii", errors="replace")
    if not is_uid(uid):
        what = f"{_IDENTITY[tag]} is not a UID of 1 to {_UID_MAX} digits and dots."
        raise refuse("header-uid-malformed", what, at=0)
    return uid


def _routing(values: Mapping[int, bytes], charset: tuple[str, ...], *, little: bool) -> Routing:
    header: Routing = {}
    for tag, (keyword, vr) in ROUTING.items():
        if tag not in values:
            continue
        texts = _texts(values[tag], vr, charset, little=little)
        if any(texts):
            header[keyword] = texts[0] if len(texts) == 1 else list(texts)
    return header


def _texts(value: bytes, vr: str, charset: tuple[str, ...], *, little: bool) -> tuple[str, ...]:
    if vr == "US":
        count = len(value) // 2
        numbers = struct.unpack_from(f"{'<' if little else '>'}{count}H", value)
        return tuple(str(number) for number in numbers)
    if vr in _TEXT_VRS:
        return decode_text(value, charset)
    return tuple(clean_text(part) for part in value.decode(DEFAULT_CODEC).split("\\"))
