"""Instances as values: what a new one says, what became of it, what is stored, how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, select

from storage.objects import Place
from storage.rows import read_all, read_one
from storage.tables import Instance, Revision, RevisionInstance, Series, Study


class Difference(StrEnum):
    """In what a second instance with the same SOP Instance UID differs, as the caller found."""

    UNKNOWN = "unknown"  # nobody compared the bytes yet
    NONE = "none"  # the caller compared the bytes: they are the same
    HEADER = "header"  # elements outside the pixel data differ, or it cannot be told
    PIXELS = "pixels"  # only the pixel data differ
    ENCODING = "encoding"  # another transfer syntax, all elements outside the pixel data equal


class Outcome(StrEnum):
    """What became of an instance."""

    NEW = "new"  # recorded and counted; its study is arriving, or stays held
    SAME = "same"  # known already; nothing was changed
    CONFLICT = "conflict"  # the UID is known with other content; both are kept
    COMPARE = "compare"  # the UID is known and nobody compared the bytes; nothing was recorded


Header = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInstance:
    """An instance that is durable in the object store, with what its header says.

    Attributes:
        digest: SHA-256 of the dataset as received, hex; empty when it is computed later.
        checksum: xxh3_128 of the dataset as received, hex. Where there is none, the first half of
            the SHA-256 stands for it.
        header: Routing header of the series, keyword -> str or list of str; or what gives it,
            called only when the series is new or the instance is a conflict.
        received_ms: By the wire's clock; None means the database's clock.
        difference: To the bytes that count under this UID; only looked at when it is known. Left
            out, digests decide where both are known, and else the answer is `Outcome.COMPARE`.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    place: Place
    digest: str = ""
    checksum: str = ""
    patient_id: str = ""
    issuer: str = ""
    patient_name: str = ""
    accession: str = ""
    study_date: str = ""
    description: str = ""
    modality: str = ""
    header: Header = field(default_factory=dict)
    sender: str = ""
    association_id: int | None = None
    received_ms: int | None = None
    difference: Difference = Difference.UNKNOWN

    def routing_header(self) -> dict[str, Any]:
        """Return the routing header, made now if it was left to be made."""
        return dict(self.header() if callable(self.header) else self.header)


class Doubt(StrEnum):
    """What is in doubt after an instance was recorded."""

    IDENTITY = "identity"  # its UID is known with another patient, accession, study or series
    PATIENT = "patient"  # its study is known with another patient; it is new and does not count
    HEADER = "header"  # its UID is known with other elements
    PIXELS = "pixels"  # its UID is known with other pixel data


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of an instance.

    Attributes:
        kept: Whether a row now points at the given place. If not, its bytes may be deleted.
        held: Whether the study is held after this.
        doubt: What a person may want to look at, once: a repeated conflict is none.
    """

    outcome: Outcome
    study_id: int
    series_id: int
    instance_id: int
    kept: bool
    held: bool
    doubt: Doubt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """An instance with the UIDs of its series and study, and whose it is by its own header."""

    id: int
    study_id: int
    study_uid: str
    series_id: int
    series_uid: str
    sop_uid: str
    sop_class: str
    transfer_syntax: str
    digest: str
    checksum: str
    patient_id: str
    issuer: str
    accession: str
    version: int
    object_name: str
    offset: int
    length: int
    sender: str
    association_id: int | None
    received_ms: int

    @property
    def place(self) -> Place:
        """Where its bytes lie."""
        return Place(name=self.object_name, offset=self.offset, length=self.length)


def find_instance(db: Connection, sop_uid: str) -> InstanceRow | None:
    """Return the instance with SOP Instance UID `sop_uid`."""
    return read_one(db, _INSTANCES.where(Instance.sop_uid == sop_uid), InstanceRow)


def list_instances(
    db: Connection,
    *,
    study_uid: str | None = None,
    series_uid: str | None = None,
    association_id: int | None = None,
    limit: int = 100_000,
) -> list[InstanceRow]:
    """Return instances in the order in which they were recorded."""
    statement = _INSTANCES.order_by(Instance.id).limit(limit)
    if study_uid is not None:
        statement = statement.where(Study.uid == study_uid)
    if series_uid is not None:
        statement = statement.where(Series.uid == series_uid)
    if association_id is not None:
        statement = statement.where(Instance.association_id == association_id)
    return read_all(db, statement, InstanceRow)


def instances_of_revision(
    db: Connection, revision_id: int, series_id: int | None = None
) -> list[InstanceRow]:
    """Return the instances that count in a revision, of one series or of all.

    Never one that is another patient's, or in another study, because other bytes count by now.
    """
    statement = (
        _INSTANCES.join(RevisionInstance, RevisionInstance.instance_id == Instance.id)
        .join(Revision, Revision.id == RevisionInstance.revision_id)
        .where(Revision.id == revision_id)
        .where(Revision.study_id == Study.id)
        .where(Instance.patient_id == Study.patient_id)
        .where(Instance.issuer == Study.issuer)
        .order_by(Instance.id)
    )
    if series_id is not None:
        statement = statement.where(Instance.series_id == series_id)
    return read_all(db, statement, InstanceRow)


_INSTANCES = (
    select(
        Instance.id,
        Series.study_id,
        Study.uid.label("study_uid"),
        Instance.series_id,
        Series.uid.label("series_uid"),
        Instance.sop_uid,
        Instance.sop_class,
        Instance.transfer_syntax,
        Instance.digest,
        Instance.checksum,
        Instance.patient_id,
        Instance.issuer,
        Instance.accession,
        Instance.version,
        Instance.object_name,
        Instance.offset,
        Instance.length,
        Instance.sender,
        Instance.association_id,
        Instance.received_ms,
    )
    .join(Series, Series.id == Instance.series_id)
    .join(Study, Study.id == Series.study_id)
)
