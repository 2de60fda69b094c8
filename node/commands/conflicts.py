"""`limner conflicts`: instances that came again with other content, and which of the two counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from node.commands.act import who
from node.commands.context import (
    config_option,
    json_option,
    open_node,
    print_json,
    print_table,
    printable,
)
from node.commands.look import study_named
from node.errors import setup_error
from storage import audit
from storage.choosing import Choice, choose, choose_for_study
from storage.conflict_rows import ConflictRow, find_conflict, list_conflicts
from storage.database import reading, writing


@click.group(invoke_without_command=True)
@click.option("--study", "uid", help="Only those that touch this Study Instance UID.")
@click.option("--open", "only_open", is_flag=True, help="Only those that wait for a person.")
@config_option
@json_option
@click.pass_context
def conflicts(
    context: click.Context, uid: str | None, only_open: bool, config: Path, as_json: bool
) -> None:
    """List instances that came again with other content; say which of the two counts.

    \b
    Example:
      limner conflicts --study 1.2.840.99999.1
      limner conflicts keep 3 last
    """
    if context.invoked_subcommand is not None:
        return
    node = open_node(config)
    with reading(node.engine) as db:
        rows = list_conflicts(db, study_uid=uid, only_open=only_open)
    if as_json:
        print_json({"conflicts": rows})
        return
    print_table(
        ("no", "kind", "differs", "came", "from", "counts", "decided by", "instance", "study"),
        [
            (
                row.id,
                row.kind,
                row.detail or "-",
                node.time(max(row.received_ms, row.of_received_ms)),
                row.sender if row.version > row.of_version else row.of_sender,
                "first" if row.version > row.of_version else "last",
                row.decided_by or "nobody yet",
                row.sop_uid,
                _studies(row),
            )
            for row in rows
        ],
        empty="No conflicts.",
    )


@conflicts.command()
@click.argument("what")
@click.argument("choice", type=click.Choice([choice.value for choice in Choice]))
@config_option
def keep(what: str, choice: str, config: Path) -> None:
    """Say which bytes count: those that came first, or those that came last. Both are kept.

    WHAT is the number of a conflict, or a Study Instance UID: then all of its conflicts that wait
    for a person are decided so. Where instances of two patients came under one study, `last` says
    that the study is the patient's whose instance came last. A study that is held stays held:
    `limner release` lets it go on.

    \b
    Example:
      limner conflicts keep 3 last
      limner conflicts keep 1.2.840.99999.1 first
    """
    node = open_node(config)
    name = who()
    with writing(node.engine) as db:
        if what.isdecimal() and find_conflict(db, int(what)) is not None:
            chosen = choose(db, int(what), Choice(choice), who=name)
            target = f"conflict {what}"
        elif "." in what:
            study = study_named(db, what)
            chosen = choose_for_study(db, study.uid, Choice(choice), who=name)
            target = f"study {study.uid}"
        else:
            chosen = None
        if chosen is not None:
            audit.record(db, name, f"keep {choice}", target, chosen.words())
    if chosen is None:
        raise setup_error(
            "conflict-unknown",
            "There is no conflict with this number.",
            where=printable(what),
            remedy="`limner conflicts` lists them.",
        )
    click.echo(chosen.words())


def _studies(row: ConflictRow) -> str:
    others = Counter([row.of_study_uid, row.study_uid])
    return " or ".join(uid for uid in others if uid)
