"""Engines and transactions: the differences between SQLite and PostgreSQL that callers never see.

`writing` and `reading` are the only ways to a connection. A writing transaction takes SQLite's
write lock at once (BEGIN IMMEDIATE): a transaction that reads first and writes later would fail
at its first write, whatever the busy timeout. A reading transaction sees one state of the
database from its first to its last statement.

At this border a database that is away becomes `StorageAway`, so that no caller needs to know a
driver's exceptions.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage.errors import (
    SchemaOutdated,
    StorageAway,
    StorageError,
    StorageFailed,
    StorageFull,
    StorageRefused,
)
from storage.file_system import file_system_type, refuse_network
from storage.migrations import apply_migrations, schema_revisions

__all__ = [
    "Connection",
    "Engine",
    "check_schema",
    "migrate",
    "now_ms",
    "open_engine",
    "reading",
    "set_clock_offset",
    "writing",
]

BUSY_TIMEOUT_MS: Final = 10_000
"""How long SQLite waits for another writer. Write transactions here take milliseconds; one that
waits longer means a process that hangs with the lock, and `StorageAway` is the better answer."""

_CONNECT_TIMEOUT_S: Final = 10
_WRITE_OPTION: Final = "limner_writing"
_UNSYNCED_OPTION: Final = "limner_unsynced"
_OFFSET_OPTION: Final = "limner_clock_offset_ms"

SERVER_CLOCK: Final = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)")


def open_engine(url: str | URL) -> Engine:
    """Return an engine for `url`; nothing is created besides an empty SQLite file's folder.

    Args:
        url: `sqlite:////folder/limner.db` or `postgresql://user@host/database`.

    Raises:
        StorageRefused: The URL is of another database, or SQLite would lie on a network disk.
        StorageFailed: The SQLite file's folder cannot be made or read.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S},
        )
    raise StorageRefused(
        "database-unknown",
        f"`{parsed.get_backend_name()}` is not a database that Limner can use.",
        where="storage.database_url",
        remedy="Use sqlite:////folder/limner.db or postgresql://user@host/database.",
    )


def _open_sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise StorageRefused(
            "database-in-memory",
            "A SQLite database in memory is lost with its process.",
            where="storage.database_url",
            remedy="Name a file: sqlite:////folder/limner.db.",
        )
    path = Path(url.database).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(
            "folder-not-made",
            f"The database's folder cannot be made: {error.strerror}.",
            where=str(path.parent),
            remedy="Check the path and its permissions.",
        ) from error
    refuse_network(path, file_system_type(path.parent))
    engine = create_engine(
        url.set(drivername="sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "isolation_level": None},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The timeout comes first: switching to WAL itself fails at once when another process opens
    # the file at the same moment. FULL, because a C-STORE answer is a promise that NORMAL
    # breaks at a power cut.
    for pragma in (
        f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
    ):
        connection.execute(pragma).close()


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get(_WRITE_OPTION, False):
        connection.exec_driver_sql("BEGIN")
        return
    wanted = "NORMAL" if options.get(_UNSYNCED_OPTION, False) else "FULL"
    if connection.info.get("synchronous", "FULL") != wanted:
        connection.exec_driver_sql(f"PRAGMA synchronous = {wanted}")
        connection.info["synchronous"] = wanted
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def writing(engine: Engine, *, synced: bool = True) -> Iterator[Connection]:
    """Give a connection in a transaction that commits at the end, or rolls back on any error.

    Args:
        engine: The node's database.
        synced: Whether the commit survives a power cut. One that need not is undone by a power
            cut only together with all that were committed after it, so whoever built on it loses
            that too; and it costs the disk nothing.

    Raises:
        StorageAway: The database cannot be reached, or another process holds it too long.
        StorageFull: The database's disk is full.
        StorageFailed: The database's disk failed.
        SchemaOutdated: A table is missing.
    """
    with _border(engine), engine.connect() as connection:
        db = connection.execution_options(**{_WRITE_OPTION: True, _UNSYNCED_OPTION: not synced})
        with db.begin():
            if not synced and engine.dialect.name == "postgresql":
                db.exec_driver_sql("SET LOCAL synchronous_commit TO off")
            yield db


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that sees one state of the database and cannot change it on PostgreSQL.

    Raises:
        StorageAway: As in `writing`.
        SchemaOutdated: A table is missing.
    """
    with _border(engine), engine.connect() as connection:
        db = connection
        if engine.dialect.name == "postgresql":
            db = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        with db.begin():
            yield db


def now_ms(db: Connection) -> int:
    """Return the time that decides about leases, in milliseconds since 1970 UTC.

    PostgreSQL: the server's clock, also within a transaction. SQLite: the one host's clock. Both
    plus the offset that `set_clock_offset` put on the engine.
    """
    offset = int(db.get_execution_options().get(_OFFSET_OPTION, 0))
    if db.dialect.name == "postgresql":
        return int(db.execute(SERVER_CLOCK).scalar_one()) + offset
    return time.time_ns() // 1_000_000 + offset


def set_clock_offset(engine: Engine, offset_ms: int) -> None:
    """Shift `now_ms` for all later connections of `engine`, so that tests need not wait."""
    engine.update_execution_options(**{_OFFSET_OPTION: offset_ms})


def migrate(engine_or_url: Engine | str) -> None:
    """Bring the database to this version's tables; safe when several processes call it at once.

    Raises:
        StorageAway: The database is away.
        SchemaOutdated: The database was made by a newer version.
    """
    if isinstance(engine_or_url, str):
        engine = open_engine(engine_or_url)
        try:
            migrate(engine)
        finally:
            engine.dispose()
        return
    with writing(engine_or_url) as db:
        apply_migrations(db)


def check_schema(engine: Engine) -> None:
    """Raise when the database's tables are not those that this version needs.

    Raises:
        SchemaOutdated: With both revisions and the command that helps.
        StorageAway: The database is away.
    """
    with reading(engine) as db:
        found = schema_revisions(db)
    if found.current != found.expected:
        raise SchemaOutdated(
            "schema-outdated",
            f"The database is at revision {found.current or 'none'}, this version needs "
            f"{found.expected}.",
            where=_name(engine),
            remedy="Run `limner migrate`.",
        )


@contextmanager
def _border(engine: Engine) -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise _away(engine, "All connections to the database are in use.") from error
    except DBAPIError as error:
        fault = _fault(engine, error)
        if fault is None:
            raise
        raise fault from error


def _fault(engine: Engine, error: DBAPIError) -> StorageError | None:
    """Return what a driver's error means to the caller; None for a bug of ours."""
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_fault(engine, error.orig)
    return _postgresql_fault(engine, error)


def _sqlite_fault(engine: Engine, error: sqlite3.Error) -> StorageError | None:
    # The low byte is the primary result code; the rest says which of its kinds.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return _away(engine, "Another process has held the database for too long.")
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(
            "database-disk-full",
            "The disk under the database is full.",
            where=_name(engine),
            remedy="Free space; nothing that was answered with success is lost.",
        )
    if code in {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }:
        return StorageFailed(
            "database-file-failed",
            f"The database file cannot be used: {error}.",
            where=_name(engine),
            remedy="Check the disk, the path and the permissions of the file and its folder.",
        )
    return _missing_table(engine) if "no such table" in str(error) else None


def _postgresql_fault(engine: Engine, error: DBAPIError) -> StorageError | None:
    # SQLSTATE classes: 08 connection, 40 rollback (deadlock), 53 resources, 55P03 lock not
    # available, 57 operator intervention (restart, timeout). No state at all: never connected.
    state: Any = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or (state is None and isinstance(error, OperationalError)):
        return _away(engine, "The database cannot be reached.")
    if state == "53100":
        return StorageFull(
            "database-disk-full",
            "The disk under the database is full.",
            where=_name(engine),
            remedy="Free space on the database server.",
        )
    if state is not None and (state[:2] in {"08", "40", "53", "57"} or state == "55P03"):
        return _away(engine, f"The database did not complete the statement (SQLSTATE {state}).")
    return _missing_table(engine) if state == "42P01" else None


def _away(engine: Engine, what: str) -> StorageAway:
    return StorageAway(
        "database-away",
        what,
        where=_name(engine),
        remedy="It is tried again; if it lasts, check the database server, the disk and the "
        "processes that use it.",
    )


def _missing_table(engine: Engine) -> SchemaOutdated:
    return SchemaOutdated(
        "schema-missing",
        "A table is missing from the database.",
        where=_name(engine),
        remedy="Run `limner migrate`.",
    )


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
