"""States of the rows as a word and a level, for people. Pure."""

from __future__ import annotations

from typing import Final

from node.web.verdict import Level, Tag
from storage.studies import StudyRow
from storage.tables import DeliveryState, JobState, StudyState

_STUDY: Final = {
    StudyState.ARRIVING: Tag(Level.BUSY, "arriving"),
    StudyState.SETTLED: Tag(Level.BUSY, "under way"),
    StudyState.DONE: Tag(Level.WELL, "done"),
    StudyState.HELD: Tag(Level.STOPPED, "held"),
}

_JOB: Final = {
    JobState.QUEUED: Tag(Level.BUSY, "waiting"),
    JobState.RUNNING: Tag(Level.BUSY, "running"),
    JobState.DONE: Tag(Level.WELL, "done"),
    JobState.FAILED: Tag(Level.STOPPED, "failed"),
    JobState.CANCELLED: Tag(Level.QUIET, "cancelled"),
}

_DELIVERY: Final = {
    DeliveryState.OWED: Tag(Level.BUSY, "to send"),
    DeliveryState.SENT: Tag(Level.BUSY, "sent, proof awaited"),
    DeliveryState.STORED: Tag(Level.WELL, "stored"),
    DeliveryState.COMMITTED: Tag(Level.WELL, "committed"),
    DeliveryState.REFUSED: Tag(Level.STOPPED, "refused"),
    DeliveryState.EXPIRED: Tag(Level.STOPPED, "expired"),
    DeliveryState.HELD: Tag(Level.ATTENTION, "held"),
    DeliveryState.WITHDRAWN: Tag(Level.QUIET, "withdrawn"),
}

_VERDICT: Final = {
    "accept": Tag(Level.WELL, "accept"),
    "review": Tag(Level.ATTENTION, "review"),
    "reject": Tag(Level.STOPPED, "reject"),
}


def study_tag(study: StudyRow) -> Tag:
    """Return a study's state; one that needs a person says so."""
    if study.needs_person and study.state is not StudyState.HELD:
        return Tag(Level.ATTENTION, "needs you")
    return _STUDY[study.state]


def job_tag(state: JobState, *, failures: int = 0) -> Tag:
    """Return a job's state; one that waits after a failure is retrying."""
    if state is JobState.QUEUED and failures:
        return Tag(Level.ATTENTION, "retrying")
    return _JOB[state]


def delivery_tag(state: DeliveryState, *, failures: int = 0) -> Tag:
    """Return a delivery's state; one that is tried again after a failure is retrying."""
    if state in {DeliveryState.OWED, DeliveryState.SENT} and failures:
        return Tag(Level.ATTENTION, "retrying")
    return _DELIVERY[state]


def verdict_tag(verdict: str) -> Tag:
    """Return a result's verdict as its summary spells it."""
    return _VERDICT.get(verdict, Tag(Level.QUIET, verdict or "no verdict"))
