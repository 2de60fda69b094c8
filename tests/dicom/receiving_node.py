"""The receiving end of a node in a test: its rows, its journal, and a listener that runs.

Rows come some milliseconds after an answer. `Node.instances` waits until every whole record of
the journal has its rows, while the listener runs; after that, what it returns is the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from node.dicom.filemeta import read_file_meta
from node.dicom.listener import run_listener
from node.settings import Settings, parse_settings
from storage.associations import AssociationOutcome, AssociationRow, list_associations
from storage.callers import CallerRow, list_callers
from storage.database import Engine, reading
from storage.digests import without_digest
from storage.errors import StorageError
from storage.instances import InstanceRow, list_instances
from storage.objects import ObjectStore
from storage.records import Record
from storage.segment_index import segment_positions
from storage.segments import list_segments, scan_segment

CONFIGURATION: Final = """
[node]
name = "test"

[storage]
reserve_mb = 10
journal_mb = 4
journal_ahead = 0

[listener]
host = "127.0.0.1"
accept_unknown_classes = true

[[peers]]
name = "scanner"
ae_title = "SCANNER"
may = ["echo", "store"]

[[peers]]
name = "monitor"
ae_title = "MONITOR"
may = ["echo"]

[[peers]]
name = "elsewhere"
ae_title = "ELSEWHERE"
may = ["echo", "store"]
addresses = ["10.0.0.0/8"]

[[peers]]
name = "pacs"
ae_title = "PACS"
may = ["echo", "commit"]

[[peers]]
name = "archive"
ae_title = "ARCHIVE"
may = ["commit"]
"""


def made_settings(folder: Path, text: str = CONFIGURATION) -> Settings:
    """Return settings whose listener takes a free port."""
    settings = parse_settings(text, path=folder / "limner.toml")
    return replace(settings, listener=replace(settings.listener, port=0))


@dataclass
class Node:
    """The receiving end of a node, and what came of it."""

    settings: Settings
    engine: Engine
    store: ObjectStore
    port: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Run the listener: its keeper in a thread of this process, its wire as a process."""
        ready = threading.Event()

        def listening(port: int) -> None:
            self.port = port
            ready.set()

        self._stop.clear()
        self._thread = threading.Thread(
            target=run_listener,
            args=(self.settings, self.engine, self.store),
            kwargs={"stop": self._stop, "on_ready": listening},
        )
        self._thread.start()
        assert ready.wait(30), "the listener did not start"

    def stop(self) -> None:
        """End the listener, if it runs."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(20)
            assert not self._thread.is_alive(), "the listener did not stop"
            self._thread = None

    def instances(self) -> list[InstanceRow]:
        """Return the rows of instances; of a running listener, when everything has its rows."""
        if self._thread is not None:
            until(self._is_indexed)
        with reading(self.engine) as db:
            return list_instances(db)

    def associations(self) -> list[AssociationRow]:
        """Return the rows of associations; an end is noted some milliseconds after it."""
        with reading(self.engine) as db:
            return list_associations(db)

    def ended_associations(self, count: int) -> list[AssociationRow]:
        """Return the rows of associations once there are so many and none is open."""

        def ended() -> bool:
            rows = self.associations()
            return len(rows) == count and all(
                row.outcome is not AssociationOutcome.OPEN for row in rows
            )

        until(ended)
        return self.associations()

    def refused(self) -> list[CallerRow]:
        """Return the callers that were turned away; noted some milliseconds after it."""
        with reading(self.engine) as db:
            return list_callers(db)

    def records(self) -> list[Record]:
        """Return the whole records of the journal: what would be found after a power cut."""
        folder = self.store.folder
        return [
            record
            for name in list_segments(folder, self.settings.node.name)
            for record in scan_segment(folder, name)
        ]

    def files(self) -> list[Path]:
        """Return files of large instances, parts of such that are being written included."""
        return sorted(self.store.folder.glob("instances/*/*"))

    def keeps_nothing(self) -> bool:
        """Return whether no byte of any instance was kept, in the journal or beside it."""
        return not self.records() and not self.files()

    def dataset(self, row: InstanceRow) -> bytes:
        """Return the data set of a kept instance, without preamble and meta."""
        data = self.store.read(row.place)
        _, start = read_file_meta(data)
        return data[start:]

    def _is_indexed(self) -> bool:
        """Return whether no whole record lies beyond what has rows, and each row has its digest."""
        folder = self.store.folder
        try:
            with reading(self.engine) as db:
                positions = segment_positions(db)
                if without_digest(db, 1):
                    return False
        except StorageError:
            return False
        return not any(
            True
            for name, size in list_segments(folder, self.settings.node.name).items()
            if positions.get(name, 0) < size
            for _ in scan_segment(folder, name, positions.get(name, 0))
        )


def until(
    holds: Callable[[], bool],
    within_s: float = 20,
    *,
    what: Callable[[], str] = lambda: "it did not happen",
) -> None:
    """Wait for what another thread or process is about to do; `what` is said if it never is."""
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, what()
        time.sleep(0.02)
