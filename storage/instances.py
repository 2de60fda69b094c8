"""Instances as received: the one path by which studies, series and instances come into being.

Several listeners may record instances of one new study at the same moment. The study's row is
locked before anything is counted, so that counts are exact and a late instance cannot slip past
the settling of its study. Whoever loses a race for a SOP Instance UID undoes what it made and
compares with the winner. Many at once go through `storage.recording`, with the same outcome.
"""

from __future__ import annotations

from sqlalchemy import Connection

from storage.conflicts import OnConflict, find_known, record_known
from storage.database import now_ms
from storage.doubts import audit_doubts
from storage.filing import (
    CLAIMED_BEFORE,
    OTHER_PATIENT,
    SAME_UID_IN_DOUBT,
    arrive_again,
    count_in_series,
    ensure_series,
    ensure_study,
)
from storage.instance_rows import (
    Difference,
    Doubt,
    InstanceRow,
    NewInstance,
    Outcome,
    Recorded,
    find_instance,
    instances_of_revision,
    list_instances,
)
from storage.rows import insert_into
from storage.study_moves import hold
from storage.tables import Instance, StudyState

__all__ = [
    "CLAIMED_BEFORE",
    "OTHER_PATIENT",
    "SAME_UID_IN_DOUBT",
    "Difference",
    "Doubt",
    "InstanceRow",
    "NewInstance",
    "OnConflict",
    "Outcome",
    "Recorded",
    "find_instance",
    "instances_of_revision",
    "list_instances",
    "record_instance",
]


def record_instance(
    db: Connection, new: NewInstance, *, on_conflict: OnConflict = OnConflict.FIRST
) -> Recorded:
    """Record one instance, exactly once, whoever else records at the same moment.

    Args:
        db: A writing transaction. One that records several instances must keep to one study,
            or two of them may wait for each other (then one gets `StorageAway` and tries again).
        new: The instance; its bytes are durable already.
        on_conflict: Which bytes count when only header or pixels differ.

    Returns:
        What became of it. A second patient under one Study Instance UID, and a second identity
        under one SOP Instance UID, hold the study.
    """
    recorded = record_unaudited(db, new, on_conflict)
    audit_doubts(db, [(new, recorded)])
    return recorded


def record_unaudited(db: Connection, new: NewInstance, on_conflict: OnConflict) -> Recorded:
    """Record one instance; the caller audits what is in doubt at the end of its transaction."""
    known = find_known(db, new.sop_uid)
    if known is None:
        # If another listener wins the race for this SOP Instance UID, a study or series that was
        # made for it here must not stay behind empty.
        savepoint = db.begin_nested()
        recorded = _record_new(db, new)
        if recorded is not None:
            savepoint.commit()
            return recorded
        savepoint.rollback()
        known = find_known(db, new.sop_uid)
        if known is None:
            raise RuntimeError(f"instance {new.sop_uid} is neither new nor known")
    return record_known(db, new, known, on_conflict)


def _record_new(db: Connection, new: NewInstance) -> Recorded | None:
    """Record an instance whose UID is unknown; None when another listener was first."""
    at_ms = now_ms(db)
    study = ensure_study(db, new, at_ms)
    series_id = ensure_series(db, new, study.id, at_ms)
    instance_id = _insert(db, new, series_id, at_ms)
    if instance_id is None:
        return None
    count_in_series(db, series_id, 1, at_ms)
    arrive_again(db, study.id, at_ms)
    doubt = None
    if not study.is_of_patient(new):
        hold(db, study.id, OTHER_PATIENT.format(sop_uid=new.sop_uid))
        doubt = Doubt.PATIENT
    return Recorded(
        outcome=Outcome.NEW,
        study_id=study.id,
        series_id=series_id,
        instance_id=instance_id,
        kept=True,
        held=doubt is not None or study.state is StudyState.HELD,
        doubt=doubt,
    )


def _insert(db: Connection, new: NewInstance, series_id: int, at_ms: int) -> int | None:
    statement = (
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
    )
    return db.execute(statement).scalar_one_or_none()
