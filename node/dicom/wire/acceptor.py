"""Accepting connections: bounded in number, each served by a thread of its own.

The thread that accepts does nothing else: no name is looked up, no handshake made, no byte read
there, so a silent or slow peer delays nobody. A connection counts as an association when its caller
was admitted; before that it is one of a bounded crowd, in which a newcomer takes the place of the
oldest one from the address that has most. So whoever opens connections and asks for nothing only
crowds out itself, and a caller beyond the limits is still heard, and rejected in words.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from node.dicom.wire.admission import STOPPING, TOO_MANY, Rejection
from node.dicom.wire.connection import Connection, Limits, Self
from node.dicom.wire.service import Service
from node.dicom.wire.watch import Watch

BACKLOG: Final = 1024
"""Connections that wait in the kernel to be accepted. Beyond it a peer's SYN is dropped, and its
next try comes a second later (2,000 probes in a row: 13 s with 128, 2 s with 1024)."""

MOST_WAITING: Final = 128
"""Connections without an association that are open at once: probes, strangers, slow handshakes."""

_FAULT_S: Final = 0.05
"""A pause after a connection that could not be taken, so that nothing spins."""

_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger(__name__)


class Acceptor:
    """Serves connections from listening sockets until it is stopped."""

    def __init__(self, service: Service, *, limits: Limits, own: Self) -> None:
        """Make ready; `listen` begins."""
        self._service = service
        self._limits = limits
        self._own = own
        self._watch = Watch()
        self._lock = threading.Lock()
        self._gone = threading.Condition(self._lock)
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, str] = {}
        """Address of each connection that holds no place, the oldest first."""
        self._placed: dict[Connection, str] = {}
        """Address of each connection with a caller that was admitted."""
        self._listening: list[_Listening] = []
        self._stopping = False

    def listen(self, sock: socket.socket, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
        """Accept from a listening socket, in a thread of its own.

        Args:
            sock: Bound and listening.
            tls: Gives the context for each new connection; None serves plain DICOM.
        """
        listening = _Listening(sock, tls, self._accepted, self._make_room)
        self._listening.append(listening)
        listening.thread.start()

    def limit(self, limits: Limits) -> None:
        """Take other limits for connections from now on."""
        self._limits = limits

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._open)

    def stop_listening(self) -> None:
        """Accept nothing more, and close the sockets; open connections go on."""
        for listening in self._listening:
            listening.stop()
        self._listening = []

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until no connection is open; return whether that came about."""
        with self._gone:
            return self._gone.wait_for(lambda: not self._open, timeout_s)

    def stop(self, grace_s: float = 5.0) -> None:
        """Stop listening, let messages under way be answered, then end all connections.

        Args:
            grace_s: How long messages under way may take.
        """
        self._stopping = True
        self.stop_listening()
        with self._lock:
            left = list(self._open)
        for connection in left:
            connection.drain()
        if not self.wait_empty(grace_s):
            self.cut_all()
            self.wait_empty(2.0)
        self._watch.stop()

    def cut_all(self) -> None:
        """Break every connection without a word, as a failing network does."""
        with self._lock:
            left = list(self._open)
        for connection in left:
            connection.cut()

    def _accepted(
        self, sock: socket.socket, address: str, tls: Callable[[], ssl.SSLContext] | None
    ) -> None:
        """Start the thread of a new connection, in the place of an older one if need be."""
        limits = self._limits
        with self._lock:
            if len(self._open) >= limits.max_associations + 2 * MOST_WAITING:
                sock.close()  # those that were cut are not gone yet
                return
            crowded = len(self._waiting) >= MOST_WAITING
        if crowded:
            self._make_room()
        connection = None
        try:
            connection = Connection(
                sock,
                address,
                service=self._service,
                limits=limits,
                own=self._own,
                watch=self._watch,
                tls=tls,
                take_place=self._take_place,
                give_place=self._give_place,
            )
            with self._lock:
                self._open.add(connection)
                self._waiting[connection] = address
            threading.Thread(
                target=self._serve,
                args=(connection, address),
                name="dicom-association",
                daemon=True,
            ).start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            log.warning("connection not served from %s: %s", address, error)
            sock.close()
            if connection is not None:
                self._forget(connection)

    def _make_room(self) -> bool:
        """End the oldest waiting connection of the address that has most; False if none waits."""
        with self._lock:
            if not self._waiting:
                return False
            counts = Counter(self._waiting.values())
            # Not most_common: it imports at its first use, for which there may be no descriptor.
            most = max(counts, key=counts.__getitem__)
            oldest = next(one for one, address in self._waiting.items() if address == most)
            del self._waiting[oldest]
        oldest.cut("More connections without an association were open than are kept.")
        return True

    def _take_place(self, connection: Connection) -> Rejection | None:
        """Count a connection whose caller was admitted; say why not, if there is no place."""
        limits = self._limits
        with self._lock:
            if self._stopping:
                return STOPPING
            address = self._waiting.get(connection)
            if address is None or len(self._placed) >= limits.max_associations:
                return TOO_MANY
            if 0 < limits.max_per_address <= list(self._placed.values()).count(address):
                return TOO_MANY
            del self._waiting[connection]
            self._placed[connection] = address
        return None

    def _give_place(self, connection: Connection) -> None:
        """Count a connection no more whose association has ended; it is still open."""
        with self._lock:
            self._placed.pop(connection, None)

    def _serve(self, connection: Connection, address: str) -> None:
        try:
            connection.run()
        except Exception:  # outermost: one connection must not end with a silent thread
            log.exception("a connection from %s ended with a fault of ours", address)
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._gone:
            self._open.discard(connection)
            self._waiting.pop(connection, None)
            self._placed.pop(connection, None)
            self._gone.notify_all()


class _Listening:
    """One listening socket and the thread that accepts from it."""

    def __init__(
        self,
        sock: socket.socket,
        tls: Callable[[], ssl.SSLContext] | None,
        accepted: Callable[[socket.socket, str, Callable[[], ssl.SSLContext] | None], None],
        make_room: Callable[[], bool],
    ) -> None:
        # Polled and never blocked in accept: several processes may share the socket, and a blocked
        # accept could not be stopped.
        self._socket = sock
        self._tls = tls
        self._accepted = accepted
        self._make_room = make_room
        self._wake_read, self._wake_write = os.pipe()
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self.thread = threading.Thread(target=self._run, name="dicom-acceptor", daemon=True)

    def stop(self) -> None:
        os.write(self._wake_write, b"x")
        self.thread.join()
        self._socket.close()
        os.close(self._wake_write)
        os.close(self._wake_read)
        if self._spare >= 0:
            os.close(self._spare)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        self._socket.settimeout(0)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake_read in ready:
                return
            try:
                self._take_one()
            except Exception:  # outermost of this thread: without it nobody is let in any more
                log.exception("a connection was not taken by a fault of ours")
                time.sleep(_FAULT_S)

    def _take_one(self) -> None:
        try:
            connection, address = self._socket.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            self._not_accepted(error)
            return
        connection.settimeout(None)
        self._accepted(connection, str(address[0]), self._tls)

    def _not_accepted(self, error: OSError) -> None:
        if error.errno not in _OUT_OF_DESCRIPTORS:
            return  # the peer was gone before it was accepted
        log.warning("no descriptor for a new connection: %s", error)
        if self._make_room():
            time.sleep(0.01)  # until its thread has closed it
            return
        # Take it with the spare one and close it, or it would stay ready and spin for ever.
        with suppress(OSError):
            if self._spare >= 0:
                os.close(self._spare)
                self._spare = -1
            self._socket.accept()[0].close()
        with suppress(OSError):  # somebody else took it; the next time perhaps
            if self._spare < 0:
                self._spare = os.open(os.devnull, os.O_RDONLY)
        time.sleep(_FAULT_S)


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a bound, listening socket; port 0 takes a free one.

    Raises:
        OSError: The address cannot be bound.
    """
    (family, _, _, _, address), *_ = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
