"""Many instances in one transaction: the same rows as one by one, whatever lies between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, select
from stored_examples import instance

from storage import studies
from storage.database import reading, writing
from storage.instances import (
    Difference,
    NewInstance,
    Outcome,
    Recorded,
    find_instance,
    record_instance,
)
from storage.recording import record_batch
from storage.tables import Instance, Series, Study, StudyState


def in_one_batch(engine: Engine, *batch: NewInstance) -> list[Recorded]:
    with writing(engine) as db:
        return record_batch(db, batch)


def one_by_one(engine: Engine, *batch: NewInstance) -> list[Recorded]:
    recorded = []
    for new in batch:
        with writing(engine) as db:
            recorded.append(record_instance(db, new))
    return recorded


ROWS = (
    select(
        Study.uid,
        Study.patient_id,
        Study.state,
        Study.hold_reason,
        Series.uid,
        Series.instance_count,
        Series.header,
        Instance.sop_uid,
        Instance.object_name,
    )
    .outerjoin(Series, Series.study_id == Study.id)
    .outerjoin(Instance, Instance.series_id == Series.id)
    .order_by(Study.uid, Series.uid, Instance.sop_uid)
)


def rows(engine: Engine) -> list[tuple[object, ...]]:
    with reading(engine) as db:
        return [tuple(row) for row in db.execute(ROWS)]


USUAL = [instance(1), instance(2), instance(1, "1.3"), instance(3, series_uid="1.2.8")]
OTHER_BYTES = instance(1, digest="f" * 64, difference=Difference.PIXELS)
BATCHES: dict[str, list[NewInstance]] = {
    "nothing": [],
    "one": [instance(1)],
    "several studies and series": USUAL,
    "the same instance twice": [instance(1), instance(2), instance(1), instance(3)],
    "other bytes between": [instance(1), OTHER_BYTES, instance(2)],
    "another patient between": [instance(1), instance(2, patient_id="P2"), instance(3)],
    "another patient first": [instance(1, patient_id="P2"), instance(2), instance(3)],
    "an instance of two studies": [
        instance(1),
        instance(2, "1.3", sop_uid=instance(1).sop_uid),
        instance(1, "1.3"),
        instance(2),
    ],
}


@pytest.mark.parametrize("before", [[], USUAL[:2]], ids=["empty", "known"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_a_batch_leaves_the_same_rows_and_answers_as_one_by_one(
    sqlite_engine: Engine,
    postgres_engine: Engine,
    before: list[NewInstance],
    batch: list[NewInstance],
) -> None:
    """On SQLite one by one, on PostgreSQL in one batch: so the two databases agree as well."""
    one_by_one(sqlite_engine, *before)
    one_by_one(postgres_engine, *before)
    single = one_by_one(sqlite_engine, *batch)
    whole = in_one_batch(postgres_engine, *batch)
    answers = [[(one.outcome, one.kept, one.held) for one in each] for each in (single, whole)]
    assert answers[0] == answers[1]
    assert rows(sqlite_engine) == rows(postgres_engine)


def test_a_batch_answers_with_the_rows_it_made(engine: Engine) -> None:
    recorded = in_one_batch(engine, *USUAL)
    with reading(engine) as db:
        found = find_instance(db, USUAL[0].sop_uid)
        states = {study.uid: study.state for study in studies.list_studies(db)}
    assert found is not None
    assert (recorded[0].instance_id, recorded[0].series_id) == (found.id, found.series_id)
    assert states == {"1.2": StudyState.ARRIVING, "1.3": StudyState.ARRIVING}
    assert len({one.instance_id for one in recorded}) == len(USUAL)
    # The next row, whoever makes it, takes the next id.
    [after] = one_by_one(engine, instance(9))
    assert after.instance_id > max(one.instance_id for one in recorded)


def test_a_late_batch_takes_its_study_back_to_arriving(engine: Engine) -> None:
    [first] = in_one_batch(engine, instance(1))
    with writing(engine) as db:
        study = studies.get_study(db, first.study_id)
        assert study is not None
        studies.make_revision(db, study.id, "quiet", last_received_ms=study.last_received_ms)
    in_one_batch(engine, instance(2), instance(3))
    with reading(engine) as db:
        again = studies.get_study(db, first.study_id)
        [series] = studies.list_series(db, first.study_id)
    assert again is not None and again.state is StudyState.ARRIVING
    assert again.last_received_ms > study.last_received_ms and series.instance_count == 3


@pytest.mark.parametrize("record", [in_one_batch, one_by_one])
def test_an_instance_nobody_compared_is_neither_taken_for_the_same_nor_for_another(
    engine: Engine, record: Callable[..., list[Recorded]]
) -> None:
    """The wire has a checksum and no digest; a checksum may be equal by design of a sender."""
    new = instance(1, digest="", checksum="c" * 32)
    first, second = record(engine, new, new)
    assert (first.outcome, second.outcome, second.kept) == (Outcome.NEW, Outcome.COMPARE, False)
    compared = instance(1, digest="", checksum="c" * 32, difference=Difference.NONE)
    [same] = record(engine, compared)
    assert (same.outcome, same.kept) == (Outcome.SAME, False)
    other = instance(1, digest="", checksum="d" * 32, difference=Difference.HEADER)
    [conflict] = record(engine, other)
    assert (conflict.outcome, conflict.kept) == (Outcome.CONFLICT, True)


def test_a_comparison_with_bytes_that_do_not_count_any_more_says_nothing(engine: Engine) -> None:
    in_one_batch(engine, instance(1, digest="", checksum="c" * 32))
    stale = instance(1, digest="", checksum="d" * 32, difference=Difference.NONE)
    [recorded] = in_one_batch(engine, stale)
    assert (recorded.outcome, recorded.kept) == (Outcome.CONFLICT, True)


def during_batch(
    engine: Engine, first: list[NewInstance], act: Callable[[], object], *, before: str, times: int
) -> None:
    """Run `act` until it waits, just before a batch begins a statement for the n-th time."""
    other = threading.Thread(target=act)
    seen = 0

    def pause(_db: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        nonlocal seen
        seen += statement.startswith(before)
        if seen < times or other.ident is not None:
            return
        other.start()
        address = engine.url.set(drivername="postgresql").render_as_string()
        with psycopg.connect(address, autocommit=True) as watcher:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while other.is_alive() and watcher.execute(waiting).fetchone() == (0,):
                time.sleep(0.01)

    with writing(engine) as db:
        event.listen(db, "before_cursor_execute", pause)
        record_batch(db, first)
    other.join()


@pytest.mark.parametrize(
    "second",
    [
        [instance(2, "1.3", sop_uid=instance(1).sop_uid), instance(3, "1.3")],  # a UID
        [instance(3, patient_id="P2"), instance(4, patient_id="P2")],  # a new study
        [instance(3), instance(4)],
    ],
)
def test_two_keepers_that_record_at_once_agree_with_one_after_the_other(
    sqlite_engine: Engine, postgres_engine: Engine, second: list[NewInstance]
) -> None:
    first = [instance(1), instance(2)]
    answers: list[Recorded] = []
    during_batch(
        postgres_engine,
        first,
        lambda: answers.extend(in_one_batch(postgres_engine, *second)),
        before="UPDATE series",
        times=1,
    )
    one_by_one(sqlite_engine, *first)
    alone = one_by_one(sqlite_engine, *second)
    assert [one.outcome for one in answers] == [one.outcome for one in alone]
    assert rows(postgres_engine) == rows(sqlite_engine)


def test_keepers_that_begin_the_same_studies_in_another_order_do_not_wait_for_each_other(
    postgres_engine: Engine,
) -> None:
    first = [instance(n, uid) for uid in ("1.3", "1.2") for n in (1, 2)]
    second = [instance(n, uid) for uid in ("1.2", "1.3") for n in (3, 4)]
    during_batch(
        postgres_engine,
        first,
        lambda: in_one_batch(postgres_engine, *second),
        before="INSERT INTO studies",
        times=2,
    )
    with reading(postgres_engine) as db:
        found = studies.list_studies(db)
        counts = [
            one.instance_count for study in found for one in studies.list_series(db, study.id)
        ]
    assert counts == [4, 4]
