"""What is known of each configured peer from talking to it; a circuit breaker and a pause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all, read_one
from storage.tables import PeerState


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStateRow:
    """A row of `peer_states`.

    Attributes:
        failures: Failed contacts in a row.
        next_try_ms: No delivery to it is claimed before this time.
        paused: A person stopped all sending to it.
    """

    peer: str
    last_heard_ms: int | None
    last_sent_ms: int | None
    last_echo_ms: int | None
    failures: int
    next_try_ms: int | None
    last_error: str
    paused: bool


_COLUMNS = columns(PeerState, PeerStateRow)


def heard(db: Connection, peer: str) -> None:
    """Note that the peer called us."""
    _note(db, peer, last_heard_ms=now_ms(db))


def sent_ok(db: Connection, peer: str) -> None:
    """Note that the peer took something; its failures are forgotten."""
    _note(db, peer, last_sent_ms=now_ms(db), failures=0, next_try_ms=None, last_error="")


def echoed(db: Connection, peer: str) -> None:
    """Note that the peer answered a C-ECHO; its failures are forgotten."""
    _note(db, peer, last_echo_ms=now_ms(db), failures=0, next_try_ms=None, last_error="")


def failed(db: Connection, peer: str, error: str, next_try_ms: int | None) -> int:
    """Note that the peer could not be reached; return how often in a row that is now.

    Args:
        db: A writing transaction.
        peer: Name in the settings.
        error: The sentence people read.
        next_try_ms: Nothing is sent to it before this time.
    """
    statement = (
        insert_into(db, PeerState)
        .values(peer=peer, failures=1, next_try_ms=next_try_ms, last_error=error)
        .on_conflict_do_update(
            index_elements=["peer"],
            set_={
                "failures": PeerState.failures + 1,
                "next_try_ms": next_try_ms,
                "last_error": error,
            },
        )
        .returning(PeerState.failures)
    )
    return int(db.execute(statement).scalar_one())


def pause(db: Connection, peer: str) -> None:
    """Stop sending to a peer until `resume`; what is owed stays owed."""
    _note(db, peer, paused=True)


def resume(db: Connection, peer: str) -> None:
    """Send to a peer again, at once."""
    _note(db, peer, paused=False, next_try_ms=None)


def find_peer_state(db: Connection, peer: str) -> PeerStateRow | None:
    """Return what is known of a peer; None when nothing happened with it yet."""
    return read_one(db, select(*_COLUMNS).where(PeerState.peer == peer), PeerStateRow)


def list_peer_states(db: Connection) -> list[PeerStateRow]:
    """Return what is known of every peer that something happened with, by name."""
    return read_all(db, select(*_COLUMNS).order_by(PeerState.peer), PeerStateRow)


def _note(db: Connection, peer: str, **values: Any) -> None:
    statement = (
        insert_into(db, PeerState)
        .values(peer=peer, **values)
        .on_conflict_do_update(index_elements=["peer"], set_=values)
    )
    db.execute(statement)
