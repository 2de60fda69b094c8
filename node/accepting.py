"""Let a caller in that was refused: a peer of its own, in a file of its own beside limner.toml.

The file `limner.d/peer-NAME.toml` appears whole or not at all, and the running listener takes it
up. Nothing that is there is ever changed: a peer that is to be changed is changed by hand. The
command line and the page do it through this one function, which writes it into the audit.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from node.errors import SetupError, setup_error
from node.settings import Settings, load_settings, parse_settings
from storage import audit
from storage.callers import CallerRow, forget_caller
from storage.database import Engine, writing
from storage.errors import StorageError
from storage.file_system import sync_folder

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""A peer's name becomes part of a file's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPeer:
    """Who is let in.

    Attributes:
        name: What routes, pages and logs will call it.
        ae_title: The title that it calls itself.
        may: What it may do, of `node.settings.MAY`.
        addresses: IP addresses or networks it may call from; empty for any.
    """

    name: str
    ae_title: str
    may: Sequence[str]
    addresses: Sequence[str]


def callers_named(callers: Sequence[CallerRow], named: str) -> list[CallerRow]:
    """Return the refused callers that a person means by a number or an AE title."""
    if named.isdecimal():
        return [caller for caller in callers if caller.id == int(named)]
    return [caller for caller in callers if caller.calling_ae == named]


def allowed_from(called: Sequence[CallerRow], given: Sequence[str]) -> list[str]:
    """Return where a new peer may call from: what a person says, else where it called from.

    Raises:
        SetupError: It called from several addresses, so that a person must say.
    """
    if given:
        return [] if "any" in given else list(given)
    found = sorted({caller.address for caller in called})
    if len(found) > 1:
        raise setup_error(
            "caller-ambiguous",
            f"It called from several addresses: {', '.join(found)}.",
            where=called[0].calling_ae,
            remedy="Name one of the callers by its number, or the addresses with --address.",
        )
    return found


def wanted_words(wanted: Sequence[str]) -> str:
    """Return what a caller asked for, as names of SOP classes."""
    names = [UID(uid).name for uid in wanted]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "nothing: it was refused before it could ask"


def accept_caller(
    settings: Settings, engine: Engine, new: NewPeer, called: Sequence[CallerRow], *, who: str
) -> Path:
    """Accept a peer, take it off the list of those that were refused, and audit it.

    Args:
        settings: The configuration in force.
        engine: The database.
        new: The peer.
        called: The refused callers that it is.
        who: The person.

    Raises:
        SetupError: As for `accept_peer`.
    """
    where = ", ".join(new.addresses) or "any address"
    detail = f"AE title {new.ae_title}, from {where}, may {', '.join(new.may) or 'nothing'}"
    path: Path | None = None
    try:
        with writing(engine) as db:
            for caller in called:
                forget_caller(db, caller.id)
            audit.record(db, who, "accept", f"peer {new.name}", detail)
            path = accept_peer(settings, new, note=f"Accepted by {who}.")
    except StorageError:
        if path is not None:  # no peer without its line in the audit
            path.unlink()
        raise
    return path


def accept_peer(settings: Settings, new: NewPeer, *, note: str) -> Path:
    """Write the peer's file and return its path.

    Args:
        settings: The configuration in force.
        new: The peer.
        note: Who accepted it, for a comment in the file.

    Raises:
        SetupError: The peer would make the configuration wrong, or the file cannot be written.
            Nothing was changed.
    """
    _refuse_names(settings, new)
    target = settings.path.parent / "limner.d" / f"peer-{new.name}.toml"
    text = _text(new, note)
    parse_settings(text, path=target)  # tells every mistake in it
    try:
        _place(target, text)
    except OSError as error:
        raise setup_error(
            "peer-not-written",
            f"The peer's file cannot be written: {error.strerror}.",
            where=str(target),
            remedy="Let the node write there, or add the peer to limner.toml by hand.",
        ) from error
    try:
        load_settings(settings.path)
    except SetupError:  # somebody else changed the configuration in this moment
        target.unlink()
        raise
    return target


def _refuse_names(settings: Settings, new: NewPeer) -> None:
    where = str(settings.path)
    if not _NAME.fullmatch(new.name):
        raise setup_error(
            "peer-name",
            "A peer's name is made of 1 to 64 letters, digits, - and _.",
            where=where,
            remedy="Give it another name.",
        )
    if settings.peer(new.name) is not None:
        raise setup_error(
            "peer-known",
            f"There is a peer '{new.name}' already.",
            where=where,
            remedy="Give the new one another name, or change that one by hand.",
        )
    known = [peer.name for peer in settings.peers if peer.may and peer.ae_title == new.ae_title]
    if known:
        raise setup_error(
            "peer-title-known",
            f"The peer '{known[0]}' has this AE title already, and may call us.",
            where=where,
            remedy=f"Change `may` or `addresses` of '{known[0]}' by hand, so that it is let in.",
        )


def _text(new: NewPeer, note: str) -> str:
    lines = [
        f"# {' '.join(note.split())}",
        "[[peers]]",
        f"name = {_toml(new.name)}",
        f"ae_title = {_toml(new.ae_title)}",
        f"may = {_toml(list(new.may))}",
    ]
    if new.addresses:
        lines.append(f"addresses = {_toml(list(new.addresses))}")
    return "\n".join(lines) + "\n"


def _toml(value: str | list[str]) -> str:
    """Return a text or list of texts as TOML spells it, which is as JSON does."""
    return json.dumps(value)


def _place(target: Path, text: str) -> None:
    """Make the file appear with all of its text, durable, unless there is one already."""
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.new")  # the settings read *.toml alone
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, target)
    finally:
        with suppress(OSError):
            part.unlink()
    sync_folder(target.parent)
