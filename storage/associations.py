"""Associations that peers opened or tried to open: who, from where, when, how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, exists, select, update

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all
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
    """A row of `associations`; `peer` is empty when nobody configured called."""

    id: int
    peer: str
    calling_ae: str
    called_ae: str
    address: str
    started_ms: int
    ended_ms: int | None
    instances: int
    refused: int
    outcome: AssociationOutcome
    reason: str


_COLUMNS = columns(Association, AssociationRow)


def open_association(
    db: Connection, *, calling_ae: str, called_ae: str, address: str, peer: str = ""
) -> int:
    """Record that an association was opened, or tried; return its row id."""
    statement = (
        insert_into(db, Association)
        .values(
            peer=peer,
            calling_ae=calling_ae,
            called_ae=called_ae,
            address=address,
            started_ms=now_ms(db),
        )
        .returning(Association.id)
    )
    return int(db.execute(statement).scalar_one())


def close_association(
    db: Connection,
    association_id: int,
    outcome: AssociationOutcome,
    *,
    instances: int = 0,
    refused: int = 0,
    reason: str = "",
) -> bool:
    """Record how an association ended; False when that is recorded already.

    Args:
        db: A writing transaction.
        association_id: Row id.
        outcome: How it ended.
        instances: Answered with success.
        refused: Answered with a failure.
        reason: Sentence for anything but an orderly release.
    """
    statement = (
        update(Association)
        .where(Association.id == association_id)
        .where(Association.outcome == AssociationOutcome.OPEN)
        .values(
            outcome=outcome,
            ended_ms=now_ms(db),
            instances=instances,
            refused=refused,
            reason=reason,
        )
    )
    return db.execute(statement).rowcount == 1


def list_associations(
    db: Connection, *, peer: str | None = None, study_id: int | None = None, limit: int = 100
) -> list[AssociationRow]:
    """Return associations, the newest first; of one peer, or those that brought a study."""
    statement = select(*_COLUMNS).order_by(Association.id.desc()).limit(limit)
    if peer is not None:
        statement = statement.where(Association.peer == peer)
    if study_id is not None:
        brought = (
            select(Instance.id)
            .join(Series, Series.id == Instance.series_id)
            .where(Series.study_id == study_id)
            .where(Instance.association_id == Association.id)
        )
        statement = statement.where(exists(brought))
    return read_all(db, statement, AssociationRow)
