"""The database is away for a while: modalities go on sending, and nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import PostgresServer
from pynetdicom import build_context, build_role

from node.dicom import books
from node.dicom.listener import run_listener
from storage.associations import AssociationOutcome
from storage.database import writing
from storage.objects import ObjectStore

from .calling import Caller
from .listening import Listening, kill, locked, made_listening
from .test_notices import COMMITMENT, COMMITMENT_INSTANCE, STEP, call, report, step

pytestmark = pytest.mark.flow


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Listening]:
    with made_listening(tmp_path / "node") as made:
        yield made


@pytest.fixture
def on_postgres(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Listening]:
    name = postgres_server.make_database("limner_template")
    url = postgres_server.url(name).replace("postgresql://", "postgresql+psycopg://")
    try:
        with made_listening(tmp_path / "node", database=url) as made:
            yield made
    finally:
        if postgres_server.process is None:
            postgres_server.start()
        postgres_server.drop_database(name)


def database(listening: Listening) -> Path:
    return Path(str(listening.engine.url.database))


def test_instances_are_answered_with_success_while_postgresql_is_down_and_indexed_later(
    on_postgres: Listening, postgres_server: PostgresServer
) -> None:
    keeper = on_postgres.start()
    caller = Caller(on_postgres.port)
    assert caller.store("1.2.3.0") == 0
    on_postgres.until(lambda: len(on_postgres.instances()) == 1, "the first one is indexed")

    postgres_server.stop()
    wanted = {f"1.2.3.{number}" for number in range(51)}
    assert [caller.store(f"1.2.3.{number}") for number in range(1, 25)] == [0] * 24
    # A wire that dies meanwhile is replaced at once; what it has not told lies on disk.
    (wire,) = keeper.wires()
    kill(wire)
    caller.close()
    on_postgres.until(lambda: keeper.wires() not in ([], [wire]), "another wire runs")
    with Caller(on_postgres.port) as another:
        assert [another.store(f"1.2.3.{number}") for number in range(25, 51)] == [0] * 26
        another.release()
    on_postgres.until(lambda: "rows-put-off" in keeper.said(), "the log says that rows wait")
    assert_that_nothing_else_is_taken(on_postgres)

    postgres_server.start()
    on_postgres.until(lambda: on_postgres.sop_uids() == wanted, "all are indexed", within_s=40)
    assert len(on_postgres.instances()) == len(wanted)
    outcomes = [row.outcome for row in on_postgres.associations() if row.instances]
    assert sorted(outcomes) == [AssociationOutcome.LOST, AssociationOutcome.RELEASED]
    with Caller(on_postgres.port) as afterwards:
        assert afterwards.store("1.2.3.99") == 0
    on_postgres.until(lambda: "1.2.3.99" in on_postgres.sop_uids(), "it goes on as before")


def assert_that_nothing_else_is_taken(listening: Listening) -> None:
    """What has no journal is answered 0110, to be sent again; C-ECHO needs no database."""
    for calling, uid in (("PACS", COMMITMENT), ("SCANNER", STEP)):
        association = call(
            listening,
            build_context("1.2.840.10008.1.1"),
            build_context(uid),
            calling=calling,
            ext_neg=[build_role(COMMITMENT, scp_role=True)] if uid == COMMITMENT else [],
        )
        assert association.send_c_echo().Status == 0
        if uid == COMMITMENT:
            answer, _ = association.send_n_event_report(
                report(["1.2.3"]), 1, COMMITMENT, COMMITMENT_INSTANCE
            )
        else:
            answer, _ = association.send_n_create(step(), STEP, "1.2.3.77")
        association.release()
        assert answer.Status == 0x0110


def test_instances_are_answered_with_success_while_sqlite_is_locked(on_sqlite: Listening) -> None:
    keeper = on_sqlite.start()
    with Caller(on_sqlite.port) as caller:
        assert caller.store("1.2.3.0") == 0
        on_sqlite.until(lambda: len(on_sqlite.instances()) == 1, "the first one is indexed")
        with locked(database(on_sqlite)):
            assert [caller.store(f"1.2.3.{number}") for number in range(1, 25)] == [0] * 24
            on_sqlite.until(lambda: "rows-put-off" in keeper.said(), "the lock was in the way")
        caller.release()

    on_sqlite.until(lambda: len(on_sqlite.instances()) == 25, "all are indexed")
    on_sqlite.until(
        lambda: on_sqlite.associations()[0].outcome is AssociationOutcome.RELEASED, "it has ended"
    )


def test_the_listener_starts_while_the_database_is_away_and_makes_up_for_it(
    on_postgres: Listening, postgres_server: PostgresServer
) -> None:
    first = on_postgres.start()
    left = Caller(on_postgres.port)
    postgres_server.stop()
    assert left.store("1.2.3.1") == 0
    wires = first.wires()
    for pid in (first.pid, *wires):  # its records have no rows, its association no end
        kill(pid)
    first.process.wait()
    left.close()

    began_s = time.monotonic()
    second = on_postgres.start()
    assert time.monotonic() - began_s < 15
    assert "started-without-database" in second.said()
    with Caller(on_postgres.port) as caller:
        assert caller.store("1.2.3.2") == 0
        caller.release()

    postgres_server.start()
    on_postgres.until(
        lambda: on_postgres.sop_uids() == {"1.2.3.1", "1.2.3.2"}, "all are indexed", within_s=40
    )
    on_postgres.until(
        lambda: AssociationOutcome.OPEN not in {row.outcome for row in on_postgres.associations()},
        "the association that was cut is closed",
    )


def test_the_port_is_handed_over_while_the_database_is_away(
    on_postgres: Listening, postgres_server: PostgresServer
) -> None:
    first = on_postgres.start()
    postgres_server.stop()
    with Caller(on_postgres.port) as caller:
        assert caller.store("1.2.3.1") == 0
        caller.release()

    on_postgres.start()
    assert first.process.wait(30) == 0, first.said()  # it cannot wait for ever to write its rows
    with Caller(on_postgres.port) as caller:
        assert caller.store("1.2.3.2") == 0
        caller.release()

    postgres_server.start()
    on_postgres.until(
        lambda: on_postgres.sop_uids() == {"1.2.3.1", "1.2.3.2"}, "all are indexed", within_s=40
    )


def test_a_listener_ends_in_seconds_while_the_database_is_away(
    on_postgres: Listening, postgres_server: PostgresServer
) -> None:
    keeper = on_postgres.start()
    postgres_server.stop()
    with Caller(on_postgres.port) as caller:
        assert caller.store("1.2.3.1") == 0

    began_s = time.monotonic()
    assert on_postgres.stop(keeper) == 0
    assert time.monotonic() - began_s < 8

    postgres_server.start()
    on_postgres.start()
    on_postgres.until(lambda: on_postgres.sop_uids() == {"1.2.3.1"}, "it is found at the start")


def test_a_database_of_another_version_is_refused(on_sqlite: Listening) -> None:
    with writing(on_sqlite.engine) as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = 'other'")

    listener = on_sqlite.launch()

    assert listener.process.wait(30) == 3
    assert "schema-outdated" in listener.said()


@pytest.fixture
def forgetful(
    on_sqlite: Listening, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """A listener in this process whose books remember next to nothing while they cannot write."""
    monkeypatch.setattr(books, "MOST_WAITING", 5)
    stop, ready = threading.Event(), threading.Event()
    store = ObjectStore(on_sqlite.settings.storage.objects)
    keeper = threading.Thread(
        target=run_listener,
        args=(on_sqlite.settings, on_sqlite.engine, store),
        kwargs={"stop": stop, "on_ready": lambda _port: ready.set()},
    )
    keeper.start()

    def end() -> None:
        stop.set()
        keeper.join(30)

    try:
        assert ready.wait(30)
        yield end
    finally:
        end()
    assert not keeper.is_alive()


def test_what_the_books_cannot_remember_is_found_on_disk(
    on_sqlite: Listening, forgetful: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with Caller(on_sqlite.port) as caller:
        assert caller.store("1.2.3.0") == 0
        on_sqlite.until(lambda: len(on_sqlite.instances()) == 1, "the first one is indexed")
        with locked(database(on_sqlite)):
            # Small pauses, so that the wire tells of them one by one.
            for number in range(1, 40):
                assert caller.store(f"1.2.3.{number}", size=20_000) == 0
                time.sleep(0.01)
        on_sqlite.until(lambda: len(on_sqlite.instances()) == 40, "all are indexed")
        assert caller.store("1.2.3.40") == 0
        on_sqlite.until(lambda: len(on_sqlite.instances()) == 41, "it goes on as before")
    forgetful()
    assert "rows-left-on-disk" in capsys.readouterr().out


def test_callers_whom_the_books_cannot_remember_cost_no_memory_and_lose_no_instance(
    on_sqlite: Listening, forgetful: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(database(on_sqlite)):
        for number in range(30):
            with Caller(on_sqlite.port) as caller:
                assert caller.store(f"1.2.3.{number}") == 0
                caller.release()
    on_sqlite.until(lambda: len(on_sqlite.instances()) == 30, "all are indexed")
    with Caller(on_sqlite.port) as caller:
        assert caller.store("1.2.3.30") == 0
        caller.release()

    def ended() -> bool:
        rows = on_sqlite.associations()
        return bool(rows) and all(row.outcome is AssociationOutcome.RELEASED for row in rows)

    on_sqlite.until(ended, "every association with a row has its end there")
    assert 1 <= len(on_sqlite.associations()) < 31
    forgetful()
    assert "callers-left-out" in capsys.readouterr().out
