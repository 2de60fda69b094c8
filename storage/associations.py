"""Associations that peers opened or tried to open: who, from where, when, how it ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, bindparam, exists, func, or_, select, update

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all, table_of
from storage.tables import Association, Instance, Series


class AssociationOutcome(StrEnum):
    """How an association ended."""

    OPEN = "open"  # it has not, or its listener died before it could say
    RELEASED = "released"  # the peer released it in order
    ABORTED = "aborted"  # one side aborted it
    REJECTED = "rejected"  # it was not accepted; the reason says why
    LOST = "lost"  # the connection broke, or the listener died


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRow:
    """A row of `associations`; `peer` is empty when nobody configured called.

    Attributes:
        instances: Answered with success; of one that has not ended, what has its rows so far.
        refused: Answered with a failure; known at the end.
        bytes: Received in data sets; of one that has not ended, what its stored objects take.
        token: What the wire calls it.
        node: Whose listener serves it.
        software: The peer's implementation version.
        secure: Whether TLS was used.
        contexts: One object for each presentation context: id, class, syntax, result.
    """

    id: int
    peer: str
    calling_ae: str
    called_ae: str
    address: str
    started_ms: int
    ended_ms: int | None
    instances: int
    refused: int
    bytes: int
    token: str | None
    node: str
    software: str
    secure: bool
    contexts: tuple[dict[str, Any], ...]
    outcome: AssociationOutcome
    reason: str


_COLUMNS = columns(Association, AssociationRow)
_OPENING: Final = (
    "token",
    "calling_ae",
    "called_ae",
    "address",
    "peer",
    "node",
    "software",
    "secure",
)
_CLOSING: Final = ("outcome", "instances", "refused", "bytes", "reason")
_CLOSE: Final = (
    update(table_of(Association))
    .where(Association.id == bindparam("of"))
    .where(Association.outcome == AssociationOutcome.OPEN)
    .values({name: bindparam(name) for name in ("ended_ms", *_CLOSING)})
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """An association that was opened, or tried; see `AssociationRow`."""

    token: str
    calling_ae: str
    called_ae: str
    address: str
    peer: str = ""
    node: str = ""
    software: str = ""
    secure: bool = False
    contexts: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """How an association ended.

    Attributes:
        id: Row id.
        outcome: How it ended.
        instances: Answered with success.
        refused: Answered with a failure.
        bytes: Received in data sets.
        reason: Sentence for anything but an orderly release.
    """

    id: int
    outcome: AssociationOutcome
    instances: int = 0
    refused: int = 0
    bytes: int = 0
    reason: str = ""


def open_associations(db: Connection, openings: Sequence[Opening]) -> dict[str, int]:
    """Record that associations were opened, or tried; return their row ids by token.

    A token that is known gives the row that has it: what the wire says twice is said once.
    """
    if not openings:
        return {}
    started_ms = now_ms(db)
    statement = insert_into(db, Association).on_conflict_do_nothing(index_elements=["token"])
    rows = [
        {
            **{name: getattr(one, name) for name in _OPENING},
            "contexts": [dict(context) for context in one.contexts],
            "started_ms": started_ms,
        }
        for one in openings
    ]
    db.execute(statement, rows)
    tokens = [one.token for one in openings]
    known = select(Association.token, Association.id).where(Association.token.in_(tokens))
    return {str(token): int(row_id) for token, row_id in db.execute(known)}


def association_of(db: Connection, token: str) -> int | None:
    """Return the row id of the association that the wire calls `token`."""
    statement = select(Association.id).where(Association.token == token)
    return db.execute(statement).scalar_one_or_none()


def close_associations(db: Connection, closings: Sequence[Closing]) -> None:
    """Record how associations ended; of one whose end is recorded already that stays."""
    if not closings:
        return
    ended_ms = now_ms(db)
    rows = [
        {"of": one.id, "ended_ms": ended_ms, **{name: getattr(one, name) for name in _CLOSING}}
        for one in closings
    ]
    db.execute(_CLOSE, rows)


def close_lost(
    db: Connection,
    reason: str,
    tokens: Collection[str] | None = None,
    *,
    node: str = "",
    living: Collection[str] = (),
) -> int:
    """Record that associations ended with the process that served them; return how many.

    What they brought is counted from the rows of their instances.

    Args:
        db: A writing transaction.
        reason: Sentence for a person.
        tokens: Of the associations; None for all of `node` that are open.
        node: Whose listener served them. Those of whom it is not known count as its own.
        living: Of associations that go on, whatever `tokens` says.
    """
    brought = select(func.count()).where(Instance.association_id == Association.id)
    size = select(func.coalesce(func.sum(Instance.length), 0)).where(
        Instance.association_id == Association.id
    )
    statement = (
        update(Association)
        .where(Association.outcome == AssociationOutcome.OPEN)
        .values(
            outcome=AssociationOutcome.LOST,
            ended_ms=now_ms(db),
            instances=brought.scalar_subquery(),
            bytes=size.scalar_subquery(),
            reason=reason,
        )
    )
    if tokens is None:
        statement = statement.where(Association.node.in_((node, "")))
    else:
        statement = statement.where(Association.token.in_(tokens))
    if living:
        is_dead = or_(Association.token.is_(None), Association.token.not_in(living))
        statement = statement.where(is_dead)
    return db.execute(statement).rowcount


def list_associations(
    db: Connection,
    *,
    peer: str | None = None,
    study_id: int | None = None,
    only_open: bool = False,
    before_id: int | None = None,
    limit: int = 100,
) -> list[AssociationRow]:
    """Return associations, the newest first.

    Args:
        db: Any transaction.
        peer: Only of this peer, by its name or its AE title.
        study_id: Only those that brought instances of this study.
        only_open: Only those that have not ended.
        before_id: Only older ones: the next page.
        limit: At most so many.
    """
    statement = select(*_COLUMNS).order_by(Association.id.desc()).limit(limit)
    if peer is not None:
        statement = statement.where(or_(Association.peer == peer, Association.calling_ae == peer))
    if study_id is not None:
        brought = (
            select(Instance.id)
            .join(Series, Series.id == Instance.series_id)
            .where(Series.study_id == study_id)
            .where(Instance.association_id == Association.id)
        )
        statement = statement.where(exists(brought))
    if only_open:
        statement = statement.where(Association.outcome == AssociationOutcome.OPEN)
    if before_id is not None:
        statement = statement.where(Association.id < before_id)
    return _with_live_counts(db, read_all(db, statement, AssociationRow))


def find_association(db: Connection, association_id: int) -> AssociationRow | None:
    """Return the association with row id `association_id`."""
    statement = select(*_COLUMNS).where(Association.id == association_id)
    rows = _with_live_counts(db, read_all(db, statement, AssociationRow))
    return rows[0] if rows else None


def _with_live_counts(db: Connection, rows: list[AssociationRow]) -> list[AssociationRow]:
    """Give those that have not ended the counts of what has its rows so far."""
    live = [row.id for row in rows if row.outcome is AssociationOutcome.OPEN]
    if not live:
        return rows
    statement = (
        select(Instance.association_id, func.count(), func.sum(Instance.length))
        .where(Instance.association_id.in_(live))
        .group_by(Instance.association_id)
    )
    counts = {of: (int(number), int(size)) for of, number, size in db.execute(statement)}
    return [
        replace(row, instances=counts[row.id][0], bytes=counts[row.id][1])
        if row.id in counts
        else row
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Received:
    """What all associations came to: counters that only grow.

    Attributes:
        outcomes: How many associations ended how, or have not.
        instances: Answered with success.
        refused: Instances answered with a failure.
        bytes: Received in data sets.
    """

    outcomes: dict[AssociationOutcome, int]
    instances: int
    refused: int
    bytes: int


def received(db: Connection) -> Received:
    """Return what all associations came to, with what the open ones have brought so far."""
    statement = select(
        Association.outcome,
        func.count(),
        func.sum(Association.instances),
        func.sum(Association.refused),
        func.sum(Association.bytes),
    ).group_by(Association.outcome)
    rows = db.execute(statement).all()
    live = list_associations(db, only_open=True)
    return Received(
        outcomes={outcome: 0 for outcome in AssociationOutcome}
        | {AssociationOutcome(row[0]): int(row[1]) for row in rows},
        instances=sum(int(row[2]) for row in rows) + sum(one.instances for one in live),
        refused=sum(int(row[3]) for row in rows),
        bytes=sum(int(row[4]) for row in rows) + sum(one.bytes for one in live),
    )
