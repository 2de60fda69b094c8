"""What keeper and wire say to each other: JSON, one message a line, over a Unix socket pair.

Nobody waits for the other side on the way of an instance: a message is put down, and a thread sends
what has gathered some times a second, so that an instance costs no system call and no wake-up here.
Only a message that needs an answer (an N-service request) waits, for a bounded time.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

Message = dict[str, Any]

ANSWER_S: Final = 25.0
_READ_BYTES: Final = 65_536
_GATHER_S: Final = 0.05
"""After the first of several messages is sent, what follows it waits so long at most."""

_LONGEST_LINE: Final = 64 * 1024 * 1024


class Link:
    """One end of the link. Sending is safe from many threads; one thread reads."""

    def __init__(self, sock: socket.socket) -> None:
        """Use a connected stream socket."""
        self._socket = sock
        self._lock = threading.Lock()
        self._out: deque[bytes] = deque()
        self._sending = threading.Lock()
        self._waiting = threading.Event()
        self._sender: threading.Thread | None = None
        self._answers: dict[int, _Answer] = {}
        self._number = 0
        self._closed = False

    def send(self, message: Message) -> None:
        """Send a message soon; never waits, and says nothing if the other side is gone."""
        self.send_line(json.dumps(message, separators=(",", ":")).encode())

    def send_line(self, line: bytes) -> None:
        """Send a message that is JSON already, likewise."""
        self._out.append(line)
        if not self._waiting.is_set():
            self._waiting.set()
            if self._sender is None:
                self._start()

    def ask(self, message: Message, *, timeout_s: float = ANSWER_S) -> Message | None:
        """Send a message and return its answer; None if none came in time."""
        answer = _Answer()
        with self._lock:
            self._number += 1
            number = self._number
            if self._closed:
                return None
            self._answers[number] = answer
        self.send({**message, "number": number})
        answer.came.wait(timeout_s)
        with self._lock:
            self._answers.pop(number, None)
        return answer.message

    def answer(self, question: Message, message: Message) -> None:
        """Answer what the other side asked."""
        self.send({**message, "answers": question["number"]})

    def messages(self) -> Iterator[Message]:
        """Yield what the other side sends, until it is gone. Answers go to whoever asked."""
        left = bytearray()
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                data = b""
            left += data
            if not data or len(left) > _LONGEST_LINE:
                self._release()
                return
            if b"\n" not in data:
                continue  # so that a long line is not looked through at each read
            *lines, rest = left.split(b"\n")
            left = rest
            for line in lines:
                message: Message = json.loads(line)
                number = message.get("answers")
                if number is None:
                    yield message
                elif (waiting := self._answers.get(number)) is not None:
                    waiting.message = message
                    waiting.came.set()

    def close(self) -> None:
        """End the link; whoever waits for an answer waits no longer."""
        with self._lock:
            self._closed = True
            waiting = list(self._answers.values())
        self._waiting.set()  # the sender looks, and ends
        for answer in waiting:
            answer.came.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        """End the link and give its descriptor back, when no thread uses it any more."""
        self.close()
        if self._sender is not None:
            self._sender.join()
        self._socket.close()

    def flush(self) -> None:
        """Send what waits, before this process ends."""
        self._send_all()

    def _start(self) -> None:
        with self._lock:
            if self._sender is None:
                self._sender = threading.Thread(target=self._keep_sending, daemon=True)
                self._sender.start()

    def _keep_sending(self) -> None:
        """Send what is there, then gather for a moment: one wake-up of the other side for many."""
        while True:
            self._waiting.wait()
            self._waiting.clear()
            if not self._send_all() or self._closed:
                return
            time.sleep(_GATHER_S)

    def _send_all(self) -> bool:
        """Send everything that waits; return whether the other side is there."""
        with self._sending:
            lines = []
            with suppress(IndexError):
                while True:
                    lines.append(self._out.popleft())
            if not lines:
                return True
            lines.append(b"")
            try:
                self._socket.sendall(b"\n".join(lines))
            except OSError:
                self.close()
                return False
            return True


class _Answer:
    """A place for an answer that is awaited."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.message: Message | None = None
