"""Where an instance goes: its study and series, made when they are new, and what they count.

A study's row is locked before anything of it is counted, so that counts are exact and a late
instance cannot slip past the settling of its study. Whoever locks several studies does so in the
order of their UIDs, so that no two listeners can wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, String, bindparam, case, func, select, update

from storage.instance_rows import NewInstance
from storage.rows import insert_into
from storage.study_moves import hold
from storage.tables import Conflict, Series, Study, StudyState

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


@dataclass(frozen=True, slots=True)
class LockedStudy:
    """A study that nobody else counts, settles or holds until the transaction ends."""

    id: int
    uid: str
    patient_id: str
    issuer: str
    state: StudyState

    def is_of(self, patient: tuple[str, str]) -> bool:
        """Whether it is the study of a patient (ID, issuer)."""
        return (self.patient_id, self.issuer) == patient

    def is_of_patient(self, new: NewInstance) -> bool:
        """Whether an instance is of this study's patient by its own header."""
        return self.is_of((new.patient_id, new.issuer))


_LOCK = (
    select(Study.id, Study.uid, Study.patient_id, Study.issuer, Study.state)
    .where(Study.uid.in_(bindparam("uids", expanding=True, type_=String())))
    .order_by(Study.uid)
    # Without this, whoever adds a result or job to a study would wait for its lock, and the two
    # could wait for each other. What must not happen beside it takes a share lock.
    .with_for_update(key_share=True)
)


def lock_studies(db: Connection, uids: Iterable[str]) -> dict[str, LockedStudy]:
    """Lock those of the studies that exist, in the order of their UIDs; return them by UID."""
    rows = db.execute(_LOCK, {"uids": sorted(set(uids))})
    return {
        row.uid: LockedStudy(row.id, row.uid, row.patient_id, row.issuer, StudyState(row.state))
        for row in rows
    }


def ensure_study(db: Connection, new: NewInstance, at_ms: int) -> LockedStudy:
    """Return the locked study of an instance, which is made when it is new.

    A new study that an instance of another study claimed to be is held from its first instance.
    """
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
    if made is not None and _claimed_before(db, new.study_uid):
        hold(db, made, CLAIMED_BEFORE)
    return lock_studies(db, [new.study_uid])[new.study_uid]


def ensure_series(db: Connection, new: NewInstance, study_id: int, at_ms: int) -> int:
    """Return the row id of an instance's series, which is made when it is new.

    Args:
        db: A writing transaction that holds the study.
        new: The instance.
        study_id: The row id of its study.
        at_ms: Now.
    """
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
            header=new.routing_header(),
            first_received_ms=at_ms,
            last_received_ms=at_ms,
        )
        .returning(Series.id)
    ).scalar_one()
    return int(made)


_COUNT_SERIES = (
    update(Series)
    .where(Series.id == bindparam("series_id"))
    .values(
        instance_count=Series.instance_count + bindparam("number"),
        last_received_ms=case(
            (Series.last_received_ms < bindparam("at_ms"), bindparam("at_ms")),
            else_=Series.last_received_ms + 1,
        ),
    )
)
_COUNT_STUDY = (
    update(Study)
    .where(Study.id == bindparam("study_id"))
    .values(
        state=case((Study.state == StudyState.HELD, Study.state), else_=StudyState.ARRIVING),
        last_received_ms=case(
            (Study.last_received_ms < bindparam("at_ms"), bindparam("at_ms")),
            else_=Study.last_received_ms + 1,
        ),
        changed_ms=bindparam("at_ms"),
    )
)


def count_in_series(db: Connection, series_id: int, number: int, at_ms: int) -> None:
    """Count instances that came, or, with a negative number, that went to another series."""
    db.execute(_COUNT_SERIES, {"series_id": series_id, "number": number, "at_ms": at_ms})


def arrive_again(db: Connection, study_id: int, at_ms: int) -> None:
    """Say that something of a study changed: it is arriving again, unless it is held.

    `last_received_ms` grows every time, even within one millisecond or after a clock that went
    back, because settling compares it to see whether anything came in between.
    """
    db.execute(_COUNT_STUDY, {"study_id": study_id, "at_ms": at_ms})


def _claimed_before(db: Connection, study_uid: str) -> bool:
    count = db.execute(
        select(func.count())
        .select_from(Conflict)
        .where(Conflict.study_uid == study_uid)
        .where(Conflict.chosen == "")
    ).scalar_one()
    return count > 0
