"""How instances become studies: once, counted exactly, and never for the wrong patient."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, select, text
from stored_examples import add_job, instance, now

from storage import instances, queue, studies
from storage.database import reading, set_clock_offset, writing
from storage.instances import Difference, NewInstance, Outcome, Recorded
from storage.study_moves import MOVES
from storage.study_rows import RevisionRow, StudyRow
from storage.tables import Conflict, Study, StudyState


def record(engine: Engine, new: NewInstance) -> Recorded:
    with writing(engine) as db:
        return instances.record_instance(db, new)


def study_of(engine: Engine, uid: str = "1.2") -> StudyRow:
    with reading(engine) as db:
        study = studies.find_study(db, uid)
    assert study is not None
    return study


def settle(engine: Engine, study: StudyRow) -> RevisionRow | None:
    with writing(engine) as db:
        return studies.make_revision(db, study.id, "quiet", last_received_ms=study.last_received_ms)


def conflicts(engine: Engine) -> list[tuple[str, str]]:
    with reading(engine) as db:
        return [tuple(row) for row in db.execute(select(Conflict.kind, Conflict.detail))]


def test_every_state_has_a_row_in_the_table_of_moves() -> None:
    assert set(MOVES) == set(StudyState)


def test_a_new_instance_makes_its_study_and_series(engine: Engine) -> None:
    new = instance(1)
    recorded = record(engine, new)
    assert (recorded.outcome, recorded.kept, recorded.held) == (Outcome.NEW, True, False)
    study = study_of(engine)
    assert (study.state, study.patient_id, study.accession) == (StudyState.ARRIVING, "P1", "A1")
    with reading(engine) as db:
        [series] = studies.list_series(db, study.id)
        [row] = instances.list_instances(db, study_uid="1.2")
        assert instances.find_instance(db, new.sop_uid) == row
    assert (series.instance_count, series.modality, series.header) == (1, "CT", new.header)
    assert (row.place, row.digest, row.study_uid) == (new.place, new.digest, "1.2")


def test_the_same_instance_again_changes_nothing(engine: Engine) -> None:
    record(engine, instance(1))
    settled = settle(engine, study_of(engine))
    before = study_of(engine)
    again = record(engine, replace(instance(1), place=replace(instance(1).place, name="other")))
    assert (again.outcome, again.kept) == (Outcome.SAME, False)
    assert settled is not None and study_of(engine) == before


def test_the_same_instance_in_another_transfer_syntax_changes_nothing(engine: Engine) -> None:
    record(engine, instance(1))
    encoded = instance(1, digest="e" * 64, difference=Difference.ENCODING)
    again = record(engine, encoded)
    assert (again.outcome, again.kept) == (Outcome.SAME, False)
    assert conflicts(engine) == []


@pytest.mark.parametrize(
    ("changes", "kind", "detail"),
    [
        ({}, "header", ""),
        ({"difference": Difference.PIXELS}, "pixels", ""),
        ({"patient_id": "P2"}, "identity", "patient ID"),
        ({"issuer": "OTHER"}, "identity", "issuer of patient ID"),
        ({"accession": "A2"}, "identity", "accession number"),
        ({"series_uid": "1.2.8"}, "identity", "series UID"),
        ({"study_uid": "1.3"}, "identity", "study UID"),
        ({"study_uid": "1.3", "difference": Difference.ENCODING}, "identity", "study UID"),
    ],
)
def test_other_bytes_under_a_known_uid_are_kept_beside_and_never_counted(
    engine: Engine, changes: dict[str, object], kind: str, detail: str
) -> None:
    record(engine, instance(1))
    other = replace(instance(1), **({"digest": "f" * 64} | changes))
    recorded = record(engine, other)
    assert (recorded.outcome, recorded.kept) == (Outcome.CONFLICT, True)
    assert conflicts(engine) == [(kind, detail)]
    study = study_of(engine)
    assert (study.state is StudyState.HELD) is recorded.held is (kind == "identity")
    assert study.needs_person is recorded.held
    with reading(engine) as db:
        assert len(instances.list_instances(db)) == 1
        assert studies.find_study(db, "1.3") is None
        story = studies.story(db, study.id)
    assert story is not None and [one.digest for one in story.conflicts] == ["f" * 64]
    assert record(engine, other).kept is False  # the same conflict again is not kept twice


def test_a_released_study_is_not_held_again_by_the_conflict_that_was_looked_at(
    engine: Engine,
) -> None:
    recorded = record(engine, instance(1))
    other = instance(1, digest="f" * 64, patient_id="P2")
    record(engine, other)
    with writing(engine) as db:
        assert studies.release(db, recorded.study_id)
    record(engine, other)
    assert study_of(engine).state is StudyState.ARRIVING


def test_one_instance_uid_in_two_studies_holds_both(engine: Engine) -> None:
    record(engine, instance(1))
    record(engine, instance(1, "1.3"))
    stolen = instance(2, "1.3", sop_uid=instance(1).sop_uid)
    assert record(engine, stolen).outcome is Outcome.CONFLICT
    assert {study_of(engine, uid).state for uid in ("1.2", "1.3")} == {StudyState.HELD}


def test_a_study_whose_instance_was_taken_for_another_ones_is_held_from_its_first(
    engine: Engine,
) -> None:
    record(engine, instance(1))
    record(engine, instance(2, "1.3", sop_uid=instance(1).sop_uid))
    recorded = record(engine, instance(1, "1.3"))
    assert recorded.held and study_of(engine, "1.3").hold_reason == instances.CLAIMED_BEFORE


@pytest.mark.parametrize("changes", [{"patient_id": "P2"}, {"issuer": "OTHER"}])
def test_a_second_patient_under_one_study_uid_holds_the_study_and_is_counted(
    engine: Engine, changes: dict[str, object]
) -> None:
    record(engine, instance(1))
    recorded = record(engine, instance(2, **changes))
    study = study_of(engine)
    assert (recorded.outcome, recorded.held) == (Outcome.NEW, True)
    assert study.state is StudyState.HELD and study.hold_reason == study.sentence
    assert "another patient" in study.sentence and "P2" not in study.sentence
    with reading(engine) as db:
        assert len(instances.list_instances(db, study_uid="1.2")) == 2
    assert settle(engine, study) is None


@pytest.mark.parametrize("state", list(StudyState))
def test_a_late_instance_takes_a_study_back_to_arriving_unless_it_is_held(
    engine: Engine, state: StudyState
) -> None:
    record(engine, instance(1))
    reason = "held" if state is StudyState.HELD else None
    with writing(engine) as db:
        values = {"state": state.value, "reason": reason}
        db.execute(text("UPDATE studies SET state = :state, hold_reason = :reason"), values)
    record(engine, instance(2))
    wanted = StudyState.HELD if state is StudyState.HELD else StudyState.ARRIVING
    assert study_of(engine).state is wanted


def test_a_study_is_due_once_it_was_quiet(engine: Engine) -> None:
    record(engine, instance(1))
    study = study_of(engine)
    last = study.last_received_ms
    with reading(engine) as db:
        assert studies.settle_due(db, last + 29_999, 30_000) == []
        assert studies.settle_due(db, last + 30_000, 30_000) == [study]


def test_an_instance_that_comes_in_between_keeps_the_study_arriving(engine: Engine) -> None:
    """Also within the same millisecond, or after the clock went back."""
    record(engine, instance(1))
    seen = study_of(engine)
    set_clock_offset(engine, -10_000)
    record(engine, instance(2))
    assert settle(engine, seen) is None
    assert settle(engine, study_of(engine)) is not None


def test_a_revision_holds_every_instance_of_its_moment(engine: Engine) -> None:
    first = record(engine, instance(1))
    record(engine, instance(2))
    one = settle(engine, study_of(engine))
    assert one is not None and settle(engine, study_of(engine)) is None  # it is settled already
    record(engine, instance(3))
    two = settle(engine, study_of(engine))
    assert two is not None and (one.number, two.number) == (1, 2)
    study = study_of(engine)
    assert (study.state, study.revision) == (StudyState.SETTLED, 2)
    with reading(engine) as db:
        members = [instances.instances_of_revision(db, revision.id) for revision in (one, two)]
        assert instances.instances_of_revision(db, two.id, first.series_id) == members[1]
        assert instances.instances_of_revision(db, two.id, first.series_id + 1) == []
        assert [pair[1] for pair in studies.undecided_revisions(db)] == [two]
    assert [len(rows) for rows in members] == [2, 3]


def test_a_revision_is_decided_once_and_only_while_its_study_is_settled_at_it(
    engine: Engine,
) -> None:
    record(engine, instance(1))
    one = settle(engine, study_of(engine))
    record(engine, instance(2))
    with writing(engine) as db:
        assert one is not None and studies.mark_decided(db, one.id) is False
    two = settle(engine, study_of(engine))
    with writing(engine) as db:
        assert two is not None
        assert [studies.mark_decided(db, two.id) for _ in range(2)] == [True, False]


def test_a_study_is_done_when_nothing_is_left_that_the_node_moves(engine: Engine) -> None:
    job = add_job(engine)
    ends = {"revision": 1, "sentence": "All done.", "needs_person": False}
    with writing(engine) as db:
        assert studies.idle_studies(db) == []
        assert studies.finish(db, job.study_id, **ends) is False
        claimed = queue.claim(db, "a", 1000)
        assert claimed is not None
        assert studies.finish(db, job.study_id, **ends) is False
        assert queue.finish(db, job.id, claimed.attempt, "a", "refused")
        assert [study.id for study in studies.idle_studies(db)] == [job.study_id]
        assert studies.finish(db, job.study_id, **(ends | {"revision": 2})) is False
        assert studies.finish(db, job.study_id, **ends) is True
        assert studies.finish(db, job.study_id, **ends) is False


def test_a_hold_keeps_its_first_reason_and_its_sentence(engine: Engine) -> None:
    study_id = record(engine, instance(1)).study_id
    with writing(engine) as db:
        assert [studies.hold(db, study_id, reason) for reason in ("one", "two")] == [True, False]
        assert studies.set_sentence(db, study_id, "other", needs_person=False) is False
    assert study_of(engine).sentence == "one"
    with writing(engine) as db:
        assert [studies.release(db, study_id) for _ in range(2)] == [True, False]
    assert (study_of(engine).sentence, study_of(engine).state) == ("", StudyState.ARRIVING)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", ["1.3", "1.2"]),
        ("P2", ["1.3"]),
        ("A1", ["1.3", "1.2"]),
        ("1.2", ["1.2"]),
        ("doe", ["1.3", "1.2"]),
        ("%", []),
        ("nobody", []),
    ],
)
def test_people_find_studies_by_patient_accession_and_uid(
    engine: Engine, search: str, found: list[str]
) -> None:
    record(engine, instance(1))
    set_clock_offset(engine, 1_000)
    record(engine, instance(1, "1.3", patient_id="P2"))
    with reading(engine) as db:
        rows = studies.list_studies(db, search)
        assert [row.uid for row in rows] == found
        assert studies.list_studies(db, search, needs_person=True) == []
        assert studies.list_studies(db, search, state=StudyState.ARRIVING, limit=1) == rows[:1]
        older = studies.list_studies(db, search, before_ms=now(engine) - 500)
    assert [row.uid for row in older] == [uid for uid in found if uid == "1.2"]


def in_threads(*acts: Callable[[], object]) -> list[object]:
    """Run all acts at the same moment; return what they return, or raise what one raised."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        barrier.wait()
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return [future.result() for future in [pool.submit(run, act) for act in acts]]


def test_listeners_that_record_one_new_study_together_lose_no_instance(engine: Engine) -> None:
    def listener(numbers: range) -> None:
        for number in numbers:
            record(engine, instance(number))

    each = 8
    acts = [lambda n=n: listener(range(1 + n * each, 1 + (n + 1) * each)) for n in range(4)]
    in_threads(*acts)
    study = study_of(engine)
    with reading(engine) as db:
        [series] = studies.list_series(db, study.id)
        assert len(instances.list_instances(db, study_uid="1.2")) == 4 * each
    assert series.instance_count == 4 * each


def test_listeners_that_get_the_same_instance_together_keep_one(engine: Engine) -> None:
    recorded: list[Recorded] = []
    acts = [lambda: recorded.append(record(engine, instance(1))) for _ in range(4)]
    in_threads(*acts)
    assert sorted(one.outcome for one in recorded) == ["new", "same", "same", "same"]
    with reading(engine) as db:
        [series] = studies.list_series(db, recorded[0].study_id)
    assert series.instance_count == 1


def meanwhile(engine: Engine, first: NewInstance, second: NewInstance) -> Recorded:
    """Record `second` while `first` has its rows but is neither counted nor committed."""
    answers: list[Recorded] = []
    other = threading.Thread(target=lambda: answers.append(record(engine, second)))

    def pause(_db: Connection, _cursor: object, statement: str, *_rest: object) -> None:
        if not statement.startswith("UPDATE series") or other.ident is not None:
            return
        other.start()
        address = engine.url.set(drivername="postgresql").render_as_string()
        with psycopg.connect(address, autocommit=True) as watcher:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while watcher.execute(waiting).fetchone() == (0,):
                time.sleep(0.01)

    with writing(engine) as db:
        event.listen(db, "before_cursor_execute", pause)
        instances.record_instance(db, first)
    other.join()
    [answer] = answers
    return answer


def test_whoever_loses_the_race_for_an_instance_leaves_no_empty_study(
    postgres_engine: Engine,
) -> None:
    stolen = instance(2, "1.3", sop_uid=instance(1).sop_uid)
    assert meanwhile(postgres_engine, instance(1), stolen).outcome is Outcome.CONFLICT
    with reading(postgres_engine) as db:
        assert db.execute(select(Study.uid)).scalars().all() == ["1.2"]


def test_two_listeners_may_begin_a_series_of_a_known_study_together(
    postgres_engine: Engine,
) -> None:
    record(postgres_engine, instance(1))
    first, second = instance(2, series_uid="1.2.8"), instance(3, series_uid="1.2.8")
    assert meanwhile(postgres_engine, first, second).outcome is Outcome.NEW
    with reading(postgres_engine) as db:
        series = studies.list_series(db, study_of(postgres_engine).id)
    assert [one.instance_count for one in series] == [1, 2]


def test_settling_and_receiving_at_the_same_moment_lose_no_instance(engine: Engine) -> None:
    """Whoever is first: the late instance is in the revision, or its study is arriving again."""
    record(engine, instance(1))
    seen = study_of(engine)
    made: list[RevisionRow | None] = []
    acts = (
        lambda: made.append(settle(engine, seen)),
        lambda: record(engine, instance(2)),
    )
    in_threads(*acts)
    study = study_of(engine)
    assert study.state is StudyState.ARRIVING
    [revision] = made
    with reading(engine) as db:
        if revision is not None:
            assert len(instances.instances_of_revision(db, revision.id)) == 1
