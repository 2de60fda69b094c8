"""Commands about what was received: instances, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from node.commands.context import (
    OpenNode,
    config_option,
    json_option,
    limit_option,
    open_node,
    print_json,
    print_table,
)
from node.commands.look import study_named
from node.commands.progress import counted
from node.errors import setup_error
from storage.database import reading, writing
from storage.digests import UndigestedRow, set_digests
from storage.instances import InstanceRow, list_instances
from storage.objects import Place
from storage.story import story

_PART_BYTES: Final = 1 << 20
_DIGESTS_AT_ONCE: Final = 100


@click.command()
@click.option("--study", "uid", help="Only of this Study Instance UID.")
@click.option("--series", help="Only of this Series Instance UID.")
@click.option(
    "--digest",
    is_flag=True,
    help="Show the SHA-256 of each dataset as received; those that are missing are computed now.",
)
@limit_option
@config_option
@json_option
def instances(
    uid: str | None, series: str | None, digest: bool, limit: int, config: Path, as_json: bool
) -> None:
    """List the instances that the node holds, and where their bytes lie.

    A place is an object's name under the objects folder, and the offset and length of the PS3.10
    file in it.

    \b
    Example:
      limner instances --study 1.2.840.99999.1 --digest
    """
    node = open_node(config)
    with reading(node.engine) as db:
        rows = list_instances(db, study_uid=uid, series_uid=series, limit=limit)
    if digest:
        rows = _digested(node, rows)
    if as_json:
        print_json({"instances": rows})
        return
    print_table(
        ("SOP Instance UID", "place", "bytes", "sender", "received", *["sha256"] * digest),
        [
            (
                row.sop_uid,
                f"{row.object_name} +{row.offset}",
                row.length,
                row.sender or "-",
                node.time(row.received_ms),
                *[row.digest] * digest,
            )
            for row in rows
        ],
        empty="No instances.",
    )


@click.command()
@click.argument("uid")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--results/--no-results", default=True, show_default=True, help="Also our results.")
@config_option
@json_option
def export(uid: str, out: Path, results: bool, config: Path, as_json: bool) -> None:
    """Write what the node holds of a study as DICOM (PS3.10) files into an empty folder.

    \b
    Example:
      limner export 1.2.840.99999.1 --out study/
    """
    node = open_node(config)
    with reading(node.engine) as db:
        found = study_named(db, uid)
        rows = list_instances(db, study_uid=uid)
        told = story(db, found.id)
    made = [r.result for j in told.jobs for r in j.results] if told and results else []
    if out.exists() and any(out.iterdir()):
        raise setup_error(
            "folder-not-empty",
            "The folder is not empty; nothing was written.",
            where=str(out),
            remedy="Name a folder that does not exist yet.",
        )
    out.mkdir(parents=True, exist_ok=True)
    files = [(out / f"{number:06}.dcm", row.place) for number, row in enumerate(rows, start=1)]
    for number, result in enumerate(made, start=1):
        name = f"result-{number:03}-{result.kind.lower()}.dcm"
        files.append((out / name, result.place))
    for path, place in counted("export", files):
        _copy(node, place, path)
    if as_json:
        print_json({"files": [str(path) for path, _ in files]})
    else:
        click.echo(f"{len(rows)} instances and {len(made)} results written to {out}.")


def _digested(node: OpenNode, rows: Sequence[InstanceRow]) -> list[InstanceRow]:
    """Return rows with the digests that were missing, which are computed and recorded."""
    from node.dicom.indexing import dataset_digest

    missing = [row for row in rows if not row.digest]
    found: dict[int, str] = {}
    batch: dict[UndigestedRow, str] = {}
    for number, row in enumerate(counted("digests", missing), start=1):
        found[row.id] = dataset_digest(node.store, row.place)
        batch[_undigested(row)] = found[row.id]
        if number == len(missing) or len(batch) == _DIGESTS_AT_ONCE:
            with writing(node.engine) as db:
                set_digests(db, batch)
            batch.clear()
    return [replace(row, digest=found.get(row.id, row.digest)) for row in rows]


def _undigested(row: InstanceRow) -> UndigestedRow:
    return UndigestedRow(
        id=row.id,
        study_id=row.study_id,
        sop_uid=row.sop_uid,
        transfer_syntax=row.transfer_syntax,
        version=row.version,
        object_name=row.object_name,
        offset=row.offset,
        length=row.length,
    )


def _copy(node: OpenNode, place: Place, path: Path) -> None:
    with path.open("xb") as file:
        for part in node.store.read_parts(place, _PART_BYTES):
            file.write(part)
