"""`limner peers` and `limner routes`: whom the node talks to, and what goes where."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from node.commands.act import who
from node.commands.context import config_option, json_option, open_node, print_json, print_table
from node.errors import LimnerError, setup_error
from node.settings import Peer, Settings, load_settings
from storage import audit
from storage import peers as peer_rows
from storage.database import reading, writing


@click.group()
def peers() -> None:
    """List, try, pause and resume peers.

    \b
    Example:
      limner peers list
      limner peers echo pacs
    """


@peers.command(name="list")
@config_option
@json_option
def list_peers(config: Path, as_json: bool) -> None:
    """List the configured peers and what is known of them.

    \b
    Example:
      limner peers list --json
    """
    node = open_node(config)
    with reading(node.engine) as db:
        known = {row.peer: row for row in peer_rows.list_peer_states(db)}
    if as_json:
        print_json({"peers": node.settings.peers, "states": list(known.values())})
        return
    rows = []
    for peer in node.settings.peers:
        state = known.get(peer.name)
        rows.append(
            (
                peer.name,
                peer.ae_title,
                f"{peer.host}:{peer.port}" if peer.host else "-",
                ", ".join(sorted(peer.may)) or "-",
                ", ".join(peer.takes) or "-",
                node.time(state.last_heard_ms) if state else "-",
                node.time(state.last_sent_ms) if state else "-",
                "paused" if state and state.paused else (state.last_error if state else ""),
            )
        )
    headings = ("peer", "AE title", "address", "may", "takes", "last heard", "last sent", "note")
    print_table(headings, rows, empty="No peers: add [[peers]] to limner.toml.")


@peers.command(name="echo")
@click.argument("name")
@config_option
def try_echo(name: str, config: Path) -> None:
    """Ask the peer NAME for a C-ECHO, as this node's AE title. Exit code 3 if it does not answer.

    \b
    Example:
      limner peers echo pacs
    """
    from node.dicom.scu import Target, echo

    node = open_node(config)
    peer = _peer(node.settings, name)
    try:
        echo(Target.of(peer), calling_ae=node.settings.listener.ae_title)
    except LimnerError as error:
        with writing(node.engine) as db:
            peer_rows.failed(db, name, str(error.fault), None)
        raise
    with writing(node.engine) as db:
        peer_rows.echoed(db, name)
    click.echo(f"{name} ({peer.ae_title} at {peer.host}:{peer.port}) answered.")


@peers.command()
@click.argument("name")
@config_option
def pause(name: str, config: Path) -> None:
    """Send nothing to the peer NAME until it is resumed; what is owed waits.

    \b
    Example:
      limner peers pause pacs
    """
    node = open_node(config)
    _peer(node.settings, name)
    with writing(node.engine) as db:
        peer_rows.pause(db, name)
        audit.record(db, who(), "pause", f"peer {name}")
    click.echo(f"Paused: {name}.")


@peers.command()
@click.argument("name")
@config_option
def resume(name: str, config: Path) -> None:
    """Send to the peer NAME again.

    \b
    Example:
      limner peers resume pacs
    """
    node = open_node(config)
    _peer(node.settings, name)
    with writing(node.engine) as db:
        peer_rows.resume(db, name)
        audit.record(db, who(), "resume", f"peer {name}")
    click.echo(f"Resumed: {name}.")


@click.command()
@config_option
@json_option
def routes(config: Path, as_json: bool) -> None:
    """List the routes: conditions, model, peers.

    \b
    Example:
      limner routes
    """
    settings = load_settings(config)
    if as_json:
        print_json({"routes": settings.routes, "configuration": settings.digest})
        return
    rows = [
        (
            route.name,
            ", ".join(route.peers_from) or "any",
            "; ".join(f"{c.keyword} {c.operator} {c.value}" for c in route.when) or "everything",
            route.model,
            ", ".join(route.send_to) or "nobody",
        )
        for route in settings.routes
    ]
    headings = ("route", "from", "when", "model", "sends to")
    print_table(headings, rows, empty="No routes: add [[routes]] to limner.toml.")
    sys.exit(0)


def _peer(settings: Settings, name: str) -> Peer:
    peer = settings.peer(name)
    if peer is None:
        raise setup_error(
            "peer-unknown",
            f"There is no peer '{name}'.",
            where=f"peers: {', '.join(p.name for p in settings.peers) or 'none'}",
            remedy="Name one of these, or add it to limner.toml.",
        )
    return peer
