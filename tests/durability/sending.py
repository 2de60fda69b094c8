"""Modalities that send without rest: they remember what was answered and retry what was not.

A sender speaks bytes on a socket and shares no code with the node. It believes only an answer
that came whole: C-STORE-RSP, its message id, status 0000H. Whatever else happens (a refusal, an
abort, a connection that breaks or cannot be made) it sends the same bytes again, as modalities do.

The objects are small CT-like images, Explicit VR Little Endian, made from a seed and a number, so
that a test that sends hundreds of megabytes need not remember their bytes.
"""

from __future__ import annotations

import itertools
import random
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
ROOT: Final = "1.2.826.0.1.3680043.10.999"
SUCCESS: Final = 0x0000

_LARGE_EVERY: Final = 40
"""One object in so many has 3 to 8 MB instead of 20 to 500 KB."""
_PER_STUDY: Final = 50
_PER_ASSOCIATION: Final = 25
_PATIENCE_S: Final = 0.02
"""Pause before the next try; a listener that starts again takes tenths of a second."""
_TIMEOUT_S: Final = 30.0

_NOISE: Final = random.Random(12).randbytes(12_000_000)
"""Pixels are pieces of this. Noise, because a lost page of zeros among zeros is not seen."""


@dataclass(frozen=True, slots=True)
class Made:
    """An object that can be made again at any time."""

    seed: int
    number: int
    length: int  # bytes of pixel data
    start: int  # of the pixels in the noise

    @property
    def uid(self) -> str:
        """Its SOP Instance UID."""
        return f"{ROOT}.{self.seed}.3.{self.number}"

    @property
    def message_id(self) -> int:
        """The message id it is sent with, distinct among 65,535 objects."""
        return self.number % 0xFFFF + 1

    def dataset(self) -> bytes:
        """Its dataset, as sent."""
        study = self.number // _PER_STUDY
        elements = (
            (0x0008, 0x0016, b"UI", _uid(CT)),
            (0x0008, 0x0018, b"UI", _uid(self.uid)),
            (0x0008, 0x0060, b"CS", b"CT"),
            (0x0010, 0x0020, b"LO", b"P%05d" % study),
            (0x0020, 0x000D, b"UI", _uid(f"{ROOT}.{self.seed}.1.{study}")),
            (0x0020, 0x000E, b"UI", _uid(f"{ROOT}.{self.seed}.2.{study}")),
            (0x0028, 0x0010, b"US", struct.pack("<H", 256)),
            (0x0028, 0x0011, b"US", struct.pack("<H", self.length // 512)),
        )
        header = b"".join(
            struct.pack("<HH2sH", group, element, vr, len(value)) + value
            for group, element, vr, value in elements
        )
        pixels = _NOISE[self.start : self.start + self.length]
        return header + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, self.length) + pixels


def made(seed: int, number: int, *, large: bool = False) -> Made:
    """Return object `number` of `seed`: always the same one."""
    rng = random.Random(f"{seed}/{number}")
    length = round(rng.uniform(3e6, 8e6) if large else 20e3 * 25 ** rng.random()) // 512 * 512
    return Made(seed, number, length, rng.randrange(len(_NOISE) - length))


@dataclass(slots=True)
class Ledger:
    """What was sent and what was answered, for all senders of a test.

    Attributes:
        acknowledged: Answered with success, by SOP Instance UID.
        offered: Begun to be sent.
        in_flight: Of these, on their way at this moment.
        in_doubt: Retracted: answered with success, which does not count.
        tries: How often an object was sent, or a part of it.
    """

    acknowledged: dict[str, Made] = field(default_factory=dict)
    offered: dict[str, Made] = field(default_factory=dict)
    in_flight: set[str] = field(default_factory=set)
    in_doubt: set[str] = field(default_factory=set)
    tries: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def offer(self, one: Made) -> None:
        """Note that its first byte is about to be sent."""
        with self.changed:
            self.offered[one.uid] = one
            self.in_flight.add(one.uid)
            self.tries += 1

    def answered(self, one: Made, status: int | None) -> None:
        """Note how the try ended; None when no answer came."""
        with self.changed:
            self.in_flight.discard(one.uid)
            if status == SUCCESS:
                self.acknowledged[one.uid] = one
            self.changed.notify_all()

    def wait_for(self, count: int, *, timeout_s: float) -> bool:
        """Wait until `count` objects are acknowledged; return whether they are."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.acknowledged) >= count, timeout_s)

    def retract(self, before: Mapping[str, Made]) -> None:
        """Forget the answers that came after `before`, once no try is under way any more."""
        with self.changed:
            assert self.changed.wait_for(lambda: not self.in_flight, _TIMEOUT_S)
            for uid in self.acknowledged.keys() - before.keys():
                self.in_doubt.add(uid)
                del self.acknowledged[uid]

    def now(self) -> dict[str, Made]:
        """Return what is acknowledged at this moment."""
        with self.changed:
            return dict(self.acknowledged)


class Senders:
    """Modalities that send to one port, each on associations of its own, until told to stop."""

    def __init__(self, port: int, ledger: Ledger, *, seed: int, count: int = 3) -> None:
        self._port, self._ledger, self._seed = port, ledger, seed
        self._numbers = itertools.count(len(ledger.offered))
        self._stop = threading.Event()
        self._give_up = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no more objects; those that were begun are still sent until they are answered."""
        self._stop.set()

    def busy(self) -> int:
        """Return how many senders have no success yet for their last object."""
        return sum(thread.is_alive() for thread in self._threads)

    def abandon(self) -> None:
        """End them where they are, and whatever they have not got acknowledged."""
        self._stop.set()
        self._give_up.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S + 5)

    def _run(self) -> None:
        link: Association | None = None
        while not self._stop.is_set():
            with self._ledger.changed:
                number = next(self._numbers)
            one = made(self._seed, number, large=number % _LARGE_EVERY == _LARGE_EVERY // 2)
            status: int | None = None
            while status != SUCCESS and not self._give_up.is_set():
                if link is not None and link.sent >= _PER_ASSOCIATION:
                    link.release()
                    link = None
                link, status = self._try(link, one)
                if status != SUCCESS:
                    self._give_up.wait(_PATIENCE_S)
        if link is not None:
            link.release()

    def _try(self, link: Association | None, one: Made) -> tuple[Association | None, int | None]:
        try:
            link = link or Association(self._port)
        except OSError:
            return None, None
        self._ledger.offer(one)
        status: int | None = None
        try:
            status = link.store(one)
        except OSError:
            link.close()
            return None, None
        finally:
            self._ledger.answered(one, status)
        return link, status


class Association:
    """One association as requestor, with one presentation context.

    Raises:
        OSError: The connection cannot be made, breaks, or the peer says anything but what an
            acceptor says to a requestor that does everything right.
    """

    def __init__(
        self, port: int, *, calling: bytes = b"SCANNER", called: bytes = b"LIMNER"
    ) -> None:
        self.sent = 0
        self._max_pdu = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        try:
            self._associate(calling, called)
        except BaseException:
            self._socket.close()
            raise

    def store(self, one: Made) -> int:
        """Send an object and return the status of the answer."""
        self.send(self.encode(one))
        return self.answer(one)

    def encode(self, one: Made) -> bytes:
        """Return what is to be sent to store an object."""
        return encode_c_store(one, self._max_pdu)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def answer(self, one: Made) -> int:
        """Wait for the answer to an object that was sent whole, and return its status."""
        self.sent += 1
        kind, body = self._pdu()
        if kind != 4:
            raise ConnectionError(f"PDU {kind:02X} instead of an answer")
        answer = c_store_answer(body)
        if answer is None or answer[0] != one.message_id:
            raise ConnectionError("an answer to another message")
        return answer[1]

    def release(self) -> None:
        """Release and close; a peer that is gone already is no error."""
        try:
            self._socket.sendall(struct.pack(">BBII", 5, 0, 4, 0))
            self._pdu()
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Close without a word."""
        self._socket.close()

    def _associate(self, calling: bytes, called: bytes) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(_associate_rq(calling, called))
        kind, body = self._pdu()
        if kind != 2:
            raise ConnectionError(f"PDU {kind:02X} instead of an A-ASSOCIATE-AC")
        self._max_pdu = _peer_max_pdu(body)

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("closed by the peer")
            data += piece
        return bytes(data)


def encode_c_store(one: Made, max_pdu: int) -> bytes:
    """Return the P-DATA-TF PDUs of a C-STORE-RQ with its dataset (PS3.7 9.3.1.1, PS3.8 9.3.5)."""
    command = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (0x0002, _uid(CT)),
            (0x0100, struct.pack("<H", 0x0001)),
            (0x0110, struct.pack("<H", one.message_id)),
            (0x0700, struct.pack("<H", 0)),
            (0x0800, struct.pack("<H", 0x0001)),
            (0x1000, _uid(one.uid)),
        )
    )
    command = struct.pack("<HHII", 0, 0, 4, len(command)) + command
    dataset = one.dataset()
    room = ((max_pdu or 131_072) - 6) // 2 * 2
    pdus = [_p_data(command, 0x03)]
    for at in range(0, len(dataset), room):
        pdus.append(_p_data(dataset[at : at + room], 0x02 * (at + room >= len(dataset))))
    return b"".join(pdus)


def c_store_answer(body: bytes) -> tuple[int, int] | None:
    """Return (message id answered, status) of a C-STORE-RSP, given its P-DATA-TF's body."""
    values: dict[int, int] = {}
    at = 6
    while at + 8 <= len(body):
        group, element, length = struct.unpack_from("<HHI", body, at)
        if group == 0 and length == 2:
            (values[element],) = struct.unpack_from("<H", body, at + 8)
        at += 8 + length
    if values.get(0x0100) != 0x8001 or not {0x0120, 0x0900} <= values.keys():
        return None
    return values[0x0120], values[0x0900]


def _associate_rq(calling: bytes, called: bytes) -> bytes:
    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    context = bytes((1, 0, 0, 0)) + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode())
    user = item(0x51, struct.pack(">I", 16_384)) + item(0x52, f"{ROOT}.9".encode())
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16), calling.ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _peer_max_pdu(body: bytes) -> int:
    """Return the maximum length an A-ASSOCIATE-AC announces; the context must be accepted."""
    accepted, max_pdu = False, 0
    at = 68
    while at + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21:
            accepted = body[at + 6] == 0
        if kind == 0x51:
            (max_pdu,) = struct.unpack_from(">I", body, at + 4)
        at += 4 if kind == 0x50 else 4 + length  # user information is entered, not skipped
    if not accepted:
        raise ConnectionError("the presentation context was not accepted")
    return max_pdu


def _p_data(fragment: bytes, control: int) -> bytes:
    return struct.pack(">BBIIBB", 4, 0, len(fragment) + 6, len(fragment) + 2, 1, control) + fragment


def _uid(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)
