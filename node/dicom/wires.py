"""The wire processes under the keeper: started, configured, restarted, ended.

A wire that dies is started again at once, and later after longer waits if it dies again; what
it had made durable without telling of it is then found on disk. The listening sockets belong to
the keeper, so connections that come meanwhile wait in the kernel's queue and are not refused.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from node.dicom.wire.link import Link, Message

STOP_S: Final = 12.0
"""A wire answers what is under way within its own 5 s; then it is killed."""

READY_S: Final = 30.0
_NO_ROOM_S: Final = 2.0
_STEADY_S: Final = 60.0
_RESTART_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)

log = structlog.get_logger("dicom")


@dataclass(slots=True)
class Wire:
    """One wire process.

    Attributes:
        segments: Those that it is known to have written to.
        tokens: Of its open associations.
    """

    number: int
    process: subprocess.Popen[bytes]
    link: Link
    started_s: float = field(default_factory=time.monotonic)
    ready: threading.Event = field(default_factory=threading.Event)
    segments: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)


class Wires:
    """The wires of one keeper."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        *,
        first_message: Callable[[int], Message],
        heard: Callable[[Wire, Message], None],
        died: Callable[[Wire, str], None],
    ) -> None:
        """Make ready.

        Args:
            sockets: The listening socket, and that of TLS if there is one; closed at the end.
            first_message: Gives the configuration for the wire of a number.
            heard: Called with each message of a wire, in the order of sending.
            died: Called after a wire died, or ended with a fault, and all that it said was heard.
        """
        self._sockets = tuple(sockets)
        self._first_message = first_message
        self._heard = heard
        self._died = died
        self._lock = threading.Lock()
        self._wires: dict[int, Wire] = {}
        self._ending = threading.Event()
        self._last_word: Message | None = None
        self._deaths: dict[int, int] = {}
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> bool:
        """Start so many wires; return whether all of them are ready."""
        for number in range(count):
            thread = threading.Thread(
                target=self._keep, args=(number,), name=f"dicom-wire-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        until = time.monotonic() + READY_S
        while time.monotonic() < until and not self._ending.is_set():
            with self._lock:
                if len(self._wires) == count and all(
                    wire.ready.is_set() for wire in self._wires.values()
                ):
                    return True
            time.sleep(0.005)
        return False

    @property
    def pids(self) -> list[int]:
        """Process ids of the wires that run."""
        with self._lock:
            return [wire.process.pid for wire in self._wires.values()]

    def segments(self) -> frozenset[str]:
        """Return the segments that living wires have written to."""
        with self._lock:
            return frozenset[str]().union(*(wire.segments for wire in self._wires.values()))

    def tell(self, message: Message) -> None:
        """Tell every wire."""
        with self._lock:
            wires = list(self._wires.values())
        for wire in wires:
            wire.link.send(message)

    def finish(self) -> None:
        """Accept nothing more, and let open associations end; `ended` says when they have."""
        self._end({"kind": "finish"})

    @property
    def ended(self) -> bool:
        """Whether no wire runs any more and none will be started."""
        return self._ending.is_set() and not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Let requests under way be answered, then end every wire."""
        self._end({"kind": "stop"})
        until = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
        with self._lock:
            left = list(self._wires.values())
        for wire in left:
            wire.process.kill()
        for thread in self._threads:
            thread.join(5)

    def _end(self, last_word: Message) -> None:
        with self._lock:
            self._last_word = last_word
            self._ending.set()
        self.tell(last_word)
        for sock in self._sockets:  # the wires have their own of them
            sock.close()

    def _keep(self, number: int) -> None:
        """Keep one wire alive; runs in a thread of its own."""
        while not self._ending.is_set():
            try:
                wire = self._spawn(number)
            except (OSError, ValueError) as error:  # no process is to be had, or it is the end
                log.warning("wire-not-started", what=str(error))
                self._ending.wait(_NO_ROOM_S)
                continue
            for message in wire.link.messages():
                if message["kind"] == "ready":
                    wire.ready.set()
                elif message["kind"] == "landed":
                    wire.segments.add(message["segment"])
                elif message["kind"] == "opened":
                    wire.tokens.add(message["token"])
                elif message["kind"] == "ended":
                    wire.tokens.discard(message["token"])
                self._heard(wire, message)
            code = wire.process.wait()
            with self._lock:
                self._wires.pop(number, None)
            if code or not self._ending.is_set():
                self._died(wire, _ending(code))
            if not self._ending.is_set():
                self._pause(wire)

    def _pause(self, wire: Wire) -> None:
        steady = time.monotonic() - wire.started_s > _STEADY_S
        deaths = 0 if steady else self._deaths.get(wire.number, 0)
        self._deaths[wire.number] = deaths + 1
        self._ending.wait(_RESTART_S[min(deaths, len(_RESTART_S) - 1)])

    def _spawn(self, number: int) -> Wire:
        ours, its = socket.socketpair()
        descriptors = [its.fileno(), *(sock.fileno() for sock in self._sockets)]
        call = [sys.executable, "-m", "node.dicom.wire.process", "--link", str(its.fileno())]
        for option, sock in zip(("--listen", "--listen-tls"), self._sockets, strict=False):
            call += [option, str(sock.fileno())]
        first = self._first_message(number)
        process = subprocess.Popen(
            call, pass_fds=descriptors, stdin=subprocess.DEVNULL, env=dict(os.environ)
        )
        its.close()
        wire = Wire(number, process, Link(ours))
        wire.segments.update({first["resume"]} - {""})
        wire.link.send(first)
        with self._lock:
            self._wires[number] = wire
            last_word = self._last_word
        if last_word is not None:  # it was said while this one was on its way
            wire.link.send(last_word)
        return wire


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
