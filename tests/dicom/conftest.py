"""A node's receiving end for each test: database, objects, settings, and a running listener."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import peers
import pytest
from attacked_node import Attacked, attacked_node
from receiving_node import Node, made_settings

from node.phantom.ports import free_port
from storage.database import migrate, open_engine
from storage.objects import ObjectStore


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


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A `limner listen` that all attacks of a session are made on, one after the other."""
    with attacked_node(tmp_path_factory.mktemp("attacked"), free_port()) as running:
        yield running


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
