"""`limner run`: the node's processes, started, watched, restarted, ended.

One process per room that acts: listen, schedule, work, deliver, web. A process that dies is
started again after a wait that doubles (its death is a line in the log and a row that the pages
show); one that lived for a minute starts from the first wait again. SIGTERM and SIGINT end all of
them cleanly within seconds. If the supervisor itself is killed, the kernel ends its children
(PR_SET_PDEATHSIG), so that the next `limner run` finds free ports. A lock on the data folder
refuses a second run.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import structlog

from node.errors import setup_error
from node.settings import Settings

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
STEADY_S: Final = 60.0
"""A process that lived so long did not fail at its start; its next wait is the first again."""

STOP_S: Final = 8.0
"""After so long a process that was asked to end is killed."""

_PR_SET_PDEATHSIG: Final = 1

log = structlog.get_logger()


@dataclass(slots=True)
class _Child:
    """One process of the node and what is known of its life."""

    name: str
    process: subprocess.Popen[bytes]
    started: float
    wait_s: float = FIRST_WAIT_S
    deaths: int = 0
    restart_at: float | None = None


@dataclass(slots=True)
class Supervisor:
    """Keeps the processes of one node running until it is asked to stop.

    Attributes:
        settings: The node's configuration.
        names: Which processes, of listen, schedule, work, deliver, web.
        on_death: Told name, process id and ending of each process that died unasked.
    """

    settings: Settings
    names: Sequence[str]
    on_death: Callable[[str, int, str], None]
    _children: dict[str, _Child] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or `stop`; return 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        with _only_run(self.settings.node.data):
            for name in self.names:
                self._children[name] = _Child(name, self._started(name), time.monotonic())
            self._write_state()
            while not self._stop.wait(0.1):
                self._look()
            self._end_all()
        return 0

    def stop(self) -> None:
        """Ask `run` to end everything."""
        self._stop.set()

    def _started(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "node.cli", name, "--config", str(self.settings.path)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent(os.getpid())
        )
        log.info("process started", child=name, pid=process.pid)
        return process

    def _look(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.restart_at is None and child.process.poll() is not None:
                self._note_death(child, now)
            elif child.restart_at is not None and now >= child.restart_at:
                child.process = self._started(child.name)
                child.started, child.restart_at = now, None
                self._write_state()

    def _note_death(self, child: _Child, now: float) -> None:
        ending = _ending(child.process.returncode)
        if now - child.started > STEADY_S:
            child.wait_s = FIRST_WAIT_S
        child.deaths += 1
        child.restart_at = now + child.wait_s
        log.error(
            "process died",
            child=child.name,
            pid=child.process.pid,
            ending=ending,
            restart_in_s=child.wait_s,
        )
        child.wait_s = min(2 * child.wait_s, LONGEST_WAIT_S)
        self._write_state()
        self.on_death(child.name, child.process.pid, ending)

    def _end_all(self) -> None:
        living = [c.process for c in self._children.values() if c.process.poll() is None]
        for process in living:
            process.terminate()
        until = time.monotonic() + STOP_S
        for process in living:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process did not end and is killed", pid=process.pid)
                process.kill()
                process.wait()
        _state_file(self.settings).unlink(missing_ok=True)

    def _write_state(self) -> None:
        """Write process ids beside the data, for `limner status` and for tests."""
        state = {
            "supervisor": os.getpid(),
            "processes": {
                c.name: {"pid": c.process.pid, "deaths": c.deaths} for c in self._children.values()
            },
        }
        path = _state_file(self.settings)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(state), encoding="utf-8")
        part.replace(path)


def read_state(settings: Settings) -> dict[str, object] | None:
    """Return what the running supervisor wrote last, or None where none runs."""
    try:
        state: dict[str, object] = json.loads(_state_file(settings).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state


def _state_file(settings: Settings) -> Path:
    return settings.node.data / "run.json"


class _only_run:  # noqa: N801  reads as a phrase: `with _only_run(folder)`
    """A lock on the data folder for as long as this process runs."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        self._file = (self._data / "run.lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise setup_error(
                "already-running",
                "Another `limner run` works in this data folder.",
                where=str(self._data),
                remedy="End it first, or give this node a folder of its own in [node] data.",
            ) from error

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _end_with_parent(parent: int) -> Callable[[], None]:
    """Return what a child does before exec: ask the kernel for SIGTERM when we die."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died between fork and prctl
            os._exit(1)
        # Ctrl-C at a terminal reaches the whole group; only the supervisor acts on it.
        os.setpgid(0, 0)

    return prepare


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
