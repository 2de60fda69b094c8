"""Alembic, driven from code: where the migrations lie, what is applied, what differs.

There is no alembic.ini. The folder is `alembic/` beside this package in a checkout and
`storage/bundled/alembic` in an installed wheel. The library is imported only when it is needed,
because it costs every other process start-up time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, text

from storage.errors import SchemaOutdated, StorageFailed
from storage.tables import Base

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATION_LOCK: Final = 0x4C_49_4D_4E_45_52_01
"""PostgreSQL advisory lock under which one process migrates; SQLite's write lock does the same."""


@dataclass(frozen=True, slots=True)
class SchemaRevisions:
    """The revision a database is at (None: no tables yet) and the one this version needs."""

    current: str | None
    expected: str


def migrations_folder() -> Path:
    """Return the folder with env.py and the versions.

    Raises:
        StorageFailed: The installation is incomplete.
    """
    here = Path(__file__).resolve().parent
    # In a wheel, `alembic` beside this package is the library itself: the bundle comes first.
    for folder in (here / "bundled" / "alembic", here.parent / "alembic"):
        if (folder / "env.py").is_file() and (folder / "versions").is_dir():
            return folder
    raise StorageFailed(
        "migrations-missing",
        "The database migrations are not part of this installation.",
        where=str(here),
        remedy="Install Limner again from its wheel or a full checkout.",
    )


def apply_migrations(db: Connection, revision: str = "head") -> None:
    """Bring the database to `revision`, inside the caller's transaction.

    Raises:
        SchemaOutdated: The database is at a revision that this version does not know.
    """
    from alembic.util import CommandError

    from alembic import command

    if db.dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    try:
        command.upgrade(_config(db), revision)
    except CommandError as error:
        raise SchemaOutdated(
            "schema-unknown",
            f"The database is at a revision that this version does not know: {error}.",
            where=db.engine.url.render_as_string(hide_password=True),
            remedy="Use the version of Limner that made it, or a newer one.",
        ) from error


def revert_migrations(db: Connection, revision: str = "base") -> None:
    """Take the database back to `revision`; what the dropped tables held is lost."""
    from alembic import command

    command.downgrade(_config(db), revision)


def schema_revisions(db: Connection) -> SchemaRevisions:
    """Return the database's revision and the one this version needs."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    expected = ScriptDirectory.from_config(_config(db)).get_current_head()
    current = MigrationContext.configure(db).get_current_revision()
    return SchemaRevisions(current=current, expected=str(expected))


def schema_drift(db: Connection) -> list[str]:
    """Return each difference between the database's tables and `storage.tables`, as text."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(db, opts={"compare_type": True})
    return [repr(difference) for difference in compare_metadata(context, Base.metadata)]


def _config(db: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    # ConfigParser reads % as the start of a reference.
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = db
    return config
