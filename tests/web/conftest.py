"""A running web process on a filled database, and a browser-like client."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from node.web.serve import run_web
from storage.database import migrate, open_engine

from .fill import PASSWORD, Line, Node, make_node


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with this version's tables; made once, copied for each node."""
    path = tmp_path_factory.mktemp("empty") / "empty.sqlite"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture
def node(tmp_path: Path, free_port: Callable[[], int], empty_database: Path) -> Iterator[Node]:
    """Return a node with an empty database and living processes."""
    made = make_node(tmp_path, free_port(), empty_database)
    made.beat_all()
    yield made
    made.engine.dispose()


@pytest.fixture
def line(node: Node) -> Line:
    """Return a study that is about to arrive."""
    return Line(node)


@pytest.fixture
def address(node: Node) -> Iterator[str]:
    """Serve the node's pages; return their address."""
    stop = threading.Event()
    thread = threading.Thread(
        target=run_web, args=(node.settings, node.engine, node.store, stop), name="web"
    )
    thread.start()
    base = f"http://127.0.0.1:{node.settings.web.port}"
    _wait_until_up(base, thread)
    yield base
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def _wait_until_up(base: str, thread: threading.Thread) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and thread.is_alive():
        try:
            httpx2.get(f"{base}/health/live", timeout=2)
        except httpx2.TransportError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("the web process did not come up")


@pytest.fixture
def client(address: str) -> Iterator[httpx2.Client]:
    """Return a client that nobody is signed in with."""
    with httpx2.Client(base_url=address, timeout=20) as made:
        yield made


@pytest.fixture
def operator(node: Node, client: httpx2.Client) -> httpx2.Client:
    """Return a client with an operator signed in."""
    node.add_user("night")
    client.cookies.update(node.open_session("night"))
    return client


def sign_in(client: httpx2.Client, name: str, password: str = PASSWORD) -> httpx2.Response:
    """Sign in through the form, as a person does."""
    form = client.get("/sign-in")
    return client.post(
        "/sign-in", data={"name": name, "password": password, "csrf": token_in(form), "to": "/"}
    )


def token_in(page: httpx2.Response) -> str:
    """Return the CSRF token of a page's first form."""
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text[:500]
    return found[1]
