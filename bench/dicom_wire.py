"""The PDUs of a benchmark's sender and sink: pure functions over bytes, standard library only.

Written apart from the node's own codec, so that a mistake there is not repeated here.
Source: PS3.8 9.3 (PDUs), PS3.7 9.3.1 and 6.3 (C-STORE, command sets).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

ASSOCIATE_RQ: Final = 1
ASSOCIATE_AC: Final = 2
ASSOCIATE_RJ: Final = 3
P_DATA: Final = 4
RELEASE_RQ: Final = 5
RELEASE_RP: Final = 6
ABORT: Final = 7

COMMAND: Final = 1
LAST: Final = 2
FRAGMENT_HEADER_BYTES: Final = 12
"""PDU header, PDV length, context id and control byte: what stands before every fragment."""

VERIFICATION: Final = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"

_APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_UID: Final = b"2.25.306180312440152374231402313045716842401"
_LARGEST_WITHOUT_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Context:
    """A proposed presentation context with one transfer syntax."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an A-ASSOCIATE-AC says.

    Attributes:
        contexts: Ids of the accepted presentation contexts.
        max_pdu_bytes: The longest P-DATA-TF that the peer takes; a peer without a limit has 1 MiB.
    """

    contexts: frozenset[int]
    max_pdu_bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A C-STORE-RSP."""

    message_id: int
    status: int


def pdu(kind: int, body: bytes) -> bytes:
    """Return one PDU."""
    return struct.pack(">BxI", kind, len(body)) + body


def release_request() -> bytes:
    """Return an A-RELEASE-RQ."""
    return pdu(RELEASE_RQ, bytes(4))


def release_answer() -> bytes:
    """Return an A-RELEASE-RP."""
    return pdu(RELEASE_RP, bytes(4))


def associate_request(
    *, called_ae: str, calling_ae: str, contexts: Sequence[Context], max_pdu_bytes: int
) -> bytes:
    """Return an A-ASSOCIATE-RQ that proposes the contexts and announces our own maximum."""
    fixed = struct.pack(">H2x16s16s32x", 1, called_ae.ljust(16).encode(),
                        calling_ae.ljust(16).encode())  # fmt: skip
    proposed = b"".join(
        _item(
            0x20,
            struct.pack(">B3x", context.id)
            + _item(0x30, context.abstract_syntax.encode())
            + _item(0x40, context.transfer_syntax.encode()),
        )
        for context in contexts
    )
    user = _user_information(max_pdu_bytes)
    return pdu(ASSOCIATE_RQ, fixed + _item(0x10, _APPLICATION_CONTEXT) + proposed + user)


def associate_accept(request_body: bytes, *, max_pdu_bytes: int) -> bytes:
    """Return an A-ASSOCIATE-AC that takes every proposed context with its first syntax."""
    answers = []
    for kind, content in _items(request_body[68:]):
        if kind == 0x20:
            syntax = next(value for inner, value in _items(content[4:]) if inner == 0x40)
            answers.append(_item(0x21, bytes([content[0], 0, 0, 0]) + _item(0x40, syntax)))
    rest = _item(0x10, _APPLICATION_CONTEXT) + b"".join(answers) + _user_information(max_pdu_bytes)
    return pdu(ASSOCIATE_AC, request_body[:68] + rest)


def read_accept(body: bytes) -> Accepted:
    """Return what the body of an A-ASSOCIATE-AC says."""
    contexts = set()
    longest = 0
    for kind, content in _items(body[68:]):
        if kind == 0x21 and content[2] == 0:
            contexts.add(content[0])
        if kind == 0x50:
            for inner, value in _items(content):
                if inner == 0x51:
                    longest = int.from_bytes(value, "big")
    return Accepted(frozenset(contexts), longest or _LARGEST_WITHOUT_LIMIT)


def store_request(*, sop_class: str, sop_uid: str, message_id: int) -> bytes:
    """Return the command set of a C-STORE-RQ of medium priority (PS3.7 9.3.1.1)."""
    return _command_set(
        (0x0002, _padded(sop_class)),
        (0x0100, struct.pack("<H", 0x0001)),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1)),
        (0x1000, _padded(sop_uid)),
    )


def store_answer(*, sop_class: str, sop_uid: str, message_id: int) -> bytes:
    """Return the command set of a C-STORE-RSP with status 0x0000 (PS3.7 9.3.1.2)."""
    return _command_set(
        (0x0002, _padded(sop_class)),
        (0x0100, struct.pack("<H", 0x8001)),
        (0x0120, struct.pack("<H", message_id)),
        (0x0800, struct.pack("<H", 0x0101)),
        (0x0900, struct.pack("<H", 0)),
        (0x1000, _padded(sop_uid)),
    )


def value_at(command: bytes, element: int) -> int:
    """Return where the value of a command element begins."""
    at = 0
    while at < len(command):
        group, number, length = struct.unpack_from("<HHI", command, at)
        if (group, number) == (0, element):
            return at + 8
        at += 8 + int(length)
    raise ValueError(f"the command set has no element (0000,{element:04X})")


def read_answer(command: bytes) -> Answer:
    """Return the message id and status of a response's command set."""
    message_id, status = (
        int(struct.unpack_from("<H", command, value_at(command, element))[0])
        for element in (0x0120, 0x0900)
    )
    return Answer(message_id, status)


def payload_bytes(max_pdu_bytes: int) -> int:
    """Return how much of a message fits into one P-DATA-TF: even, as fragments should be."""
    return (max_pdu_bytes - 6) & ~1


def framed(data: bytes, *, context: int, control: int, payload: int, ends: bool) -> bytearray:
    """Return `data` as P-DATA-TF PDUs of one fragment each.

    Args:
        data: Command set or part of a dataset.
        context: Presentation context id.
        control: COMMAND, or 0 for a dataset.
        payload: Longest fragment in bytes.
        ends: Whether the last fragment ends the command set or dataset.
    """
    out = bytearray()
    for start in range(0, len(data), payload):
        fragment = data[start : start + payload]
        last = LAST if ends and start + payload >= len(data) else 0
        length = len(fragment)
        out += struct.pack(">BxIIBB", P_DATA, length + 6, length + 2, context, control | last)
        out += fragment
    return out


def place_in_frames(at: int, *, payload: int) -> int:
    """Return where byte `at` of the data lies in what `framed` made of it."""
    return at + FRAGMENT_HEADER_BYTES * (at // payload + 1)


def fragments(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Return control byte and content of each PDV in the body of a P-DATA-TF."""
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        yield body[at + 5], body[at + 6 : at + 4 + length]
        at += 4 + length


def _command_set(*elements: tuple[int, bytes]) -> bytes:
    encoded = b"".join(_command_element(number, value) for number, value in elements)
    return _command_element(0, struct.pack("<I", len(encoded))) + encoded


def _command_element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def _padded(uid: str) -> bytes:
    return uid.encode() + b"\x00" * (len(uid) % 2)


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length


def _user_information(max_pdu_bytes: int) -> bytes:
    return _item(
        0x50,
        _item(0x51, struct.pack(">I", max_pdu_bytes))
        + _item(0x52, _IMPLEMENTATION_UID)
        + _item(0x55, b"BENCH"),
    )
