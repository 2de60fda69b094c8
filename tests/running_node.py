"""A node as an administrator would have it: a folder, a limner.toml, `limner run` as a process.

Tests look at it only from outside: over DICOM, over HTTP, through the rows, and by signals to
its processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from node.dicom.requestor import Target
from node.phantom.pacs import PhantomPacs
from node.phantom.scanner import send_study
from node.phantom.study import PhantomStudy, Profile
from node.settings import Settings, load_settings
from storage.database import Engine, open_engine, reading
from storage.story import StudyStory, story
from storage.studies import find_study

Found = TypeVar("Found")

CHEST = Profile(shape=(36, 128, 128))
"""A whole chest with slices thin enough for the bundled model, made in about a second."""

CONFIG = """
[node]
name = "test"
quiet_s = {quiet_s}
[storage]
database = "{database}"
reserve_mb = 10
journal_mb = 8
journal_ahead = 0
[listener]
host = "127.0.0.1"
port = {listen_port}
[worker]
device = "cpu"
threads = 1
lease_s = {lease_s}
models = {models}
[delivery]
retry_first_s = 0.3
retry_longest_s = 1
commitment_wait_s = {commitment_wait_s}
[web]
enabled = {web}
port = {web_port}
"""


@dataclass(slots=True)
class RunningNode:
    """One node under test."""

    folder: Path
    settings: Settings
    process: subprocess.Popen[bytes] | None = None
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = open_engine(self.settings.storage.database_url)

    @property
    def config(self) -> Path:
        return self.folder / "limner.toml"

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `limner ...` with this node's configuration."""
        call = [sys.executable, "-m", "node.cli", *arguments, "--config", str(self.config)]
        return subprocess.run(call, capture_output=True, text=True, check=check, timeout=120)

    def start(self, environment: dict[str, str] | None = None) -> None:
        """Start `limner run` and wait until its listener accepts connections."""
        log = (self.folder / "log.txt").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "node.cli", "run", "--config", str(self.config)],
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )
        log.close()
        self.wait_listening()

    def wait_listening(self) -> None:
        import socket

        def answers() -> bool | None:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.settings.listener.port)) == 0 or None

        self.wait("the listener accepts connections", answers)

    def pids(self) -> dict[str, int]:
        """Return the process ids by name: the supervisor is `run`, the listener's child `wire`."""

        def read() -> dict[str, int] | None:
            try:
                state = json.loads((self.settings.node.data / "run.json").read_text())
            except (OSError, ValueError):
                return None
            pids = {"run": state["supervisor"]} | {
                name: each["pid"] for name, each in state["processes"].items()
            }
            try:
                (wire,) = psutil.Process(pids["listen"]).children()
            except (psutil.Error, ValueError):
                return None  # it is being started
            return pids | {"wire": wire.pid}

        return self.wait("the supervisor wrote its state", read)

    def story(self, study_uid: str) -> StudyStory | None:
        with reading(self.engine) as db:
            found = find_study(db, study_uid)
            return story(db, found.id) if found else None

    def wait_done(self, study_uid: str, *, timeout_s: float = 90) -> StudyStory:
        """Wait until the study is done, and return its story."""

        def look() -> StudyStory | None:
            told = self.story(study_uid)
            return told if told and told.study.state == "done" else None

        return self.wait(f"study {study_uid} is done", look, timeout_s=timeout_s)

    def wait(self, what: str, look: Callable[[], Found | None], *, timeout_s: float = 60) -> Found:
        """Look until it is so; fail with the node's log if it never is."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            found = look()
            if found is not None:
                return found
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s} s: {what}\n{self.log()}")

    def log(self) -> str:
        path = self.folder / "log.txt"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    def stop(self) -> int:
        """End the node as systemd would, and return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.process = None
        return code


@dataclass(slots=True)
class Line:
    """A node between a scanner and a recording PACS."""

    node: RunningNode
    pacs: PhantomPacs

    @property
    def target(self) -> Target:
        listener = self.node.settings.listener
        return Target(
            name="limner", ae_title=listener.ae_title, host="127.0.0.1", port=listener.port
        )

    def start(self, environment: dict[str, str] | None = None) -> None:
        self.pacs.answer_to(self.target)
        self.node.start(environment)

    def send(self, study: PhantomStudy, **options: object) -> None:
        answers = send_study(self.target, study.instances, calling_ae="SCANNER", **options)
        assert {answer.kind for answer in answers} == {"stored"}

    def segs(self) -> list[bytes]:
        """Return what the PACS kept, one entry per C-STORE."""
        return [stored.file.read_bytes() for stored in self.pacs.stored if stored.file]


def peers_and_routes(
    *,
    pacs_port: int,
    model: str,
    when: str = "",
    pacs_ae: str = "PACS",
    scanner_ae: str = "SCANNER",
    proof: str = "commitment",
) -> str:
    """Return the tables of a scanner, a PACS and one route between them."""
    return f"""
[[peers]]
name = "scanner"
ae_title = "{scanner_ae}"
may = ["echo", "store"]

[[peers]]
name = "pacs"
ae_title = "{pacs_ae}"
host = "127.0.0.1"
port = {pacs_port}
may = ["echo", "commit"]
takes = ["SEG"]
proof = "{proof}"

[[routes]]
name = "route"
model = "{model}"
send_to = ["pacs"]
[routes.when]
{when}
"""


@contextmanager
def made_node(
    folder: Path,
    ports: Callable[[], int],
    tables: str,
    *,
    models: Sequence[Path] = (),
    database: str = "sqlite",
    quiet_s: float = 1.0,
    lease_s: float = 3.0,
    commitment_wait_s: float = 3.0,
    web: bool = False,
    listen_port: int | None = None,
) -> Iterator[RunningNode]:
    """Make a node in `folder`; whatever happens it is ended at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIG.format(
        quiet_s=quiet_s,
        database=database,
        listen_port=listen_port or ports(),
        lease_s=lease_s,
        models=json.dumps([str(path) for path in models]),
        commitment_wait_s=commitment_wait_s,
        web=str(web).lower(),
        web_port=ports(),
    )
    (folder / "limner.toml").write_text(text + tables, encoding="utf-8")
    node = RunningNode(folder, load_settings(folder / "limner.toml"))
    try:
        yield node
    finally:
        node.stop()
        node.engine.dispose()
