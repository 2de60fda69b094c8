"""Results: the objects that we made. The bytes are made once; the first finished attempt wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select, update

from storage.database import now_ms
from storage.deliveries import SUPERSEDED
from storage.errors import StorageRefused
from storage.objects import Place
from storage.rows import columns, insert_into, read_all, read_one
from storage.tables import Delivery, DeliveryState, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResult:
    """A result object that is durable in the object store.

    Attributes:
        key: Digest of everything that decides about its content.
        pictures: Places of its overlay previews, as the caller spells them.
    """

    key: str
    kind: str
    job_id: int
    study_id: int
    series_id: int
    sop_uid: str
    sop_class: str
    result_series_uid: str
    transfer_syntax: str
    digest: str
    place: Place
    model: str
    model_version: str
    model_digest: str
    encoding: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """A row of `results`."""

    id: int
    key: str
    kind: str
    encoding: str
    job_id: int
    study_id: int
    series_id: int
    sop_uid: str
    sop_class: str
    result_series_uid: str
    transfer_syntax: str
    digest: str
    object_name: str
    offset: int
    length: int
    model: str
    model_version: str
    model_digest: str
    summary: Mapping[str, Any]
    pictures: Mapping[str, Any]
    superseded_by: int | None
    created_ms: int

    @property
    def place(self) -> Place:
        """Where its bytes lie."""
        return Place(name=self.object_name, offset=self.offset, length=self.length)


_COLUMNS = columns(Result, ResultRow)


def record_result(db: Connection, new: NewResult) -> ResultRow:
    """Record a result, or return the one that was recorded first under its key.

    Args:
        db: The transaction that ends the job.
        new: The result. If the returned row has another place, the given bytes are not needed.

    Raises:
        StorageRefused: Its SOP Instance UID belongs to a result with another key.
    """
    statement = (
        insert_into(db, Result)
        .values(
            key=new.key,
            kind=new.kind,
            encoding=new.encoding,
            job_id=new.job_id,
            study_id=new.study_id,
            series_id=new.series_id,
            sop_uid=new.sop_uid,
            sop_class=new.sop_class,
            result_series_uid=new.result_series_uid,
            transfer_syntax=new.transfer_syntax,
            digest=new.digest,
            object_name=new.place.name,
            offset=new.place.offset,
            length=new.place.length,
            model=new.model,
            model_version=new.model_version,
            model_digest=new.model_digest,
            summary=dict(new.summary),
            pictures=dict(new.pictures),
            created_ms=now_ms(db),
        )
        .on_conflict_do_nothing()
        .returning(*_COLUMNS)
    )
    made = read_one(db, statement, ResultRow)
    first = made or find_result_by_key(db, new.key, new.kind, new.encoding)
    if first is None:
        raise StorageRefused(
            "result-uid-taken",
            "Another result has this SOP Instance UID already; one UID never means two contents.",
            where=new.sop_uid,
            remedy="Report this as an error of the program, with both results' keys.",
        )
    return first


def find_result_by_key(db: Connection, key: str, kind: str, encoding: str = "") -> ResultRow | None:
    """Return the result with this key, kind and encoding."""
    statement = (
        select(*_COLUMNS)
        .where(Result.key == key)
        .where(Result.kind == kind)
        .where(Result.encoding == encoding)
    )
    return read_one(db, statement, ResultRow)


def find_result(db: Connection, result_id: int) -> ResultRow | None:
    """Return a result by its row id."""
    return read_one(db, select(*_COLUMNS).where(Result.id == result_id), ResultRow)


def find_result_by_uid(db: Connection, sop_uid: str) -> ResultRow | None:
    """Return a result by its SOP Instance UID."""
    return read_one(db, select(*_COLUMNS).where(Result.sop_uid == sop_uid), ResultRow)


def list_results(
    db: Connection,
    *,
    study_id: int | None = None,
    job_id: int | None = None,
    key: str | None = None,
    limit: int = 200,
) -> list[ResultRow]:
    """Return results, the oldest first."""
    statement = select(*_COLUMNS).order_by(Result.id).limit(limit)
    if study_id is not None:
        statement = statement.where(Result.study_id == study_id)
    if job_id is not None:
        statement = statement.where(Result.job_id == job_id)
    if key is not None:
        statement = statement.where(Result.key == key)
    return read_all(db, statement, ResultRow)


def supersede(db: Connection, old_id: int, new_id: int) -> bool:
    """Mark a result as replaced; what of it was not being sent yet is withdrawn.

    If the old one had replaced the new one before (other images counted for a while), the new one
    and those of its job are not replaced any more.

    Returns:
        Whether it was not replaced before.
    """
    marked = (
        update(Result)
        .where(Result.id == old_id)
        .where(Result.id != new_id)
        .where(Result.superseded_by.is_(None))
        .values(superseded_by=new_id)
    )
    if db.execute(marked).rowcount != 1:
        return False
    db.execute(
        update(Delivery)
        .where(Delivery.result_id == old_id)
        .where(Delivery.state.in_([DeliveryState.OWED, DeliveryState.HELD]))
        .where(Delivery.worker.is_(None))
        .values(state=DeliveryState.WITHDRAWN, sentence=SUPERSEDED)
    )
    maker = select(Result.job_id).where(Result.id == new_id).scalar_subquery()
    db.execute(
        update(Result)
        .where(Result.superseded_by == old_id)
        .where(Result.job_id == maker)
        .values(superseded_by=None)
    )
    return True
