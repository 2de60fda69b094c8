"""What the node learns of an instance from its header: UIDs, identity, and what routes may ask.

Pure and bounded (see `walk` and `values`); no pydicom. Nothing here changes or believes the bytes:
text that cannot be decoded is shown with U+FFFD, and an instance whose UIDs cannot be read is
refused with HeaderError, the only exception that leaves this module.

Source: DICOM PS3.5 sections 6 and 7, PS3.6 (keywords), PS3.3 C.12.1.1.2 (character sets).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from node.dicom.charsets import DEFAULT_CODEC, character_set, clean_text, decode_text
from node.dicom.values import (
    ACCESSION,
    CHARSET,
    ISSUER,
    MODALITY,
    PATIENT_ID,
    PATIENT_NAME,
    ROUTING,
    SERIES_UID,
    SOP_CLASS,
    SOP_UID,
    STUDY_DATE,
    STUDY_DESCRIPTION,
    STUDY_UID,
    Values,
    read_values,
)
from node.dicom.walk import HeaderError

__all__ = ["HeaderError", "HeaderFacts", "facts_of", "routing_of", "walk_header"]

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


def walk_header(dataset: bytes | memoryview, transfer_syntax: str) -> HeaderFacts:
    """Return what the header of an encoded data set says; arguments as for `read_values`.

    Raises:
        HeaderError: As `read_values`.
    """
    return facts_of(read_values(dataset, transfer_syntax))


def facts_of(values: Values) -> HeaderFacts:
    """Return what collected values say of an instance and its patient.

    Raises:
        HeaderError: One of the four UIDs is absent or is not a UID.
    """
    by_tag = values.by_tag
    charset = by_tag.get(CHARSET, b"")

    def text(tag: int) -> str:
        return _text(by_tag[tag], charset) if tag in by_tag else ""

    return HeaderFacts(
        study_uid=values.uid(STUDY_UID),
        series_uid=values.uid(SERIES_UID),
        sop_uid=values.uid(SOP_UID),
        sop_class=values.uid(SOP_CLASS),
        patient_id=text(PATIENT_ID),
        issuer=text(ISSUER),
        patient_name=text(PATIENT_NAME).rstrip("="),
        accession=text(ACCESSION),
        study_date=text(STUDY_DATE),
        study_description=text(STUDY_DESCRIPTION),
        modality=text(MODALITY),
    )


def routing_of(values: Values) -> Routing:
    """Return what routes may ask: keyword -> text, or a list of texts where there are several.

    An absent or empty element has no key.
    """
    charset = character_set(values.by_tag.get(CHARSET, b""))
    header: Routing = {}
    for tag, (keyword, vr) in ROUTING.items():
        if tag not in values.by_tag:
            continue
        texts = _texts(values.by_tag[tag], vr, charset, little=values.little)
        if any(texts):
            header[keyword] = texts[0] if len(texts) == 1 else list(texts)
    return header


@lru_cache(maxsize=4096)
def _text(value: bytes, charset: bytes) -> str:
    """Return a text value; cached, because a study repeats its own in every instance."""
    return "\\".join(decode_text(value, character_set(charset)))


def _texts(value: bytes, vr: str, charset: tuple[str, ...], *, little: bool) -> tuple[str, ...]:
    if vr == "US":
        count = len(value) // 2
        numbers = struct.unpack_from(f"{'<' if little else '>'}{count}H", value)
        return tuple(str(number) for number in numbers)
    if vr in _TEXT_VRS:
        return decode_text(value, charset)
    return tuple(clean_text(part) for part in value.decode(DEFAULT_CODEC).split("\\"))
