"""Who called and was refused: what an administrator needs in order to accept a sender.

Strangers write here, by calling. The table is bounded: the least recent rows make room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, select

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all, read_one
from storage.tables import Caller

MAX_CALLERS: Final = 1_000
"""Rows that are kept. A scan that calls under invented titles fills the table with its own rows
and pushes older ones out, but can neither fill the disk nor slow the listener."""

_MAX_TEXT: Final = 64
_MAX_WANTED: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerRow:
    """Somebody who was refused; `wanted` are the abstract syntaxes that were asked for."""

    id: int
    calling_ae: str
    called_ae: str
    address: str
    reason: str
    wanted: tuple[str, ...]
    first_ms: int
    last_ms: int
    count: int


_CALLERS = select(*columns(Caller, CallerRow))


def refused(
    db: Connection,
    *,
    calling_ae: str,
    called_ae: str,
    address: str,
    reason: str,
    wanted: Sequence[str] = (),
) -> None:
    """Record that a caller was refused, or count it again.

    Args:
        db: A writing transaction.
        calling_ae: The title it called itself.
        called_ae: The title it called.
        address: Its IP address.
        reason: Sentence for a person: why, and what would let it in.
        wanted: Abstract syntaxes it asked for; empty when it was refused before it could ask.
    """
    at_ms = now_ms(db)
    made = insert_into(db, Caller).values(
        calling_ae=calling_ae[:_MAX_TEXT],
        called_ae=called_ae[:_MAX_TEXT],
        address=address[:_MAX_TEXT],
        reason=reason,
        wanted=sorted(set(wanted))[:_MAX_WANTED],
        first_ms=at_ms,
        last_ms=at_ms,
        count=1,
    )
    again = made.on_conflict_do_update(
        index_elements=["calling_ae", "called_ae", "address"],
        set_={
            "reason": made.excluded.reason,
            "wanted": made.excluded.wanted,
            "last_ms": made.excluded.last_ms,
            "count": Caller.count + 1,
        },
    )
    db.execute(again)
    too_old = select(Caller.id).order_by(Caller.last_ms.desc(), Caller.id.desc())
    db.execute(delete(Caller).where(Caller.id.in_(too_old.offset(MAX_CALLERS))))


def list_callers(db: Connection, *, limit: int = MAX_CALLERS) -> list[CallerRow]:
    """Return those who were refused, the most recent first."""
    statement = _CALLERS.order_by(Caller.last_ms.desc(), Caller.id.desc()).limit(limit)
    return read_all(db, statement, CallerRow)


def find_caller(db: Connection, caller_id: int) -> CallerRow | None:
    """Return the caller with row id `caller_id`."""
    return read_one(db, _CALLERS.where(Caller.id == caller_id), CallerRow)


def forget_caller(db: Connection, caller_id: int) -> bool:
    """Take a caller off the list, because it was accepted or is of no interest."""
    return db.execute(delete(Caller).where(Caller.id == caller_id)).rowcount == 1
