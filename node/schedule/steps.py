"""Stages 2-4 of the line as steps: settle, decide, queue; and what a study has come to.

Each step is safe to run at any moment and on any host: it finds what is due, and every move
names the state that it leaves. Time comes from the database.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from node.faultpoints import reached
from node.models.card import Card
from node.routing.decide import (
    Decision,
    ModelTerms,
    Said,
    SeriesHeader,
    decide,
    study_sentence,
)
from node.schedule.outcome import DeliveryFact, JobFact, StudyOutcome, study_outcome
from node.settings import Route, Settings
from storage import decisions, deliveries, instances, queue, results, studies
from storage.database import Connection, Engine, now_ms, writing
from storage.instances import InstanceRow
from storage.studies import RevisionRow, StudyRow
from storage.tables import JobState

log = structlog.get_logger()


def settle(engine: Engine, settings: Settings) -> int:
    """Make a revision of every study that has been quiet for long enough; return how many."""
    quiet_ms = round(1000 * settings.node.quiet_s)
    with writing(engine) as db:
        due = studies.settle_due(db, now_ms(db), quiet_ms)
    settled = 0
    for study in due:
        with writing(engine) as db:
            quiet = (now_ms(db) - study.last_received_ms) / 1000
            reason = f"Nothing came for {quiet:.1f} s (quiet period {settings.node.quiet_s:g} s)."
            revision = studies.make_revision(
                db, study.id, reason, last_received_ms=study.last_received_ms
            )
            reached("settle.before-commit")
        if revision is not None:
            settled += 1
            log.info("study settled", study=study.uid, revision=revision.number)
    return settled


def decide_settled(engine: Engine, settings: Settings, cards: Mapping[str, Card]) -> int:
    """Decide every revision that has no decisions yet, and queue its jobs; return how many."""
    with writing(engine) as db:
        due = studies.undecided_revisions(db)
    for study, revision in due:
        with writing(engine) as db:
            if studies.mark_decided(db, revision.id):
                _decide(db, study, revision, settings, cards)
            reached("decide.before-commit")
    return len(due)


def rescue(engine: Engine, settings: Settings) -> int:
    """Take back jobs whose worker let the lease run out; return how many."""
    with writing(engine) as db:
        taken = queue.rescue_expired(db, settings.worker.max_attempts)
    for job in taken:
        log.warning("lease ran out", job=job.id, attempt=job.attempt, state=job.state)
    return len(taken)


def finish_idle(engine: Engine) -> int:
    """Say of every settled study what it has come to; return how many are done now."""
    with writing(engine) as db:
        idle = studies.idle_studies(db)
    done = 0
    for study in idle:
        with writing(engine) as db:
            jobs, owed = _facts(db, study)
            if jobs:
                outcome = study_outcome(jobs, owed)
            else:  # nothing was queued; the decisions left their sentence
                outcome = StudyOutcome(
                    done=True, sentence=study.sentence, needs_person=study.needs_person
                )
            done += studies.finish(
                db,
                study.id,
                revision=study.revision,
                sentence=outcome.sentence,
                needs_person=outcome.needs_person,
            )
        log.info("study done", study=study.uid, needs_person=outcome.needs_person)
    return done


def _decide(
    db: Connection,
    study: StudyRow,
    revision: RevisionRow,
    settings: Settings,
    cards: Mapping[str, Card],
) -> None:
    """Record the decisions of one revision and queue what they ask for."""
    decisions.record_configuration(db, settings.digest, settings.text)
    terms = {name: ModelTerms(card.accepts, card.min_slices) for name, card in cards.items()}
    by_series: dict[int, list[InstanceRow]] = defaultdict(list)
    every = instances.instances_of_revision(db, revision.id)
    for row in every:
        by_series[row.series_id].append(row)
    said: list[Decision] = []
    queued = 0
    for series in studies.list_series(db, study.id):
        rows = by_series.get(series.id, [])
        if not rows:
            continue
        header = SeriesHeader(
            series.uid, series.header, len(rows), frozenset(row.sender for row in rows)
        )
        for decision in decide(header, settings.routes, terms):
            recorded = _queue(
                db, decision, _Input(study, revision, series.id, rows, every, settings, cards)
            )
            said.append(recorded)
            queued += recorded.said is Said.RUN
    if not queued:
        before = [d for d in said if d.said is Said.DONE_BEFORE]
        if not before:
            studies.set_sentence(
                db,
                study.id,
                study_sentence(said),
                needs_person=any(d.said is Said.NOT_ACCEPTED for d in said),
            )
    log.info("study decided", study=study.uid, revision=revision.number, jobs=queued)


@dataclass(frozen=True, slots=True)
class _Input:
    """What a decision was made about and under."""

    study: StudyRow
    revision: RevisionRow
    series_id: int
    rows: Sequence[InstanceRow]
    study_rows: Sequence[InstanceRow]
    settings: Settings
    cards: Mapping[str, Card]


def _queue(db: Connection, decision: Decision, about: _Input) -> Decision:
    """Record one decision and, where it says run, its job; return the decision as recorded."""
    dedup = ""
    if decision.said is Said.RUN:
        card = about.cards[decision.model]
        dedup = _dedup_key(about.study_rows if card.channels else about.rows, decision, card)
        known = queue.list_jobs(db, study_id=about.study.id)
        same = [job for job in known if job.dedup_key == dedup]
        if same:
            text = f"The same images had job {same[0].id} already, which is {same[0].state}."
            decision = Decision(
                decision.series_uid, decision.route, decision.model, Said.DONE_BEFORE, (text,)
            )
    recorded = decisions.record_decision(
        db,
        decisions.NewDecision(
            revision_id=about.revision.id,
            series_id=about.series_id,
            route=decision.route,
            model=decision.model,
            outcome=decisions.DecisionOutcome(decision.said),
            reasons=decision.reasons,
            configuration=about.settings.digest,
        ),
    )
    if decision.said is Said.RUN:
        route = _route(about.settings, decision.route)
        _cancel_older(db, about.study.id, about.series_id, route.name)
        queue.enqueue_segment(
            db,
            queue.NewJob(
                study_id=about.study.id,
                series_id=about.series_id,
                revision_id=about.revision.id,
                decision_id=recorded.id,
                route=route.name,
                model=route.model,
                send_to=route.send_to,
                dedup_key=dedup,
                priority=route.priority,
            ),
        )
    return decision


def _cancel_older(db: Connection, study_id: int, series_id: int, route: str) -> None:
    """Take out jobs of an older revision that nobody has begun: newer images replace theirs."""
    for job in queue.list_jobs(db, study_id=study_id, state=JobState.QUEUED):
        if job.series_id == series_id and job.route == route:
            queue.cancel(db, job.id, "More images came; a job with all of them replaces this one.")


def _dedup_key(rows: Sequence[InstanceRow], decision: Decision, card: Card) -> str:
    """Return what makes two jobs the same work: images, route, weights, settings."""
    parts = [decision.route, card.weights.sha256, card.settings_digest]
    parts += sorted(f"{row.sop_uid} {row.digest}" for row in rows)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _route(settings: Settings, name: str) -> Route:
    return next(route for route in settings.routes if route.name == name)


def _facts(db: Connection, study: StudyRow) -> tuple[list[JobFact], list[DeliveryFact]]:
    newest_first = queue.list_jobs(db, study_id=study.id)
    latest = {(job.series_id, job.route): job for job in reversed(newest_first)}
    jobs = [JobFact(job.model, job.state, job.outcome, job.error_text) for job in latest.values()]
    superseded = {
        row.id for row in results.list_results(db, study_id=study.id) if row.superseded_by
    }
    owed = [
        DeliveryFact(row.peer, row.state, row.sentence)
        for row in deliveries.list_deliveries(db, study_id=study.id)
        if row.result_id not in superseded
    ]
    return jobs, owed
