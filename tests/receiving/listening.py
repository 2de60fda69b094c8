"""A node's folder with real `limner listen` processes on it, seen from outside only.

`start` may be called while another one runs: that is how a successor takes the port over. Every
process is ended when the test ends.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import psutil

from node.phantom.ports import free_port
from node.settings import Settings, load_settings
from storage.associations import AssociationRow, list_associations
from storage.callers import CallerRow, list_callers
from storage.database import Engine, migrate, open_engine, reading
from storage.instances import InstanceRow, list_instances
from storage.notices import NoticeRow, notices_of_study
from storage.segments import list_segments, scan_segment

Found = TypeVar("Found")

CONFIG: Final = """
[node]
name = "test"
[storage]
database = "{database}"
reserve_mb = 1
journal_mb = 4
journal_ahead = 0
[listener]
host = "127.0.0.1"
port = {port}
{listener}
[[peers]]
name = "scanner"
ae_title = "SCANNER"
may = ["echo", "store"]
[[peers]]
name = "pacs"
ae_title = "PACS"
may = ["echo", "commit"]
[[peers]]
name = "monitor"
ae_title = "MONITOR"
may = ["echo"]
{peers}
"""


@dataclass(slots=True)
class Listener:
    """One `limner listen` and what it started."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")

    def wires(self) -> list[int]:
        """Return the process ids of its wires."""
        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children()]
        return []

    def threads(self) -> int:
        """Return how many threads its wires have in all."""
        return sum(psutil.Process(pid).num_threads() for pid in self.wires())

    def ended(self) -> bool:
        return self.process.poll() is not None


@dataclass(slots=True)
class Listening:
    """A node's folder, its database, and the listeners that were started on it."""

    folder: Path
    settings: Settings
    engine: Engine = field(init=False)
    started: list[Listener] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = open_engine(self.settings.storage.database_url)

    @property
    def config(self) -> Path:
        return self.folder / "limner.toml"

    @property
    def port(self) -> int:
        return self.settings.listener.port

    @property
    def tls_port(self) -> int:
        return self.settings.listener.tls_port

    @property
    def now(self) -> Listener:
        """The listener that was started last."""
        return self.started[-1]

    def start(self) -> Listener:
        """Start one and wait until its own wires accept connections."""
        listener = self.launch()
        self.until(lambda: "listening" in listener.said() or listener.ended(), "it listens")
        assert not listener.ended(), listener.said()
        return listener

    def launch(self) -> Listener:
        """Start one and do not wait."""
        log = self.folder / f"log-{len(self.started)}.txt"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "node.cli", "listen", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        listener = Listener(process, log)
        self.started.append(listener)
        return listener

    def stop(self, listener: Listener | None = None) -> int:
        """End one as systemd would; return its exit code."""
        process = (listener or self.now).process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return process.wait(30)

    def until(self, holds: Callable[[], Found], what: str, *, within_s: float = 30) -> Found:
        """Look until it is so; fail with the logs if it never is."""
        end = time.monotonic() + within_s
        while not (found := holds()):
            assert time.monotonic() < end, f"not within {within_s} s: {what}\n{self.logs()}"
            time.sleep(0.02)
        return found

    def logs(self) -> str:
        return "\n".join(f"{one.log.name}:\n{one.said()[-4000:]}" for one in self.started)

    def edit(self, old: str, new: str) -> None:
        """Change the configuration; a listener that runs takes it up within seconds."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def instances(self) -> list[InstanceRow]:
        with reading(self.engine) as db:
            return list_instances(db, limit=100_000)

    def sop_uids(self) -> set[str]:
        return {row.sop_uid for row in self.instances()}

    def associations(self) -> list[AssociationRow]:
        with reading(self.engine) as db:
            return list_associations(db, limit=10_000)

    def refused(self) -> list[CallerRow]:
        with reading(self.engine) as db:
            return list_callers(db)

    def notices(self, study_uid: str) -> list[NoticeRow]:
        with reading(self.engine) as db:
            return notices_of_study(db, study_uid)

    def segments(self) -> list[str]:
        return list(list_segments(self.settings.storage.objects, self.settings.node.name))

    def records(self) -> int:
        """Return how many durable records lie on disk."""
        root = self.settings.storage.objects
        return sum(1 for name in self.segments() for _ in scan_segment(root, name))

    def end_all(self) -> None:
        """Kill whatever still runs, wires too."""
        wires = [pid for listener in self.started for pid in listener.wires()]
        for listener in self.started:
            if not listener.ended():
                listener.process.kill()
                listener.process.wait()
        for pid in wires:
            with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                process = psutil.Process(pid)
                process.kill()
                process.wait(10)


@contextmanager
def made_listening(
    folder: Path, *, listener: str = "", peers: str = "", database: str = "sqlite"
) -> Iterator[Listening]:
    """Make a node's folder with a database; whatever happens, its processes end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "limner.toml").write_text(
        CONFIG.format(database=database, port=free_port(), listener=listener, peers=peers)
    )
    settings = load_settings(folder / "limner.toml")
    migrate(settings.storage.database_url)
    listening = Listening(folder, settings)
    try:
        yield listening
    finally:
        listening.end_all()
        listening.engine.dispose()


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold a SQLite database so that nobody else can write it."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=30)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
