"""A folder with `limner listen` on it: started, killed, started again, and looked into.

Seen from outside only: the command, its processes, what the rows say and the bytes they point to.
A `Nursery` has imported the node once and forks each `limner listen` from there, because a new
interpreter takes two seconds to import it, and these tests start it hundreds of times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import psutil
from sqlalchemy import func, select

from node.dicom.filemeta import read_file_meta
from node.phantom.ports import free_port
from node.settings import Settings, load_settings
from storage.database import migrate, open_engine, reading
from storage.instances import InstanceRow, list_instances
from storage.objects import ObjectStore
from storage.tables import Conflict

from .sending import Association, Senders

Found = TypeVar("Found")

CONFIG: Final = """
[node]
name = "test"
[storage]
reserve_mb = 1
journal_mb = {journal_mb}
objects = "kept/objects"
[listener]
host = "127.0.0.1"
port = {port}
processes = {processes}
[[peers]]
name = "scanner"
ae_title = "SCANNER"
may = ["echo", "store"]
"""

_NURSERY: Final = """
import json, os, signal, sys
import node.commands.processes, node.dicom.listener
from node import cli
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped at once
for line in sys.stdin:
    config, log = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), descriptor)
        sys.argv = ["limner", "listen", "--config", config]
        try:
            cli.main()
        finally:
            os._exit(3)
    print(child, flush=True)
"""


class Nursery:
    """A process that has imported the node and forks listeners."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **(environment or {})},
        )

    def listen(self, config: Path, log: Path) -> int:
        """Fork a `limner listen` and return its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(config), str(log)]) + "\n")
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it; its listeners are not its business."""
        self._process.communicate("", timeout=20)


@contextmanager
def made_nursery(environment: Mapping[str, str] | None = None) -> Iterator[Nursery]:
    """Give a nursery and end it."""
    nursery = Nursery(environment)
    try:
        yield nursery
    finally:
        nursery.close()


@dataclass(slots=True)
class Listening:
    """A node's folder, and the processes of the listener that runs on it."""

    folder: Path
    log: Path
    nursery: Nursery
    settings: Settings = field(init=False)
    keeper: int = 0
    _ever: dict[int, float] = field(default_factory=dict)
    """Creation times of all processes that ever belonged to the listener, by their ids."""

    def __post_init__(self) -> None:
        self.settings = load_settings(self.folder / "limner.toml")

    @property
    def port(self) -> int:
        return self.settings.listener.port

    def start(self) -> None:
        """Start the listener, if it does not run."""
        if not self.processes():
            self.keeper = self.nursery.listen(self.folder / "limner.toml", self.log)
            self.processes()

    def processes(self) -> list[int]:
        """Return its process ids, the one of `limner listen` itself first; none if it ended."""
        if not self.keeper:
            return []
        try:
            keeper = psutil.Process(self.keeper)
            if keeper.status() == psutil.STATUS_ZOMBIE:
                return []
            found = [keeper, *keeper.children(recursive=True)]
            self._ever.update((process.pid, process.create_time()) for process in found)
        except psutil.NoSuchProcess:
            return []
        return [process.pid for process in found]

    def orphans(self) -> list[int]:
        """Return processes of former listeners that still live."""
        now = set(self.processes())
        return [pid for pid in self._left() if pid not in now]

    def kill(self) -> None:
        """Kill all its processes, orphans too, and wait until they are gone."""
        self.processes()
        left = self._left()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait("the killed processes are gone", lambda: not self._left() or None)
        self.keeper = 0

    def halt(self) -> None:
        """Kill all its processes, none of them within a system call.

        A record of the recorder that is cut short would hide all that come after it.
        """
        found = [psutil.Process(pid) for pid in self.processes()]
        for process in found:
            process.suspend()

        def suspended() -> bool | None:
            return all(each.status() == psutil.STATUS_STOPPED for each in found) or None

        self.wait("all processes are suspended", suspended)
        self.kill()

    def stop(self) -> None:
        """End it as systemd would, and wait until all its processes are gone."""
        self.processes()
        os.kill(self.keeper, signal.SIGTERM)
        self.wait("the listener ended", lambda: not self._left() or None)
        self.keeper = 0

    def kill_one(self, pid: int) -> None:
        """Kill one process and wait until it is gone."""
        created = self._ever[pid]
        os.kill(pid, signal.SIGKILL)
        self.wait("the killed process is gone", lambda: not _lives(pid, created) or None)

    def wait_listening(self) -> None:
        """Wait until peers can associate; start it when it does not run, as systemd would.

        It associates only when it has indexed what it found on disk.
        """

        def associates() -> bool | None:
            self.start()
            if len(self.processes()) < 2:  # else a wire whose keeper died might answer
                return None
            try:
                Association(self.port).release()
            except OSError:
                return None
            return True

        self.wait("the listener accepts associations", associates)

    def serve(self, senders: Senders) -> None:
        """Let senders end with success for all that they began."""

        def served() -> bool | None:
            self.start()
            return not senders.busy() or None

        senders.stop()
        self.wait("every sender has success for its last object", served, timeout_s=60)

    def wait(self, what: str, look: Callable[[], Found | None], *, timeout_s: float = 30) -> Found:
        """Look until it is so; fail with the listener's log if it never is."""
        until = time.monotonic() + timeout_s
        while True:
            found = look()
            if found is not None:
                return found
            if time.monotonic() >= until:
                break
            time.sleep(0.02)
        tail = self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
        raise AssertionError(f"not within {timeout_s} s: {what}\n{tail}")

    def rows(self) -> list[InstanceRow]:
        """Return the instances that have a row."""
        engine = open_engine(self.settings.storage.database_url)
        try:
            with reading(engine) as db:
                return list_instances(db)
        finally:
            engine.dispose()

    def conflicts(self) -> int:
        """Return how many instances are kept as differing from one of the same UID."""
        engine = open_engine(self.settings.storage.database_url)
        try:
            with reading(engine) as db:
                return int(db.execute(select(func.count()).select_from(Conflict)).scalar_one())
        finally:
            engine.dispose()

    def kept(self, row: InstanceRow) -> bytes:
        """Return the dataset that a row points to."""
        data = ObjectStore(self.settings.storage.objects).read(row.place)
        _, start = read_file_meta(data)
        return data[start:]

    def _left(self) -> list[int]:
        return [pid for pid, created in self._ever.items() if _lives(pid, created)]


def _lives(pid: int, created: float) -> bool:
    """Return whether any thread of a process lives; the first one may end before the others."""
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return not ended and bool(process.create_time() == created)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def made_listening(
    folder: Path, log: Path, nursery: Nursery, *, journal_mb: int = 4, processes: int = 1
) -> Iterator[Listening]:
    """Make a node's folder with an empty database; whatever happens, its processes end.

    The journal's files are small by default, so that new ones are begun all the time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIG.format(port=free_port(), journal_mb=journal_mb, processes=processes)
    (folder / "limner.toml").write_text(text, encoding="utf-8")
    listening = Listening(folder, log, nursery)
    migrate(listening.settings.storage.database_url)
    try:
        yield listening
    finally:
        listening.kill()
