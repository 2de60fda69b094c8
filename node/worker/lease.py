"""Keep a lease alive while work is done, and know when it is lost.

A thread of its own renews, with a connection of its own, because the work may hold the processor
for many seconds. When a renewal says that another worker holds the job, or when the database has
been away for longer than the lease, the lease is lost: whoever works must stop and write nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

import structlog

from storage.errors import StorageError

RENEWALS_PER_LEASE: Final = 4
"""Three renewals may fail before a lease runs out."""

log = structlog.get_logger()


class LeaseLost(Exception):  # noqa: N818  a fact, not a fault
    """Another worker holds the job, or may by now; nothing may be written for it."""


class LeaseKeeper:
    """Renews a lease from entering to leaving the block."""

    def __init__(self, renew: Callable[[], bool], *, lease_s: float) -> None:
        """Keep what `renew` renews.

        Args:
            renew: Returns False when the lease is another's.
            lease_s: How long one renewal holds.
        """
        self._renew = renew
        self._lease_s = lease_s
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(self._lease_s)

    def check(self) -> None:
        """Raise LeaseLost if the lease is lost."""
        if self._lost.is_set():
            raise LeaseLost

    def _run(self) -> None:
        held_until = time.monotonic() + self._lease_s
        while not self._ended.wait(self._lease_s / RENEWALS_PER_LEASE):
            asked = time.monotonic()
            try:
                if not self._renew():
                    self._lost.set()
                    return
                held_until = asked + self._lease_s
            except StorageError as error:
                log.warning("lease not renewed", code=error.code)
                if time.monotonic() > held_until:
                    self._lost.set()
                    return
