"""The Now page: one verdict, five numbers, the processes, the peers, the disk, what happened last.

It is meant to hang on a wall: no patient appears on it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from node.settings import Peer, Settings
from node.web import verdict
from node.web.context import Web, render, web_of
from node.web.people import require
from node.web.verdict import SILENT_MS, SLOW_SEND_MS, SLOW_WAIT_MS, Level, Tag, Verdict
from node.web.words import Zone, count
from storage.associations import list_associations
from storage.callers import list_callers
from storage.database import reading
from storage.deliveries import list_deliveries
from storage.overview import Count, Event, Number, Overview, overview
from storage.peers import PeerStateRow
from storage.tables import DeliveryState
from storage.workers import WorkerRow

_MOST_OWED: Final = 1000
"""Owed deliveries that are told apart by peer; beyond it the peers' numbers are too small."""

_MOVING: Final = (
    Number.ARRIVING,
    Number.UNDECIDED,
    Number.WAITING,
    Number.RUNNING,
    Number.TO_SEND,
    Number.TO_CONFIRM,
)

_DAY_MS: Final = 24 * 3_600_000

_SHOW_ENDED_MS: Final = 15 * 60_000
"""How long a process that died stays on the page."""


@dataclass(frozen=True, slots=True)
class NumberBox:
    """One of the five numbers; the colour comes from the age of the oldest."""

    key: str
    label: str
    count: int
    age_ms: int | None
    level: Level
    link: str


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """One process and its heartbeat."""

    name: str
    kind: str
    device: str
    tag: Tag
    doing: str
    heartbeat_ms: int


@dataclass(frozen=True, slots=True)
class PeerLine:
    """One configured peer and how talking to it went."""

    name: str
    ae_title: str
    is_target: bool
    tag: Tag
    heard_ms: int | None
    sent_ms: int | None
    to_send: int
    trouble: str


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk under the stored objects, in bytes."""

    free: int
    total: int
    reserve: int
    used_percent: int
    tag: Tag


@dataclass(frozen=True, slots=True)
class EventLine:
    """Something that happened, in plain words."""

    at_ms: int
    text: str
    study_uid: str


@dataclass(frozen=True, slots=True)
class NowView:
    """Everything on the page, as of `at_ms`.

    Attributes:
        receiving: Associations that are open.
        refused: Callers that were refused within the last day.
    """

    at_ms: int
    verdict: Verdict
    numbers: tuple[NumberBox, ...]
    processes: tuple[ProcessLine, ...]
    peers: tuple[PeerLine, ...]
    disk: Disk
    events: tuple[EventLine, ...]
    receiving: int
    refused: int


def now_page(request: Request) -> Response:
    """Show the page."""
    person = require(request)
    web = web_of(request)
    values = {"title": "Now", "view": look(web)}
    return render(request, "now.html", values, person=person, here="now")


def look(web: Web) -> NowView:
    """Read what the page shows, in one transaction."""
    with reading(web.engine) as db:
        found = overview(db)
        owed = list_deliveries(db, state=DeliveryState.OWED, limit=_MOST_OWED)
        receiving = len(list_associations(db, only_open=True))
        callers = [row.last_ms for row in list_callers(db)]
    usage = shutil.disk_usage(web.store.folder)
    disk = _disk(usage.free, usage.total, web.settings.storage.reserve_mb * 1024 * 1024)
    return arrange(
        web.settings,
        found,
        owed=Counter(each.peer for each in owed),
        disk=disk,
        zone=web.zone,
        receiving=receiving,
        refused=sum(last_ms > found.at_ms - _DAY_MS for last_ms in callers),
    )


def arrange(
    settings: Settings,
    found: Overview,
    *,
    owed: Counter[str],
    disk: Disk,
    zone: Zone,
    receiving: int,
    refused: int,
) -> NowView:
    """Make the page from what was read; pure.

    Args:
        settings: Names the peers.
        found: The overview.
        owed: Deliveries that no peer has answered yet, by peer.
        disk: The disk.
        zone: The time zone of times in sentences.
        receiving: Associations that are open.
        refused: Callers that were refused within the last day.
    """
    now_ms = found.at_ms
    states = {state.peer: state for state in found.peers}
    peers = tuple(
        _peer(peer, states.get(peer.name), owed[peer.name], now_ms, zone) for peer in settings.peers
    )
    numbers = found.numbers
    facts = verdict.Facts(
        needing=numbers[Number.NEEDS_PERSON].number,
        waiting=numbers[Number.WAITING].number,
        waiting_since_ms=numbers[Number.WAITING].oldest_ms,
        to_send=numbers[Number.TO_SEND].number,
        to_send_since_ms=numbers[Number.TO_SEND].oldest_ms,
        moving=sum(numbers[each].number for each in _MOVING),
        processes=[
            verdict.Process(
                worker.name, worker.kind, worker.heartbeat_ms, alive=_alive(worker, now_ms)
            )
            for worker in found.workers
        ],
        targets=[
            verdict.Target(
                name=state.peer,
                to_send=owed[state.peer],
                failures=state.failures,
                sent_ms=state.last_sent_ms,
                next_try_ms=state.next_try_ms,
                last_error=state.last_error,
                paused=state.paused,
            )
            for state in found.peers
        ],
        free_bytes=disk.free,
        reserve_bytes=disk.reserve,
    )
    return NowView(
        at_ms=now_ms,
        verdict=verdict.judge(facts, now_ms=now_ms, zone=zone),
        numbers=tuple(_numbers(found)),
        processes=tuple(_process(worker, now_ms) for worker in _shown(found.workers, now_ms)),
        peers=peers,
        disk=disk,
        events=tuple(EventLine(each.at_ms, say(each), each.study_uid) for each in found.events),
        receiving=receiving,
        refused=refused,
    )


def say(event: Event) -> str:
    """Return an event as a sentence."""
    words = (event.words or "").rstrip(".")
    match event.kind:
        case "settled":
            return f"Study settled: {words}."
        case "job done":
            return f"Job done: {words}."
        case "job failed":
            return f"Job failed: {words}."
        case "job cancelled":
            return f"Job cancelled: {words}."
        case "held":
            return f"Study held: {words}."
        case "committed":
            return f"{words} committed itself to keep a result."
        case "stored":
            return f"{words} has a result."
        case "sent":
            return f"{words} answered success; its proof is awaited."
        case _:
            return f"A result for {words} is {event.kind}."


def _numbers(found: Overview) -> Iterable[NumberBox]:
    numbers, now_ms = found.numbers, found.at_ms
    stuck = [numbers[each] for each in (Number.FAILED, Number.HELD, Number.NOT_DELIVERED)]
    since = [each.oldest_ms for each in stuck if each.oldest_ms is not None]
    failed = Count(sum(each.number for each in stuck), min(since, default=None))
    for key, label, number, slow_ms, link in (
        ("arriving", "Arriving", numbers[Number.ARRIVING], None, "/studies?state=arriving"),
        ("waiting", "Waiting", numbers[Number.WAITING], SLOW_WAIT_MS, "/studies?state=settled"),
        ("running", "Running", numbers[Number.RUNNING], SLOW_WAIT_MS, "/studies?state=settled"),
        ("to-send", "To send", numbers[Number.TO_SEND], SLOW_SEND_MS, "/studies?state=settled"),
        ("failed", "Failed or held", failed, 0, "/studies?needs=1"),
    ):
        age_ms = max(now_ms - number.oldest_ms, 0) if number.oldest_ms is not None else None
        slow = age_ms is not None and slow_ms is not None and age_ms >= slow_ms
        level = Level.ATTENTION if slow else Level.BUSY if number.number else Level.QUIET
        yield NumberBox(key, label, number.number, age_ms, level, link)


def _alive(worker: WorkerRow, now_ms: int) -> bool:
    return worker.ended_ms is None and now_ms - worker.heartbeat_ms < SILENT_MS


def _shown(workers: Sequence[WorkerRow], now_ms: int) -> list[WorkerRow]:
    """Return the processes worth a line: those alive, those that died, not what was replaced."""
    living = {worker.kind for worker in workers if _alive(worker, now_ms)}
    last = {worker.kind: worker for worker in sorted(workers, key=lambda each: each.heartbeat_ms)}
    order = {kind: place for place, kind in enumerate(verdict.KINDS)}

    def is_worth_it(worker: WorkerRow) -> bool:
        if _alive(worker, now_ms):
            return True
        if worker.kind not in living:
            return worker is last[worker.kind]
        gone_ms = now_ms - (worker.ended_ms or worker.heartbeat_ms)
        return worker.ending != "ended" and gone_ms < _SHOW_ENDED_MS

    shown = [worker for worker in workers if is_worth_it(worker)]
    return sorted(shown, key=lambda worker: (order.get(worker.kind, len(order)), worker.name))


def _process(worker: WorkerRow, now_ms: int) -> ProcessLine:
    if _alive(worker, now_ms):
        tag = Tag(Level.WELL, "alive")
    elif worker.ended_ms is None:
        tag = Tag(Level.STOPPED, "silent")
    elif worker.ending == "ended":
        tag = Tag(Level.QUIET, "ended")
    else:
        tag = Tag(Level.ATTENTION, "died")
    doing = worker.doing if worker.ended_ms is None else worker.ending
    return ProcessLine(
        name=worker.name,
        kind=worker.kind,
        device=worker.device,
        tag=tag,
        doing=doing,
        heartbeat_ms=worker.heartbeat_ms,
    )


def _peer(peer: Peer, state: PeerStateRow | None, owed: int, now_ms: int, zone: Zone) -> PeerLine:
    trouble = ""
    if state is None:
        tag = Tag(Level.QUIET, "not heard yet")
    elif state.paused:
        tag = Tag(Level.ATTENTION, "paused")
    elif state.failures:
        away = state.failures >= verdict.STUBBORN_FAILURES
        tag = Tag(Level.STOPPED if away else Level.ATTENTION, "away" if away else "failing")
        again = f" Next try {zone.short(state.next_try_ms, now_ms)}." if state.next_try_ms else ""
        error = state.last_error.rstrip(".") or "no reason told"
        trouble = f"{count(state.failures, 'failure')} in a row: {error}.{again}"
    else:
        tag = Tag(Level.WELL, "well")
    return PeerLine(
        name=peer.name,
        ae_title=peer.ae_title,
        is_target=bool(peer.takes),
        tag=tag,
        heard_ms=state.last_heard_ms if state else None,
        sent_ms=state.last_sent_ms if state else None,
        to_send=owed,
        trouble=trouble,
    )


def _disk(free: int, total: int, reserve: int) -> Disk:
    if free < reserve:
        tag = Tag(Level.STOPPED, "full")
    elif free < 2 * reserve:
        tag = Tag(Level.ATTENTION, "nearly full")
    else:
        tag = Tag(Level.WELL, "enough")
    return Disk(free, total, reserve, round(100 * (total - free) / total) if total else 0, tag)
