"""What people are shown: one study's whole story, and the numbers of now."""

from __future__ import annotations

from associating import closed, opened
from sqlalchemy import Engine
from stored_examples import add_delivery, add_job, instance, result_of

from storage import associations, decisions, deliveries, instances, queue, results, studies
from storage.associations import AssociationOutcome
from storage.database import reading, set_clock_offset, writing
from storage.overview import Count, Number, overview
from storage.tables import DeliveryState, JobState, StudyState


def test_a_story_runs_from_the_association_to_the_commitment(engine: Engine) -> None:
    with writing(engine) as db:
        association = opened(
            db, calling_ae="CT1", called_ae="LIMNER", address="10.0.0.7", peer="SCANNER"
        )
        instances.record_instance(db, instance(2, "1.2.5", association_id=association))
        closed(db, association, instances=1)
        closed(db, association, AssociationOutcome.LOST, instances=9)
        other = opened(db, calling_ae="X", called_ae="LIMNER", address="10.0.0.9")
        closed(db, other, AssociationOutcome.REJECTED, reason="Nobody knows the AE title X.")
    job = add_job(engine, study_uid="1.2.5")
    with writing(engine) as db:
        claimed = queue.claim(db, "a", 60_000)
        assert claimed is not None
        queue.report_stage(db, job.id, claimed.attempt, "a", "infer", progress=0.5)
        assert queue.finish(db, job.id, claimed.attempt, "a", "segmented")
        result = results.record_result(db, result_of(job))
        owed = deliveries.owe(db, result.id, job.study_id, "PACS")
        deliveries.record_attempt(
            db, owed.id, number=1, action="store", worker="n", started_ms=1, ended_ms=2
        )
        deliveries.ask_commitment(db, "2.25.7", owed.id, result.sop_uid)
    with reading(engine) as db:
        story = studies.story(db, job.study_id)
        assert studies.story(db, 404) is None
        assert len(associations.list_associations(db)) == 2
        assert [one.calling_ae for one in associations.list_associations(db, peer="")] == ["X"]
        assert decisions.find_configuration(db, "c" * 64) is not None
    assert story is not None
    assert (story.study.uid, story.instance_count, story.conflicts) == ("1.2.5", 2, ())
    assert [(one.calling_ae, one.outcome) for one in story.associations] == [("CT1", "released")]
    [revision] = story.revisions
    assert (revision.revision.number, revision.instance_count) == (1, 2)
    [decision] = revision.decisions
    assert (decision.outcome, decision.reasons) == ("run", ("Modality equals CT",))
    [told] = story.jobs
    assert (told.job.state, [one.outcome for one in told.attempts]) == ("done", ["segmented"])
    [made] = told.results
    [sent] = made.deliveries
    assert (made.result.kind, sent.delivery.state) == ("SEG", DeliveryState.OWED)
    assert [one.action for one in sent.attempts] == ["store"]
    assert [one.transaction_uid for one in sent.commitments] == ["2.25.7"]


def test_a_route_says_one_thing_of_a_series_in_a_revision(engine: Engine) -> None:
    job = add_job(engine)
    with writing(engine) as db:
        [first] = decisions.list_decisions(db, revision_id=job.revision_id)
        again = decisions.record_decision(
            db,
            decisions.NewDecision(
                revision_id=job.revision_id,
                series_id=job.series_id,
                outcome=decisions.DecisionOutcome.NO_MATCH,
                configuration="c" * 64,
                route="ct",
            ),
        )
    assert again == first


def test_the_overview_counts_everything_once_with_the_age_of_the_oldest(engine: Engine) -> None:
    with writing(engine) as db:
        instances.record_instance(db, instance(1))
        held = instances.record_instance(db, instance(1, "1.9")).study_id
        studies.hold(db, held, "Two patients.")
    set_clock_offset(engine, 5_000)
    owed = add_delivery(engine)
    waiting = add_job(engine)
    with reading(engine) as db:
        seen = overview(db, events=3)
        [first, *_] = studies.list_studies(db, state=StudyState.ARRIVING)
        oldest = queue.counts(db)[JobState.QUEUED].oldest_ms
    numbers = {number: count.number for number, count in seen.numbers.items()}
    assert numbers == {
        Number.ARRIVING: 1,
        Number.HELD: 1,
        Number.UNDECIDED: 0,
        Number.NEEDS_PERSON: 1,
        Number.WAITING: 1,
        Number.RUNNING: 0,
        Number.FAILED: 0,
        Number.TO_SEND: 1,
        Number.TO_CONFIRM: 0,
        Number.NOT_DELIVERED: 0,
    }
    assert seen.numbers[Number.ARRIVING] == Count(1, first.first_received_ms)
    assert seen.numbers[Number.WAITING] == Count(1, oldest) == Count(1, waiting.created_ms)
    assert seen.numbers[Number.TO_SEND] == Count(1, owed.created_ms)
    assert [event.kind for event in seen.events] == ["settled", "job done", "settled"]
    assert seen.at_ms >= owed.created_ms


def test_the_overview_of_an_empty_node_is_all_zero(engine: Engine) -> None:
    with reading(engine) as db:
        seen = overview(db)
    assert set(seen.numbers.values()) == {Count(0, None)} and set(seen.numbers) == set(Number)
    assert (seen.workers, seen.peers, seen.events) == ((), (), ())
