"""A row that says that this process lives and what it does; every process of the node keeps one."""

from __future__ import annotations

import os
import socket
import threading
from importlib.metadata import version
from typing import Final

import structlog

from storage.database import Engine, writing
from storage.errors import StorageError
from storage.workers import WorkerBeat, beat, ended

EVERY_S: Final = 2.0

log = structlog.get_logger()


class Heartbeat:
    """Beats in a thread until `stop`; `doing` is what the pages show."""

    def __init__(self, engine: Engine, kind: str, *, device: str = "") -> None:
        """Begin a process's life in the rows.

        Args:
            engine: The node's database.
            kind: listen, schedule, work, deliver or web.
            device: What a segment worker computes on.
        """
        self.name = f"{kind}@{socket.gethostname()}:{os.getpid()}"
        self.doing = ""
        self._engine = engine
        self._kind = kind
        self._device = device
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and say in the row that the end was wanted."""
        self._stop.set()
        self._thread.join(EVERY_S)
        try:
            with writing(self._engine) as db:
                ended(db, self.name, "ended")
        except StorageError as error:
            log.warning("end not recorded", code=error.code)

    def _run(self) -> None:
        while True:
            try:
                with writing(self._engine) as db:
                    beat(
                        db,
                        WorkerBeat(
                            name=self.name,
                            kind=self._kind,
                            host=socket.gethostname(),
                            pid=os.getpid(),
                            device=self._device,
                            doing=self.doing,
                            version=version("limner"),
                        ),
                    )
            except StorageError as error:
                log.warning("heartbeat not recorded", code=error.code)
            if self._stop.wait(EVERY_S):
                return
