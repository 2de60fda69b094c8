"""What every test may ask for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function that gives a path in the shared real data, or skips visibly."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data not present: shared/data/{name}")
        return path

    return find


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a function that gives a loopback TCP port that was free a moment ago."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
