"""The job queue: claim, renew, finish, fail, release, rescue, and the table of all moves.

A worker holds a job by a lease. Nobody asks whether a worker is alive: a process that was killed,
a host without power and a GPU that hangs all look the same, and late. `attempt` is the fence: it
grows with every claim, and every statement of a worker names state, worker and attempt. One that
slept past its lease matches no row, learns that it lost, and discards what it has.

All functions work inside the caller's transaction, so that a job's end, its results and the
deliveries they owe are committed together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    String,
    bindparam,
    exists,
    func,
    select,
    text,
    update,
)

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all, read_one
from storage.study_moves import reopen
from storage.tables import Attempt, Job, JobState, Study, StudyState

MOVES: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.DONE, JobState.FAILED, JobState.QUEUED, JobState.CANCELLED}
    ),
    JobState.DONE: frozenset(),  # a re-run is a new row with the next run number
    JobState.FAILED: frozenset({JobState.QUEUED}),  # by a person
    JobState.CANCELLED: frozenset({JobState.QUEUED}),  # by a person
}

WORKER_LOST: Final = "worker-lost"
"""Error code of a job whose lease ran out."""

VOID: Final = "void "
"""How the key of a job begins whose images are not any more what they were: it stands for no
work, so that the same images may be queued again if they ever count again."""

# The most urgent job that is due, of a study that is not held. In PostgreSQL workers skip each
# other's rows, and the outer test of the state is what keeps a job from going to two of them:
# the inner select may have read the row before another claim changed it. The share lock on the
# study keeps it from being held between this look and this commit; a study that is receiving in
# this moment is skipped. SQLite has one writer at a time and needs none of it; the outer test
# stays the same.
CLAIM: Final = {
    "sqlite": """
UPDATE jobs
   SET state = 'running', worker = :worker, lease_until_ms = :now_ms + :lease_ms,
       attempt = attempt + 1, started_ms = :now_ms, finished_ms = NULL,
       stage = '', progress = 0
 WHERE state = 'queued'
   AND id = (SELECT job.id
               FROM jobs AS job
               JOIN studies AS study ON study.id = job.study_id
              WHERE job.state = 'queued'
                AND job.run_after_ms <= :now_ms
                AND job.kind IN :kinds
                AND study.state <> 'held'
              ORDER BY job.priority DESC, job.run_after_ms, job.id
              LIMIT 1)
RETURNING id
""",
    "postgresql": """
UPDATE jobs
   SET state = 'running', worker = :worker, lease_until_ms = :now_ms + :lease_ms,
       attempt = attempt + 1, started_ms = :now_ms, finished_ms = NULL,
       stage = '', progress = 0
 WHERE state = 'queued'
   AND id = (SELECT job.id
               FROM jobs AS job
               JOIN studies AS study ON study.id = job.study_id
              WHERE job.state = 'queued'
                AND job.run_after_ms <= :now_ms
                AND job.kind IN :kinds
                AND study.state <> 'held'
              ORDER BY job.priority DESC, job.run_after_ms, job.id
              LIMIT 1
                FOR UPDATE OF job SKIP LOCKED
                FOR SHARE OF study SKIP LOCKED)
RETURNING id
""",
}

# Jobs whose lease ran out go back to the queue, or fail after `max_attempts` failures. A lease
# that ends exactly now still holds. In PostgreSQL two rescuers skip each other's rows, or they
# could wait for each other.
RESCUE: Final = {
    "sqlite": """
UPDATE jobs
   SET state = CASE WHEN failures + 1 < :max_attempts THEN 'queued' ELSE 'failed' END,
       finished_ms = CASE WHEN failures + 1 < :max_attempts THEN NULL ELSE :now_ms END,
       failures = failures + 1, run_after_ms = :now_ms,
       worker = NULL, lease_until_ms = NULL,
       error_code = :code,
       error_text = 'Worker ' || worker || ' died or stopped answering: its lease expired.'
 WHERE state = 'running'
   AND lease_until_ms < :now_ms
RETURNING id
""",
    "postgresql": """
UPDATE jobs
   SET state = CASE WHEN failures + 1 < :max_attempts THEN 'queued' ELSE 'failed' END,
       finished_ms = CASE WHEN failures + 1 < :max_attempts THEN NULL ELSE :now_ms END,
       failures = failures + 1, run_after_ms = :now_ms,
       worker = NULL, lease_until_ms = NULL,
       error_code = :code,
       error_text = 'Worker ' || worker || ' died or stopped answering: its lease expired.'
 WHERE state = 'running'
   AND lease_until_ms < :now_ms
   AND id IN (SELECT id
                FROM jobs
               WHERE state = 'running'
                 AND lease_until_ms < :now_ms
                 FOR UPDATE SKIP LOCKED)
RETURNING id
""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be queued.

    Attributes:
        dedup_key: Digest of what the job would do; the same key is queued once.
        priority: The larger, the earlier.
        run_after_ms: Not before this time; None means at once.
    """

    study_id: int
    series_id: int
    revision_id: int
    decision_id: int
    route: str
    model: str
    dedup_key: str
    send_to: Sequence[str] = ()
    priority: int = 0
    run_after_ms: int | None = None
    kind: str = "segment"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A row of `jobs`."""

    id: int
    kind: str
    study_id: int
    series_id: int
    revision_id: int
    decision_id: int
    route: str
    model: str
    send_to: tuple[str, ...]
    dedup_key: str
    run: int
    state: JobState
    priority: int
    run_after_ms: int
    attempt: int
    failures: int
    worker: str | None
    lease_until_ms: int | None
    stage: str
    progress: float
    outcome: str
    error_code: str
    error_text: str
    created_ms: int
    started_ms: int | None
    finished_ms: int | None

    @property
    def is_void(self) -> bool:
        """Whether its images are not any more what they were when it was queued."""
        return self.dedup_key.startswith(VOID)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """A row of `attempts`: one try at a job; `seconds` holds wall seconds by stage."""

    id: int
    job_id: int
    number: int
    worker: str
    started_ms: int
    ended_ms: int | None
    outcome: str
    error_code: str
    error_text: str
    seconds: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many rows are in a state, and since when the oldest of them exists."""

    count: int
    oldest_ms: int | None


_COLUMNS = columns(Job, JobRow)


def enqueue_segment(db: Connection, new: NewJob) -> JobRow | None:
    """Queue a job, or return None when one with its key was queued before."""
    at_ms = now_ms(db)
    statement = (
        insert_into(db, Job)
        .values(
            kind=new.kind,
            study_id=new.study_id,
            series_id=new.series_id,
            revision_id=new.revision_id,
            decision_id=new.decision_id,
            route=new.route,
            model=new.model,
            send_to=list(new.send_to),
            dedup_key=new.dedup_key,
            priority=new.priority,
            run_after_ms=at_ms if new.run_after_ms is None else new.run_after_ms,
            created_ms=at_ms,
        )
        .on_conflict_do_nothing(index_elements=["dedup_key", "run"])
        .returning(*_COLUMNS)
    )
    return read_one(db, statement, JobRow)


def claim(
    db: Connection, worker: str, lease_ms: int, kinds: Sequence[str] = ("segment",)
) -> JobRow | None:
    """Take the most urgent job that is due, or return None when there is none to take.

    Args:
        db: A writing transaction of its own; commit it before any work begins.
        worker: Name of the worker, unique among those alive.
        lease_ms: How long the worker may be silent.
        kinds: The kinds of jobs that it can do.
    """
    at_ms = now_ms(db)
    statement = text(CLAIM[db.dialect.name]).bindparams(
        bindparam("kinds", expanding=True, type_=String())
    )
    values = {"worker": worker, "lease_ms": lease_ms, "now_ms": at_ms, "kinds": list(kinds)}
    job_id = db.execute(statement, values).scalar_one_or_none()
    job = None if job_id is None else find_job(db, job_id)
    if job is not None:
        db.execute(
            insert_into(db, Attempt).values(
                job_id=job.id, number=job.attempt, worker=worker, started_ms=at_ms
            )
        )
    return job


def renew(db: Connection, job_id: int, attempt: int, worker: str, lease_ms: int) -> bool:
    """Extend a lease; False means that the job is no longer the caller's, who must stop."""
    statement = (
        update(Job)
        .where(*_held(job_id, attempt, worker))
        .values(lease_until_ms=now_ms(db) + lease_ms)
    )
    return db.execute(statement).rowcount == 1


def report_stage(
    db: Connection, job_id: int, attempt: int, worker: str, stage: str, *, progress: float = 0.0
) -> bool:
    """Say where in its work a job is; `progress` runs from 0 to 1 within the stage."""
    statement = (
        update(Job).where(*_held(job_id, attempt, worker)).values(stage=stage, progress=progress)
    )
    return db.execute(statement).rowcount == 1


def finish(
    db: Connection,
    job_id: int,
    attempt: int,
    worker: str,
    outcome: str,
    *,
    reason_code: str = "",
    reason_text: str = "",
    seconds: Mapping[str, float] | None = None,
) -> bool:
    """End a job: `running -> done`. Call it first in the transaction that records its results.

    Args:
        db: A writing transaction; roll it back when this returns False.
        job_id: Row id.
        attempt: From the claim.
        worker: From the claim.
        outcome: One word or short phrase, such as `segmented` or `refused`.
        reason_code: For a refusal, its stable code.
        reason_text: For a refusal, its sentence.
        seconds: Wall seconds by stage.

    Returns:
        False when the job is no longer the caller's, or its study is held: nothing was changed,
        its work is void.
    """
    at_ms = now_ms(db)
    held = select(Study.id).where(Study.id == Job.study_id).where(Study.state == StudyState.HELD)
    statement = (
        update(Job)
        .where(*_held(job_id, attempt, worker))
        .where(~exists(held))
        .values(
            state=JobState.DONE,
            worker=None,
            lease_until_ms=None,
            progress=1.0,
            outcome=outcome,
            error_code=reason_code,
            error_text=reason_text,
            finished_ms=at_ms,
        )
    )
    if db.execute(statement).rowcount != 1:
        return False
    _close_attempt(
        db,
        job_id,
        number=attempt,
        at_ms=at_ms,
        outcome=outcome,
        error_code=reason_code,
        error_text=reason_text,
        seconds=seconds,
    )
    return True


def fail(
    db: Connection,
    job_id: int,
    attempt: int,
    worker: str,
    *,
    error_code: str,
    error_text: str,
    retry_after_ms: int | None,
    seconds: Mapping[str, float] | None = None,
) -> bool:
    """End an attempt with an error: `running -> queued`, or `running -> failed`.

    Args:
        db: A writing transaction.
        job_id: Row id.
        attempt: From the claim.
        worker: From the claim.
        error_code: Stable code.
        error_text: What happened and what to do; no patient data.
        retry_after_ms: Delay of the next attempt, or None when only a person can help.
        seconds: Wall seconds by stage.
    """
    at_ms = now_ms(db)
    retry = retry_after_ms is not None
    statement = (
        update(Job)
        .where(*_held(job_id, attempt, worker))
        .values(
            state=JobState.QUEUED if retry else JobState.FAILED,
            worker=None,
            lease_until_ms=None,
            failures=Job.failures + 1,
            run_after_ms=at_ms + (retry_after_ms or 0),
            error_code=error_code,
            error_text=error_text,
            finished_ms=None if retry else at_ms,
        )
    )
    if db.execute(statement).rowcount != 1:
        return False
    _close_attempt(
        db,
        job_id,
        number=attempt,
        at_ms=at_ms,
        outcome="failed",
        error_code=error_code,
        error_text=error_text,
        seconds=seconds,
    )
    return True


def release(db: Connection, job_id: int, attempt: int, worker: str) -> bool:
    """Give a job back unfinished, as at shutdown: `running -> queued`, not counted as failure."""
    at_ms = now_ms(db)
    statement = (
        update(Job)
        .where(*_held(job_id, attempt, worker))
        .values(
            state=JobState.QUEUED,
            worker=None,
            lease_until_ms=None,
            run_after_ms=at_ms,
            stage="",
            progress=0.0,
        )
    )
    if db.execute(statement).rowcount != 1:
        return False
    _close_attempt(db, job_id, number=attempt, at_ms=at_ms, outcome="released")
    return True


def rescue_expired(db: Connection, max_attempts: int) -> list[JobRow]:
    """Take back every running job whose lease ran out; any process may call this at any time.

    Args:
        db: A writing transaction.
        max_attempts: A job that has failed so often, lost workers included, fails for good: a
            study that has taken three workers down is not given to a fourth.

    Returns:
        The jobs that moved, queued again or failed.
    """
    at_ms = now_ms(db)
    values = {"now_ms": at_ms, "max_attempts": max_attempts, "code": WORKER_LOST}
    moved = list(db.execute(text(RESCUE[db.dialect.name]), values).scalars())
    jobs = read_all(db, select(*_COLUMNS).where(Job.id.in_(moved)).order_by(Job.id), JobRow)
    for job in jobs:
        _close_attempt(
            db,
            job.id,
            number=job.attempt,
            at_ms=at_ms,
            outcome="lost",
            error_code=job.error_code,
            error_text=job.error_text,
        )
    return jobs


def cancel(db: Connection, job_id: int, reason: str = "A person cancelled it.") -> bool:
    """Take a job out: `queued | running -> cancelled`. Its worker learns of it when it renews."""
    at_ms = now_ms(db)
    attempt = db.execute(
        update(Job)
        .where(Job.id == job_id)
        .where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
        .values(
            state=JobState.CANCELLED,
            worker=None,
            lease_until_ms=None,
            error_code="cancelled",
            error_text=reason,
            finished_ms=at_ms,
        )
        .returning(Job.attempt)
    ).scalar_one_or_none()
    if attempt is None:
        return False
    _close_attempt(
        db,
        job_id,
        number=attempt,
        at_ms=at_ms,
        outcome="cancelled",
        error_code="cancelled",
        error_text=reason,
    )
    return True


def void(db: Connection, job_ids: Collection[int], reason: str) -> None:
    """Let jobs stand for nothing any more, because other bytes count for one of their images.

    Those that have not ended are cancelled; a finished one stays as it is. None can run again.

    Args:
        db: A writing transaction that holds their studies.
        job_ids: Row ids.
        reason: Sentence for those that are cancelled.
    """
    for job_id in sorted(job_ids):
        cancel(db, job_id, reason)
        db.execute(update(Job).where(Job.id == job_id).values(dedup_key=f"{VOID}{job_id}"))


def requeue(db: Connection, job_id: int) -> JobRow | None:
    """Run a job again because a person wants it; its study is open again.

    A failed or cancelled job goes back to the queue with no failures counted. One that is done
    stays as it is, and a new row with the next run number is queued.

    Returns:
        The queued job, or None when there is no such job, it is queued or running already, or
        other bytes count now for one of its images: then the study's next revision has its own.
    """
    job = find_job(db, job_id)
    if job is None or job.state in {JobState.QUEUED, JobState.RUNNING} or job.is_void:
        return None
    queued = _run_again(db, job) if job.state is JobState.DONE else _back_to_queue(db, job)
    if queued is not None:
        reopen(db, job.study_id)
    return queued


def find_job(db: Connection, job_id: int) -> JobRow | None:
    """Return a job by its row id."""
    return read_one(db, select(*_COLUMNS).where(Job.id == job_id), JobRow)


def list_jobs(
    db: Connection,
    *,
    study_id: int | None = None,
    state: JobState | None = None,
    limit: int = 200,
) -> list[JobRow]:
    """Return jobs, the newest first."""
    statement = select(*_COLUMNS).order_by(Job.id.desc()).limit(limit)
    if study_id is not None:
        statement = statement.where(Job.study_id == study_id)
    if state is not None:
        statement = statement.where(Job.state == state)
    return read_all(db, statement, JobRow)


def list_attempts(db: Connection, job_id: int) -> list[AttemptRow]:
    """Return the attempts at a job, the first first."""
    statement = (
        select(*columns(Attempt, AttemptRow))
        .where(Attempt.job_id == job_id)
        .order_by(Attempt.number)
    )
    return read_all(db, statement, AttemptRow)


def counts(db: Connection) -> dict[JobState, StateCount]:
    """Return, for every state, how many jobs are in it and the age of the oldest."""
    statement = select(
        Job.state,
        func.count(),
        func.min(Job.created_ms),
    ).group_by(Job.state)
    found = {JobState(state): StateCount(n, oldest) for state, n, oldest in db.execute(statement)}
    return {state: found.get(state, StateCount(0, None)) for state in JobState}


def _held(job_id: int, attempt: int, worker: str) -> tuple[ColumnElement[bool], ...]:
    """Return the fence: what must be so for a worker's statement to change a job."""
    return (
        Job.id == job_id,
        Job.state == JobState.RUNNING,
        Job.attempt == attempt,
        Job.worker == worker,
    )


def _close_attempt(
    db: Connection,
    job_id: int,
    *,
    number: int,
    at_ms: int,
    outcome: str,
    error_code: str = "",
    error_text: str = "",
    seconds: Mapping[str, float] | None = None,
) -> None:
    db.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id)
        .where(Attempt.number == number)
        .where(Attempt.ended_ms.is_(None))
        .values(
            ended_ms=at_ms,
            outcome=outcome,
            error_code=error_code,
            error_text=error_text,
            seconds=dict(seconds or {}),
        )
    )


def _back_to_queue(db: Connection, job: JobRow) -> JobRow | None:
    statement = (
        update(Job)
        .where(Job.id == job.id)
        .where(Job.state == job.state)
        .where(Job.attempt == job.attempt)
        .values(
            state=JobState.QUEUED,
            failures=0,
            run_after_ms=now_ms(db),
            stage="",
            progress=0.0,
            error_code="",
            error_text="",
            finished_ms=None,
        )
        .returning(*_COLUMNS)
    )
    return read_one(db, statement, JobRow)


def _run_again(db: Connection, job: JobRow) -> JobRow | None:
    at_ms = now_ms(db)
    last_run = db.execute(
        select(func.max(Job.run)).where(Job.dedup_key == job.dedup_key)
    ).scalar_one()
    statement = (
        insert_into(db, Job)
        .values(
            kind=job.kind,
            study_id=job.study_id,
            series_id=job.series_id,
            revision_id=job.revision_id,
            decision_id=job.decision_id,
            route=job.route,
            model=job.model,
            send_to=list(job.send_to),
            dedup_key=job.dedup_key,
            run=last_run + 1,
            priority=job.priority,
            run_after_ms=at_ms,
            created_ms=at_ms,
        )
        .on_conflict_do_nothing(index_elements=["dedup_key", "run"])
        .returning(*_COLUMNS)
    )
    return read_one(db, statement, JobRow)
