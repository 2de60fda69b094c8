"""The life of a study: its states and moves as data, and the statements that make each move.

`arriving -> settled -> done`; a late instance takes it back to `arriving`, and `held` stops it
until a person releases it. Every statement names the state that it leaves.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, update

from storage.database import now_ms
from storage.tables import Attempt, Job, JobState, Study, StudyState

MOVES: Final[dict[StudyState, frozenset[StudyState]]] = {
    StudyState.ARRIVING: frozenset({StudyState.SETTLED, StudyState.HELD}),
    StudyState.SETTLED: frozenset({StudyState.DONE, StudyState.ARRIVING, StudyState.HELD}),
    StudyState.DONE: frozenset({StudyState.SETTLED, StudyState.ARRIVING, StudyState.HELD}),
    StudyState.HELD: frozenset({StudyState.ARRIVING}),  # by a person
}


def hold(db: Connection, study_id: int, reason: str) -> bool:
    """Stop a study: nothing of it is settled, run or sent until a person releases it.

    Its queued jobs and owed deliveries stay as they are; no claim takes them while it is held.
    Running jobs are taken back into the queue: their workers learn that they lost them, and what
    they made is void. A delivery that is on the wire at this moment ends as its peer answers. The
    first reason is kept when the study is held already.

    Args:
        db: A writing transaction.
        study_id: Row id.
        reason: The sentence people read; without patient data, because logs carry it too.

    Returns:
        Whether this call held it.
    """
    at_ms = now_ms(db)
    statement = (
        update(Study)
        .where(Study.id == study_id)
        .where(Study.state.in_(leaving_to(StudyState.HELD)))
        .values(
            state=StudyState.HELD,
            hold_reason=reason,
            sentence=reason,
            needs_person=True,
            changed_ms=at_ms,
        )
    )
    if db.execute(statement).rowcount != 1:
        return False
    _take_back_jobs(db, study_id, at_ms)
    return True


def release(db: Connection, study_id: int) -> bool:
    """Let a held study go on: it settles again with all its instances.

    Returns:
        Whether it was held.
    """
    statement = (
        update(Study)
        .where(Study.id == study_id)
        .where(Study.state == StudyState.HELD)
        .values(
            state=StudyState.ARRIVING,
            hold_reason=None,
            sentence="",
            needs_person=False,
            changed_ms=now_ms(db),
        )
    )
    return db.execute(statement).rowcount == 1


def reopen(db: Connection, study_id: int) -> bool:
    """Take a study that was done back to `settled`, because a person gave it new work."""
    statement = (
        update(Study)
        .where(Study.id == study_id)
        .where(Study.state == StudyState.DONE)
        .values(state=StudyState.SETTLED, sentence="", needs_person=False, changed_ms=now_ms(db))
    )
    return db.execute(statement).rowcount == 1


def leaving_to(new: StudyState) -> list[StudyState]:
    """Return the states that `MOVES` allows to go to `new`."""
    return [old for old, targets in MOVES.items() if new in targets]


def _take_back_jobs(db: Connection, study_id: int, at_ms: int) -> None:
    """`running -> queued` for every job of a study that was just held; no failure is counted.

    No claim can run beside this one: it locks the study that it takes a job of.
    """
    taken = db.execute(
        update(Job)
        .where(Job.study_id == study_id)
        .where(Job.state == JobState.RUNNING)
        .values(
            state=JobState.QUEUED,
            worker=None,
            lease_until_ms=None,
            run_after_ms=at_ms,
            stage="",
            progress=0.0,
        )
        .returning(Job.id)
    ).scalars()
    db.execute(
        update(Attempt)
        .where(Attempt.job_id.in_(list(taken)))
        .where(Attempt.ended_ms.is_(None))
        .values(ended_ms=at_ms, outcome="held")
    )
