"""Conflicts as values, and how they are read: what came, what counts instead, who decided."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from storage.objects import Place
from storage.rows import columns, read_all, read_one
from storage.tables import Conflict, Instance, Series, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictRow:
    """A row of `conflicts`, beside what counts under its SOP Instance UID (`of_...`).

    Attributes:
        kind: identity, header or pixels.
        study_uid: The study that these bytes claim to belong to; it may not exist.
        detail: What of the identity differs; no values.
        version: Which of the byte strings under this UID it is, in the order of arrival.
        chosen: first or last; empty while nobody has decided.
        decided_by: A person, or the setting.
    """

    id: int
    instance_id: int
    sop_uid: str
    kind: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer: str
    accession: str
    detail: str
    digest: str
    checksum: str
    version: int
    object_name: str
    offset: int
    length: int
    sender: str
    received_ms: int
    chosen: str
    decided_by: str
    decided_ms: int | None
    of_study_id: int
    of_study_uid: str
    of_series_uid: str
    of_patient_id: str
    of_issuer: str
    of_accession: str
    of_version: int
    of_length: int
    of_sender: str
    of_received_ms: int

    @property
    def place(self) -> Place:
        """Where the bytes that do not count lie."""
        return Place(name=self.object_name, offset=self.offset, length=self.length)

    @property
    def open(self) -> bool:
        """Whether it waits for a person."""
        return not self.chosen


@dataclass(frozen=True, slots=True)
class ConflictCount:
    """How many conflicts touch a study, and how many of them wait for a person."""

    number: int
    open: int


_CONFLICTS = (
    select(
        *columns(Conflict, ConflictRow),
        Instance.sop_uid,
        Study.id.label("of_study_id"),
        Study.uid.label("of_study_uid"),
        Series.uid.label("of_series_uid"),
        Instance.patient_id.label("of_patient_id"),
        Instance.issuer.label("of_issuer"),
        Instance.accession.label("of_accession"),
        Instance.version.label("of_version"),
        Instance.length.label("of_length"),
        Instance.sender.label("of_sender"),
        Instance.received_ms.label("of_received_ms"),
    )
    .join(Instance, Instance.id == Conflict.instance_id)
    .join(Series, Series.id == Instance.series_id)
    .join(Study, Study.id == Series.study_id)
)


def find_conflict(db: Connection, conflict_id: int) -> ConflictRow | None:
    """Return the conflict with row id `conflict_id`."""
    return read_one(db, _CONFLICTS.where(Conflict.id == conflict_id), ConflictRow)


def list_conflicts(
    db: Connection, *, study_uid: str | None = None, only_open: bool = False, limit: int = 1000
) -> list[ConflictRow]:
    """Return conflicts, the oldest first.

    Args:
        db: Any transaction.
        study_uid: Those about a study's instances, and those that claim to be its.
        only_open: Only those that wait for a person.
        limit: At most so many.
    """
    statement = _CONFLICTS.order_by(Conflict.id).limit(limit)
    if study_uid is not None:
        statement = statement.where(or_(Study.uid == study_uid, Conflict.study_uid == study_uid))
    if only_open:
        statement = statement.where(Conflict.chosen == "")
    return read_all(db, statement, ConflictRow)


def conflict_counts(db: Connection, study_ids: Collection[int]) -> dict[int, ConflictCount]:
    """Return of those studies that have conflicts about their instances how many they are."""
    statement = (
        select(
            Series.study_id,
            func.count(),
            func.count().filter(Conflict.chosen == ""),
        )
        .select_from(Conflict)
        .join(Instance, Instance.id == Conflict.instance_id)
        .join(Series, Series.id == Instance.series_id)
        .where(Series.study_id.in_(study_ids))
        .group_by(Series.study_id)
    )
    return {study: ConflictCount(number, still) for study, number, still in db.execute(statement)}


def all_conflicts(db: Connection) -> ConflictCount:
    """Return how many conflicts there are, and how many of them wait for a person."""
    statement = select(func.count(), func.count().filter(Conflict.chosen == "")).select_from(
        Conflict
    )
    number, still = db.execute(statement).one()
    return ConflictCount(number, still)


def count_other_patients(db: Connection, study_id: int) -> int:
    """Return how many instances of a study are of another patient, and so do not count."""
    statement = (
        select(func.count())
        .select_from(Instance)
        .join(Series, Series.id == Instance.series_id)
        .join(Study, Study.id == Series.study_id)
        .where(Study.id == study_id)
        .where(
            or_(Instance.patient_id != Study.patient_id, Instance.issuer != Study.issuer),
        )
    )
    return int(db.execute(statement).scalar_one())
