"""Tables of what was measured: medians over rounds, ratios round by round, goals met or missed.

A table is Markdown whose columns line up, so that it reads the same on a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.dicom_objects import Kind
from bench.receive_load import Measured
from bench.receivers import Sync

OURS: Final = "us"


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement and where it belongs.

    Attributes:
        sync: What an answer was worth.
        server: Name of the receiver, with `+tls` behind it where TLS was used.
    """

    sync: Sync
    kind: Kind
    associations: int
    round: int
    server: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class Goal:
    """At least so many times the instances per second of another receiver."""

    sync: Sync
    kinds: tuple[Kind, ...]
    associations: tuple[int, ...]
    ours: str
    other: str
    at_least: float


_BOTH: Final = (Kind.CT, Kind.MR)
_ANY: Final = (1, 4, 8)

GOALS: Final = (
    Goal(Sync.NONE, _BOTH, (1,), OURS, "storescp-best", 1.0),
    Goal(Sync.NONE, _BOTH, (4,), OURS, "storescp-best", 0.9),
    Goal(Sync.NONE, _BOTH, (1, 4), OURS, "orthanc-tuned", 4.0),
    Goal(Sync.NONE, _BOTH, (1,), OURS, "pynetdicom-tuned", 8.0),
    Goal(Sync.NONE, _BOTH, (4,), OURS, "pynetdicom-tuned", 6.0),
    Goal(Sync.NONE, _BOTH, _ANY, f"{OURS}+tls", OURS, 0.5),
    Goal(Sync.DURABLE, _BOTH, _ANY, OURS, "sink", 0.9),
    Goal(Sync.DURABLE, _BOTH, _ANY, OURS, "sink-files", 0.9),
)
CPU_PER_CT_MS: Final = 0.5
"""Goal: server CPU per CT, rows included, on tmpfs."""


_WHERE: Final = {
    Sync.NONE: "not synced, on tmpfs",
    Sync.DURABLE: "on a disk; limner, sinks and Orthanc sync before they answer",
}


def report(cells: Sequence[Cell]) -> str:
    """Return every table, and the goals that the cells speak of."""
    parts = []
    for sync, kind in dict.fromkeys((cell.sync, cell.kind) for cell in cells):
        chosen = [cell for cell in cells if (cell.sync, cell.kind) == (sync, kind)]
        where = _WHERE[sync]
        rounds = len({cell.round for cell in chosen})
        parts.append(f"### {kind.upper()}, {where}, medians of {rounds} interleaved rounds\n")
        parts.append(_comparison(chosen) + "\n")
    goals = _goal_rows(cells)
    if goals:
        parts.append("### Goals\n")
        parts.append(table(["case", "figure", "median", "goal", ""], goals) + "\n")
    return "\n".join(parts)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in (headings, *rows)
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def ratio(cells: Sequence[Cell], ours: str, other: str) -> float | None:
    """Return the median over rounds of our instances/s divided by theirs in the same round."""
    found = {(cell.server, cell.round): cell.measured for cell in cells}
    ratios = [
        mine.per_second / theirs.per_second
        for (server, number), mine in found.items()
        if server == ours
        and (theirs := found.get((other, number))) is not None
        and theirs.per_second
        and not mine.failure
        and not theirs.failure
    ]
    return median(ratios) if ratios else None


def _comparison(cells: Sequence[Cell]) -> str:
    rows = []
    for associations in sorted({cell.associations for cell in cells}):
        chosen = [cell for cell in cells if cell.associations == associations]
        for server in dict.fromkeys(cell.server for cell in sorted(chosen, key=_order)):
            mine = [cell.measured for cell in chosen if cell.server == server]
            rows.append(_row(associations, server, mine, ratio(chosen, OURS, server)))
    return table(
        ["associations", "server", "per s", "us / it", "latency ms: median", "p95", "max",
         "CPU ms each", "RSS MB: largest", "sum", "processes", "associate ms", "client CPU ms",
         "notes"],
        rows,
    )  # fmt: skip


def _order(cell: Cell) -> int:
    return 0 if cell.server.startswith(OURS) else 1


def _row(
    associations: int, server: str, all_measured: Sequence[Measured], times: float | None
) -> list[str]:
    failures = [one.failure for one in all_measured if one.failure]
    good = [one for one in all_measured if not one.failure]
    if not good:
        return [str(associations), server, *["-"] * 11, f"failed: {failures[0]}"]

    def middle(value: Callable[[Measured], float]) -> float:
        return median(value(one) for one in good)

    return [
        str(associations),
        server,
        f"{middle(lambda one: one.per_second):.{0 if middle(_per_second) >= 20 else 1}f}",
        "-" if times is None or server == OURS else f"{times:.2f}",
        f"{middle(lambda one: one.latency_ms):.2f}",
        f"{middle(lambda one: one.latency_p95_ms):.2f}",
        f"{max(one.latency_max_ms for one in good):.1f}",
        f"{middle(lambda one: one.cpu_ms):.2f}",
        f"{middle(lambda one: one.rss_mb):.0f}",
        f"{middle(lambda one: one.rss_sum_mb):.0f}",
        f"{middle(lambda one: one.processes):.0f}",
        f"{middle(lambda one: one.associate_ms):.1f}",
        f"{middle(lambda one: one.client_cpu_ms):.2f}",
        _notes(good, failures),
    ]


def _per_second(one: Measured) -> float:
    return one.per_second


def _notes(good: Sequence[Measured], failures: Sequence[str]) -> str:
    notes = []
    indexed = [one.indexed_after_ms for one in good if one.indexed_after_ms is not None]
    if indexed:
        notes.append(f"rows {median(indexed):.0f} ms after the last answer")
    digested = [one.digested_after_ms for one in good if one.digested_after_ms is not None]
    cpu = [one.digested_cpu_ms for one in good if one.digested_cpu_ms is not None]
    if digested and cpu:
        notes.append(f"digests {median(digested):.0f} ms after it, CPU {median(cpu):.2f} ms each")
    if failures:
        notes.append(f"{len(failures)} rounds failed: {failures[0]}")
    return "; ".join(notes)


def _goal_rows(cells: Sequence[Cell]) -> list[list[str]]:
    rows = []
    for goal in GOALS:
        for kind in goal.kinds:
            for associations in goal.associations:
                chosen = [
                    cell
                    for cell in cells
                    if (cell.sync, cell.kind, cell.associations) == (goal.sync, kind, associations)
                ]
                found = ratio(chosen, goal.ours, goal.other)
                if found is not None:
                    rows.append(
                        [
                            _case(goal.sync, kind, associations),
                            f"{goal.ours} / {goal.other}",
                            f"{found:.2f}",
                            f">= {goal.at_least}",
                            "met" if found >= goal.at_least else "missed",
                        ]
                    )
    return rows + _cpu_rows(cells)


def _cpu_rows(cells: Sequence[Cell]) -> list[list[str]]:
    rows = []
    for associations in sorted({cell.associations for cell in cells}):
        used = [
            cell.measured.cpu_ms
            for cell in cells
            if (cell.sync, cell.kind, cell.associations, cell.server)
            == (Sync.NONE, Kind.CT, associations, OURS)
            and not cell.measured.failure
        ]
        if used:
            met = "met" if median(used) <= CPU_PER_CT_MS else "missed"
            case = _case(Sync.NONE, Kind.CT, associations)
            rows.append([case, "CPU ms per CT", f"{median(used):.2f}", f"<= {CPU_PER_CT_MS}", met])
    return rows


def _case(sync: Sync, kind: Kind, associations: int) -> str:
    plural = "s" if associations > 1 else ""
    return f"{kind.upper()}, {associations} association{plural}, sync {sync}"
