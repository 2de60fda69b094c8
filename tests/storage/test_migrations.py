"""A fresh database and a migrated one are the same, on both databases and from a wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

import storage
from storage.database import check_schema, migrate, open_engine, reading, writing
from storage.errors import SchemaOutdated
from storage.migrations import (
    apply_migrations,
    migrations_folder,
    revert_migrations,
    schema_drift,
    schema_revisions,
)
from storage.tables import Base

CHECKOUT = Path(storage.__file__).resolve().parents[1]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, quick_folder: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{quick_folder / 'empty.db'}"
    url = request.getfixturevalue("empty_postgres_url")
    assert isinstance(url, str)
    return url


def shape(engine: Engine) -> dict[str, object]:
    """All tables with columns, keys, indexes and checks, as the database itself tells them."""
    found = inspect(engine)

    def named(rows: Iterable[object]) -> list[str]:
        return sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)

    return {
        table: [
            # By name: a column that a later migration adds stands last, and nobody reads by order.
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)),
            found.get_pk_constraint(table)["constrained_columns"],
            named(found.get_foreign_keys(table)),
            named(found.get_unique_constraints(table)),
            named(found.get_check_constraints(table)),
            named(found.get_indexes(table)),
        ]
        for table in sorted(found.get_table_names())
        if table != "alembic_version"
    }


def test_migrations_give_the_tables_that_the_code_declares(empty_url: str) -> None:
    engine = open_engine(empty_url)
    with writing(engine) as db:
        Base.metadata.create_all(db)
    declared = shape(engine)
    assert set(declared) == set(Base.metadata.tables)
    with writing(engine) as db:
        Base.metadata.drop_all(db)
    migrate(engine)
    assert shape(engine) == declared
    engine.dispose()


def test_a_migrated_database_does_not_drift_from_the_code(engine: Engine) -> None:
    with reading(engine) as db:
        assert schema_drift(db) == []
    with writing(engine) as db:
        db.execute(text("ALTER TABLE studies ADD COLUMN forgotten TEXT"))
        [difference] = schema_drift(db)
    assert "forgotten" in difference


def test_up_down_and_up_again(empty_url: str) -> None:
    engine = open_engine(empty_url)
    migrate(engine)
    first = shape(engine)
    with writing(engine) as db:
        revert_migrations(db)
    assert shape(engine) == {}
    migrate(engine)
    assert shape(engine) == first
    check_schema(engine)
    engine.dispose()


def test_processes_that_migrate_at_once_all_succeed(empty_url: str) -> None:
    program = "import sys; from storage.database import migrate; migrate(sys.argv[1])"
    command = [sys.executable, "-c", program, empty_url]
    started = [subprocess.Popen(command, cwd=CHECKOUT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0]
    engine = open_engine(empty_url)
    check_schema(engine)
    engine.dispose()


def test_a_database_of_another_version_is_told_apart(engine: Engine, tmp_path: Path) -> None:
    check_schema(engine)
    empty = open_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(SchemaOutdated, match=r"revision none.*limner migrate"):
        check_schema(empty)
    empty.dispose()
    with writing(engine) as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert schema_revisions(db).current == "9999"
    with pytest.raises(SchemaOutdated, match="9999"):
        check_schema(engine)
    with pytest.raises(SchemaOutdated, match="newer"):
        migrate(engine)


def test_the_checkouts_migrations_do_not_hide_the_library() -> None:
    assert migrations_folder() == CHECKOUT / "alembic"
    assert not (CHECKOUT / "alembic" / "__init__.py").exists()


def test_an_installed_wheel_migrates_without_a_checkout(tmp_path: Path) -> None:
    """Laid out as in site-packages: the bundle inside the package, the library's name beside it."""
    site = tmp_path / "site"
    shutil.copytree(CHECKOUT / "storage", site / "storage")
    shutil.copytree(CHECKOUT / "alembic", site / "storage" / "bundled" / "alembic")
    program = (
        "import sys, storage; from storage.database import migrate, check_schema, open_engine;"
        "assert storage.__file__.startswith(sys.argv[1]), storage.__file__;"
        "migrate(sys.argv[2]); check_schema(open_engine(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(site), f"sqlite:///{tmp_path / 'limner.db'}"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)


def test_alembic_is_not_imported_until_it_is_needed() -> None:
    program = (
        "import sys, storage.database, storage.studies;"
        "assert 'alembic' not in sys.modules and 'node' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=CHECKOUT)


def test_rows_of_before_receiving_changed_are_kept_up_and_down(empty_url: str) -> None:
    """Instances learn whose they are from their study; conflicts are told apart as before."""
    engine = open_engine(empty_url)
    with writing(engine) as db:
        apply_migrations(db, "0001")
        for statement in BEFORE_RECEIVING:
            db.execute(text(statement))
        apply_migrations(db)
        instance = "SELECT patient_id, issuer, accession, checksum, version FROM instances"
        assert tuple(db.execute(text(instance)).one()) == ("P1", "H", "A1", "", 1)
        conflicts = "SELECT version, checksum, chosen, facts FROM conflicts ORDER BY id"
        found = [tuple(row) for row in db.execute(text(conflicts))]
        assert [row[:3] for row in found] == [(2, "b" * 32, ""), (3, "c" * 32, "")]
        db.execute(text("UPDATE conflicts SET digest = ''"))
        revert_migrations(db, "0001")
        assert db.execute(text("SELECT count(*) FROM conflicts")).scalar_one() == 2
        assert db.execute(text("SELECT count(*) FROM instances")).scalar_one() == 1
    engine.dispose()


BEFORE_RECEIVING = (
    """INSERT INTO studies (id, uid, patient_id, issuer, patient_name, accession, study_date,
        description, state, revision, sentence, needs_person, first_received_ms,
        last_received_ms, changed_ms)
       VALUES (1, '1.2', 'P1', 'H', 'Doe', 'A1', '', '', 'arriving', 0, '', false, 1, 1, 1)""",
    """INSERT INTO series (id, study_id, uid, modality, header, instance_count,
        first_received_ms, last_received_ms)
       VALUES (1, 1, '1.2.7', 'CT', '{}', 1, 1, 1)""",
    """INSERT INTO instances (id, series_id, sop_uid, sop_class, transfer_syntax, digest,
        object_name, "offset", length, sender, received_ms)
       VALUES (1, 1, '1.2.7.1', '1', '1', 'a', 'x', 0, 1, '', 1)""",
    *(
        f"""INSERT INTO conflicts (instance_id, kind, study_uid, detail, digest, object_name,
             "offset", length, sender, received_ms)
            VALUES (1, 'header', '1.2', '', '{letter * 64}', 'x', 0, 1, '', 1)"""
        for letter in "bc"
    ),
)
