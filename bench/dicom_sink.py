"""The least that a durable receiver can do: read, `pwrite`, `fdatasync`, answer 0x0000.

It keeps nothing apart, names nothing and looks at nothing but where a message ends: what arrives
is written as it came, PDU headers and all, and read by nobody. It takes only what
`bench.dicom_client` sends: one fragment a PDU. One thread per association; the files are written
with zeros and synced before it listens, and used round and round; or, to keep what arrives, they
begin empty and grow. Standard library only.

`python -m bench.dicom_sink 11113 FOLDER` prints `listening` when it does.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import dicom_wire as wire

_BUFFER_BYTES: Final = 1 << 20
_ALIGNMENT: Final = 4096
_MAX_PDU_BYTES: Final = 131_072


class _Over(Exception):  # noqa: N818  not an error: the peer is gone
    """The peer closed."""


@dataclass(slots=True)
class Journal:
    """A file that is written round and round, or grows if its length is 0."""

    path: Path
    bytes: int
    synced: bool
    _file: int = field(init=False)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        zeros = bytes(_BUFFER_BYTES)
        for at in range(0, self.bytes, len(zeros)):
            os.pwrite(self._file, zeros, at)
        os.fsync(self._file)

    def append(self, data: memoryview) -> None:
        """Write some bytes behind those of whoever came last."""
        with self._lock:
            goes_on = not self.bytes or self._next + len(data) <= self.bytes
            at = self._next if goes_on else 0
            self._next = -(-(at + len(data)) // _ALIGNMENT) * _ALIGNMENT
        os.pwrite(self._file, data, at)

    def sync(self) -> None:
        """Make what was written durable, where that is wanted."""
        if self.synced:
            os.fdatasync(self._file)


class Sink:
    """One association."""

    def __init__(
        self, connection: socket.socket, journal: Journal, tls: ssl.SSLContext | None
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._tls = tls
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._end = 0  # bytes in the buffer
        self._next = 0  # where the next PDU begins, perhaps beyond them

    def serve(self) -> None:
        """Answer until the peer releases or is gone."""
        try:
            if self._tls is not None:
                self._connection = self._tls.wrap_socket(self._connection, server_side=True)
            request = self._small_pdu()
            self._connection.sendall(wire.associate_accept(request, max_pdu_bytes=_MAX_PDU_BYTES))
            while self._next_kind() == wire.P_DATA:
                answer = self._answer()
                self._take_message()
                self._journal.sync()
                self._connection.sendall(answer)
            self._connection.sendall(wire.release_answer())
        except (_Over, OSError):
            pass
        finally:
            self._connection.close()

    def _next_kind(self) -> int:
        self._end = self._next = 0
        self._receive_until(wire.FRAGMENT_HEADER_BYTES - 2)  # a whole A-RELEASE-RQ
        return self._buffer[0]

    def _small_pdu(self) -> bytes:
        self._receive_until(6)
        length = int.from_bytes(self._buffer[2:6], "big")
        self._receive_until(6 + length)
        return bytes(self._buffer[6 : 6 + length])

    def _answer(self) -> bytes:
        """Return the C-STORE-RSP to the C-STORE-RQ that begins in the buffer."""
        command = self._small_pdu()[6:]
        at = wire.value_at(command, 0x0110)
        message_id = int(struct.unpack_from("<H", command, at)[0])
        answer = wire.store_answer(
            sop_class=_text(command, 0x0002),
            sop_uid=_text(command, 0x1000),
            message_id=message_id,
        )
        context = self._buffer[10]
        return bytes(
            wire.framed(
                answer, context=context, control=wire.COMMAND, payload=len(answer), ends=True
            )
        )

    def _take_message(self) -> None:
        """Receive and write until the fragment that ends a dataset has been written."""
        while True:
            while self._next + wire.FRAGMENT_HEADER_BYTES <= self._end:
                length = int.from_bytes(self._buffer[self._next + 2 : self._next + 6], "big")
                control = self._buffer[self._next + 11]
                self._next += 6 + length
                if control == wire.LAST:
                    self._finish()
                    return
            self._more()

    def _finish(self) -> None:
        while self._next > self._end:
            self._more()
        self._journal.append(self._buffer[: self._end])

    def _more(self) -> None:
        if self._end == len(self._buffer):
            # What is left behind the last whole PDU may be part of a header: it stays.
            done = min(self._next, self._end)
            rest = bytes(self._buffer[done : self._end])
            self._journal.append(self._buffer[:done])
            self._buffer[: len(rest)] = rest
            self._next -= done
            self._end = len(rest)
        received = self._connection.recv_into(self._buffer[self._end :])
        if not received:
            raise _Over
        self._end += received

    def _receive_until(self, size: int) -> None:
        while self._end < size:
            self._more()


def _text(command: bytes, element: int) -> str:
    at = wire.value_at(command, element)
    length = int.from_bytes(command[at - 4 : at], "little")
    return command[at : at + length].rstrip(b"\x00").decode()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Read, write, sync, answer; nothing else.")
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unsynced", action="store_true")
    parser.add_argument("--files", type=int, default=1, help="associations share so many files")
    parser.add_argument("--mb", type=int, default=256, help="all files together; 0: they grow")
    parser.add_argument("--tls-certificate", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-authority", type=Path)
    wanted = parser.parse_args()
    tls = None
    if wanted.tls_certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(wanted.tls_certificate, wanted.tls_key)
        tls.load_verify_locations(wanted.tls_authority)
        tls.verify_mode = ssl.CERT_REQUIRED
    journals = [
        Journal(
            wanted.folder / f"sink{number}",
            bytes=(wanted.mb << 20) // wanted.files,
            synced=not wanted.unsynced,
        )
        for number in range(wanted.files)
    ]
    listening = socket.create_server(("127.0.0.1", wanted.port), backlog=128)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("listening", flush=True)
    served = 0
    while True:
        connection, _ = listening.accept()
        sink = Sink(connection, journals[served % len(journals)], tls)
        threading.Thread(target=sink.serve, daemon=True).start()
        served += 1


if __name__ == "__main__":
    main()
