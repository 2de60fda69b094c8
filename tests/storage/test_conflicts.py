"""One SOP Instance UID, several byte strings: which counts, who decides, and what follows."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, select
from stored_examples import instance, queue_job, result_of

from storage import audit, choosing, deliveries, instances, queue, results, studies
from storage.choosing import Choice, Chosen
from storage.conflict_rows import (
    ConflictRow,
    conflict_counts,
    count_other_patients,
    find_conflict,
    list_conflicts,
)
from storage.database import writing
from storage.deliveries import INPUT_REPLACED, DeliveryRow
from storage.digests import without_digest
from storage.instances import (
    Difference,
    Doubt,
    InstanceRow,
    NewInstance,
    OnConflict,
    Outcome,
    Recorded,
)
from storage.objects import Place
from storage.queue import JobRow, NewJob
from storage.recording import record_batch
from storage.study_rows import StudyRow
from storage.tables import DeliveryState, JobState, Series, StudyState

MINUTE_MS = 60_000


def other(number: int = 1, name: str = "b", **changes: object) -> NewInstance:
    """Other bytes under the UID of `instance(number)`."""
    made = replace(
        instance(number),
        digest=hashlib.sha256(f"{name} {number}".encode()).hexdigest(),
        checksum=name * 32,
        place=Place(f"segments/{name}.{number}", 0, 2000),
        difference=Difference.PIXELS,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def record(
    db: Connection, *new: NewInstance, on_conflict: OnConflict = OnConflict.FIRST
) -> list[Recorded]:
    return record_batch(db, new, on_conflict=on_conflict)


def study_of(db: Connection, uid: str = "1.2") -> StudyRow:
    study = studies.find_study(db, uid)
    assert study is not None
    return study


def counts(db: Connection, sop_uid: str = "1.2.7.1") -> InstanceRow:
    row = instances.find_instance(db, sop_uid)
    assert row is not None
    return row


def only(db: Connection) -> ConflictRow:
    [conflict] = list_conflicts(db)
    return conflict


def choose(db: Connection, choice: Choice, conflict_id: int | None = None) -> Chosen:
    chosen = choosing.choose(db, conflict_id or only(db).id, choice, who="anna")
    assert chosen is not None
    return chosen


@pytest.mark.parametrize("difference", [Difference.HEADER, Difference.PIXELS])
@pytest.mark.parametrize("policy", list(OnConflict))
def test_the_setting_says_which_bytes_count_when_the_identity_is_the_same(
    engine: Engine, policy: OnConflict, difference: Difference
) -> None:
    with writing(engine) as db:
        record(db, instance(1))
        before = study_of(db)
        new = other(difference=difference)
        [recorded] = record(db, new, on_conflict=policy)
        assert (recorded.outcome, recorded.kept) == (Outcome.CONFLICT, True)
        assert recorded.doubt == Doubt(difference)
        study, conflict, row = study_of(db), only(db), counts(db)
    places = {row.place, conflict.place}
    assert places == {instance(1).place, new.place}  # both are kept
    assert (row.place == new.place) is (policy is OnConflict.LAST)
    assert (study.state is StudyState.HELD) is (policy is OnConflict.HOLD) is recorded.held
    assert conflict.open is (policy is OnConflict.HOLD)
    if policy is not OnConflict.HOLD:
        assert (conflict.chosen, conflict.decided_by) == (policy, f'on_conflict = "{policy}"')
    # With other bytes that count, the study arrives again and gets its next revision.
    assert (study.last_received_ms > before.last_received_ms) is (policy is OnConflict.LAST)


@pytest.mark.parametrize("policy", list(OnConflict))
def test_an_identity_in_doubt_holds_the_study_whatever_the_setting_says(
    engine: Engine, policy: OnConflict
) -> None:
    with writing(engine) as db:
        record(db, instance(1))
        [recorded] = record(db, other(patient_id="P2"), on_conflict=policy)
        assert (recorded.held, recorded.doubt) == (True, Doubt.IDENTITY)
        assert study_of(db).state is StudyState.HELD and only(db).open
        assert counts(db).place == instance(1).place


def test_the_same_other_bytes_again_are_nothing_new_whichever_counts(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1), other(), on_conflict=OnConflict.LAST)
        again = record(db, instance(1, difference=Difference.PIXELS), other())
        assert [(one.kept, one.doubt) for one in again] == [(False, None), (False, None)]
        assert [one.outcome for one in again] == [Outcome.CONFLICT, Outcome.SAME]
        assert counts(db).place == other().place and only(db).place == instance(1).place


def test_three_byte_strings_keep_the_order_in_which_they_came(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1), other(), other(name="c"), on_conflict=OnConflict.LAST)
        assert (counts(db).version, counts(db).place) == (3, other(name="c").place)
        versions = {row.version: row for row in list_conflicts(db)}
        assert sorted(versions) == [1, 2]
        assert versions[1].place == instance(1).place
        # Between the second and the third, the first that came is the second.
        choose(db, Choice.FIRST, versions[2].id)
        assert counts(db).version == 2
        assert sorted(row.version for row in list_conflicts(db)) == [1, 3]


def test_a_choice_can_be_taken_back_to_the_byte(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1), instance(2), other(patient_id="P2", series_uid="1.2.9"))
        before = (counts(db), only(db))
        assert choose(db, Choice.LAST).changed == 1
        assert choose(db, Choice.LAST).changed == 0
        assert counts(db).place == other().place
        assert choose(db, Choice.FIRST).changed == 1
        after = (counts(db), only(db))
    assert after[0] == before[0]
    same = ("place", "patient_id", "series_uid", "study_uid", "digest", "version", "of_version")
    assert all(getattr(after[1], name) == getattr(before[1], name) for name in same)
    assert (after[1].chosen, after[1].decided_by) == ("first", "anna")


def test_a_choice_about_nothing_says_so(engine: Engine) -> None:
    with writing(engine) as db:
        assert choosing.choose(db, 99, Choice.LAST, who="anna") is None
        assert find_conflict(db, 99) is None
        assert choosing.choose_for_study(db, "9.9", Choice.LAST, who="anna").decided == 0


def segmented(db: Connection, uid: str = "1.2") -> tuple[JobRow, DeliveryRow]:
    """A study of which a job has ended in a result, which is owed to PACS."""
    job = queue_job(db, uid)
    mine = queue.claim(db, "a", MINUTE_MS)
    assert mine is not None and mine.id == job.id
    assert queue.finish(db, job.id, mine.attempt, "a", "segmented")
    result = results.record_result(db, result_of(job))
    return job, deliveries.owe(db, result.id, job.study_id, "PACS")


@pytest.mark.parametrize("running", [False, True])
def test_jobs_with_a_changed_image_are_void_and_cannot_run_again(
    engine: Engine, running: bool
) -> None:
    with writing(engine) as db:
        job = queue_job(db, "1.2")
        mine = queue.claim(db, "a", MINUTE_MS) if running else None
        record(db, other(), on_conflict=OnConflict.LAST)
        if mine is not None:
            assert not queue.finish(db, job.id, mine.attempt, "a", "segmented")
        found = queue.find_job(db, job.id)
        assert found is not None
        assert (found.state, found.error_text) == (JobState.CANCELLED, INPUT_REPLACED)
        assert found.is_void and queue.requeue(db, job.id) is None


def test_jobs_with_other_images_go_on(engine: Engine) -> None:
    with writing(engine) as db:
        job = queue_job(db, "1.2")
        record(db, instance(1, "1.2", series_uid="1.2.8", sop_uid="1.2.8.1"))
        record(db, other(1, sop_uid="1.2.8.1", series_uid="1.2.8"), on_conflict=OnConflict.LAST)
        found = queue.find_job(db, job.id)
    assert found is not None and found.state is JobState.QUEUED and not found.is_void


def test_results_of_a_changed_image_are_not_sent_and_those_that_were_are_named(
    engine: Engine,
) -> None:
    with writing(engine) as db:
        job, owed = segmented(db)
        sent = deliveries.owe(db, owed.result_id, job.study_id, "OTHER")
        mine = deliveries.claim(db, "a", MINUTE_MS, not_peers=["PACS"])
        assert mine is not None and mine.id == sent.id
        assert deliveries.mark_sent(db, sent.id, mine.attempt, "a")
        record(db, other(patient_id="P2"))
        assert choose(db, Choice.LAST).sent == {sent.id}
        states = {
            row.id: (row.state, row.sentence)
            for row in deliveries.list_deliveries(db, study_id=job.study_id)
        }
        assert states[owed.id] == (DeliveryState.WITHDRAWN, INPUT_REPLACED)
        assert states[sent.id][0] is DeliveryState.SENT


def test_images_that_count_again_get_their_result_again_and_it_is_owed_again(
    engine: Engine,
) -> None:
    with writing(engine) as db:
        job, owed = segmented(db)
        record(db, other(), on_conflict=OnConflict.LAST)
        meanwhile = results.record_result(
            db, result_of(job, "other", sop_uid="2.25.99", place=Place("results/y", 0, 1))
        )
        assert results.supersede(db, owed.result_id, meanwhile.id)
        choose(db, Choice.FIRST)
        again = queue.enqueue_segment(
            db,
            NewJob(
                study_id=job.study_id,
                series_id=job.series_id,
                revision_id=job.revision_id,
                decision_id=job.decision_id,
                route=job.route,
                model=job.model,
                dedup_key=job.dedup_key,
            ),
        )
        assert again is not None  # the void job does not stand for this work
        assert results.supersede(db, meanwhile.id, owed.result_id)
        counting = results.find_result(db, owed.result_id)
        assert counting is not None and counting.superseded_by is None
        owed_again = deliveries.owe(db, owed.result_id, job.study_id, "PACS")
        assert (owed_again.id, owed_again.state) == (owed.id, DeliveryState.OWED)


def test_what_a_person_withdrew_is_not_owed_again(engine: Engine) -> None:
    with writing(engine) as db:
        job, owed = segmented(db)
        assert deliveries.withdraw(db, owed.id, "Not this one.")
        again = deliveries.owe(db, owed.result_id, job.study_id, "PACS")
    assert again.state is DeliveryState.WITHDRAWN


def test_the_bytes_that_count_need_their_own_digest(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1))
        record(db, other(digest="", checksum="b" * 32), on_conflict=OnConflict.LAST)
        [row] = without_digest(db, 10)
    assert (row.place, row.version) == (other().place, 2)


def test_one_image_of_another_patient_does_not_make_the_study_his(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1), instance(2), other(patient_id="P2"))
        study = study_of(db)
        studies.release(db, study.id)
        choose(db, Choice.LAST)
        study = study_of(db)
        assert (study.state, study.patient_id) == (StudyState.HELD, "P1")
        assert study.hold_reason == instances.OTHER_PATIENT.format(sop_uid="1.2.7.1")
        assert count_other_patients(db, study.id) == 1


def test_a_study_whose_images_all_came_again_for_another_patient_is_his_by_choice(
    engine: Engine,
) -> None:
    with writing(engine) as db:
        record(db, instance(1), instance(2))
        corrected = {"patient_id": "P2", "patient_name": "Roe^Max"}
        record(db, other(1, **corrected), other(2, **corrected))
        study = study_of(db)
        assert conflict_counts(db, [study.id])[study.id].open == 2
        chosen = choosing.choose_for_study(db, "1.2", Choice.LAST, who="anna")
        assert (chosen.decided, chosen.changed, chosen.studies) == (2, 2, ("1.2",))
        study = study_of(db)
        assert (study.patient_id, study.patient_name) == ("P2", "Roe^Max")
        assert study.state is StudyState.HELD  # a person still has to release it
        assert count_other_patients(db, study.id) == 0
        assert conflict_counts(db, [study.id])[study.id].open == 0
        assert conflict_counts(db, [99]) == {}


@pytest.mark.parametrize(("choice", "patient"), [(Choice.FIRST, "P1"), (Choice.LAST, "P2")])
def test_a_study_that_changed_its_patient_on_the_way_is_the_first_or_the_lasts(
    engine: Engine, choice: Choice, patient: str
) -> None:
    with writing(engine) as db:
        record(db, instance(1), instance(2, patient_id="P2"))
        choosing.choose_for_study(db, "1.2", choice, who="anna")
        studies.release(db, study_of(db).id)
        study = study_of(db)
        assert study.patient_id == patient
        revision = studies.make_revision(
            db, study.id, "quiet", last_received_ms=study.last_received_ms
        )
        assert revision is not None
        [row] = instances.instances_of_revision(db, revision.id)
    assert row.patient_id == patient


def test_what_was_made_for_the_first_patient_is_not_sent_when_the_study_is_the_lasts(
    engine: Engine,
) -> None:
    with writing(engine) as db:
        job, owed = segmented(db)
        record(db, instance(9, patient_id="P2"))
        choosing.choose_for_study(db, "1.2", Choice.LAST, who="anna")
        assert studies.release(db, job.study_id)
        assert deliveries.claim(db, "a", MINUTE_MS) is None
        found = deliveries.find_delivery(db, owed.id)
        assert found is not None and found.state is DeliveryState.WITHDRAWN
        assert queue.requeue(db, job.id) is None


def test_a_choice_moves_an_image_to_the_study_and_series_that_it_says(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1), instance(2))
        record(db, other(study_uid="1.5", series_uid="1.5.1", difference=Difference.HEADER))
        choose(db, Choice.LAST)
        row = counts(db)
        assert (row.study_uid, row.series_uid) == ("1.5", "1.5.1")
        series = select(Series.uid, Series.instance_count).order_by(Series.uid)
        assert [tuple(one) for one in db.execute(series)] == [("1.2.7", 1), ("1.5.1", 1)]
        new = study_of(db, "1.5")
        assert (new.state, new.patient_name) == (StudyState.ARRIVING, "Doe^Jane")
        assert [one.id for one in list_conflicts(db, study_uid="1.5")] == [only(db).id]


def test_what_is_in_doubt_is_audited_once_for_each_study(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1), instance(2))
        record(db, other(1), other(2), instance(3, patient_id="P2"))
        record(db, other(1), other(2))
        rows = audit.list_audit(db)
    assert [(row.who, row.act, row.target) for row in rows] == 2 * [
        ("listener", "conflict", "study 1.2")
    ]
    said = " ".join(row.detail for row in rows)
    assert "1.2.7.1 and 1 more from SCANNER" in said and "1.2.7.3 from SCANNER" in said
    assert "P2" not in said


def test_a_study_tells_its_conflicts_and_those_that_claim_to_be_its(engine: Engine) -> None:
    with writing(engine) as db:
        record(db, instance(1), instance(1, "1.3"))
        record(db, other(study_uid="1.3"))
        conflict = only(db)
        stories = [studies.story(db, study_of(db, uid).id) for uid in ("1.2", "1.3")]
        assert list_conflicts(db, only_open=True) == [conflict]
        assert list_conflicts(db, study_uid="1.4") == []
    assert [one.conflicts for one in stories if one is not None] == 2 * [(conflict,)]
    assert (conflict.of_study_uid, conflict.study_uid) == ("1.2", "1.3")


def test_a_claim_that_was_decided_does_not_hold_the_study_that_comes_later(
    engine: Engine,
) -> None:
    with writing(engine) as db:
        record(db, instance(1), other(study_uid="1.3"))
        choose(db, Choice.FIRST)
        [recorded] = record(db, instance(1, "1.3"))
    assert not recorded.held
