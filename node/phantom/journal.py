"""What a phantom PACS has seen: events in memory, in a JSON-lines file, and to wait for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

EVENTS_FILE: Final = "events.jsonl"

Event = dict[str, str | int]


class Journal:
    """Records events from any thread."""

    def __init__(self, folder: Path, on_event: Callable[[Event], None]) -> None:
        self._file = folder / EVENTS_FILE
        self._on_event = on_event
        self._changed = threading.Condition()
        self._events: list[Event] = []

    @property
    def events(self) -> tuple[Event, ...]:
        """Every event so far."""
        with self._changed:
            return tuple(self._events)

    def tell(self, event: Event) -> None:
        """Record an event and write it down."""
        with self._changed:
            self._events.append(event)
            with self._file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(event) + "\n")
            # Within the lock, so that whoever reads them elsewhere gets them in order.
            self._on_event(event)
            self._changed.notify_all()

    def wait_for(self, event: str, count: int, timeout_s: float) -> bool:
        """Wait until `event` has happened `count` times; return whether it has."""

        def happened() -> bool:
            return sum(one["event"] == event for one in self._events) >= count

        with self._changed:
            return self._changed.wait_for(happened, timeout=timeout_s)


def read_events(folder: Path) -> tuple[Event, ...]:
    """Return the events that a PACS, perhaps of another process, has written into its folder."""
    file = folder / EVENTS_FILE
    if not file.exists():
        return ()
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    # A last line without its end is being written.
    return tuple(json.loads(line) for line in lines if line.endswith("\n"))
