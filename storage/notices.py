"""What peers say about a study beside sending it: MPPS and Instance Availability Notification.

They are evidence, never proof: a study is what arrived, and a notice may be wrong, late or missing.
Settling reads them; the study's story shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select, update

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all
from storage.tables import Notice


class NoticeKind(StrEnum):
    """What kind of notice."""

    MPPS = "mpps"  # Modality Performed Procedure Step, PS3.4 F.7: made, then set
    IAN = "ian"  # Instance Availability Notification, PS3.4 R: made once


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRow:
    """A row of `notices`.

    Attributes:
        status: Of an MPPS `IN PROGRESS`, `COMPLETED` or `DISCONTINUED`; of an IAN the availability.
        detail: Series UID -> list of SOP Instance UIDs, or how many there are.
    """

    id: int
    kind: NoticeKind
    sop_uid: str
    study_uid: str
    status: str
    detail: dict[str, Any]
    sender: str
    received_ms: int
    changed_ms: int


def record_notice(
    db: Connection,
    kind: NoticeKind,
    sop_uid: str,
    *,
    study_uid: str,
    status: str = "",
    detail: Mapping[str, Any] | None = None,
    sender: str = "",
) -> bool:
    """Record a notice; False when one of this kind and UID is known, which changes nothing.

    A peer that repeats its N-CREATE is answered "duplicate SOP instance" by the caller (PS3.7
    10.1.5.1.6).
    """
    at_ms = now_ms(db)
    made = db.execute(
        insert_into(db, Notice)
        .values(
            kind=kind,
            sop_uid=sop_uid,
            study_uid=study_uid,
            status=status,
            detail=dict(detail or {}),
            sender=sender,
            received_ms=at_ms,
            changed_ms=at_ms,
        )
        .on_conflict_do_nothing(index_elements=["kind", "sop_uid"])
        .returning(Notice.id)
    ).scalar_one_or_none()
    return made is not None


def update_notice(
    db: Connection,
    kind: NoticeKind,
    sop_uid: str,
    *,
    status: str = "",
    detail: Mapping[str, Any] | None = None,
    unless: Collection[str] = (),
) -> bool:
    """Record what an N-SET says; False when the notice is unknown, or can no longer change.

    Args:
        db: A writing transaction.
        kind: Which kind of notice.
        sop_uid: Its SOP Instance UID.
        status: The new status; empty for the one that it has.
        detail: Replaces the detail when given.
        unless: Statuses from which it does not change any more.
    """
    values: dict[str, Any] = {"changed_ms": now_ms(db)}
    if status:
        values["status"] = status
    if detail is not None:
        values["detail"] = dict(detail)
    statement = (
        update(Notice)
        .where(Notice.kind == kind)
        .where(Notice.sop_uid == sop_uid)
        .where(Notice.status.not_in(unless))
        .values(**values)
    )
    return db.execute(statement).rowcount == 1


def knows_notice(db: Connection, kind: NoticeKind, sop_uid: str) -> bool:
    """Return whether a notice of this kind and UID was recorded."""
    statement = select(Notice.id).where(Notice.kind == kind).where(Notice.sop_uid == sop_uid)
    return db.execute(statement).scalar_one_or_none() is not None


def notices_of_study(db: Connection, study_uid: str) -> list[NoticeRow]:
    """Return what was said about a study, the oldest first."""
    statement = (
        select(*columns(Notice, NoticeRow)).where(Notice.study_uid == study_uid).order_by(Notice.id)
    )
    return read_all(db, statement, NoticeRow)
