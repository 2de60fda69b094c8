"""Commands that look and change nothing: status, studies, study, jobs, deliveries, explain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.commands.context import (
    config_option,
    json_option,
    limit_option,
    open_node,
    print_json,
    print_table,
    printable,
)
from node.commands.explaining import explain_folder
from node.errors import setup_error
from node.results.summary import size_text
from node.supervise import read_state
from storage.conflict_rows import ConflictCount, conflict_counts
from storage.database import Connection, reading
from storage.deliveries import DeliveryRow, list_deliveries
from storage.overview import Number, overview
from storage.queue import list_jobs
from storage.story import StudyStory, story
from storage.studies import StudyRow, find_study, get_study, list_studies
from storage.tables import DeliveryState, JobState, StudyState

if TYPE_CHECKING:
    from storage.story import DeliveryStory, JobStory

STALE_MS = 10_000
"""A process that has been silent for so long is not called alive."""


@click.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Say how the node is, in one screen. Exit code 1 if something needs a person or a disk.

    \b
    Example:
      limner status --config node1/limner.toml
    """
    node = open_node(config)
    with reading(node.engine) as db:
        now = overview(db)
    alive = [w for w in now.workers if not w.ended_ms and now.at_ms - w.heartbeat_ms < STALE_MS]
    needs = now.numbers[Number.NEEDS_PERSON].number
    running = read_state(node.settings) is not None
    paused = node.store.free_bytes() == 0
    if as_json:
        print_json(
            {
                "running": running,
                "numbers": {str(k): v for k, v in now.numbers.items()},
                "processes": alive,
                "peers": now.peers,
                "free_bytes": node.store.free_bytes(),
                "receiving_paused": paused,
            }
        )
        sys.exit(1 if needs or paused else 0)
    click.echo("The node is running." if running else "The node is not running: limner run")
    ages = [
        (name, count.number, _age(now.at_ms, count.oldest_ms))
        for name, count in now.numbers.items()
    ]
    print_table(("what", "number", "oldest"), ages, empty="")
    print_table(
        ("process", "pid", "doing", "heard"),
        [(w.kind, w.pid, w.doing or "-", _age(now.at_ms, w.heartbeat_ms)) for w in alive],
        empty="No process is alive.",
    )
    if now.peers:
        print_table(
            ("peer", "last heard", "last sent", "failures", "last error"),
            [
                (
                    p.peer,
                    node.time(p.last_heard_ms),
                    node.time(p.last_sent_ms),
                    p.failures,
                    p.last_error,
                )
                for p in now.peers
            ],
            empty="",
        )
    reserve = f"the reserve of {node.settings.storage.reserve_mb} MB"
    click.echo(f"Disk free: {node.store.free_bytes() / 1e9:.1f} GB above {reserve}")
    if paused:
        click.echo(
            f"Receiving is paused: the disk is below {reserve}. Senders keep what is refused and "
            "send it again. Free space or add a disk; receiving goes on by itself."
        )
    sys.exit(1 if needs or paused else 0)


@click.command()
@click.argument("search", default="")
@click.option("--state", type=click.Choice([s.value for s in StudyState]))
@click.option("--needs-person", is_flag=True, help="Only studies that wait for a person.")
@limit_option
@config_option
@json_option
def studies(
    search: str,
    state: str | None,
    needs_person: bool,
    limit: int,
    config: Path,
    as_json: bool,
) -> None:
    """List studies, the newest first; SEARCH is a patient ID, accession number, UID or name.

    \b
    Example:
      limner studies --needs-person
    """
    node = open_node(config)
    with reading(node.engine) as db:
        rows = list_studies(
            db,
            search,
            state=StudyState(state) if state else None,
            needs_person=True if needs_person else None,
            limit=limit,
        )
        doubts = conflict_counts(db, [row.id for row in rows])
    if as_json:
        print_json({"studies": rows, "conflicts": {s.uid: doubts.get(s.id) for s in rows}})
        return
    print_table(
        ("received", "patient", "accession", "state", "conflicts", "what", "study"),
        [
            (
                node.time(s.last_received_ms),
                s.patient_id,
                s.accession,
                s.state,
                _doubts(doubts.get(s.id)),
                s.sentence,
                s.uid,
            )
            for s in rows
        ],
        empty="No study fits.",
    )


@click.command()
@click.argument("uid")
@config_option
@json_option
def study(uid: str, config: Path, as_json: bool) -> None:
    """Tell the whole story of the study with this Study Instance UID.

    \b
    Example:
      limner study 1.2.840.99999.1 --json
    """
    node = open_node(config)
    with reading(node.engine) as db:
        told = story(db, study_named(db, uid).id)
    if told is None:
        raise _no_study(uid)
    if as_json:
        print_json({"story": told})
        return
    for at_ms, line in _lines(told):
        click.echo(f"{node.time(at_ms)}  {printable(line)}")
    click.echo(f"Now: {told.study.state}. {printable(told.study.sentence)}")


@click.command()
@click.option("--state", type=click.Choice([s.value for s in JobState]))
@limit_option
@config_option
@json_option
def jobs(state: str | None, limit: int, config: Path, as_json: bool) -> None:
    """List jobs, the newest first.

    \b
    Example:
      limner jobs --state failed
    """
    node = open_node(config)
    with reading(node.engine) as db:
        rows = list_jobs(db, state=JobState(state) if state else None, limit=limit)
        uids = {row.study_id: _uid(db, row.study_id) for row in rows}
    if as_json:
        print_json({"jobs": rows})
        return
    print_table(
        ("job", "model", "state", "stage", "attempt", "what", "study"),
        [
            (j.id, j.model, j.state, _stage(j.stage, j.progress), j.attempt,
             j.error_text or j.outcome, uids[j.study_id])
            for j in rows
        ],
        empty="No jobs.",
    )  # fmt: skip


@click.command()
@click.option("--state", type=click.Choice([s.value for s in DeliveryState]))
@click.option("--peer", "peer", help="Only to this peer.")
@limit_option
@config_option
@json_option
def deliveries(
    state: str | None, peer: str | None, limit: int, config: Path, as_json: bool
) -> None:
    """List what is owed to peers, and what they answered.

    \b
    Example:
      limner deliveries --state refused
    """
    node = open_node(config)
    with reading(node.engine) as db:
        rows = list_deliveries(
            db, peer=peer, state=DeliveryState(state) if state else None, limit=limit
        )
        uids = {row.study_id: _uid(db, row.study_id) for row in rows}
    if as_json:
        print_json({"deliveries": rows})
        return
    print_table(
        ("delivery", "peer", "state", "status", "tries", "what", "study"),
        [_delivery_row(row, uids[row.study_id]) for row in rows],
        empty="No deliveries.",
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--from", "sender", default="", help="The peer that would have sent it.")
@config_option
@json_option
def explain(folder: Path, sender: str, config: Path, as_json: bool) -> None:
    """Say what every route would do with the series in FOLDER, and why. Nothing is stored.

    \b
    Example:
      limner explain study/ --from ct1
    """
    rows = explain_folder(folder, sender, config)
    runs = any(row["outcome"] == "run" for row in rows)
    if as_json:
        print_json({"decisions": rows})
    else:
        print_table(
            ("series", "route", "model", "outcome", "why"),
            [
                (
                    r["series_uid"],
                    r["route"] or "-",
                    r["model"] or "-",
                    r["outcome"],
                    "; ".join(r["reasons"]),
                )
                for r in rows
            ],
            empty=f"{folder} holds no DICOM series.",
        )
    sys.exit(0 if runs else 1)


def study_named(db: Connection, uid: str) -> StudyRow:
    """Return a study by its UID.

    Raises:
        SetupError: There is none.
    """
    found = find_study(db, uid)
    if found is None:
        raise _no_study(uid)
    return found


def _no_study(uid: str) -> Exception:
    return setup_error(
        "study-unknown",
        "This node has no study with this Study Instance UID.",
        where=printable(uid),
        remedy="`limner studies SEARCH` finds it by patient ID or accession number; "
        "`limner associations` tells whether a call was rejected.",
    )


def _uid(db: Connection, study_id: int) -> str:
    found = get_study(db, study_id)
    return found.uid if found else "-"


def _doubts(count: ConflictCount | None) -> str:
    if count is None:
        return "-"
    return f"{count.number}, {count.open} open" if count.open else str(count.number)


def _age(now_ms: int, then_ms: int | None) -> str:
    if then_ms is None:
        return "-"
    seconds = max(0, now_ms - then_ms) // 1000
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def _stage(stage: str, progress: float) -> str:
    return f"{stage} {progress:.0%}" if stage else "-"


def _delivery_row(row: DeliveryRow, uid: str) -> tuple[object, ...]:
    return row.id, row.peer, row.state, row.last_status or "-", row.attempt, row.sentence, uid


def _lines(told: StudyStory) -> Sequence[tuple[int, str]]:
    """Return the story as lines with their times, in order."""
    lines: list[tuple[int, str]] = []
    for a in told.associations:
        text = (
            f"association {a.id}: {a.instances} instances from {a.calling_ae} ({a.address}), "
            f"{a.outcome}"
        )
        lines.append((a.started_ms, text + (f": {a.reason}" if a.reason else "")))
    lines += _conflict_lines(told)
    lines += [
        (n.changed_ms, f"{n.kind.upper()} from {n.sender or 'nobody known'}: {n.status or 'told'}")
        for n in told.notices
    ]
    for r in told.revisions:
        text = (
            f"revision {r.revision.number} with {r.instance_count} instances: {r.revision.reason}"
        )
        lines.append((r.revision.created_ms, text))
        uids = {series.id: series.uid for series in told.series}
        for d in r.decisions:
            why = "; ".join(map(str, d.reasons))
            lines.append(
                (
                    d.created_ms,
                    f"route {d.route or '-'} on {uids.get(d.series_id)}: {d.outcome}. {why}",
                )
            )
    for job in told.jobs:
        lines += _job_lines(job)
    return sorted(lines, key=lambda line: line[0])


def _conflict_lines(told: StudyStory) -> list[tuple[int, str]]:
    lines = []
    for c in told.conflicts:
        differs = f", {c.detail} differs" if c.detail else ""
        counts = "first" if c.version > c.of_version else "last"
        by = f", by {c.decided_by}" if c.decided_by else "; nobody has decided yet"
        text = f"conflict {c.id} on {c.sop_uid} ({c.kind}{differs}): the {counts} counts{by}"
        lines.append((max(c.received_ms, c.of_received_ms), text))
    if told.other_patients:
        text = f"{told.other_patients} instances are of another patient and do not count"
        lines.append((told.study.last_received_ms, text))
    return lines


def _job_lines(told: JobStory) -> list[tuple[int, str]]:
    job = told.job
    lines = [(job.created_ms, f"job {job.id} queued for {job.model}")]
    for attempt in told.attempts:
        lines.append(
            (attempt.started_ms, f"job {job.id} attempt {attempt.number} on {attempt.worker}")
        )
        if attempt.ended_ms is not None:
            text = f"job {job.id} attempt {attempt.number}: {attempt.outcome} {attempt.error_text}"
            lines.append((attempt.ended_ms, text.rstrip()))
    for each in told.results:
        result = each.result
        parts = ", ".join(
            f"{s['label']} {size_text(s)}" for s in result.summary.get("segments", ())
        )
        parts += ", ".join(
            f"{f['label']} {'present' if f['present'] else 'absent'} ({f['probability']:.0%})"
            for f in result.summary.get("findings", ())
        )
        verdict = result.summary.get("verdict", "")
        lines.append((result.created_ms, f"{result.kind} {result.sop_uid}: {parts} ({verdict})"))
        reasons = result.summary.get("reasons", ())
        lines += [(result.created_ms, f"{verdict}: {reason}") for reason in reasons]
        for delivery in each.deliveries:
            lines += _delivery_lines(delivery)
    return lines


def _delivery_lines(told: DeliveryStory) -> list[tuple[int, str]]:
    row = told.delivery
    lines = [(row.created_ms, f"owed to {row.peer}")]
    if row.state is DeliveryState.HELD:
        lines.append((row.created_ms, f"held before {row.peer}: {row.sentence}"))
    lines += [
        (a.started_ms, f"{a.action} at {row.peer}: {a.status or 'no status'} {a.sentence}".rstrip())
        for a in told.attempts
    ]
    for c in told.commitments:
        if c.answered_ms is not None:
            lines.append((c.answered_ms, f"{row.peer} on storage commitment: {c.outcome}"))
    return lines
