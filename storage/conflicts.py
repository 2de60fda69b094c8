"""One SOP Instance UID, several byte strings: kept, classified, and which of them counts.

Nothing that came is thrown away: the bytes that count are the row in `instances`, all others are
rows in `conflicts`. An identity in doubt (patient, issuer, accession, study or series) holds every
study that it touches, whatever the setting says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, func, select

from storage.choosing import Choice, choose
from storage.database import now_ms
from storage.filing import SAME_UID_IN_DOUBT, lock_studies
from storage.instance_rows import Difference, Doubt, NewInstance, Outcome, Recorded
from storage.rows import insert_into, read_one
from storage.study_moves import hold
from storage.tables import Conflict, Instance, Series, Study, StudyState

OTHER_CONTENT: Final = (
    "Instance {sop_uid} came a second time with other content. Nothing is made or sent until a "
    "person has decided which one counts and released the study."
)


class OnConflict(StrEnum):
    """What to do when the same instance of the same patient comes with other content."""

    FIRST = "first"  # the bytes that came first count
    LAST = "last"  # the bytes that came last count
    HOLD = "hold"  # the study is held until a person has decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
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


def find_known(db: Connection, sop_uid: str) -> Known | None:
    """Return what counts under a SOP Instance UID."""
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
    return read_one(db, statement, Known)


def record_known(
    db: Connection, new: NewInstance, known: Known, on_conflict: OnConflict
) -> Recorded:
    """Record what came under a SOP Instance UID that is known: nothing, or a conflict."""
    answer = _nothing_new(new, known)
    if answer is not None:
        return answer
    # From here to the commit nobody else lets other bytes count, nor settles these studies.
    lock_studies(db, (known.study_uid, new.study_uid))
    locked = find_known(db, new.sop_uid)
    if locked is None:
        raise RuntimeError(f"instance {new.sop_uid} is not there any more")
    answer = _nothing_new(new, locked)
    return _record_conflict(db, new, locked, on_conflict) if answer is None else answer


def _nothing_new(new: NewInstance, known: Known) -> Recorded | None:
    """Return the answer where nothing is to be recorded, or None for a conflict."""
    if _same_bytes(new, known):
        return _answer(Outcome.SAME, known, kept=False)
    if new.difference is Difference.UNKNOWN and not (new.digest and known.digest):
        return _answer(Outcome.COMPARE, known, kept=False)
    if new.difference is Difference.ENCODING and _identity(new) == _identity(known):
        return _answer(Outcome.SAME, known, kept=False)
    return None


def _same_bytes(new: NewInstance, known: Known) -> bool:
    """Whether the bytes that came are those that count.

    The caller's word holds only for the bytes that it compared with: others may count by now.
    """
    if new.difference is Difference.NONE:
        return not new.checksum or not known.checksum or new.checksum == known.checksum
    return new.digest != "" and new.digest == known.digest


def _record_conflict(
    db: Connection, new: NewInstance, known: Known, on_conflict: OnConflict
) -> Recorded:
    doubt = _doubt(new, known)
    conflict_id = _keep_beside(db, new, known, doubt)
    if conflict_id is None:
        return _answer(Outcome.CONFLICT, known, kept=False)
    held = True
    if doubt is Doubt.IDENTITY:
        for study in lock_studies(db, (known.study_uid, new.study_uid)).values():
            hold(db, study.id, SAME_UID_IN_DOUBT.format(sop_uid=new.sop_uid))
    elif on_conflict is OnConflict.HOLD:
        hold(db, known.study_id, OTHER_CONTENT.format(sop_uid=new.sop_uid))
    else:
        held = False
        choose(db, conflict_id, Choice(on_conflict), who=f'on_conflict = "{on_conflict}"')
    return _answer(Outcome.CONFLICT, known, kept=True, held=held, doubt=doubt)


def _doubt(new: NewInstance, known: Known) -> Doubt:
    if _identity(new) != _identity(known):
        return Doubt.IDENTITY
    return Doubt.PIXELS if new.difference is Difference.PIXELS else Doubt.HEADER


def _keep_beside(db: Connection, new: NewInstance, known: Known, kind: Doubt) -> int | None:
    """Keep other bytes and return their row id; None when the same ones are kept already."""
    before = select(func.count()).select_from(Conflict)
    version = 2 + before.where(Conflict.instance_id == known.instance_id).scalar_subquery()
    return db.execute(
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
                "header": new.routing_header(),
            },
            detail=_differences(new, known),
            sop_class=new.sop_class,
            transfer_syntax=new.transfer_syntax,
            digest=new.digest,
            checksum=new.checksum or new.digest[:32],
            version=version,
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


def _identity(of: NewInstance | Known) -> tuple[str, ...]:
    return of.study_uid, of.series_uid, of.patient_id, of.issuer, of.accession


def _differences(new: NewInstance, known: Known) -> str:
    """Name what differs, without the values: a detail may be logged."""
    names = {
        "study UID": new.study_uid != known.study_uid,
        "series UID": new.series_uid != known.series_uid,
        "patient ID": new.patient_id != known.patient_id,
        "issuer of patient ID": new.issuer != known.issuer,
        "accession number": new.accession != known.accession,
    }
    return ", ".join(name for name, differs in names.items() if differs)


def _answer(
    outcome: Outcome,
    known: Known,
    *,
    kept: bool,
    held: bool = False,
    doubt: Doubt | None = None,
) -> Recorded:
    return Recorded(
        outcome=outcome,
        study_id=known.study_id,
        series_id=known.series_id,
        instance_id=known.instance_id,
        kept=kept,
        held=held or known.state is StudyState.HELD,
        doubt=doubt,
    )
