"""Deadlines of connections: absolute, enforced from outside, free while nothing is due.

A connection blocks in `recv` or `send` without a timeout of its own and only says until when. One
thread sleeps until the earliest of these times and shuts down the socket of whoever is late, which
wakes the blocked call. So a byte now and then buys a hostile peer nothing, a busy connection pays
one comparison, and an idle one causes no wake-up until its own deadline.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Watched(Protocol):
    """Something with a deadline on the monotonic clock, in seconds."""

    deadline: float

    def expire(self) -> None:
        """End it: its deadline has passed. Called from the watch's thread; must not block."""


class Watch:
    """Watches connections; one for a whole acceptor."""

    def __init__(self) -> None:
        """Start its thread."""
        self._changed = threading.Condition()
        self._watched: set[Watched] = set()
        self._wakes_at = float("inf")
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="dicom-watch", daemon=True)
        self._thread.start()

    def add(self, watched: Watched) -> None:
        """Watch it from now on."""
        with self._changed:
            self._watched.add(watched)
            self._changed.notify()

    def remove(self, watched: Watched) -> None:
        """Watch it no longer."""
        with self._changed:
            self._watched.discard(watched)

    def sooner(self, deadline: float) -> None:
        """Make sure to look by `deadline`; to be called when a deadline was brought forward."""
        if deadline < self._wakes_at:
            with self._changed:
                self._changed.notify()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                # Whoever changes its deadline from here on must wake us: we may have read it.
                self._wakes_at = float("inf")
                now = time.monotonic()
                for late in [one for one in self._watched if one.deadline <= now]:
                    late.expire()
                earliest = min((one.deadline for one in self._watched), default=float("inf"))
                self._wakes_at = earliest
                wait_s = None if earliest == float("inf") else max(0.001, earliest - now)
                self._changed.wait(wait_s)
