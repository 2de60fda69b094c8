"""A node's receiving end for each test: database, objects, settings, and a running listener."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import peers
import pytest

from node.dicom.filemeta import read_file_meta
from node.dicom.listener import run_listener
from node.settings import Peer, Settings, parse_settings
from storage.associations import AssociationRow, list_associations
from storage.database import Engine, migrate, open_engine, reading
from storage.instances import InstanceRow, list_instances
from storage.objects import ObjectStore

PEERS = """
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
        assert ready.wait(10), "the listener did not start"

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(15)
            assert not self._thread.is_alive(), "the listener did not stop"
            self._thread = None

    def instances(self) -> list[InstanceRow]:
        with reading(self.engine) as db:
            return list_instances(db)

    def associations(self) -> list[AssociationRow]:
        with reading(self.engine) as db:
            return list_associations(db)

    def objects(self) -> list[Path]:
        return sorted(self.store.folder.glob("*/*/*"))

    def dataset(self, row: InstanceRow) -> bytes:
        """The data set of a kept instance, without preamble and meta."""
        data = self.store.read(row.place)
        _, start = read_file_meta(data)
        return data[start:]


def made_settings(folder: Path, *, more_peers: tuple[Peer, ...] = ()) -> Settings:
    settings = parse_settings(PEERS, path=folder / "limner.toml")
    return replace(
        settings,
        listener=replace(settings.listener, port=0),
        peers=settings.peers + more_peers,
    )


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "limner.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def idle_node(tmp_path: Path, empty_database: Path) -> Iterator[Node]:
    """A node whose listener does not run yet."""
    path = tmp_path / "limner.sqlite"
    shutil.copyfile(empty_database, path)
    engine = open_engine(f"sqlite:///{path}")
    node = Node(made_settings(tmp_path), engine, ObjectStore(tmp_path / "objects"))
    try:
        yield node
    finally:
        node.stop()
        engine.dispose()


@pytest.fixture
def node(idle_node: Node) -> Node:
    """A node whose listener runs."""
    idle_node.start()
    return idle_node


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[Callable[..., peers.StoreScp]]:
    """A function that runs a storescp until the test ends."""
    with ExitStack() as running:

        def run(*options: str, ae_title: str = "STORESCP") -> peers.StoreScp:
            folder = tmp_path / f"storescp-{ae_title}"
            return running.enter_context(
                peers.running_storescp(folder, ae_title=ae_title, options=options)
            )

        yield run


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Callable[..., peers.Orthanc]]:
    """A function that runs an Orthanc until the test ends."""
    with ExitStack() as running:

        def run(**options: object) -> peers.Orthanc:
            return running.enter_context(
                peers.running_orthanc(tmp_path / "orthanc", **options)  # type: ignore[arg-type]
            )

        yield run
