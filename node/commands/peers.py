"""`limner peers` and `limner routes`: whom the node talks to, and what goes where."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from node.accepting import NewPeer, accept_caller, allowed_from, callers_named, wanted_words
from node.commands.act import who
from node.commands.context import (
    config_option,
    json_option,
    open_node,
    print_json,
    print_table,
    printable,
)
from node.errors import LimnerError, setup_error
from node.settings import Peer, Settings, load_settings
from storage import audit
from storage import peers as peer_rows
from storage.callers import list_callers
from storage.database import reading, writing


@click.group()
def peers() -> None:
    """List, try, pause and resume peers; accept callers that were refused.

    \b
    Example:
      limner peers list
      limner peers echo pacs
      limner peers refused
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


@peers.command()
@config_option
@json_option
def refused(config: Path, as_json: bool) -> None:
    """List who called and was not let in, the most recent first.

    \b
    Example:
      limner peers refused
    """
    node = open_node(config)
    with reading(node.engine) as db:
        rows = list_callers(db)
    if as_json:
        print_json({"callers": rows})
        return
    print_table(
        ("no", "calling", "called", "from", "times", "last", "asked for", "why"),
        [
            (
                row.id,
                row.calling_ae,
                row.called_ae,
                row.address,
                row.count,
                node.time(row.last_ms),
                wanted_words(row.wanted),
                row.reason,
            )
            for row in rows
        ],
        empty="Nobody was refused.",
    )


@peers.command()
@click.argument("caller")
@click.option("--name", required=True, help="What routes, pages and logs will call it.")
@click.option("--may", default="store,echo", show_default=True, help="What it may do.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    help="Where it may call from: addresses, networks, or `any`. Left out: where it called from.",
)
@config_option
def accept(caller: str, name: str, may: str, addresses: tuple[str, ...], config: Path) -> None:
    """Let CALLER in: the number of a refused caller, or an AE title.

    The peer gets a file of its own, limner.d/peer-NAME.toml; a running listener takes it up.

    \b
    Example:
      limner peers refused
      limner peers accept 3 --name ct2
      limner peers accept CT2 --name ct2 --may store,echo --address 192.0.2.0/24
    """
    node = open_node(config)
    with reading(node.engine) as db:
        called = callers_named(list_callers(db), caller)
    if not called and not addresses:
        raise setup_error(
            "caller-unknown",
            "Nobody with this number or AE title was refused.",
            where=printable(caller),
            remedy="`limner peers refused` lists who was; or name --address, for one to come.",
        )
    new = NewPeer(
        name=name,
        ae_title=called[0].calling_ae if called else caller,
        may=[word for word in may.replace(" ", "").split(",") if word],
        addresses=allowed_from(called, addresses),
    )
    path = accept_caller(node.settings, node.engine, new, called, who=who())
    click.echo(f"Accepted: {new.ae_title} as peer {new.name}, in {path}.")


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
