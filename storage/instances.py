"""Instances as received: the one path by which studies, series and instances come into being.

Several listeners may record instances of one new study at the same moment. The study's row is
locked before anything is counted, so that counts are exact and a late instance cannot slip past
the settling of its study. Whoever loses a race for a SOP Instance UID undoes what it made and
compares with the winner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, case, func, select, update

from storage.database import now_ms
from storage.objects import Place
from storage.rows import insert_into, read_all, read_one
from storage.study_moves import hold
from storage.tables import Conflict, Instance, RevisionInstance, Series, Study, StudyState

SAME_UID_IN_DOUBT: Final = (
    "Instance {sop_uid} came a second time with another identity (patient, accession, study or "
    "series). Nothing is made or sent until a person has compared both and released the study."
)
OTHER_PATIENT: Final = (
    "Instance {sop_uid} carries this study's UID but another patient ID or issuer. Nothing is "
    "made or sent until a person has compared both and released the study."
)
CLAIMED_BEFORE: Final = (
    "An instance that claims to belong to this study has the UID of an instance in another study. "
    "Nothing is made or sent until a person has compared both and released the study."
)


class Difference(StrEnum):
    """In what a second instance with the same SOP Instance UID differs, as the caller found."""

    NONE = "none"  # the caller compared the bytes: they are the same
    HEADER = "header"  # elements outside the pixel data differ, or nothing is known
    PIXELS = "pixels"  # only the pixel data differ
    ENCODING = "encoding"  # another transfer syntax, all elements outside the pixel data equal


class Outcome(StrEnum):
    """What became of an instance."""

    NEW = "new"  # recorded and counted; its study is arriving, or stays held
    SAME = "same"  # known already; nothing was changed
    CONFLICT = "conflict"  # the UID is known with other content; kept beside, not counted


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
        difference: Only looked at when the UID is known.
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
    difference: Difference = Difference.HEADER


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of an instance.

    Attributes:
        kept: Whether a row now points at the given place. If not, its bytes may be deleted.
        held: Whether the study is held after this.
    """

    outcome: Outcome
    study_id: int
    series_id: int
    instance_id: int
    kept: bool
    held: bool


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What counts under a SOP Instance UID, with the identity in its own header."""

    instance_id: int
    series_id: int
    study_id: int
    digest: str
    checksum: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer: str
    accession: str
    state: StudyState


def record_instance(db: Connection, new: NewInstance) -> Recorded:
    """Record one instance, exactly once, whoever else records at the same moment.

    Args:
        db: A writing transaction. One that records several instances must keep to one study,
            or two of them may wait for each other (then one gets `StorageAway` and tries again).
        new: The instance; its bytes are durable already.

    Returns:
        What became of it. A second patient under one Study Instance UID, and a second identity
        under one SOP Instance UID, hold the study.
    """
    known = _find_known(db, new.sop_uid)
    if known is None:
        # If another listener wins the race for this SOP Instance UID, a study or series that was
        # made for it here must not stay behind empty.
        savepoint = db.begin_nested()
        recorded = _record_new(db, new)
        if recorded is not None:
            savepoint.commit()
            return recorded
        savepoint.rollback()
        known = _find_known(db, new.sop_uid)
        if known is None:
            raise RuntimeError(f"instance {new.sop_uid} is neither new nor known")
    return _record_known(db, new, known)


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
    """Return the instances that counted in a revision, of one series or of all."""
    statement = (
        _INSTANCES.join(RevisionInstance, RevisionInstance.instance_id == Instance.id)
        .where(RevisionInstance.revision_id == revision_id)
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


def _find_known(db: Connection, sop_uid: str) -> _Known | None:
    statement = (
        select(
            Instance.id.label("instance_id"),
            Instance.series_id,
            Series.study_id,
            Instance.digest,
            Instance.checksum,
            Study.uid.label("study_uid"),
            Series.uid.label("series_uid"),
            Instance.patient_id,
            Instance.issuer,
            Instance.accession,
            Study.state,
        )
        .join(Series, Series.id == Instance.series_id)
        .join(Study, Study.id == Series.study_id)
        .where(Instance.sop_uid == sop_uid)
    )
    return read_one(db, statement, _Known)


def _record_new(db: Connection, new: NewInstance) -> Recorded | None:
    """Record an instance whose UID is unknown; None when another listener was first."""
    at_ms = now_ms(db)
    study_id, created = _ensure_study(db, new, at_ms)
    # The lock: from here to the commit nobody else counts, settles or holds this study.
    study = db.execute(
        select(Study.patient_id, Study.issuer).where(Study.id == study_id).with_for_update()
    ).one()
    series_id = _ensure_series(db, new, study_id, at_ms)
    instance_id = db.execute(
        insert_into(db, Instance)
        .values(
            series_id=series_id,
            sop_uid=new.sop_uid,
            sop_class=new.sop_class,
            transfer_syntax=new.transfer_syntax,
            digest=new.digest,
            checksum=new.checksum,
            patient_id=new.patient_id,
            issuer=new.issuer,
            accession=new.accession,
            object_name=new.place.name,
            offset=new.place.offset,
            length=new.place.length,
            sender=new.sender,
            association_id=new.association_id,
            received_ms=at_ms if new.received_ms is None else new.received_ms,
        )
        .on_conflict_do_nothing(index_elements=["sop_uid"])
        .returning(Instance.id)
    ).scalar_one_or_none()
    if instance_id is None:
        return None
    _count(db, study_id, series_id, at_ms)
    if (study.patient_id, study.issuer) != (new.patient_id, new.issuer):
        hold(db, study_id, OTHER_PATIENT.format(sop_uid=new.sop_uid))
    elif created and _claimed_before(db, new.study_uid):
        hold(db, study_id, CLAIMED_BEFORE)
    state = db.execute(select(Study.state).where(Study.id == study_id)).scalar_one()
    return Recorded(
        outcome=Outcome.NEW,
        study_id=study_id,
        series_id=series_id,
        instance_id=instance_id,
        kept=True,
        held=state == StudyState.HELD,
    )


def _ensure_study(db: Connection, new: NewInstance, at_ms: int) -> tuple[int, bool]:
    """Return the study's row id and whether this call made the row."""
    made = db.execute(
        insert_into(db, Study)
        .values(
            uid=new.study_uid,
            patient_id=new.patient_id,
            issuer=new.issuer,
            patient_name=new.patient_name,
            accession=new.accession,
            study_date=new.study_date,
            description=new.description,
            first_received_ms=at_ms,
            last_received_ms=at_ms,
            changed_ms=at_ms,
        )
        .on_conflict_do_nothing(index_elements=["uid"])
        .returning(Study.id)
    ).scalar_one_or_none()
    if made is not None:
        return int(made), True
    found = db.execute(select(Study.id).where(Study.uid == new.study_uid)).scalar_one()
    return int(found), False


def _ensure_series(db: Connection, new: NewInstance, study_id: int, at_ms: int) -> int:
    of_study = (Series.study_id == study_id, Series.uid == new.series_uid)
    found = db.execute(select(Series.id).where(*of_study)).scalar_one_or_none()
    if found is not None:
        return found
    made = db.execute(
        insert_into(db, Series)
        .values(
            study_id=study_id,
            uid=new.series_uid,
            modality=new.modality,
            header=_header(new),
            first_received_ms=at_ms,
            last_received_ms=at_ms,
        )
        .returning(Series.id)
    ).scalar_one()
    return int(made)


def _count(db: Connection, study_id: int, series_id: int, at_ms: int) -> None:
    """Count an instance; its study is arriving again, unless it is held.

    `last_received_ms` grows with every instance even within one millisecond or after a clock
    that went back, because settling compares it to see whether anything came in between.
    """
    db.execute(
        update(Series)
        .where(Series.id == series_id)
        .values(
            instance_count=Series.instance_count + 1,
            last_received_ms=_later(Series.last_received_ms, at_ms),
        )
    )
    db.execute(
        update(Study)
        .where(Study.id == study_id)
        .values(
            state=case((Study.state == StudyState.HELD, Study.state), else_=StudyState.ARRIVING),
            last_received_ms=_later(Study.last_received_ms, at_ms),
            changed_ms=at_ms,
        )
    )


def _later(column: Any, at_ms: int) -> Any:
    return case((column < at_ms, at_ms), else_=column + 1)


def _claimed_before(db: Connection, study_uid: str) -> bool:
    count = db.execute(
        select(func.count()).select_from(Conflict).where(Conflict.study_uid == study_uid)
    ).scalar_one()
    return count > 0


def _record_known(db: Connection, new: NewInstance, known: _Known) -> Recorded:
    """Record nothing, or a conflict, for a SOP Instance UID that is known."""
    held = known.state is StudyState.HELD
    in_doubt = _identity(new) != _identity(known)
    if _same_bytes(new, known) or (new.difference is Difference.ENCODING and not in_doubt):
        return _answer(Outcome.SAME, known, kept=False, held=held)
    difference = Difference.PIXELS if new.difference is Difference.PIXELS else Difference.HEADER
    kept = _keep_beside(db, new, known, kind="identity" if in_doubt else difference)
    if in_doubt and kept:
        _hold_both(db, new, known)
        held = True
    return _answer(Outcome.CONFLICT, known, kept=kept, held=held)


def _same_bytes(new: NewInstance, known: _Known) -> bool:
    """Whether the bytes that came are those that count.

    The caller's word holds only for the bytes it compared with: others may count by now.
    """
    if new.difference is Difference.NONE:
        return not new.checksum or not known.checksum or new.checksum == known.checksum
    return new.digest != "" and new.digest == known.digest


def _keep_beside(db: Connection, new: NewInstance, known: _Known, *, kind: str) -> bool:
    """Keep other bytes; False when the same ones are kept already."""
    before = select(func.count()).select_from(Conflict)
    kept = db.execute(
        insert_into(db, Conflict)
        .values(
            instance_id=known.instance_id,
            kind=kind,
            study_uid=new.study_uid,
            series_uid=new.series_uid,
            patient_id=new.patient_id,
            issuer=new.issuer,
            accession=new.accession,
            facts={
                "patient_name": new.patient_name,
                "study_date": new.study_date,
                "description": new.description,
                "modality": new.modality,
                "header": _header(new),
            },
            detail=_differences(new, known),
            sop_class=new.sop_class,
            transfer_syntax=new.transfer_syntax,
            digest=new.digest,
            checksum=new.checksum or new.digest[:32],
            version=2 + before.where(Conflict.instance_id == known.instance_id).scalar_subquery(),
            object_name=new.place.name,
            offset=new.place.offset,
            length=new.place.length,
            sender=new.sender,
            association_id=new.association_id,
            received_ms=now_ms(db) if new.received_ms is None else new.received_ms,
        )
        .on_conflict_do_nothing(index_elements=["instance_id", "checksum"])
        .returning(Conflict.id)
    ).scalar_one_or_none()
    return kept is not None


def _header(new: NewInstance) -> dict[str, Any]:
    return dict(new.header() if callable(new.header) else new.header)


def _identity(of: NewInstance | _Known) -> tuple[str, ...]:
    return of.study_uid, of.series_uid, of.patient_id, of.issuer, of.accession


def _hold_both(db: Connection, new: NewInstance, known: _Known) -> None:
    """Hold the study that has the instance and the one that the other bytes claim, if it exists.

    In row order, so that two listeners cannot wait for each other.
    """
    uids = {known.study_uid, new.study_uid}
    statement = select(Study.id).where(Study.uid.in_(uids)).order_by(Study.id)
    for study_id in db.execute(statement).scalars():
        hold(db, study_id, SAME_UID_IN_DOUBT.format(sop_uid=new.sop_uid))


def _differences(new: NewInstance, known: _Known) -> str:
    """Name what differs, without the values: a detail may be logged."""
    names = {
        "study UID": new.study_uid != known.study_uid,
        "series UID": new.series_uid != known.series_uid,
        "patient ID": new.patient_id != known.patient_id,
        "issuer of patient ID": new.issuer != known.issuer,
        "accession number": new.accession != known.accession,
    }
    return ", ".join(name for name, differs in names.items() if differs)


def _answer(outcome: Outcome, known: _Known, *, kept: bool, held: bool) -> Recorded:
    return Recorded(
        outcome=outcome,
        study_id=known.study_id,
        series_id=known.series_id,
        instance_id=known.instance_id,
        kept=kept,
        held=held,
    )
