"""A peer that speaks bytes: it says whatever a test wants, and shares no code with the node.

`honest` is what a scanner does; everything else here is for peers that are not.

Source: DICOM PS3.8 section 9.3 (PDUs) and annex E, PS3.7 section 9.3 (commands).
"""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION: Final = "1.2.840.10008.1.1"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
APPLICATION: Final = "1.2.840.10008.3.1.1.1"

RQ, AC, RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

COMMAND: Final = 1
LAST: Final = 2

ECHO_CONTEXT: Final = 1
CT_CONTEXT: Final = 3

PATIENCE_S: Final = 60.0
"""How long a peer of ours waits for bytes: longer than any deadline of the node in a test."""

_numbers = itertools.count(1)


def pdu(kind: int, body: bytes = bytes(4), *, claims: int | None = None) -> bytes:
    """Return a PDU, which may claim another length than it has."""
    return struct.pack(">BxI", kind, len(body) if claims is None else claims) + body


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def context(number: int, abstract: str = CT, syntaxes: Iterable[str] = (EXPLICIT,)) -> bytes:
    """Return a proposed presentation context."""
    content = struct.pack(">Bxxx", number) + item(0x30, abstract.encode())
    return item(0x20, content + b"".join(item(0x40, one.encode()) for one in syntaxes))


CONTEXTS: Final = context(ECHO_CONTEXT, VERIFICATION, (IMPLICIT,)) + context(CT_CONTEXT)


def request(
    *,
    calling: bytes = b"SCANNER",
    called: bytes = b"LIMNER",
    contexts: bytes = CONTEXTS,
    user: bytes = b"",
    max_length: int = 16_384,
) -> bytes:
    """Return an A-ASSOCIATE-RQ."""
    titles = called.ljust(16)[:16] + calling.ljust(16)[:16]
    identity = item(0x51, struct.pack(">I", max_length)) + item(0x52, b"1.2.3") + user
    items = item(0x10, APPLICATION.encode()) + contexts + item(0x50, identity)
    return pdu(RQ, struct.pack(">Hxx", 1) + titles + bytes(32) + items)


def pdv(number: int, control: int, data: bytes, *, claims: int | None = None) -> bytes:
    """Return a presentation data value, which may claim another length than it has."""
    length = len(data) + 2 if claims is None else claims
    return struct.pack(">IBB", length, number, control) + data


def element(number: int, value: bytes) -> bytes:
    """Return an element of a command set."""
    return struct.pack("<HHI", 0, number, len(value)) + value


def command(elements: Sequence[tuple[int, bytes]]) -> bytes:
    """Return a command set with its group length."""
    body = b"".join(element(number, value) for number, value in elements)
    return element(0, struct.pack("<I", len(body))) + body


def us(value: int) -> bytes:
    return struct.pack("<H", value)


def echo_command(message_id: int = 1) -> bytes:
    uid = VERIFICATION.encode() + b"\0"
    return command(((2, uid), (0x100, us(0x30)), (0x110, us(message_id)), (0x800, us(0x101))))


def store_command(sop_uid: str | bytes, *, message_id: int = 1, sop_class: str = CT) -> bytes:
    instance = sop_uid.encode() if isinstance(sop_uid, str) else sop_uid
    return command(
        (
            (2, even(sop_class.encode())),
            (0x100, us(1)),
            (0x110, us(message_id)),
            (0x700, us(0)),
            (0x800, us(1)),
            (0x1000, even(instance)),
        )
    )


def even(value: bytes) -> bytes:
    return value + bytes(len(value) % 2)


def dataset(sop_uid: str, *, study_uid: str = "1.2.3.4", pixels: int = 512) -> bytes:
    """Return a small CT image, Explicit VR Little Endian; its pixels follow from its UID."""
    elements = (
        (0x0008, 0x0016, b"UI", CT.encode()),
        (0x0008, 0x0018, b"UI", sop_uid.encode()),
        (0x0010, 0x0020, b"LO", b"P1"),
        (0x0020, 0x000D, b"UI", study_uid.encode()),
        (0x0020, 0x000E, b"UI", f"{study_uid}.1".encode()),
    )
    header = b"".join(
        struct.pack("<HH2sH", group, number, vr, len(even(value))) + even(value)
        for group, number, vr, value in elements
    )
    noise = (sop_uid.encode() * (pixels // len(sop_uid) + 1))[:pixels]
    return header + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixels) + noise


def echo_message(message_id: int = 1) -> bytes:
    return pdu(P_DATA, pdv(ECHO_CONTEXT, COMMAND | LAST, echo_command(message_id)))


def store_message(
    sop_uid: str, data: bytes | None = None, *, message_id: int = 1, number: int = CT_CONTEXT
) -> bytes:
    """Return a C-STORE-RQ with its data set, in PDUs of at most 16,000 bytes."""
    data = dataset(sop_uid) if data is None else data
    asked = store_command(sop_uid, message_id=message_id)
    parts = [pdu(P_DATA, pdv(number, COMMAND | LAST, asked))]
    for at in range(0, len(data), 15_000):
        last = LAST if at + 15_000 >= len(data) else 0
        parts.append(pdu(P_DATA, pdv(number, last, data[at : at + 15_000])))
    return b"".join(parts)


def fresh_uid() -> str:
    """Return a SOP Instance UID that no other call returned."""
    return f"1.2.3.4.1.{next(_numbers)}"


@dataclass(frozen=True)
class Said:
    """A PDU of the node."""

    kind: int
    body: bytes

    @property
    def status(self) -> int:
        """Of a response: its status."""
        return struct.unpack("<H", self.command_element(0x900))[0]

    def command_element(self, wanted: int) -> bytes:
        """Return the value of an element of the command set in this PDU; empty if absent."""
        at, data = 0, self.body[6:]
        while at < len(data):
            _, number, length = struct.unpack_from("<HHI", data, at)
            if number == wanted:
                return data[at + 8 : at + 8 + length]
            at += 8 + length
        return b""


class Peer:
    """A connection to the node's port."""

    def __init__(
        self,
        port: int,
        *,
        source: str = "127.0.0.1",
        receive_bytes: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connect.

        Args:
            port: Of the node, on the loopback interface.
            source: Address to call from.
            receive_bytes: Size of the receive buffer; 0 for the system's.
            tls: Speak TLS with this.
        """
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.bind((source, 0))
            self.socket.connect(("127.0.0.1", port))
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send, as far as the node still takes it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def hear(self) -> Said | None:
        """Return the next PDU; None once the node has closed the connection."""
        head = self._read(6)
        if head is None:
            return None
        kind, length = struct.unpack(">BxI", head)
        body = self._read(length)
        return None if body is None else Said(kind, body)

    def hear_all(self) -> list[Said]:
        """Return every PDU until the node closes the connection."""
        heard = []
        while (said := self.hear()) is not None:
            heard.append(said)
        return heard

    def hear_to_the_end(self) -> bytes:
        """Return every byte until the node closes the connection, PDUs or not."""
        heard = b""
        with suppress(ConnectionResetError):
            while more := self.socket.recv(65_536):
                heard += more
        return heard

    def is_attached(self) -> bool:
        """Return whether the node has neither said anything nor closed the connection."""
        self.socket.settimeout(0)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.socket.settimeout(PATIENCE_S)
        return False

    def reset(self) -> None:
        """Close without a goodbye: whatever is on its way is lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _read(self, length: int) -> bytes | None:
        data = b""
        while len(data) < length:
            try:
                more = self.socket.recv(length - len(data))
            except ConnectionResetError:
                return None
            if not more:
                return None
            data += more
        return data


class NotAcceptedError(AssertionError):
    """A peer asked for an association and got none."""


def associated(
    port: int,
    *,
    source: str = "127.0.0.1",
    receive_bytes: int = 0,
    tls: ssl.SSLContext | None = None,
    said: bytes | None = None,
) -> Peer:
    """Return a peer whose request, which may be given, was accepted."""
    peer = Peer(port, source=source, receive_bytes=receive_bytes, tls=tls)
    peer.send(request() if said is None else said)
    answer = peer.hear()
    if answer is None or answer.kind != AC:
        peer.socket.close()
        raise NotAcceptedError(f"not accepted: {answer}")
    return peer


def honest(port: int, *, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> str:
    """Do what a scanner does: verify, store an instance, release; return its SOP Instance UID."""
    uid = fresh_uid()
    with associated(port, source=source, tls=tls) as peer:
        for message in (echo_message(), store_message(uid)):
            peer.send(message)
            answer = peer.hear()
            assert answer is not None
            assert answer.status == 0, answer
        peer.send(pdu(RELEASE_RQ))
        answer = peer.hear()
        assert answer is not None
        assert answer.kind == RELEASE_RP
    return uid
