"""A C-STORE SCU that costs next to nothing: its messages are encoded once and patched.

Each instance differs from the one before in its message id and the last digits of its SOP
Instance UID (in the command set and in the dataset); everything else is sent from the same
buffer, in one `sendall` where it fits. It waits for each answer and notes how long it took. It
does not retry, transcode or negotiate in earnest. Standard library only; `bench.dicom_send` is its
command line.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import dicom_wire as wire
from bench.dicom_objects import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    SERIAL_DIGITS,
    DicomObject,
)

if TYPE_CHECKING:
    import ssl

TIMEOUT_S: Final = 60.0
_STORE_CONTEXT: Final = 1
_ECHO_CONTEXT: Final = 3


class Sending(StrEnum):
    """How a message goes to the kernel."""

    WHOLE = "whole"  # in one call, TCP_NODELAY set
    NAGLE = "nagle"  # as stock DCMTK: 12 bytes of headers, then the fragment, Nagle's rule on


class AssociationError(Exception):
    """The peer rejected, aborted or closed, or it was silent for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Our certificate and key, and the authority that both sides trust; PEM files."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to call, and as whom.

    Attributes:
        source_address: Loopback address to call from; empty for the kernel's choice.
    """

    host: str
    port: int
    called_ae: str
    calling_ae: str = "BENCH"
    tls: TlsFiles | None = None
    source_address: str = ""


@dataclass(slots=True)
class Sent:
    """What became of the instances of one association.

    Attributes:
        latencies_ms: From the first byte of a message to its answer, for each answered one.
        statuses: Status -> count, of each answer.
        started_ns: CLOCK_MONOTONIC before the first message.
        ended_ns: CLOCK_MONOTONIC after the last answer.
        associate_ms: From connect to the A-ASSOCIATE-AC.
        cpu_ms: This process's CPU time from the first message to the last answer.
        failure: Why the association ended early; empty when all were answered.
    """

    latencies_ms: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    started_ns: int = 0
    ended_ns: int = 0
    associate_ms: float = 0.0
    cpu_ms: float = 0.0
    failure: str = ""


class Message:
    """One encoded C-STORE-RQ that is patched for each instance."""

    def __init__(self, made: DicomObject, *, max_pdu_bytes: int) -> None:
        payload = wire.payload_bytes(max_pdu_bytes)
        command = wire.store_request(
            sop_class=made.sop_class, sop_uid=made.sop_uid(0), message_id=0
        )
        whole = made.repeats == 1
        start = made.head + made.block if whole else made.head
        self.first = _command_frames(command) + _data_frames(start, payload, ends=whole)
        self.middles = made.repeats - 1
        self.middle = bytearray() if whole else _data_frames(made.block, payload, ends=False)
        self.last = bytearray() if whole else _data_frames(made.block, payload, ends=True)
        self.fragment_bytes = payload
        self._made = made
        self._message_id_at = 12 + wire.value_at(command, 0x0110)
        uid_ends = (
            12 + wire.value_at(command, 0x1000) + 44,
            len(_command_frames(command))
            + wire.place_in_frames(made.sop_uid_at + 44 - SERIAL_DIGITS, payload=payload)
            + SERIAL_DIGITS,
        )
        self._serials_at = [slice(end - SERIAL_DIGITS, end) for end in uid_ends]
        if made.sop_uid_at // payload != (made.sop_uid_at + 43) // payload:
            raise ValueError("PDUs are so short that the SOP Instance UID is cut")

    def patch(self, *, message_id: int, serial: int) -> None:
        """Make it the message of the instance with that number."""
        struct.pack_into("<H", self.first, self._message_id_at, message_id)
        digits = b"%0*d" % (SERIAL_DIGITS, serial)
        for place in self._serials_at:
            self.first[place] = digits

    def sop_uid(self, serial: int) -> str:
        """Return the SOP Instance UID of the instance with that number."""
        return self._made.sop_uid(serial)


class Association:
    """An open association; `associate` makes it."""

    def __init__(self, connection: socket.socket, accepted: wire.Accepted) -> None:
        self.accepted = accepted
        self._connection = connection
        self._received = bytearray()

    def store(self, message: Message, sending: Sending) -> wire.Answer:
        """Send one message and wait for its answer.

        Raises:
            AssociationError: The peer aborted, closed or stayed silent.
        """
        send = self._connection.sendall if sending is Sending.WHOLE else self._send_in_pieces
        try:
            send(message.first)
            for _ in range(message.middles):
                send(message.middle)
            if message.last:
                send(message.last)
            return wire.read_answer(self._command_set())
        except OSError as error:
            raise AssociationError(f"the connection broke: {error}") from error

    def release(self) -> None:
        """Release and close; a peer that is gone already is left alone."""
        try:
            self._connection.sendall(wire.release_request())
            read_pdu(self._connection, self._received)
        except (OSError, AssociationError):
            pass
        finally:
            self._connection.close()

    def close(self) -> None:
        """Close without a word."""
        self._connection.close()

    def _command_set(self) -> bytes:
        command = b""
        while True:
            kind, body = read_pdu(self._connection, self._received)
            if kind != wire.P_DATA:
                raise AssociationError(f"PDU of type {kind} instead of an answer: {body.hex()}")
            for control, content in wire.fragments(body):
                command += content
                if control == wire.COMMAND | wire.LAST:
                    return command

    def _send_in_pieces(self, frames: bytearray) -> None:
        at = 0
        whole = memoryview(frames)
        while at < len(whole):
            end = at + 6 + int.from_bytes(whole[at + 2 : at + 6], "big")
            self._connection.sendall(whole[at : at + wire.FRAGMENT_HEADER_BYTES])
            self._connection.sendall(whole[at + wire.FRAGMENT_HEADER_BYTES : end])
            at = end


def associate(
    target: Target,
    sop_class: str,
    *,
    max_pdu_bytes: int = 131_072,
    sending: Sending = Sending.WHOLE,
) -> Association:
    """Open an association for one SOP class in Explicit VR Little Endian, and for C-ECHO.

    Raises:
        AssociationError: The peer cannot be reached, or did not accept the SOP class.
    """
    try:
        connection = socket.create_connection(
            (target.host, target.port),
            TIMEOUT_S,
            source_address=(target.source_address, 0) if target.source_address else None,
        )
    except OSError as error:
        raise AssociationError(f"cannot connect: {error}") from error
    try:
        return _negotiated(connection, target, sop_class, max_pdu_bytes, sending)
    except OSError as error:
        connection.close()
        raise AssociationError(f"the connection broke: {error}") from error
    except AssociationError:
        connection.close()
        raise


def _negotiated(
    connection: socket.socket,
    target: Target,
    sop_class: str,
    max_pdu_bytes: int,
    sending: Sending,
) -> Association:
    if sending is Sending.WHOLE:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if target.tls is not None:
        connection = _tls_context(target.tls).wrap_socket(connection)
    connection.sendall(
        wire.associate_request(
            called_ae=target.called_ae,
            calling_ae=target.calling_ae,
            contexts=[
                wire.Context(_STORE_CONTEXT, sop_class, EXPLICIT_VR_LITTLE_ENDIAN),
                wire.Context(_ECHO_CONTEXT, wire.VERIFICATION, wire.IMPLICIT_VR_LITTLE_ENDIAN),
            ],
            max_pdu_bytes=max_pdu_bytes,
        )
    )
    kind, body = read_pdu(connection, bytearray())
    if kind == wire.ASSOCIATE_RJ:
        raise AssociationError(f"rejected: result {body[1]}, source {body[2]}, reason {body[3]}")
    if kind != wire.ASSOCIATE_AC:
        raise AssociationError(f"PDU of type {kind} instead of an A-ASSOCIATE-AC")
    accepted = wire.read_accept(body)
    if _STORE_CONTEXT not in accepted.contexts:
        raise AssociationError(f"the peer does not take SOP class {sop_class}")
    return Association(connection, accepted)


def send_instances(
    association: Association,
    made: DicomObject,
    *,
    count: int,
    max_pdu_bytes: int = 131_072,
    sending: Sending = Sending.WHOLE,
    first_serial: int = 1,
    on_acknowledged: Callable[[str], None] | None = None,
) -> Sent:
    """Send `count` instances one after another; an association that ends early ends this.

    Args:
        association: Is left open.
        made: What to send.
        count: How many.
        max_pdu_bytes: Longest PDU; shorter where the peer says so.
        sending: How messages go to the kernel.
        first_serial: Number of the first instance.
        on_acknowledged: Told the SOP Instance UID of each instance answered with 0x0000, before
            the next one is sent.
    """
    longest = min(max_pdu_bytes, association.accepted.max_pdu_bytes)
    message = Message(made, max_pdu_bytes=longest)
    sent = Sent(started_ns=time.monotonic_ns())
    cpu = time.process_time()
    try:
        for serial in range(first_serial, first_serial + count):
            message_id = serial % 65_535 + 1
            message.patch(message_id=message_id, serial=serial)
            before = time.perf_counter()
            answer = association.store(message, sending)
            sent.latencies_ms.append((time.perf_counter() - before) * 1000)
            sent.statuses[answer.status] = sent.statuses.get(answer.status, 0) + 1
            if answer.message_id != message_id:
                raise AssociationError(f"answer to {answer.message_id}, not to {message_id}")  # noqa: TRY301
            if answer.status == 0 and on_acknowledged is not None:
                on_acknowledged(message.sop_uid(serial))
    except AssociationError as ended:
        sent.failure = str(ended)
    sent.ended_ns = time.monotonic_ns()
    sent.cpu_ms = (time.process_time() - cpu) * 1000
    return sent


def read_pdu(connection: socket.socket, received: bytearray) -> tuple[int, bytes]:
    """Return type and body of the next PDU; what came after it stays in `received`.

    Raises:
        AssociationError: The peer closed.
    """
    while len(received) < 6 or len(received) < 6 + int.from_bytes(received[2:6], "big"):
        data = connection.recv(65_536)
        if not data:
            raise AssociationError("the peer closed the connection")
        received += data
    end = 6 + int.from_bytes(received[2:6], "big")
    kind, body = received[0], bytes(received[6:end])
    del received[:end]
    return kind, body


def _command_frames(command: bytes) -> bytearray:
    return wire.framed(
        command, context=_STORE_CONTEXT, control=wire.COMMAND, payload=len(command), ends=True
    )


def _data_frames(data: bytes, payload: int, *, ends: bool) -> bytearray:
    return wire.framed(data, context=_STORE_CONTEXT, control=0, payload=payload, ends=ends)


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authority)
    return context
