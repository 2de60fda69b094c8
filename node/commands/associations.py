"""`limner associations`: who called the listener, what they brought, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from pydicom.uid import UID

from node.commands.context import (
    OpenNode,
    config_option,
    json_option,
    limit_option,
    open_node,
    print_json,
    print_table,
    printable,
)
from node.commands.look import study_named
from node.errors import setup_error
from storage.associations import (
    AssociationOutcome,
    AssociationRow,
    find_association,
    list_associations,
)
from storage.callers import list_callers
from storage.database import now_ms, reading

_DAY_MS: Final = 24 * 3_600_000

CONTEXT_RESULTS: Final = {
    0: "accepted",
    1: "rejected by us",
    2: "no reason",
    3: "the class is not taken",
    4: "no transfer syntax is taken",
}
"""Results of a presentation context (PS3.8 table 9-18)."""


@click.command()
@click.argument("number", type=int, required=False)
@click.option("--peer", help="Only of the peer with this name or AE title.")
@click.option("--study", "uid", help="Only those that brought this Study Instance UID.")
@click.option("--open", "only_open", is_flag=True, help="Only those that have not ended.")
@limit_option
@config_option
@json_option
def associations(
    number: int | None,
    peer: str | None,
    uid: str | None,
    only_open: bool,
    limit: int,
    config: Path,
    as_json: bool,
) -> None:
    """List who called the listener and what came of it; tell all about one by its NUMBER.

    Callers that were not let in are listed by `limner peers refused`.

    \b
    Example:
      limner associations --peer ct1 --limit 20
      limner associations --study 1.2.840.99999.1
      limner associations 12
    """
    node = open_node(config)
    with reading(node.engine) as db:
        at_ms = now_ms(db)
        if number is not None:
            rows = [row for row in (find_association(db, number),) if row is not None]
        else:
            study_id = study_named(db, uid).id if uid is not None else None
            rows = list_associations(
                db, peer=peer, study_id=study_id, only_open=only_open, limit=limit
            )
        refused = [one for one in list_callers(db) if one.last_ms > at_ms - _DAY_MS]
    if number is not None and not rows:
        raise setup_error(
            "association-unknown",
            "There is no association with this number.",
            where=str(number),
            remedy="`limner associations` lists them.",
        )
    if as_json:
        print_json({"associations": rows})
        return
    if number is not None:
        _tell_association(node, rows[0], at_ms)
        return
    headings = ("no", "at", "peer", "calling", "from", "TLS", "contexts", "instances", "refused")
    print_table(
        (*headings, "MB", "s", "outcome", "reason"),
        [
            (
                row.id,
                node.time(row.started_ms),
                row.peer or "-",
                row.calling_ae,
                row.address,
                "yes" if row.secure else "no",
                _contexts(row),
                row.instances,
                row.refused,
                f"{row.bytes / 1e6:.1f}",
                f"{_seconds(row, at_ms):.1f}",
                row.outcome,
                row.reason,
            )
            for row in rows
        ],
        empty="No association fits." if peer or uid or only_open else "Nobody has called yet.",
    )
    if refused:
        names = ", ".join(f"{one.calling_ae} ({one.address})" for one in refused[:3])
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        click.echo(
            f"Callers rejected in the last day: {printable(names)}{more}. "
            "`limner peers refused` says why."
        )


def _seconds(row: AssociationRow, at_ms: int) -> float:
    return ((at_ms if row.ended_ms is None else row.ended_ms) - row.started_ms) / 1000


def _contexts(row: AssociationRow) -> str:
    if not row.contexts:
        return "-"
    accepted = sum(one.get("result") == 0 for one in row.contexts)
    return f"{accepted} of {len(row.contexts)}"


def _tell_association(node: OpenNode, row: AssociationRow, at_ms: int) -> None:
    """Print all that is known of one association."""
    how = "TLS" if row.secure else "plain"
    lines = [
        f"Association {row.id}: {row.calling_ae} at {row.address} called {row.called_ae} ({how})",
        f"peer:      {row.peer or 'none that is configured'}",
        f"software:  {row.software or 'it did not say'}",
        f"served by: {row.node or 'a node that did not say its name'}",
        f"began:     {node.time(row.started_ms)}",
        f"ended:     {node.time(row.ended_ms)} ({row.outcome}, {_seconds(row, at_ms):.1f} s)",
        f"received:  {row.instances} instances, {row.bytes / 1e6:.1f} MB; refused: {row.refused}",
    ]
    if row.outcome is AssociationOutcome.OPEN:
        lines[-1] += " (so far)"
    if row.reason:
        lines.append(f"why:       {row.reason}")
    for line in lines:
        click.echo(printable(line))
    print_table(
        ("context", "asked for", "answer", "transfer syntax"),
        [context_words(one) for one in row.contexts],
        empty="It did not ask for anything.",
    )


def context_words(context: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a presentation context as words: number, class, answer, transfer syntax."""
    result = context.get("result")
    answer = CONTEXT_RESULTS.get(result if isinstance(result, int) else -1, str(result))
    syntax = UID(str(context.get("syntax") or "")).name if result == 0 else "-"
    return str(context.get("id", "-")), UID(str(context.get("class", ""))).name, answer, syntax
