"""The one line that a night shift reads: all well, attention, or stopped, and what to do next.

Pure: facts in, words out. `stopped` means that a part of the line does not move at all and that
studies pile up or are refused; `attention` that the line moves but something needs a person, or
takes longer than it should. Times are told as times of day, not as ages: the line changes only
when something happens, so a screen reader is not made to repeat it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from node.web.words import Zone, count

SILENT_MS: Final = 30_000
"""A process beats every few seconds; one that is silent for so long hangs or is dead."""

SLOW_WAIT_MS: Final = 30 * 60_000
"""A job that waits this long for a worker is worth a look even when everything is alive."""

SLOW_SEND_MS: Final = 60 * 60_000
"""A result that is owed for so long has missed the reading of most studies."""

STUBBORN_FAILURES: Final = 3
"""From so many failures in a row a peer counts as away; fewer pass by themselves."""


class Level(StrEnum):
    """How much something matters; the colour of a mark, never without its word."""

    WELL = "well"  # as it should be
    BUSY = "busy"  # under way
    QUIET = "quiet"  # over, or nothing to say
    ATTENTION = "attention"  # a person should look
    STOPPED = "stopped"  # does not move without a person


@dataclass(frozen=True, slots=True)
class Tag:
    """A word with its level."""

    level: Level
    word: str


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is not well.

    Attributes:
        level: ATTENTION or STOPPED.
        short: For the headline, such as `2 studies need you`.
        sentence: What is so, since when, and what happens next.
        link: Where to act.
        label: The link's text.
    """

    level: Level
    short: str
    sentence: str
    link: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The line and what stands under it, the worst first."""

    level: Level
    headline: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Process:
    """One process as its heartbeat tells."""

    name: str
    kind: str
    heartbeat_ms: int
    alive: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A peer that results are sent to, as our talking to it went."""

    name: str
    to_send: int
    failures: int
    sent_ms: int | None
    next_try_ms: int | None
    last_error: str
    paused: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What the verdict is made from.

    Attributes:
        needing: Studies that need a person.
        waiting: Jobs that wait for a worker, and since when the oldest does.
        to_send: Deliveries owed, and since when the oldest is.
        moving: Studies, jobs and deliveries under way.
        processes: Every process that ever told of itself.
        targets: Every peer that we talked to.
    """

    needing: int
    waiting: int
    waiting_since_ms: int | None
    to_send: int
    to_send_since_ms: int | None
    moving: int
    processes: Sequence[Process]
    targets: Sequence[Target]
    free_bytes: int
    reserve_bytes: int


KINDS: Final = {
    "listen": ("The listener", "scanners cannot send"),
    "schedule": ("The scheduler", "no study is decided"),
    "work": ("The segment worker", "no study is segmented"),
    "deliver": ("The network worker", "no result is sent"),
}


def judge(facts: Facts, *, now_ms: int, zone: Zone) -> Verdict:
    """Return the verdict on the whole node."""
    items = sorted(
        (
            *_processes(facts, now_ms, zone),
            *_disk(facts),
            *_targets(facts, now_ms, zone),
            *_people(facts),
            *_slow(facts, now_ms, zone),
        ),
        key=lambda item: item.level is not Level.STOPPED,
    )
    if not items:
        rest = "The line is moving." if facts.moving else "Nothing is waiting."
        return Verdict(Level.WELL, f"All well. {rest}", ())
    word = "Stopped" if items[0].level is Level.STOPPED else "Attention"
    return Verdict(items[0].level, f"{word}: {items[0].short}", tuple(items))


def _processes(facts: Facts, now_ms: int, zone: Zone) -> Iterable[Item]:
    for kind, (name, consequence) in KINDS.items():
        known = [process for process in facts.processes if process.kind == kind]
        if any(process.alive for process in known):
            continue
        if known:
            last = max(process.heartbeat_ms for process in known)
            since = f"gives no sign of life since {zone.brief(last, now_ms)}"
        else:
            since = "has never started"
        yield Item(
            Level.STOPPED,
            f"{name.lower()} {since}",
            f"{name} {since}: {consequence}. `limner run` restarts what dies; see its log.",
            "#processes",
            "Processes",
        )


def _disk(facts: Facts) -> Iterable[Item]:
    if facts.free_bytes < facts.reserve_bytes:
        yield Item(
            Level.STOPPED,
            "the disk is full",
            "The disk is below its reserve: the listener refuses instances and senders keep "
            "them. Free space or add a disk.",
            "#disk",
            "Disk",
        )
    elif facts.free_bytes < 2 * facts.reserve_bytes:
        yield Item(
            Level.ATTENTION,
            "the disk is nearly full",
            "The disk has less than twice its reserve left. Free space before instances are "
            "refused.",
            "#disk",
            "Disk",
        )


def _targets(facts: Facts, now_ms: int, zone: Zone) -> Iterable[Item]:
    for target in facts.targets:
        if not target.to_send:
            continue
        owed = f"{count(target.to_send, 'result')} {'waits' if target.to_send == 1 else 'wait'}"
        if target.paused:
            yield Item(
                Level.ATTENTION,
                f"{target.name} is paused",
                f"Sending to {target.name} is paused; {owed}.",
                "#peers",
                "Peers",
            )
        elif target.failures >= STUBBORN_FAILURES:
            since = f" since {zone.brief(target.sent_ms, now_ms)}" if target.sent_ms else ""
            again = (
                f" Next try {zone.brief(target.next_try_ms, now_ms)}." if target.next_try_ms else ""
            )
            yield Item(
                Level.STOPPED,
                f"{target.name} takes no results{since}",
                f"{target.name} takes no results{since}; {owed}. Last error: "
                f"{target.last_error.rstrip('.') or 'none told'}.{again}",
                "#peers",
                "Peers",
            )


def _people(facts: Facts) -> Iterable[Item]:
    if facts.needing:
        need = "needs" if facts.needing == 1 else "need"
        short = f"{count(facts.needing, 'study', 'studies')} {need} you"
        yield Item(
            Level.ATTENTION,
            short,
            f"{short}: {'its' if facts.needing == 1 else 'each'} page says why and what to do.",
            "/studies?needs=1",
            "Show it" if facts.needing == 1 else "Show them",
        )


def _slow(facts: Facts, now_ms: int, zone: Zone) -> Iterable[Item]:
    if facts.waiting_since_ms is not None and now_ms - facts.waiting_since_ms > SLOW_WAIT_MS:
        yield Item(
            Level.ATTENTION,
            "a study waits long for a worker",
            f"{count(facts.waiting, 'job')} in the queue, the oldest since "
            f"{zone.brief(facts.waiting_since_ms, now_ms)}.",
            "/studies?state=settled",
            "Settled studies",
        )
    told = any(_targets(facts, now_ms, zone))  # then it is known why results wait
    since_ms = facts.to_send_since_ms
    if since_ms is not None and now_ms - since_ms > SLOW_SEND_MS and not told:
        yield Item(
            Level.ATTENTION,
            "a result waits long to be sent",
            f"{count(facts.to_send, 'result')} to send, the oldest since "
            f"{zone.brief(since_ms, now_ms)}.",
            "#peers",
            "Peers",
        )
