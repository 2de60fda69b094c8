"""A study's way through the node as steps in time: pure, rows in, steps out.

Each step says when, what, how long and why; what failed says what to do. The page shows them from
top to bottom as they happened, and the JSON form gives the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from node.results.summary import size_text
from node.web.associations import TAGS
from node.web.stages import delivery_tag, job_tag
from node.web.verdict import Level
from node.web.words import count, duration, tail
from storage.associations import AssociationOutcome
from storage.conflict_rows import ConflictRow
from storage.decisions import DecisionOutcome, DecisionRow
from storage.deliveries import DeliveryRow
from storage.notices import NoticeKind
from storage.queue import AttemptRow, JobRow
from storage.results import ResultRow
from storage.story import DeliveryStory, StudyStory
from storage.studies import RevisionRow, SeriesRow, StudyRow
from storage.tables import DeliveryState, JobState, StudyState


@dataclass(frozen=True, slots=True)
class Button:
    """An act that a person may do here.

    Attributes:
        id: Unique on the page, so that an open form stays open while the page renews itself.
        label: On the button that opens the confirm step.
        action: Where the form posts to.
        consequence: What will happen, as a sentence.
        confirm: On the button that does it.
    """

    id: str
    label: str
    action: str
    consequence: str
    confirm: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the line.

    Attributes:
        at_ms: When it began.
        title: What it is.
        level: How it went.
        word: Its state, where it has one.
        took: How long it took, or has taken so far, in words.
        text: One sentence.
        notes: Details, a line each.
        progress: Percent, of a running job.
        acts: What a person may do here.
    """

    at_ms: int
    title: str
    level: Level
    word: str = ""
    took: str = ""
    text: str = ""
    notes: tuple[str, ...] = ()
    progress: int | None = None
    acts: tuple[Button, ...] = ()


_DECIDED: Final = {
    DecisionOutcome.RUN: "runs",
    DecisionOutcome.NO_MATCH: "does not match",
    DecisionOutcome.NOT_ACCEPTED: "matches, but the model's card does not take the series",
    DecisionOutcome.DONE_BEFORE: "was done before with the same images",
}

_NOTICES: Final = {
    NoticeKind.MPPS: "Performed procedure step",
    NoticeKind.IAN: "Instance availability notice",
}

_ACTIONS: Final = {"store": "C-STORE", "commit": "Storage commitment", "lookup": "C-FIND look-up"}


def tell(story: StudyStory, *, now_ms: int) -> tuple[Step, ...]:
    """Return the steps of a study in the order in which they began."""
    address = f"/studies/{story.study.uid}"
    steps = [
        *_received(story, now_ms),
        *_conflicts(story),
        *_told(story),
        *_settled(story),
        *_worked(story, address, now_ms),
        *_made(story),
        *_delivered(story, address, now_ms),
    ]
    steps.sort(key=lambda step: step.at_ms)  # stable: equal times keep the order of the line
    return (*steps, *_ended(story.study))


def study_buttons(study: StudyRow) -> tuple[Button, ...]:
    """Return what a person may do to the study as a whole."""
    if study.state is not StudyState.HELD:
        return ()
    return (
        Button(
            "release",
            "Release",
            f"/studies/{study.uid}/release",
            "The study goes on: it settles again with all images of its patient, is decided and "
            "run. Do this only when you have checked what the sentence above says.",
            "Yes, release this study",
        ),
    )


def _received(story: StudyStory, now_ms: int) -> Iterator[Step]:
    for association in story.associations:
        tag = TAGS[association.outcome]
        ended_well = association.outcome is AssociationOutcome.RELEASED
        refused = f", {association.refused} refused" if association.refused else ""
        end_ms = association.ended_ms
        yield Step(
            at_ms=association.started_ms,
            title=f"Received from {association.peer or association.calling_ae}",
            level=tag.level,
            word="" if ended_well else tag.word,
            took=duration((end_ms if end_ms is not None else now_ms) - association.started_ms),
            text=f"{count(association.instances, 'instance')}{refused} in this association, AE "
            f"title {association.calling_ae}, address {association.address}.",
            notes=(association.reason,) if association.reason else (),
        )
    if not story.associations:
        yield Step(
            at_ms=story.study.first_received_ms,
            title="Received",
            level=Level.WELL,
            text=f"{count(story.instance_count, 'instance')} in "
            f"{count(len(story.series), 'series', 'series')}.",
        )


def _conflicts(story: StudyStory) -> Iterator[Step]:
    """One step for all conflicts of a kind from one sender: a study may have a thousand."""
    groups: dict[tuple[str, str], list[ConflictRow]] = defaultdict(list)
    for conflict in story.conflicts:
        groups[conflict.kind, _later_sender(conflict)].append(conflict)
    for (kind, sender), rows in groups.items():
        waiting = sum(row.open for row in rows)
        decided = {row.decided_by for row in rows if row.decided_by}
        words = f"{waiting} wait for a person" if waiting else "decided"
        differing = sorted({row.detail for row in rows if row.detail})
        yield Step(
            at_ms=min(max(row.received_ms, row.of_received_ms) for row in rows),
            title=f"{count(len(rows), 'instance')} with a known UID and other content came from "
            f"{sender or 'nobody known'}",
            level=Level.ATTENTION if waiting else Level.QUIET,
            word=f"conflict: {kind}",
            text=f"Both are kept; {words}{f' by {_listed(decided)}' if decided else ''}.",
            notes=tuple(f"{detail} differs" for detail in differing),
        )


def _later_sender(conflict: ConflictRow) -> str:
    return conflict.sender if conflict.version > conflict.of_version else conflict.of_sender


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _told(story: StudyStory) -> Iterator[Step]:
    """What peers said about the study beside sending it."""
    for notice in story.notices:
        yield Step(
            at_ms=notice.changed_ms,
            title=f"{_NOTICES[notice.kind]} from {notice.sender or 'nobody known'}",
            level=Level.QUIET,
            word=notice.status.lower(),
            text=f"It names {count(len(notice.detail), 'series', 'series')}.",
        )


def _settled(story: StudyStory) -> Iterator[Step]:
    names = {series.id: _series_name(series) for series in story.series}
    for each in story.revisions:
        revision, decided = each.revision, each.decisions
        yield Step(
            at_ms=revision.created_ms,
            title=f"Settled as revision {revision.number}",
            level=Level.WELL,
            took=_quiet(story, revision),
            text=f"{revision.reason.rstrip('.')}. {count(each.instance_count, 'instance')} count.",
        )
        if revision.decided_ms is None:
            continue
        runs = sum(one.outcome is DecisionOutcome.RUN for one in decided)
        series = len({one.series_id for one in decided})
        yield Step(
            # The decisions' own time: the revision is marked last, after the jobs are queued.
            at_ms=decided[0].created_ms if decided else revision.decided_ms,
            title="Decided",
            level=Level.WELL if runs else Level.QUIET,
            word="" if runs else "nothing to run",
            text=f"{count(runs, 'job')} from {count(series, 'series', 'series')}.",
            notes=tuple(_decision(one, names) for one in decided),
        )


def _quiet(story: StudyStory, revision: RevisionRow) -> str:
    """Return how long the last revision waited after the last image, where that is known."""
    quiet_ms = revision.created_ms - story.study.last_received_ms
    if revision.number != story.study.revision or quiet_ms < 0:
        return ""
    return f"{duration(quiet_ms)} after the last image"


def _decision(decision: DecisionRow, names: Mapping[int, str]) -> str:
    name = names.get(decision.series_id, f"Series {decision.series_id}")
    route = f"route {decision.route}" if decision.route else "no route"
    said = _DECIDED[decision.outcome]
    model = f" with {decision.model}" if decision.outcome is DecisionOutcome.RUN else ""
    reasons = "; ".join(str(reason).rstrip(".") for reason in decision.reasons)
    return f"{name}: {route} {said}{model}{f': {reasons}' if reasons else ''}."


def _series_name(series: SeriesRow) -> str:
    description = series.header.get("SeriesDescription") or tail(series.uid)
    return f"{series.modality} {description} ({count(series.instance_count, 'image')})"


def _worked(story: StudyStory, address: str, now_ms: int) -> Iterator[Step]:
    names = {series.id: _series_name(series) for series in story.series}
    for work in story.jobs:
        job = work.job
        again = f", run {job.run}" if job.run > 1 else ""
        tag = job_tag(job.state, failures=job.failures)
        first = work.attempts[0].started_ms if work.attempts else None
        waited = first if first is not None else (job.finished_ms or now_ms)
        yield Step(
            at_ms=job.created_ms,
            title=f"Queued for {job.model}",
            level=Level.WELL if work.attempts else tag.level,
            word="" if work.attempts else tag.word,
            took=f"waited {duration(waited - job.created_ms)}",
            text=f"Job {job.id}{again}, route {job.route}, {names.get(job.series_id, 'a series')}.",
            notes=_why_waiting(job, now_ms),
            acts=() if work.attempts else _job_buttons(job, address),
        )
        for attempt in work.attempts:
            last = attempt is work.attempts[-1]
            yield _attempt(job, attempt, address, now_ms, last=last)


def _why_waiting(job: JobRow, now_ms: int) -> tuple[str, ...]:
    if job.state is not JobState.QUEUED:
        return ()
    if job.run_after_ms > now_ms:
        return (f"Tried again in {duration(job.run_after_ms - now_ms)}.",)
    return ("Waits for a free worker.",)


def _attempt(job: JobRow, attempt: AttemptRow, address: str, now_ms: int, *, last: bool) -> Step:
    running = attempt.ended_ms is None
    end_ms = now_ms if attempt.ended_ms is None else attempt.ended_ms
    stages = [f"{stage} {seconds:.1f} s" for stage, seconds in attempt.seconds.items()]
    failed = attempt.outcome in {"failed", "lost"}
    if running:
        level, word = Level.BUSY, job.stage or "running"
    elif failed:
        level, word = Level.STOPPED, "worker lost" if attempt.outcome == "lost" else "failed"
    elif attempt.outcome in {"released", "cancelled"}:
        level, word = Level.QUIET, attempt.outcome
    else:
        level, word = Level.WELL, ""
    told = " ".join(part for part in (attempt.error_text, _code(attempt.error_code)) if part)
    return Step(
        at_ms=attempt.started_ms,
        title=f"{job.model}, attempt {attempt.number}",
        level=level,
        word=word,
        took=f"{duration(end_ms - attempt.started_ms)}{' so far' if running else ''}",
        text=told or ("" if running or failed else f"Outcome: {attempt.outcome}."),
        notes=(f"Worker {attempt.worker}.", *((", ".join(stages) + ".",) if stages else ())),
        progress=round(100 * job.progress) if running else None,
        acts=_job_buttons(job, address) if last else (),
    )


def _code(code: str) -> str:
    return f"[{code}]" if code else ""


def _job_buttons(job: JobRow, address: str) -> tuple[Button, ...]:
    base = f"{address}/jobs/{job.id}"
    if job.state in {JobState.QUEUED, JobState.RUNNING}:
        return (
            Button(
                f"cancel-{job.id}",
                "Cancel",
                f"{base}/cancel",
                "The job is taken out and makes no result. It can be queued again later.",
                "Yes, cancel this job",
            ),
        )
    if job.state is JobState.DONE:
        return (
            Button(
                f"requeue-{job.id}",
                "Run again",
                f"{base}/requeue",
                "The same images go through the model once more. If nothing has changed, the "
                "stored result is sent again: no second one is made.",
                "Yes, run it again",
            ),
        )
    return (
        Button(
            f"requeue-{job.id}",
            "Requeue",
            f"{base}/requeue",
            "The job goes back to the queue and its failures are forgotten. Do this after what "
            "made it fail has been put right.",
            "Yes, put it back in the queue",
        ),
    )


def _made(story: StudyStory) -> Iterator[Step]:
    for result in (made.result for work in story.jobs for made in work.results):
        verdict = str(result.summary.get("verdict", ""))
        replaced = result.superseded_by is not None
        yield Step(
            at_ms=result.created_ms,
            title=f"{result.kind} made by {result.model} {result.model_version}",
            level=Level.QUIET if replaced else Level.WELL,
            word="replaced" if replaced else "",
            text=f"Verdict: {verdict}." if verdict else "",
            notes=tuple(
                f"{label}: {said}" for label, said in (*segments_of(result), *findings_of(result))
            ),
        )


def segments_of(result: ResultRow) -> list[tuple[str, str]]:
    """Return label and size in words of the segments in a result's summary."""
    found = result.summary.get("segments", [])
    return [(str(each["label"]), size_text(each)) for each in found]


def findings_of(result: ResultRow) -> list[tuple[str, str]]:
    """Return label and words of the findings in a result's summary."""
    found = result.summary.get("findings", [])
    return [
        (
            str(each["label"]),
            f"{'present' if each['present'] else 'absent'}, {float(each['probability']):.0%}",
        )
        for each in found
    ]


def _delivered(story: StudyStory, address: str, now_ms: int) -> Iterator[Step]:
    owed = (
        (made.result.kind, each)
        for work in story.jobs
        for made in work.results
        for each in made.deliveries
    )
    for kind, each in owed:
        delivery = each.delivery
        tag = delivery_tag(delivery.state, failures=delivery.failures)
        done_ms = delivery.confirmed_ms or delivery.sent_ms
        yield Step(
            at_ms=delivery.created_ms,
            title=f"{kind} to {delivery.peer}",
            level=tag.level,
            word=tag.word,
            took=duration((done_ms or now_ms) - delivery.created_ms)
            + ("" if done_ms else " so far" if tag.level is not Level.STOPPED else ""),
            text=delivery.sentence or _proof(delivery),
            notes=tuple(_tries(each, now_ms)),
            acts=_delivery_buttons(delivery, address),
        )


def _proof(delivery: DeliveryRow) -> str:
    if delivery.state is DeliveryState.COMMITTED:
        return f"{delivery.peer} committed itself to keep it."
    if delivery.state is DeliveryState.STORED:
        return f"{delivery.peer} has it."
    if delivery.state is DeliveryState.SENT:
        return f"{delivery.peer} answered success; its proof is awaited."
    return ""


def _tries(each: DeliveryStory, now_ms: int) -> Iterable[str]:
    for attempt in each.attempts:
        action = _ACTIONS.get(attempt.action, attempt.action)
        took = (
            duration(attempt.ended_ms - attempt.started_ms)
            if attempt.ended_ms is not None
            else "under way"
        )
        status = f", status {attempt.status}" if attempt.status else ""
        told = f": {attempt.sentence.rstrip('.')}" if attempt.sentence else ""
        yield f"{action}, attempt {attempt.number} ({took}{status}){told}."
    for asked in each.commitments:
        if asked.answered_ms is None:
            yield f"Commitment asked {duration(now_ms - asked.asked_ms)} ago, no answer yet."
        else:
            took = duration(asked.answered_ms - asked.asked_ms)
            yield f"Commitment answered after {took}: {asked.outcome}."
    waiting = each.delivery.state in {DeliveryState.OWED, DeliveryState.SENT}
    if waiting and each.delivery.failures and each.delivery.run_after_ms > now_ms:
        yield f"Next try in {duration(each.delivery.run_after_ms - now_ms)}."


def _delivery_buttons(delivery: DeliveryRow, address: str) -> tuple[Button, ...]:
    fresh = delivery.state is DeliveryState.OWED and not delivery.failures
    if fresh or delivery.worker is not None:
        return ()
    return (
        Button(
            f"resend-{delivery.id}",
            "Send again",
            f"{address}/deliveries/{delivery.id}/resend",
            f"The same stored object goes to {delivery.peer} again, with the same UID: the peer "
            "keeps one.",
            "Yes, send it again",
        ),
    )


def _ended(study: StudyRow) -> Iterator[Step]:
    if study.state is StudyState.DONE:
        level = Level.ATTENTION if study.needs_person else Level.WELL
        yield Step(
            at_ms=study.changed_ms,
            title="Done",
            level=level,
            word="needs you" if study.needs_person else "",
            took=f"{duration(study.changed_ms - study.first_received_ms)} in all",
            text=study.sentence,
        )
    elif study.state is StudyState.HELD:
        yield Step(
            at_ms=study.changed_ms,
            title="Held",
            level=Level.STOPPED,
            word="needs you",
            text=study.hold_reason or "",
        )
