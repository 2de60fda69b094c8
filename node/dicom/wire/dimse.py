"""Command sets as values: what a message asks for, and the answers to it.

Pure. A command set is Implicit VR Little Endian and has group 0000 only (PS3.7 6.3.1), some eight
elements in 150 bytes. Its group length is written right and not looked at: devices get it wrong.
`DimseError` is the only exception that leaves the decoder; where enough could be read to answer,
it carries the command, so that the peer hears a status instead of an abort.

Reading the request and making the answer of a C-STORE is on the path of every instance: some 8 and
3 us here, of 250 that an instance costs.

Source: DICOM PS3.7 sections 9.3 and 10.3 (messages), annex C (statuses), annex E (elements);
PS3.8 section 9.3.5 (P-DATA-TF).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from node.dicom import statuses
from node.dicom.wire.pdu import P_DATA, PDU_HEADER
from node.dicom.wire.text import plain

C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
C_GET_RQ: Final = 0x0010
C_FIND_RQ: Final = 0x0020
C_MOVE_RQ: Final = 0x0021
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
N_EVENT_REPORT_RQ: Final = 0x0100
N_GET_RQ: Final = 0x0110
N_SET_RQ: Final = 0x0120
N_ACTION_RQ: Final = 0x0130
N_CREATE_RQ: Final = 0x0140
N_DELETE_RQ: Final = 0x0150

RESPONSE: Final = 0x8000
"""The bit by which the command field of a response differs from its request's."""

NO_DATASET: Final = 0x0101
"""The value of (0000,0800) for a message without data set; every other one announces one."""

MAX_COMMAND_BYTES: Final = 64 * 1024
"""Real command sets have 100 to 300 bytes."""

MAX_ELEMENTS: Final = 64
"""The Standard has 24 elements of group 0000 that are not retired."""

MISTYPED: Final = 0x0212
"""Mistyped argument: an element is absent, of the wrong size, or of another group."""

_SOP_CLASS: Final = 0x0002
_REQUESTED_CLASS: Final = 0x0003
_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_RESPONDED_ID: Final = 0x0120
_PRIORITY: Final = 0x0700
_DATASET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_COMMENT: Final = 0x0902
_SOP_INSTANCE: Final = 0x1000
_REQUESTED_INSTANCE: Final = 0x1001
_EVENT_TYPE: Final = 0x1002
_ACTION_TYPE: Final = 0x1008
_ORIGINATOR_AE: Final = 0x1030
_ORIGINATOR_ID: Final = 0x1031

_UIDS: Final = frozenset({_SOP_CLASS, _REQUESTED_CLASS, _SOP_INSTANCE, _REQUESTED_INSTANCE})

_NUMBERS: Final = frozenset({_EVENT_TYPE, _ACTION_TYPE})

_NEEDED: Final[Mapping[int, tuple[int, ...]]] = {
    C_STORE_RQ: (_SOP_CLASS, _SOP_INSTANCE),
    N_EVENT_REPORT_RQ: (_SOP_CLASS, _SOP_INSTANCE, _EVENT_TYPE),
    N_GET_RQ: (_REQUESTED_CLASS, _REQUESTED_INSTANCE),
    N_SET_RQ: (_REQUESTED_CLASS, _REQUESTED_INSTANCE),
    N_ACTION_RQ: (_REQUESTED_CLASS, _REQUESTED_INSTANCE, _ACTION_TYPE),
    N_CREATE_RQ: (_SOP_CLASS,),
    N_DELETE_RQ: (_REQUESTED_CLASS, _REQUESTED_INSTANCE),
}
"""What a request must hold beyond field, message ID and data set type. C-ECHO is answered without
its SOP class too: it can only be one."""

_NAMES_AN_INSTANCE: Final = frozenset(_NEEDED)
"""Requests whose response names the affected SOP instance."""

_ELEMENT: Final = struct.Struct("<HHI")
_US: Final = struct.Struct("<H")
_GROUP_LENGTH: Final = struct.Struct("<8sI")
_ANSWER: Final = struct.Struct("<8sH8sH8sH8sH")
_LENGTH_HEAD: Final = _ELEMENT.pack(0, 0, 4)
_FIELD_HEAD: Final = _ELEMENT.pack(0, _FIELD, 2)
_RESPONDED_HEAD: Final = _ELEMENT.pack(0, _RESPONDED_ID, 2)
_DATASET_HEAD: Final = _ELEMENT.pack(0, _DATASET_TYPE, 2)
_STATUS_HEAD: Final = _ELEMENT.pack(0, _STATUS, 2)
"""The elements that every response has, which follow each other."""

_ID_HEAD: Final = _ELEMENT.pack(0, _MESSAGE_ID, 2)
_UID_TAG: Final = _ELEMENT.pack(0, _SOP_INSTANCE, 0)[:4]

_PDV_HEADER: Final = struct.Struct(">IBB")
_COMMAND_LAST: Final = 0x03  # PS3.8 annex E.2: command information, last fragment
_COMMAND_MORE: Final = 0x01
_DATASET_FOLLOWS: Final = 0x0001
_VERIFICATION: Final = b"1.2.840.10008.1.1"


class Command(NamedTuple):
    """A command set.

    UIDs and AE titles are without padding and printable, but not judged. What is absent is empty
    or 0.

    Attributes:
        field: Command field (0000,0100): which message this is.
        message_id: Of a request; 0 in a response.
        responded_id: Of a response: the message ID that it answers. In a C-CANCEL: what to cancel.
        sop_class: Affected or, in N-GET, -SET, -ACTION and -DELETE, requested SOP class UID.
        sop_uid: Affected or requested SOP instance UID.
        has_dataset: Whether a data set follows.
        priority: 0 medium, 1 high, 2 low.
        event_type: Of an N-EVENT-REPORT.
        action_type: Of an N-ACTION.
        status: Of a response.
        originator_ae: Who asked for the C-MOVE that this C-STORE is part of.
        originator_id: The message ID of that C-MOVE.
    """

    field: int
    message_id: int
    responded_id: int
    sop_class: str
    sop_uid: str
    has_dataset: bool
    priority: int
    event_type: int
    action_type: int
    status: int
    originator_ae: str
    originator_id: int


class DimseError(Exception):
    """A command set that cannot be taken.

    Attributes:
        what: A sentence for people, without text from the peer.
        status: What to answer.
        command: The command as far as it was read, to answer it and to know whether a data set
            follows; None if that cannot be known, so that only an abort is left.
    """

    def __init__(self, status: int, what: str, command: Command | None) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.command = command


# -- decoding -------------------------------------------------------------------------------------


def decode_command(data: bytes | bytearray | memoryview) -> Command:
    """Return the command that a complete command set holds.

    Raises:
        DimseError: It exceeds a limit, stops making sense, has an element of another group or one
            element twice, or lacks what its message needs.
    """
    if len(data) > MAX_COMMAND_BYTES:
        what = f"The command set has {len(data)} bytes, more than {MAX_COMMAND_BYTES}."
        raise DimseError(statuses.PROCESSING_FAILURE, what, None)
    elements = _Elements({}, {})
    fault = _read(bytes(data), elements)
    command = _command(elements)
    if fault is not None:
        status, what = fault
        raise DimseError(status, what, command)
    if command is None:
        what = "The command set lacks its command field, message ID or data set type."
        raise DimseError(MISTYPED, what, None)
    for number in _NEEDED.get(command.field, ()):
        if number not in (elements.numbers if number in _NUMBERS else elements.values):
            what = f"The command set {command.field:04X}H lacks element (0000,{number:04X})."
            raise DimseError(MISTYPED, what, command)
    return command


class CommandReader:
    """Decodes the command sets of one association.

    The C-STORE requests of an association differ in message ID and SOP Instance UID alone; where
    the other bytes are those of the request before, they need not be read again.
    """

    def __init__(self) -> None:
        """Begin without a request to compare with."""
        self._last = b""
        self._command: Command | None = None
        self._id_at = self._uid_at = 0

    def read(self, data: bytes) -> Command:
        """Return the command that a complete command set holds.

        Raises:
            DimseError: As `decode_command`.
        """
        last, at, uid_at = self._last, self._id_at, self._uid_at
        if (
            self._command is not None
            and len(data) == len(last)
            and data[:at] == last[:at]
            and data[at + 2 : uid_at] == last[at + 2 : uid_at]
        ):
            return self._command._replace(
                message_id=data[at] | data[at + 1] << 8, sop_uid=plain(data[uid_at:])
            )
        command = decode_command(data)
        if command.field == C_STORE_RQ:
            self._remember(data, command)
        return command

    def _remember(self, data: bytes, command: Command) -> None:
        """Keep a request whose last element is the UID, as it is unless a C-MOVE is behind it."""
        uid = data.rfind(_UID_TAG)
        message = data.find(_ID_HEAD)
        self._command = None
        if 0 < message < uid and uid + 8 + _ELEMENT.unpack_from(data, uid)[2] == len(data):
            self._last, self._command = data, command
            self._id_at, self._uid_at = message + 8, uid + 8


class _Elements(NamedTuple):
    """Element number -> value; those of two bytes also as the numbers that they may be."""

    values: dict[int, bytes]
    numbers: dict[int, int]


def _read(data: bytes, elements: _Elements) -> tuple[int, str] | None:
    """Fill `elements`; return (status, what) if the bytes stop making sense."""
    values, numbers = elements
    at, size, header = 0, len(data), _ELEMENT.unpack_from
    while at < size:
        if size - at < 8:
            return statuses.PROCESSING_FAILURE, f"The element at byte {at} is cut short."
        group, number, length = header(data, at)
        start = at + 8
        at = start + length
        if group:
            return MISTYPED, f"The command set has an element of group {group:04X}."
        if at > size:
            what = f"Element (0000,{number:04X}) claims {length} bytes, {size - start} are there."
            return statuses.PROCESSING_FAILURE, what
        if number in values:
            return MISTYPED, f"Element (0000,{number:04X}) is there twice."
        if len(values) == MAX_ELEMENTS:
            what = f"The command set has more than {MAX_ELEMENTS} elements."
            return statuses.PROCESSING_FAILURE, what
        values[number] = data[start:at]
        if length == 2:
            numbers[number] = data[start] | data[start + 1] << 8
    return None


def _command(elements: _Elements) -> Command | None:
    """Return the command, or None without what every command needs."""
    value, number = elements.values.get, elements.numbers.get
    field, dataset_type = number(_FIELD), number(_DATASET_TYPE)
    if field is None or dataset_type is None:
        return None
    # A response and a C-CANCEL name another message instead of having an ID of their own.
    names_another = field & RESPONSE or field == C_CANCEL_RQ
    if number(_RESPONDED_ID if names_another else _MESSAGE_ID) is None:
        return None
    return Command(
        field=field,
        message_id=number(_MESSAGE_ID, 0),
        responded_id=number(_RESPONDED_ID, 0),
        sop_class=plain(value(_SOP_CLASS) or value(_REQUESTED_CLASS, b"")),
        sop_uid=plain(value(_SOP_INSTANCE) or value(_REQUESTED_INSTANCE, b"")),
        has_dataset=dataset_type != NO_DATASET,
        priority=number(_PRIORITY, 0),
        event_type=number(_EVENT_TYPE, 0),
        action_type=number(_ACTION_TYPE, 0),
        status=number(_STATUS, 0),
        originator_ae=plain(value(_ORIGINATOR_AE, b"")),
        originator_id=number(_ORIGINATOR_ID, 0),
    )


# -- encoding -------------------------------------------------------------------------------------


def encode_command(elements: Mapping[int, bytes]) -> bytes:
    """Return the command set that holds `elements`, in order, padded, behind its group length.

    Args:
        elements: Element number within group 0000 -> value; without (0000,0000).
    """
    body = b"".join(_element(number, elements[number]) for number in sorted(elements))
    return _GROUP_LENGTH.pack(_LENGTH_HEAD, len(body)) + body


def encode_response(
    command: Command,
    *,
    context_id: int,
    status: int,
    comment: str = "",
    sop_uid: str | None = None,
    event_type: int | None = None,
    action_type: int | None = None,
    max_length: int = 0,
) -> bytes:
    """Return the response to a request, without data set, as whole P-DATA-TF PDUs in one piece.

    It names the affected SOP instance, event and action as the request did, in the messages whose
    response has such an element (PS3.7 tables 9.3-2 and 9.3-13, 10.3-2 to 10.3-12).

    Args:
        command: The request.
        context_id: Its presentation context.
        status: What to answer.
        comment: For people; shown as Error Comment (0000,0902) if it is not empty.
        sop_uid: The affected instance, where the request named none (N-CREATE).
        event_type: Instead of the request's.
        action_type: Instead of the request's.
        max_length: What the peer announced, at least `pdu.MIN_MAX_LENGTH`; 0 is no limit.
    """
    request = command.field
    body = _ANSWER.pack(
        _FIELD_HEAD,
        request | RESPONSE,
        _RESPONDED_HEAD,
        command.message_id,
        _DATASET_HEAD,
        NO_DATASET,
        _STATUS_HEAD,
        status,
    )
    if command.sop_class:
        body = _element(_SOP_CLASS, command.sop_class.encode("ascii")) + body
    if comment:
        body += _element(_COMMENT, statuses.comment(comment).encode("ascii"))
    if request in _NAMES_AN_INSTANCE:
        instance = command.sop_uid if sop_uid is None else sop_uid
        if instance:
            body += _element(_SOP_INSTANCE, instance.encode("ascii"))
        if request == N_EVENT_REPORT_RQ:
            event = command.event_type if event_type is None else event_type
            body += _element(_EVENT_TYPE, _US.pack(event))
        elif request == N_ACTION_RQ:
            action = command.action_type if action_type is None else action_type
            body += _element(_ACTION_TYPE, _US.pack(action))
    return as_pdata(
        _GROUP_LENGTH.pack(_LENGTH_HEAD, len(body)) + body,
        context_id=context_id,
        max_length=max_length,
    )


def as_pdata(command_set: bytes, *, context_id: int, max_length: int = 0) -> bytes:
    """Return a command set as P-DATA-TF PDUs of one fragment each, in one piece.

    Args:
        command_set: At least one byte.
        context_id: Its presentation context.
        max_length: Longest PDU to make, bytes without the PDU header, at least
            `pdu.MIN_MAX_LENGTH`; 0 is no limit.
    """
    size = len(command_set)
    room = (max_length - _PDV_HEADER.size) & ~1 if max_length else size
    if size <= room:
        return (
            PDU_HEADER.pack(P_DATA, size + 6)
            + _PDV_HEADER.pack(size + 2, context_id, _COMMAND_LAST)
            + command_set
        )
    pieces = []
    for at in range(0, size, room):
        piece = command_set[at : at + room]
        control = _COMMAND_LAST if at + room >= size else _COMMAND_MORE
        pieces.append(PDU_HEADER.pack(P_DATA, len(piece) + 6))
        pieces.append(_PDV_HEADER.pack(len(piece) + 2, context_id, control))
        pieces.append(piece)
    return b"".join(pieces)


def encode_store_request(
    message_id: int, sop_class: str, sop_uid: str, *, priority: int = 0
) -> bytes:
    """Return the command set of a C-STORE-RQ."""
    return encode_command(
        {
            _SOP_CLASS: sop_class.encode("ascii"),
            _FIELD: _US.pack(C_STORE_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            _PRIORITY: _US.pack(priority),
            _DATASET_TYPE: _US.pack(_DATASET_FOLLOWS),
            _SOP_INSTANCE: sop_uid.encode("ascii"),
        }
    )


def encode_echo_request(message_id: int) -> bytes:
    """Return the command set of a C-ECHO-RQ."""
    return encode_command(
        {
            _SOP_CLASS: _VERIFICATION,
            _FIELD: _US.pack(C_ECHO_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            _DATASET_TYPE: _US.pack(NO_DATASET),
        }
    )


def _element(number: int, value: bytes) -> bytes:
    size = len(value)
    if size % 2:
        value += b"\0" if number in _UIDS else b" "
        size += 1
    return _ELEMENT.pack(0, number, size) + value
