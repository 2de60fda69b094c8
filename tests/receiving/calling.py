"""A modality for the tests: bytes on a socket, plain or TLS, that shares no code with the node.

It sends small images, one after another, and believes only an answer that came whole.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Final

from bench import dicom_wire as wire

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
_TIMEOUT_S: Final = 40.0


class Turned(Exception):  # noqa: N818  a name for what came, not a fault of ours
    """The peer rejected the association: result, source, diagnostic."""

    def __init__(self, codes: tuple[int, int, int]) -> None:
        super().__init__(codes)
        self.codes = codes


class Caller:
    """One association.

    Raises:
        Turned: It was rejected.
        OSError: The connection cannot be made, or breaks.
    """

    def __init__(
        self, port: int, *, calling: str = "SCANNER", tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
            self._associate(calling)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def store(self, uid: str, *, size: int = 2_000, study_uid: str = "1.2.3") -> int:
        """Send an image and return the status of the answer."""
        self.socket.sendall(self.message(uid, size=size, study_uid=study_uid))
        return self.answer()

    def message(self, uid: str, *, size: int = 2_000, study_uid: str = "1.2.3") -> bytes:
        """Return the PDUs of a C-STORE-RQ with its data set."""
        command = wire.store_request(sop_class=CT, sop_uid=uid, message_id=1)
        payload = wire.payload_bytes(self.max_pdu)
        return bytes(
            wire.framed(command, context=1, control=wire.COMMAND, payload=payload, ends=True)
            + wire.framed(
                image(uid, size=size, study_uid=study_uid),
                context=1,
                control=0,
                payload=payload,
                ends=True,
            )
        )

    def answer(self) -> int:
        kind, body = self.pdu()
        if kind != wire.P_DATA:
            raise ConnectionError(f"PDU {kind:02X} instead of an answer")
        (_, command), *_ = wire.fragments(body)
        return wire.read_answer(command).status

    def release(self) -> None:
        """Release in order, and see that the other side does so too."""
        self.socket.sendall(wire.release_request())
        kind, _ = self.pdu()
        self.socket.close()
        if kind != wire.RELEASE_RP:
            raise ConnectionError(f"PDU {kind:02X} instead of A-RELEASE-RP")

    def close(self) -> None:
        self.socket.close()

    def pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _associate(self, calling: str) -> None:
        contexts = [wire.Context(1, CT, EXPLICIT)]
        self.socket.sendall(
            wire.associate_request(
                called_ae="LIMNER", calling_ae=calling, contexts=contexts, max_pdu_bytes=65_536
            )
        )
        kind, body = self.pdu()
        if kind == wire.ASSOCIATE_RJ:
            raise Turned((body[1], body[2], body[3]))
        if kind != wire.ASSOCIATE_AC:
            raise ConnectionError(f"PDU {kind:02X} instead of an answer to the request")
        self.max_pdu = wire.read_accept(body).max_pdu_bytes

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed by the peer")
            data += piece
        return bytes(data)


def image(uid: str, *, size: int = 2_000, study_uid: str = "1.2.3") -> bytes:
    """Return the data set of an image, Explicit VR Little Endian; the same for the same UID."""
    elements = (
        (0x0008, 0x0016, b"UI", _padded(CT)),
        (0x0008, 0x0018, b"UI", _padded(uid)),
        (0x0008, 0x0060, b"CS", b"CT"),
        (0x0010, 0x0020, b"LO", b"P1"),
        (0x0020, 0x000D, b"UI", _padded(study_uid)),
        (0x0020, 0x000E, b"UI", _padded(f"{study_uid}.1")),
        (0x0028, 0x0010, b"US", struct.pack("<H", 1)),
        (0x0028, 0x0011, b"US", struct.pack("<H", size % 0xFFFF)),
    )
    header = b"".join(
        struct.pack("<HH2sH", group, element, vr, len(value)) + value
        for group, element, vr, value in elements
    )
    return header + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size) + bytes(size)


def _padded(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)
