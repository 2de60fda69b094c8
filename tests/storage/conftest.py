"""Every test of storage runs on both databases, unless it is about one of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import empty_postgres_url, memory_folder, postgres_server, postgres_url
from sqlalchemy import Engine

from storage.database import migrate, open_engine

__all__ = ["empty_postgres_url", "postgres_server", "postgres_url"]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "limner.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: these tests are not about what the disk keeps."""
    with tempfile.TemporaryDirectory(prefix="limner-sqlite-", dir=memory_folder()) as folder:
        yield Path(folder)


@pytest.fixture
def sqlite_url(quick_folder: Path, sqlite_template: Path) -> str:
    """The address of a fresh SQLite file with all tables."""
    path = quick_folder / "limner.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of a fresh database with all tables, on each of the two in turn."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    address = request.getfixturevalue(name)
    assert isinstance(address, str)
    return address


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = open_engine(url)
    yield opened
    opened.dispose()


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    opened = open_engine(sqlite_url)
    yield opened
    opened.dispose()


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    opened = open_engine(postgres_url)
    yield opened
    opened.dispose()
