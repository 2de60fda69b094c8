"""Just enough of the upper layer to misbehave on it: pure functions from bytes to bytes.

A PDU is its type, a reserved byte, its length and a body; a P-DATA body is a row of presentation
data values. Used by `relay.py` between a sender and a phantom PACS, so both ends are ours and
well formed; nothing here reads what strangers send.

Source: DICOM PS3.8 section 9.3, PS3.7 section 9.3.1 and 10.3.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_AC: Final = 0x02
P_DATA: Final = 0x04

C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
N_EVENT_REPORT_RQ: Final = 0x0100
N_EVENT_REPORT_RSP: Final = 0x8100
N_ACTION_RSP: Final = 0x8130

STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
_IMPLICIT: Final = "1.2.840.10008.1.2"
_BEFORE_ITEMS: Final = 6 + 68
_PROPOSED, _ANSWERED, _ABSTRACT, _TRANSFER = 0x20, 0x21, 0x30, 0x40
_ABSTRACT_NOT_SUPPORTED: Final = 3


@dataclass(frozen=True, slots=True)
class Command:
    """The command set at the head of a P-DATA PDU.

    Attributes:
        context: Presentation context ID.
        field: Command Field (0000,0100).
    """

    context: int
    field: int


def _items(data: bytes, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, offset, body) of the items of an association PDU."""
    at = start
    while at + 4 <= len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        yield kind, at, data[at + 4 : at + 4 + length]
        at += 4 + length


def proposed_classes(request: bytes) -> dict[int, str]:
    """Return presentation context ID to abstract syntax of an A-ASSOCIATE-RQ."""
    return {
        body[0]: uid.rstrip(b"\0").decode("ascii")
        for kind, _, body in _items(request, _BEFORE_ITEMS)
        if kind == _PROPOSED
        for part, _, uid in _items(body, 4)
        if part == _ABSTRACT
    }


def accepted_syntaxes(answer: bytes) -> dict[int, str]:
    """Return presentation context ID to transfer syntax of what an A-ASSOCIATE-AC accepts."""
    return {
        body[0]: uid.rstrip(b"\0").decode("ascii")
        for kind, _, body in _items(answer, _BEFORE_ITEMS)
        if kind == _ANSWERED and body[2] == 0
        for part, _, uid in _items(body, 4)
        if part == _TRANSFER
    }


def without_contexts(answer: bytes, refused: frozenset[int]) -> bytes:
    """Return an A-ASSOCIATE-AC that refuses these contexts (abstract syntax not supported)."""
    changed = bytearray(answer)
    for kind, at, body in _items(answer, _BEFORE_ITEMS):
        if kind == _ANSWERED and body[0] in refused:
            changed[at + 4 + 2] = _ABSTRACT_NOT_SUPPORTED
    return bytes(changed)


def command_of(pdu: bytes) -> Command | None:
    """Return the command that a P-DATA PDU starts with, None where it goes on with data."""
    if pdu[0] != P_DATA:
        return None
    length, context, control = struct.unpack_from(">IBB", pdu, 6)
    if not control & 1:
        return None
    at, end = 12, 10 + length
    while at + 8 <= end:
        group, element, size = struct.unpack_from("<HHI", pdu, at)
        if (group, element) == (0, 0x0100):
            return Command(context, struct.unpack_from("<H", pdu, at + 8)[0])
        at += 8 + size
    return None


def event_report(context: int, transfer_syntax: str, report: Dataset, *, event_type: int) -> bytes:
    """Return the P-DATA PDUs of an N-EVENT-REPORT of the storage commitment class.

    Args:
        context: The accepted context of the class.
        transfer_syntax: What was accepted for it.
        report: Transaction UID and references (PS3.4 J.3.3).
        event_type: 1 where all are committed, 2 where failures exist.
    """
    command = Dataset()
    command.AffectedSOPClassUID = STORAGE_COMMITMENT
    command.CommandField = N_EVENT_REPORT_RQ
    command.MessageID = 1
    command.CommandDataSetType = 0x0001
    command.AffectedSOPInstanceUID = _COMMITMENT_INSTANCE
    command.EventTypeID = event_type
    body = _encoded(command, implicit=True)
    head = struct.pack("<HHII", 0, 0, 4, len(body))
    data = _encoded(report, implicit=transfer_syntax == _IMPLICIT)
    return _p_data(context, 0x03, head + body) + _p_data(context, 0x02, data)


def _encoded(dataset: Dataset, *, implicit: bool) -> bytes:
    """Return the bytes of `dataset`, little endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = implicit
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _p_data(context: int, control: int, data: bytes) -> bytes:
    """Return one P-DATA PDU with one presentation data value."""
    value = struct.pack(">IBB", len(data) + 2, context, control) + data
    return struct.pack(">BxI", P_DATA, len(value)) + value
