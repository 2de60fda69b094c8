"""A held study: nothing of it starts, ends in a result or is sent, whoever is faster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import Engine, text
from stored_examples import add_delivery, add_job, instance, now

from storage import deliveries, instances, queue, studies
from storage.database import reading, writing
from storage.tables import JobState

MINUTE_MS = 60_000


def hold(engine: Engine, study_id: int) -> bool:
    with writing(engine) as db:
        return studies.hold(db, study_id, "Two patients.")


def test_a_running_job_of_a_held_study_goes_back_to_the_queue_without_a_failure(
    engine: Engine,
) -> None:
    add_job(engine)
    with writing(engine) as db:
        mine = queue.claim(db, "a", MINUTE_MS)
        assert mine is not None
        queue.report_stage(db, mine.id, mine.attempt, "a", "infer", progress=0.5)
    assert hold(engine, mine.study_id)
    with writing(engine) as db:
        assert not queue.renew(db, mine.id, mine.attempt, "a", MINUTE_MS)
        assert not queue.report_stage(db, mine.id, mine.attempt, "a", "write")
        assert not queue.finish(db, mine.id, mine.attempt, "a", "segmented")
        assert queue.claim(db, "b", MINUTE_MS) is None
        job = queue.find_job(db, mine.id)
        [attempt] = queue.list_attempts(db, mine.id)
    assert job is not None
    assert (job.state, job.failures, job.stage) == (JobState.QUEUED, 0, "")
    assert attempt.outcome == "held" and attempt.ended_ms is not None
    with writing(engine) as db:
        assert studies.release(db, mine.study_id)
        again = queue.claim(db, "b", MINUTE_MS)
        assert again is not None and again.attempt == mine.attempt + 1
        assert not queue.finish(db, mine.id, mine.attempt, "a", "segmented")
        assert queue.finish(db, again.id, again.attempt, "b", "segmented")


def test_no_job_of_a_held_study_ends_in_results_however_the_hold_came(engine: Engine) -> None:
    add_job(engine)
    with writing(engine) as db:
        mine = queue.claim(db, "a", MINUTE_MS)
        assert mine is not None
        db.execute(text("UPDATE studies SET state = 'held', hold_reason = 'by hand'"))
        assert not queue.finish(db, mine.id, mine.attempt, "a", "segmented")


def test_jobs_of_other_studies_run_on(engine: Engine) -> None:
    held, other = add_job(engine), add_job(engine)
    with writing(engine) as db:
        claims = [queue.claim(db, "a", MINUTE_MS) for _ in range(2)]
    assert hold(engine, held.study_id)
    with writing(engine) as db:
        for claim in claims:
            assert claim is not None
            ended = queue.finish(db, claim.id, claim.attempt, "a", "segmented")
            assert ended is (claim.id == other.id)


def until_waiting(engine: Engine, act: Callable[[], object]) -> threading.Thread:
    """Start an act and return once it waits for a lock, or has ended."""
    thread = threading.Thread(target=act)
    thread.start()
    address = engine.url.set(drivername="postgresql").render_as_string()
    with psycopg.connect(address, autocommit=True) as watcher:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while thread.is_alive() and watcher.execute(waiting).fetchone() == (0,):
            time.sleep(0.01)
    return thread


def test_a_hold_beside_a_claim_takes_its_job_back(postgres_engine: Engine) -> None:
    """The claim has looked and is not committed yet: the hold must not miss the job."""
    job = add_job(postgres_engine)
    with writing(postgres_engine) as db:
        assert queue.claim(db, "a", MINUTE_MS) is not None
        holder = until_waiting(postgres_engine, lambda: hold(postgres_engine, job.study_id))
    holder.join()
    with reading(postgres_engine) as db:
        taken = queue.find_job(db, job.id)
    assert taken is not None and taken.state is JobState.QUEUED


@pytest.mark.parametrize("what", ["job", "delivery"])
def test_a_claim_beside_a_hold_takes_nothing_and_does_not_wait(
    postgres_engine: Engine, what: str
) -> None:
    if what == "job":
        study_id = add_job(postgres_engine).study_id
    else:
        study_id = add_delivery(postgres_engine).study_id
    with writing(postgres_engine) as db:
        assert studies.hold(db, study_id, "Two patients.")
        with writing(postgres_engine) as other:
            assert queue.claim(other, "a", MINUTE_MS) is None
            assert deliveries.claim(other, "a", MINUTE_MS) is None


def test_a_hold_beside_the_end_of_a_job_stops_what_it_owes(postgres_engine: Engine) -> None:
    delivery = add_delivery(postgres_engine)
    with writing(postgres_engine) as db:
        job = queue.requeue(db, 1)
        assert job is not None
    with writing(postgres_engine) as db:
        mine = queue.claim(db, "a", MINUTE_MS)
        assert mine is not None
    with writing(postgres_engine) as db:
        assert queue.finish(db, mine.id, mine.attempt, "a", "segmented")
        deliveries.owe(db, delivery.result_id, mine.study_id, "OTHER")
        holder = until_waiting(postgres_engine, lambda: hold(postgres_engine, mine.study_id))
    holder.join()
    with writing(postgres_engine) as db:
        assert deliveries.claim(db, "a", now(postgres_engine)) is None
        assert len(deliveries.list_deliveries(db, study_id=mine.study_id)) == 2


def test_the_end_of_a_job_does_not_wait_for_a_study_that_is_receiving(
    postgres_engine: Engine,
) -> None:
    """Or the two could wait for each other, when what is received holds the study."""
    delivery = add_delivery(postgres_engine)
    with writing(postgres_engine) as db:
        study = studies.get_study(db, delivery.study_id)
        assert study is not None
        instances.record_instance(db, instance(2, study.uid))
        with writing(postgres_engine) as other:
            other.execute(text("SET LOCAL lock_timeout = '200ms'"))
            deliveries.owe(other, delivery.result_id, study.id, "OTHER")
