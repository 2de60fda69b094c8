"""What keeper and wire say to each other: JSON, one message a line, over a Unix socket pair.

The wire never waits for the keeper on the way of an instance: what cannot be sent at once is kept
and sent later. Only a message that needs an answer (an N-service request) waits, for a bounded
time.
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
_LONGEST_LINE: Final = 64 * 1024 * 1024


class Link:
    """One end of the link. Sending is safe from many threads; one thread reads."""

    def __init__(self, sock: socket.socket) -> None:
        """Use a connected stream socket."""
        self._socket = sock
        self._lock = threading.Lock()
        self._out: deque[bytes] = deque()
        self._room = threading.Condition(self._lock)
        self._flusher: threading.Thread | None = None
        self._answers: dict[int, _Answer] = {}
        self._number = 0
        self._closed = False

    def send(self, message: Message) -> None:
        """Send a message; never waits, and says nothing if the other side is gone."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._closed:
                return
            if self._out:
                self._out.append(line)
                return
            try:
                sent = self._socket.send(line, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._closed = True
                return
            if sent < len(line):
                self._out.append(line[sent:])
                self._room.notify()
                if self._flusher is None:
                    self._flusher = threading.Thread(target=self._flush, daemon=True)
                    self._flusher.start()

    def ask(self, message: Message, *, timeout_s: float = ANSWER_S) -> Message | None:
        """Send a message and return its answer; None if none came in time."""
        answer = _Answer()
        with self._lock:
            self._number += 1
            number = self._number
            self._answers[number] = answer
        self.send({**message, "number": number})
        answer.came.wait(timeout_s)
        with self._lock:
            self._answers.pop(number, None)
        return answer.message

    def answer(self, question: Message, message: Message) -> None:
        """Answer what the other side asked."""
        self.send({**message, "answers": question["number"]})

    def messages(self, *, gather_s: float = 0.0) -> Iterator[Message]:
        """Yield what the other side sends, until it is gone. Answers go to whoever asked.

        Args:
            gather_s: How long to wait before each read, so that several messages come with it and
                the other side does not wake us for each.
        """
        left = bytearray()
        while True:
            if gather_s:
                time.sleep(gather_s)
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                data = b""
            left += data
            if not data or len(left) > _LONGEST_LINE:
                self._release()
                return
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
            self._room.notify_all()
        for answer in waiting:
            answer.came.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        """End the link and give its descriptor back, when no thread uses it any more."""
        self.close()
        if self._flusher is not None:
            self._flusher.join()
        self._socket.close()

    def _flush(self) -> None:
        """Send what had to be kept; runs only after the other side was too slow once."""
        while True:
            with self._room:
                self._room.wait_for(lambda: self._out or self._closed)
                if self._closed:
                    return
                line = self._out[0]
            try:
                self._socket.sendall(line)
            except OSError:
                self.close()
                return
            with self._lock:
                self._out.popleft()


class _Answer:
    """A place for an answer that is awaited."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.message: Message | None = None
