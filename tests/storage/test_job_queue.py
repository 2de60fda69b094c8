"""What the queue promises, on both databases. Time is an offset of the engine's clock."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
from stored_examples import add_job, claim_until_empty, queue_job, result_of

from storage import deliveries, queue, results, studies
from storage.database import reading, set_clock_offset, writing
from storage.queue import MOVES, JobRow
from storage.tables import JobState, StudyState

MINUTE_MS = 60_000


def claim(engine: Engine, worker: str = "a", lease_ms: int = MINUTE_MS) -> JobRow | None:
    with writing(engine) as db:
        return queue.claim(db, worker, lease_ms)


def must_claim(engine: Engine, worker: str = "a") -> JobRow:
    job = claim(engine, worker)
    assert job is not None
    return job


def find(engine: Engine, job_id: int) -> JobRow:
    with reading(engine) as db:
        job = queue.find_job(db, job_id)
    assert job is not None
    return job


def rescue(engine: Engine, max_attempts: int = 3) -> list[JobRow]:
    with writing(engine) as db:
        return queue.rescue_expired(db, max_attempts)


def test_every_state_has_a_row_in_the_table_of_moves() -> None:
    assert set(MOVES) == set(JobState)


def test_urgent_jobs_come_first_then_the_oldest(engine: Engine) -> None:
    jobs = [add_job(engine, priority=priority) for priority in (0, 0, 9)]
    taken = [must_claim(engine).id for _ in jobs]
    assert taken == [jobs[2].id, jobs[0].id, jobs[1].id]
    assert claim(engine) is None


def test_a_claim_holds_a_lease_and_opens_an_attempt(engine: Engine) -> None:
    add_job(engine)
    job = must_claim(engine)
    assert (job.state, job.worker, job.attempt) == (JobState.RUNNING, "a", 1)
    assert job.lease_until_ms is not None and job.started_ms is not None
    assert job.lease_until_ms - job.started_ms == MINUTE_MS
    with reading(engine) as db:
        [attempt] = queue.list_attempts(db, job.id)
    assert (attempt.number, attempt.worker, attempt.ended_ms) == (1, "a", None)


def test_a_job_is_not_claimed_before_its_time_nor_by_a_worker_of_another_kind(
    engine: Engine,
) -> None:
    job = add_job(engine)
    with writing(engine) as db:
        assert queue.claim(db, "a", MINUTE_MS, kinds=("report",)) is None
    first = must_claim(engine)
    with writing(engine) as db:
        assert queue.fail(
            db,
            job.id,
            first.attempt,
            "a",
            error_code="out-of-memory",
            error_text="The device had no memory left.",
            retry_after_ms=5_000,
        )
    assert claim(engine) is None
    set_clock_offset(engine, 5_001)
    again = must_claim(engine)
    assert (again.attempt, again.failures, again.error_code) == (2, 1, "out-of-memory")


def test_no_job_of_a_held_study_is_claimed_until_it_is_released(engine: Engine) -> None:
    job = add_job(engine)
    with writing(engine) as db:
        assert studies.hold(db, job.study_id, "Two patients.")
    assert claim(engine) is None
    with writing(engine) as db:
        assert studies.release(db, job.study_id)
    assert must_claim(engine).id == job.id


def test_the_same_work_is_queued_once(engine: Engine) -> None:
    job = add_job(engine)
    again = queue.NewJob(
        study_id=job.study_id,
        series_id=job.series_id,
        revision_id=job.revision_id,
        decision_id=job.decision_id,
        route=job.route,
        model=job.model,
        dedup_key=job.dedup_key,
    )
    with writing(engine) as db:
        assert queue.enqueue_segment(db, again) is None
        assert len(queue.list_jobs(db)) == 1


Move = Callable[[Connection, JobRow], bool]
WORKER_MOVES: dict[str, Move] = {
    "renew": lambda db, job: queue.renew(db, job.id, job.attempt, "a", MINUTE_MS),
    "report_stage": lambda db, job: queue.report_stage(
        db, job.id, job.attempt, "a", "infer", progress=0.5
    ),
    "finish": lambda db, job: queue.finish(db, job.id, job.attempt, "a", "segmented"),
    "fail": lambda db, job: queue.fail(
        db, job.id, job.attempt, "a", error_code="x", error_text="x", retry_after_ms=None
    ),
    "retry": lambda db, job: queue.fail(
        db, job.id, job.attempt, "a", error_code="x", error_text="x", retry_after_ms=1
    ),
    "release": lambda db, job: queue.release(db, job.id, job.attempt, "a"),
}


@pytest.mark.parametrize("second", ["b", "a"])
def test_a_worker_that_slept_past_its_lease_changes_nothing(engine: Engine, second: str) -> None:
    """`a` again is the same worker's name after a restart: then the attempt alone decides."""
    add_job(engine)
    slept = must_claim(engine, "a")
    set_clock_offset(engine, MINUTE_MS + 10_000)
    assert [job.id for job in rescue(engine)] == [slept.id]
    holds = must_claim(engine, second)
    with writing(engine) as db:
        assert [name for name, move in WORKER_MOVES.items() if move(db, slept)] == []
    assert find(engine, holds.id) == holds
    with reading(engine) as db:
        attempts = queue.list_attempts(db, holds.id)
    assert [one.outcome for one in attempts] == ["lost", "running"]


@pytest.mark.parametrize("move", WORKER_MOVES)
def test_every_move_of_the_holder_counts_and_only_renewals_count_twice(
    engine: Engine, move: str
) -> None:
    add_job(engine)
    job = must_claim(engine)
    with writing(engine) as db:
        assert WORKER_MOVES[move](db, job) is True
        state = queue.find_job(db, job.id)
        assert state is not None
        assert state.state in MOVES[JobState.RUNNING] | {JobState.RUNNING}
        again = WORKER_MOVES[move](db, job)
    assert again is (state.state is JobState.RUNNING)


@pytest.mark.parametrize(
    ("late_ms", "earlier_failures", "state"),
    [
        (-1_000, 0, JobState.RUNNING),
        (1_000, 0, JobState.QUEUED),
        (1_000, 1, JobState.QUEUED),
        (1_000, 2, JobState.FAILED),
    ],
)
def test_jobs_of_dead_workers_come_back_and_then_fail(
    engine: Engine, late_ms: int, earlier_failures: int, state: JobState
) -> None:
    job = add_job(engine)
    with writing(engine) as db:
        db.execute(text("UPDATE jobs SET failures = :n"), {"n": earlier_failures})
    must_claim(engine, "gpu-1")
    set_clock_offset(engine, MINUTE_MS + late_ms)
    moved = rescue(engine)
    assert find(engine, job.id).state is state
    if state is JobState.RUNNING:
        assert moved == []
        return
    assert [one.id for one in moved] == [job.id]
    assert "gpu-1 died" in moved[0].error_text and "lease expired" in moved[0].error_text
    with reading(engine) as db:
        [attempt] = queue.list_attempts(db, job.id)
    assert (attempt.outcome, attempt.error_code) == ("lost", queue.WORKER_LOST)
    assert attempt.ended_ms is not None


def test_a_lease_that_ends_in_this_millisecond_still_holds(sqlite_engine: Engine) -> None:
    job = add_job(sqlite_engine)
    must_claim(sqlite_engine)
    with writing(sqlite_engine) as db:
        values = {"until": 2_000_000_000_000}
        db.execute(text("UPDATE jobs SET lease_until_ms = :until"), values)
        rescue_text = text(queue.RESCUE["sqlite"])
        at = {"max_attempts": 3, "code": "x"}
        assert db.execute(rescue_text, at | {"now_ms": values["until"]}).all() == []
        assert db.execute(rescue_text, at | {"now_ms": values["until"] + 1}).all() == [(job.id,)]


def test_a_drain_gives_the_job_back_without_counting_a_failure(engine: Engine) -> None:
    add_job(engine)
    job = must_claim(engine)
    with writing(engine) as db:
        assert queue.release(db, job.id, job.attempt, "a")
    again = must_claim(engine, "b")
    assert (again.failures, again.attempt) == (0, 2)


def test_the_end_of_a_job_its_results_and_what_they_owe_are_one_commit(engine: Engine) -> None:
    add_job(engine)
    job = must_claim(engine)

    class PowerCutError(Exception):
        pass

    def end(db: Connection) -> None:
        assert queue.finish(db, job.id, job.attempt, "a", "segmented", seconds={"infer": 1.5})
        result = results.record_result(db, result_of(job))
        deliveries.owe(db, result.id, job.study_id, "PACS")

    with pytest.raises(PowerCutError), writing(engine) as db:
        end(db)
        raise PowerCutError
    with reading(engine) as db:
        assert results.list_results(db) == []
        assert deliveries.list_deliveries(db) == []
    assert find(engine, job.id).state is JobState.RUNNING
    with writing(engine) as db:
        end(db)
    with reading(engine) as db:
        assert len(deliveries.list_deliveries(db)) == 1
        [attempt] = queue.list_attempts(db, job.id)
    assert attempt.seconds == {"infer": 1.5}
    assert find(engine, job.id).outcome == "segmented"


def test_a_cancelled_job_is_lost_to_its_worker(engine: Engine) -> None:
    add_job(engine)
    job = must_claim(engine)
    with writing(engine) as db:
        assert queue.cancel(db, job.id) is True
        assert queue.cancel(db, job.id) is False
        assert queue.renew(db, job.id, job.attempt, "a", MINUTE_MS) is False
    assert find(engine, job.id).state is JobState.CANCELLED


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_a_person_requeues_what_failed_and_its_study_is_open_again(
    engine: Engine, end: str
) -> None:
    add_job(engine)
    job = must_claim(engine)
    with writing(engine) as db:
        assert queue.requeue(db, job.id) is None  # it is running
        if end == "cancel":
            assert queue.cancel(db, job.id)
        else:
            assert WORKER_MOVES["fail"](db, job)
        assert studies.finish(
            db, job.study_id, revision=1, sentence="A job failed.", needs_person=True
        )
    with writing(engine) as db:
        queued = queue.requeue(db, job.id)
        study = studies.get_study(db, job.study_id)
    assert queued is not None and study is not None
    assert (queued.id, queued.state, queued.failures) == (job.id, JobState.QUEUED, 0)
    assert (study.state, study.needs_person) == (StudyState.SETTLED, False)
    assert must_claim(engine).attempt == 2


def test_a_person_runs_a_finished_job_again_as_its_next_run(engine: Engine) -> None:
    add_job(engine)
    job = must_claim(engine)
    with writing(engine) as db:
        assert WORKER_MOVES["finish"](db, job)
        again = queue.requeue(db, job.id)
    assert again is not None
    assert (again.run, again.dedup_key, again.attempt) == (2, job.dedup_key, 0)
    assert again.send_to == ("PACS",)
    assert find(engine, job.id).state is JobState.DONE


def test_counts_tell_the_number_and_the_oldest_of_every_state(engine: Engine) -> None:
    first, _second = add_job(engine), add_job(engine)
    must_claim(engine)
    with reading(engine) as db:
        counts = queue.counts(db)
    assert set(counts) == set(JobState)
    assert counts[JobState.RUNNING] == queue.StateCount(1, first.created_ms)
    assert counts[JobState.FAILED] == queue.StateCount(0, None)


def test_two_processes_never_get_the_same_job(url: str, engine: Engine) -> None:
    wanted = sorted(add_job(engine).id for _ in range(24))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        taken = pool.starmap(claim_until_empty, [(url, "a"), (url, "b")])
    assert sorted(taken[0] + taken[1]) == wanted


def test_a_claim_does_not_wait_for_another_and_gets_the_next_job(
    postgres_engine: Engine,
) -> None:
    first, second = add_job(postgres_engine), add_job(postgres_engine)
    with writing(postgres_engine) as slow, writing(postgres_engine) as quick:
        quick.execute(text("SET LOCAL lock_timeout = '2s'"))
        mine = queue.claim(slow, "a", MINUTE_MS)
        other = queue.claim(quick, "b", MINUTE_MS)
    assert mine is not None and other is not None
    assert [mine.id, other.id] == [first.id, second.id]


def test_two_rescuers_do_not_wait_for_each_other(postgres_engine: Engine) -> None:
    for _ in range(2):
        add_job(postgres_engine)
        must_claim(postgres_engine)
    set_clock_offset(postgres_engine, 2 * MINUTE_MS)
    with writing(postgres_engine) as slow, writing(postgres_engine) as quick:
        quick.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert len(queue.rescue_expired(slow, 3)) == 2
        assert queue.rescue_expired(quick, 3) == []


def test_many_threads_claim_each_job_once(engine: Engine) -> None:
    wanted = sorted(add_job(engine).id for _ in range(12))
    taken: list[int] = []

    def work(name: str) -> None:
        while (job := claim(engine, name)) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == wanted


ACTS = ["claim a", "claim b", "sleep", "rescue", "cancel", "requeue", *WORKER_MOVES]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(acts=st.lists(st.sampled_from(ACTS), max_size=12))
def test_whatever_happens_only_moves_of_the_table_are_made(
    sqlite_engine: Engine, acts: list[str]
) -> None:
    """`a` acts with every claim that it ever had; only the newest one may change anything."""
    with writing(sqlite_engine) as db:
        example = db.begin_nested()
        job = queue_job(db, "1.2.9")
        claims: list[JobRow] = []
        for act in acts:
            before = queue.find_job(db, job.id)
            assert before is not None
            _act(db, act, job.id, before, claims)
            after = queue.find_job(db, job.id)
            assert after is not None
            assert after.state is before.state or after.state in MOVES[before.state]
            attempts = queue.list_attempts(db, job.id)
            running = [one.number for one in attempts if one.ended_ms is None]
            assert running == ([after.attempt] if after.state is JobState.RUNNING else [])
            assert [one.number for one in attempts] == list(range(1, after.attempt + 1))
        example.rollback()


def _act(db: Connection, act: str, job_id: int, before: JobRow, claims: list[JobRow]) -> None:
    if act.startswith("claim"):
        taken = queue.claim(db, act[-1], MINUTE_MS)
        if taken is not None and act == "claim a":
            claims.append(taken)
    elif act == "sleep":
        db.execute(text("UPDATE jobs SET lease_until_ms = 1 WHERE state = 'running'"))
    elif act == "rescue":
        queue.rescue_expired(db, 3)
    elif act == "cancel":
        queue.cancel(db, job_id)
    elif act == "requeue":
        again = queue.requeue(db, job_id)
        if again is not None and again.id != job_id:
            queue.cancel(db, again.id)
    else:
        for held in claims:
            mine = before.worker == "a" and before.attempt == held.attempt
            moved = WORKER_MOVES[act](db, held)
            assert not moved or (mine and before.state is JobState.RUNNING)
