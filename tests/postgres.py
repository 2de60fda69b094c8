"""A private PostgreSQL server for tests: started once per session, a database per test.

Import the fixtures into a conftest.py: `from postgres import postgres_server, postgres_url`. Each
worker of pytest-xdist starts a server of its own. The server runs without fsync; where it is
started by root it runs as the user `postgres`, because it refuses to run as root.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
import pytest

from node.phantom.ports import free_port
from storage.database import migrate

_VERSIONS: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_START_S: Final = 60.0
_ROOM_BYTES: Final = 512 * 1024 * 1024
_NUMBERS = itertools.count(1)


@dataclass(slots=True)
class PostgresServer:
    """A server; `url(name)` gives the address of one of its databases."""

    programs: Path
    data: Path
    owner: str | None
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(self.programs / "postgres"), "-D", str(self.data), "-F"]
        command += ["-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.data.parent)]
        with (self.data.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.data.parent,
                stdout=log,
                stderr=log,
                user=self.owner,
                extra_groups=_groups(self.owner),
            )
        until = time.monotonic() + _START_S
        while self.process.poll() is None and time.monotonic() < until:
            try:
                # The port accepts connections before the server is ready to answer them.
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        said = (self.data.parent / "server.log").read_text()
        raise RuntimeError(f"PostgreSQL did not start: {said}")

    def stop(self) -> None:
        """End it, and every connection to it; `start` makes it run again."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)  # fast shutdown
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def url(self, database: str) -> str:
        return f"postgresql://limner@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str) -> None:
        """Run one statement outside of any transaction, as CREATE DATABASE needs."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def make_database(self, template: str = "template1") -> str:
        name = f"test_{next(_NUMBERS)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        self.run(f"DROP DATABASE {name} WITH (FORCE)")


def memory_folder() -> Path | None:
    """A folder in memory with room for test databases: several times faster than a disk."""
    memory = Path("/dev/shm")  # noqa: S108 - folders in it are made by mkdtemp
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    return memory if roomy else None


def _programs() -> Path:
    for folder in (*_VERSIONS, Path(shutil.which("postgres") or "/nowhere").parent):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("PostgreSQL's server programs are not installed")


def _owner() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL refuses to run as root and there is no user `postgres`")


def _groups(owner: str | None) -> list[str] | None:
    return None if owner is None else []


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server with a migrated database `limner_template`."""
    programs, owner = _programs(), _owner()
    folder = Path(tempfile.mkdtemp(prefix="limner-postgres-", dir=memory_folder()))
    server = None
    try:
        if owner is not None:
            shutil.chown(folder, owner)
        data = folder / "data"
        command = [str(programs / "initdb"), "-D", str(data), "-U", "limner", "--auth=trust"]
        command += ["--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            command,
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            user=owner,
            extra_groups=_groups(owner),
        )
        server = PostgresServer(programs, data, owner, free_port())
        server.start()
        server.run("CREATE DATABASE limner_template")
        migrate(server.url("limner_template"))
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a fresh database with all tables."""
    name = postgres_server.make_database("limner_template")
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of a fresh database without tables."""
    name = postgres_server.make_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)
