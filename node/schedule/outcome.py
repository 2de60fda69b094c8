"""What a study has come to, from its jobs and deliveries; pure.

A study is done when nothing is left that the node can do by itself. What a person must do, and
why, stands in the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobFact:
    """What matters of one job here.

    Attributes:
        model: The model's name.
        state: queued, running, done, failed or cancelled.
        outcome: For a done job: `findings`, `no-finding`, `rejected`, `refused: ...`.
        error: For a failed job, the sentence.
    """

    model: str
    state: str
    outcome: str
    error: str


@dataclass(frozen=True, slots=True)
class DeliveryFact:
    """What matters of one delivery here."""

    peer: str
    state: str
    sentence: str


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """Whether the study is done, its sentence, and whether a person must act."""

    done: bool
    sentence: str
    needs_person: bool


def study_outcome(jobs: Sequence[JobFact], deliveries: Sequence[DeliveryFact]) -> StudyOutcome:
    """Return what the study has come to.

    Args:
        jobs: The jobs of the study's current revision, and older ones still open.
        deliveries: Deliveries of results that are not superseded.
    """
    if waiting := _still_open(jobs, deliveries):
        return StudyOutcome(done=False, sentence=waiting, needs_person=False)
    if trouble := _troubles(jobs, deliveries):
        more = f" (and {len(trouble) - 1} more)" if len(trouble) > 1 else ""
        return StudyOutcome(done=True, sentence=trouble[0] + more, needs_person=True)
    return StudyOutcome(done=True, sentence=_good_end(jobs, deliveries), needs_person=False)


def _still_open(jobs: Sequence[JobFact], deliveries: Sequence[DeliveryFact]) -> str:
    for state, words in (("running", "is running on"), ("queued", "waits for a worker for")):
        models = sorted({job.model for job in jobs if job.state == state})
        if models:
            return f"A job {words} {', '.join(models)}."
    for delivery in deliveries:
        if delivery.state == "owed":
            said = f" {delivery.sentence}" if delivery.sentence else ""
            return f"A result is still to be sent to {delivery.peer}.{said}"
        if delivery.state == "sent":
            return f"{delivery.peer} has the result; its proof is still to come."
    return ""


def _troubles(jobs: Sequence[JobFact], deliveries: Sequence[DeliveryFact]) -> list[str]:
    found = [f"{job.model} failed: {job.error}" for job in jobs if job.state == "failed"]
    for job in jobs:
        if job.state == "done" and job.outcome.startswith(("refused", "rejected")):
            found.append(f"{job.model}: {job.outcome}")
    for delivery in deliveries:
        if delivery.state in ("refused", "expired", "held"):
            found.append(f"{delivery.peer}: {delivery.state}. {delivery.sentence}")
    return found


def _good_end(jobs: Sequence[JobFact], deliveries: Sequence[DeliveryFact]) -> str:
    if jobs and all(job.state == "cancelled" for job in jobs):
        return "Its jobs were cancelled."
    if not deliveries:
        return "Segmented; the route sends its results nowhere."
    peers = sorted({d.peer for d in deliveries if d.state != "withdrawn"})
    if not peers:
        return "Its deliveries were withdrawn."
    words = {"committed": "committed by", "stored": "stored at"}
    parts = []
    for state, word in words.items():
        names = sorted({d.peer for d in deliveries if d.state == state})
        if names:
            parts.append(f"{word} {', '.join(names)}")
    return "Results " + " and ".join(parts) + "."
