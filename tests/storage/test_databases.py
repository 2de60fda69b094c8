"""What engines and transactions promise on each database, and what is said when one is away."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text
from stored_examples import instance

from storage import instances, studies
from storage.database import now_ms, open_engine, reading, set_clock_offset, writing
from storage.errors import SchemaOutdated, StorageAway, StorageFailed, StorageRefused
from storage.file_system import NETWORK_TYPES, file_system_type, refuse_network


def impatient(engine: Engine) -> Engine:
    """Wait 50 ms instead of 10 s for another writer."""

    def shorten(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA busy_timeout = 50").close()

    event.listen(engine, "connect", shorten)
    return engine


def test_sqlite_syncs_every_commit_and_checks_every_reference(sqlite_engine: Engine) -> None:
    with reading(sqlite_engine) as db:
        found = {
            name: db.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    full = 2
    assert found == {
        "journal_mode": "wal",
        "synchronous": full,
        "foreign_keys": 1,
        "busy_timeout": 10_000,
    }


def test_a_read_then_a_write_in_one_transaction_never_meets_another_writer(
    sqlite_engine: Engine,
) -> None:
    """With a plain BEGIN the second writer would start, and the first would fail at its write."""
    other = impatient(open_engine(sqlite_engine.url))
    with writing(sqlite_engine) as db:
        db.execute(text("SELECT count(*) FROM studies"))
        with pytest.raises(StorageAway, match="held the database"), writing(other):
            pass
        instances.record_instance(db, instance(1))
    other.dispose()


def test_a_reading_transaction_sees_one_state(engine: Engine) -> None:
    with reading(engine) as db:
        assert studies.list_studies(db) == []
        with writing(engine) as other:
            instances.record_instance(other, instance(1))
        assert studies.list_studies(db) == []
    with reading(engine) as db:
        assert len(studies.list_studies(db)) == 1


def test_an_error_rolls_everything_back(engine: Engine) -> None:
    with pytest.raises(KeyError), writing(engine) as db:
        instances.record_instance(db, instance(1))
        raise KeyError("a fault of the caller")
    with reading(engine) as db:
        assert studies.list_studies(db) == []


def test_the_clock_of_the_database_can_be_shifted_for_tests(engine: Engine) -> None:
    with reading(engine) as db:
        first = now_ms(db)
    assert abs(first - time.time() * 1000) < 5_000
    set_clock_offset(engine, 3_600_000)
    with reading(engine) as db:
        assert 3_600_000 <= now_ms(db) - first < 3_660_000


def test_the_clock_runs_within_a_transaction(postgres_engine: Engine) -> None:
    with reading(postgres_engine) as db:
        first = now_ms(db)
        db.execute(text("SELECT pg_sleep(0.02)"))
        assert now_ms(db) > first


def test_a_server_that_does_not_answer_is_away(free_port: Callable[[], int]) -> None:
    engine = open_engine(f"postgresql://limner:secret@127.0.0.1:{free_port()}/limner")
    with pytest.raises(StorageAway) as caught, reading(engine):
        pass
    assert "cannot be reached" in str(caught.value) and "secret" not in str(caught.value)
    engine.dispose()


def test_a_server_that_ends_the_connection_is_away_and_then_back(postgres_url: str) -> None:
    engine, administrator = open_engine(postgres_url), open_engine(postgres_url)
    with pytest.raises(StorageAway), writing(engine) as db:
        process = db.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with writing(administrator) as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": process})
        instances.record_instance(db, instance(1))
    with writing(engine) as db:
        assert instances.record_instance(db, instance(1)).kept
    engine.dispose()
    administrator.dispose()


def test_a_lock_that_lasts_too_long_is_away(postgres_engine: Engine) -> None:
    with writing(postgres_engine) as slow:
        instances.record_instance(slow, instance(1))
        with pytest.raises(StorageAway, match="55P03"), writing(postgres_engine) as quick:
            quick.execute(text("SET LOCAL lock_timeout = '20ms'"))
            instances.record_instance(quick, instance(1))


def test_a_database_without_tables_names_the_command_that_helps(
    tmp_path: Path, empty_postgres_url: str
) -> None:
    for url in (f"sqlite:///{tmp_path / 'empty.db'}", empty_postgres_url):
        engine = open_engine(url)
        with pytest.raises(SchemaOutdated, match="limner migrate"), reading(engine) as db:
            studies.list_studies(db)
        engine.dispose()


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "limner.db"
    path.write_bytes(b"this is a text, and a long one so that it fills a header" * 20)
    engine = open_engine(f"sqlite:///{path}")
    with pytest.raises(StorageFailed, match="cannot be used"), reading(engine) as db:
        studies.list_studies(db)
    engine.dispose()


def test_an_error_of_ours_is_not_dressed_up_as_one_of_the_database(engine: Engine) -> None:
    with pytest.raises(Exception, match="nonsense") as caught, writing(engine) as db:
        db.execute(text("SELECT nonsense FROM studies"))
    assert not isinstance(caught.value, StorageAway | StorageFailed | SchemaOutdated)


@pytest.mark.parametrize("url", ["mysql://host/limner", "sqlite://", "sqlite:///:memory:"])
def test_a_url_of_another_database_is_refused(url: str) -> None:
    with pytest.raises(StorageRefused, match="sqlite:////folder"):
        open_engine(url)


def test_sqlite_is_refused_on_a_network_file_system_with_the_way_out(tmp_path: Path) -> None:
    for number, name in NETWORK_TYPES.items():
        with pytest.raises(StorageRefused, match=rf"\({name}\).*PostgreSQL"):
            refuse_network(tmp_path / "limner.db", number)
    refuse_network(tmp_path / "limner.db", file_system_type(tmp_path))


def test_the_type_of_a_file_system_is_read_from_the_kernel(tmp_path: Path) -> None:
    proc = 0x9FA0
    assert file_system_type(Path("/proc")) == proc
    with pytest.raises(StorageFailed, match="cannot be read"):
        file_system_type(tmp_path / "missing")


def test_a_commit_waits_for_the_disk_unless_it_may_be_taken_back(engine: Engine) -> None:
    is_sqlite = engine.dialect.name == "sqlite"
    asked = "PRAGMA synchronous" if is_sqlite else "SHOW synchronous_commit"
    waits, does_not = (2, 1) if is_sqlite else ("on", "off")

    def waiting(*, synced: bool) -> object:
        with writing(engine, synced=synced) as db:
            return db.exec_driver_sql(asked).scalar_one()

    assert [waiting(synced=synced) for synced in (True, False, False, True)] == [
        waits,
        does_not,
        does_not,
        waits,
    ]
