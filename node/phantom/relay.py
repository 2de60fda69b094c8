"""A relay between a sender and a PACS that misbehaves on the wire, on order.

It forwards PDUs as they are, except where it was told to refuse a SOP class during negotiation,
to close the connection in the middle of an object or between an object and its answer, or to
report storage commitment on the association that asked. The acceptor behind it stays a good one.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pydicom.dataset import Dataset

from node.phantom import wire

_LONGEST_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOrders:
    """What the relay shall do wrong. C-STORE requests count from 1 over all associations.

    Attributes:
        refused_classes: SOP classes whose contexts are refused.
        close_in_data: C-STORE requests in whose data the connection closes; nothing is stored.
        close_before_answer: C-STORE requests that are stored and whose answer never comes.
        report_here: Returns the commitment report to send on the asking association, with its
            event type, after N-ACTION was answered; None sends nothing.
    """

    refused_classes: frozenset[str] = frozenset()
    close_in_data: frozenset[int] = frozenset()
    close_before_answer: frozenset[int] = frozenset()
    report_here: Callable[[], tuple[Dataset, int] | None] | None = None


class Relay:
    """Listens on a port of its own and forwards to `target`."""

    def __init__(
        self, target: tuple[str, int], orders: WireOrders, *, host: str, port: int = 0
    ) -> None:
        self._target = target
        self._orders = orders
        self._listening = socket.create_server((host, port))
        self.port = int(self._listening.getsockname()[1])
        self._count = _Count()
        self._open: set[_Link] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and close every connection."""
        # Only a shutdown wakes a thread that waits in accept.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        with self._lock:
            links = list(self._open)
        for link in links:
            link.close()
        for link in links:
            link.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            link = _Link(client, socket.create_connection(self._target), self._orders, self._count)
            with self._lock:
                self._open = {one for one in self._open if one.alive} | {link}
            link.start()


class _Count:
    """Counts C-STORE requests over all associations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores = 0

    def next(self) -> int:
        """Return the number of one more request."""
        with self._lock:
            self._stores += 1
            return self._stores


@dataclass(slots=True)
class _Negotiated:
    """What was proposed and accepted on one connection."""

    classes: dict[int, str] = field(default_factory=dict)
    syntaxes: dict[int, str] = field(default_factory=dict)


class _Link:
    """One connection with its two directions."""

    def __init__(
        self, client: socket.socket, server: socket.socket, orders: WireOrders, count: _Count
    ) -> None:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(_LONGEST_WAIT_S)
        self._client = client
        self._server = server
        self._orders = orders
        self._count = count
        self._negotiated = _Negotiated()
        self._store = 0
        self._threads = tuple(
            threading.Thread(target=self._pump, args=arguments, name="relay", daemon=True)
            for arguments in (
                (client, server, self._from_client),
                (server, client, self._from_server),
            )
        )

    @property
    def alive(self) -> bool:
        """Whether one direction is still open."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin to forward."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Close both ends at once."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):  # the other side was first
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def join(self) -> None:
        """Wait until both directions have ended."""
        for thread in self._threads:
            thread.join()

    def _pump(
        self, source: socket.socket, sink: socket.socket, changed: Callable[[bytes], bytes | None]
    ) -> None:
        """Forward PDU by PDU until one end closes, or `changed` says None: close here."""
        try:
            while pdu := _read_pdu(source):
                passed_on = changed(pdu)
                if passed_on is None:
                    break
                sink.sendall(passed_on)
        except OSError:
            pass  # an end was closed, by a peer or by us
        self.close()

    def _from_client(self, pdu: bytes) -> bytes | None:
        orders, command = self._orders, wire.command_of(pdu)
        if pdu[0] == wire.ASSOCIATE_RQ:
            self._negotiated.classes = wire.proposed_classes(pdu)
        if command is not None and command.field == wire.C_STORE_RQ:
            self._store = self._count.next()
            # Some senders put the command and the beginning of the data into one PDU.
            return pdu
        if command is not None and command.field == wire.N_EVENT_REPORT_RSP:
            return b"" if orders.report_here else pdu  # the PACS never asked
        in_data = pdu[0] == wire.P_DATA and self._store in orders.close_in_data
        return None if in_data else pdu

    def _from_server(self, pdu: bytes) -> bytes | None:
        orders, command = self._orders, wire.command_of(pdu)
        if pdu[0] == wire.ASSOCIATE_AC:
            refused = frozenset(
                number
                for number, uid in self._negotiated.classes.items()
                if uid in orders.refused_classes
            )
            self._negotiated.syntaxes = wire.accepted_syntaxes(pdu)
            return wire.without_contexts(pdu, refused)
        if command is None:
            return pdu
        if command.field == wire.C_STORE_RSP and self._store in orders.close_before_answer:
            return None
        if command.field == wire.N_ACTION_RSP and orders.report_here is not None:
            found = orders.report_here()
            if found is not None:
                report, event_type = found
                syntax = self._negotiated.syntaxes[command.context]
                return pdu + wire.event_report(
                    command.context, syntax, report, event_type=event_type
                )
        return pdu


def _read_pdu(source: socket.socket) -> bytes:
    """Return the next PDU, empty where the connection ended."""
    head = _read(source, 6)
    if len(head) < 6:
        return b""
    (length,) = struct.unpack_from(">I", head, 2)
    body = _read(source, length)
    return head + body if len(body) == length else b""


def _read(source: socket.socket, wanted: int) -> bytes:
    """Return `wanted` bytes, fewer where the connection ended."""
    parts, got = [], 0
    while got < wanted:
        part = source.recv(min(wanted - got, 1 << 20))
        if not part:
            break
        parts.append(part)
        got += len(part)
    return b"".join(parts)
