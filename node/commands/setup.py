"""`limner init`, `check`, `migrate`: from nothing to a node that could run."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from node.commands.context import config_option, json_option, print_json, printable
from node.dicom.certificates import Findings, examine, files_of
from node.dicom.scu import Target, echo
from node.dicom.values import ROUTING
from node.errors import LimnerError, setup_error
from node.models.card import Card, find_cards
from node.settings import Settings, bundled_config, load_settings
from storage.database import check_schema, open_engine
from storage.database import migrate as migrate_database
from storage.errors import StorageError
from storage.objects import ObjectStore

_DAY: Final = "%Y-%m-%d"
_SECONDS: Final = "%Y-%m-%dT%H:%M:%SZ"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def init(folder: Path) -> None:
    """Make FOLDER with a documented limner.toml, a place for models and an empty database.

    \b
    Example:
      limner init node1
      limner check --config node1/limner.toml
    """
    target = folder / "limner.toml"
    if target.exists():
        raise setup_error(
            "already-there",
            "There is a limner.toml already; nothing was changed.",
            where=str(target),
            remedy="Edit it, or choose another folder.",
        )
    (folder / "models").mkdir(parents=True, exist_ok=True)
    example = (bundled_config() / "limner.toml").read_text(encoding="utf-8")
    target.write_text(example, encoding="utf-8")
    settings = load_settings(target)
    ObjectStore(settings.storage.objects)
    migrate_database(settings.storage.database_url)
    click.echo(f"Made {target} and {settings.node.data}.")
    click.echo("Next: add [[peers]] and [[routes]] there (examples stand at its end), then")
    click.echo(f"  limner users add NAME --role admin --config {target}")
    click.echo(f"  limner check --config {target}")
    click.echo(f"  limner run --config {target}")


@click.command()
@config_option
@json_option
@click.option("--peers", "ask_peers", is_flag=True, help="Also ask every peer for a C-ECHO.")
def check(config: Path, as_json: bool, ask_peers: bool) -> None:
    """Read the configuration, models and database, and tell every fault. Exit code 1 if any.

    Certificates are shown with their last day; from 30 days before it there is a warning, which
    leaves the exit code 0.

    \b
    Example:
      limner check --config node1/limner.toml --peers
    """
    settings = load_settings(config)
    faults: list[str] = []
    cards = _cards(settings, faults)
    faults += [
        f"route '{route.name}': there is no model '{route.model}'; models: "
        f"{', '.join(sorted(cards)) or 'none'}"
        for route in settings.routes
        if route.model not in cards
    ]
    faults += _weights_faults(cards)
    faults += _unseen_keywords(settings, cards)
    try:
        check_schema(open_engine(settings.storage.database_url))
    except StorageError as error:
        faults.append(str(error))
    tls = _tls_findings(settings)
    faults += tls.faults
    if ask_peers:
        faults += _peer_faults(settings)
    if as_json:
        print_json(
            {
                "good": not faults,
                "faults": faults,
                "warnings": tls.warnings,
                "models": sorted(cards),
                "certificates": [
                    {"file": file, "name": one.name, "not_after": f"{one.not_after:{_SECONDS}}"}
                    for file, one in tls.certificates
                ],
            }
        )
    else:
        for file, one in tls.certificates:
            click.echo(f"certificate '{printable(one.name)}' until {one.not_after:{_DAY}} ({file})")
        for warning in tls.warnings:
            click.echo(f"warning: {printable(warning)}")
        for fault in faults:
            click.echo(f"fault: {fault}")
        words = f"{len(settings.peers)} peers, {len(settings.routes)} routes, {len(cards)} models"
        click.echo(
            f"{config}: {words}: " + ("all good." if not faults else f"{len(faults)} faults.")
        )
    sys.exit(1 if faults else 0)


@click.command()
@config_option
def migrate(config: Path) -> None:
    """Bring the database to this version's tables. Make a backup before an upgrade.

    \b
    Example:
      limner migrate --config node1/limner.toml
    """
    settings = load_settings(config)
    migrate_database(settings.storage.database_url)
    check_schema(open_engine(settings.storage.database_url))
    click.echo("The database has this version's tables.")


def _cards(settings: Settings, faults: list[str]) -> dict[str, Card]:
    try:
        return find_cards(settings.worker.models)
    except LimnerError as error:
        faults.append(str(error.fault))
        return {}


def _weights_faults(cards: dict[str, Card]) -> list[str]:
    from node.models.check import check_model

    return [str(fault) for card in cards.values() for fault in check_model(card.folder)]


def _unseen_keywords(settings: Settings, cards: dict[str, Card]) -> list[str]:
    """Name conditions on attributes that the listener does not keep for routing."""
    seen = {*(keyword for keyword, _vr in ROUTING.values()), "NumberOfSeriesRelatedInstances"}
    asked = [(f"route '{r.name}'", c.keyword) for r in settings.routes for c in r.when]
    asked += [(f"model '{m.name}'", c.keyword) for m in cards.values() for c in m.accepts]
    return [
        f"{who} asks for {keyword}, which the listener does not keep for routing"
        for who, keyword in asked
        if keyword not in seen
    ]


def _tls_findings(settings: Settings) -> Findings:
    files = files_of(settings.listener)
    if files is not None:
        return examine(files, now=datetime.now(UTC))
    faults = [
        f"peer '{peer.name}' must call over TLS, and [listener] tls_port is 0"
        for peer in settings.peers
        if peer.tls and peer.may
    ]
    return Findings(faults=faults)


def _peer_faults(settings: Settings) -> list[str]:
    faults = []
    for peer in settings.peers:
        if not (peer.host and peer.port):
            continue
        try:
            echo(Target.of(peer), calling_ae=settings.listener.ae_title)
        except LimnerError as error:
            faults.append(str(error.fault))
    return faults
