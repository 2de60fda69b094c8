"""Which of several byte strings under one SOP Instance UID counts, and what follows from it.

The bytes that count and those in a conflict change places, in one transaction with all that rests
on them: jobs with that image are void, what is not sent yet of their results is withdrawn, the
study arrives again and gets its next revision. Nothing is ever thrown away, and every choice can
be taken back.

An instance counts only in a study of its own patient. Where the last instance of the study's
patient has given way to another patient's, the study is that patient's from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, or_, select, update

from storage import queue
from storage.conflict_rows import ConflictRow, find_conflict, list_conflicts
from storage.database import now_ms
from storage.deliveries import INPUT_REPLACED, withdraw_results_of
from storage.filing import (
    OTHER_PATIENT,
    LockedStudy,
    arrive_again,
    count_in_series,
    ensure_series,
    ensure_study,
    lock_studies,
)
from storage.instance_rows import NewInstance
from storage.objects import Place
from storage.rows import table_of
from storage.study_moves import hold
from storage.tables import Conflict, Instance, Job, RevisionInstance, Series, Study

_OF_THE_BYTES: Final = (
    "sop_class",
    "transfer_syntax",
    "digest",
    "version",
    "object_name",
    "offset",
    "length",
    "sender",
    "association_id",
    "received_ms",
    "patient_id",
    "issuer",
    "accession",
)
"""Columns of `instances` and `conflicts` alike, which change places."""


class Choice(StrEnum):
    """Which of two byte strings under one UID counts."""

    FIRST = "first"  # the one that came first
    LAST = "last"  # the one that came last


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a choice came to.

    Attributes:
        decided: Conflicts that are decided now.
        changed: Instances for which other bytes count now.
        sent: Row ids of deliveries that peers have already, of results made from bytes that do
            not count any more: somebody must see to them there.
        studies: UIDs of the studies that are touched.
    """

    decided: int
    changed: int
    sent: frozenset[int]
    studies: tuple[str, ...]

    def words(self) -> str:
        """Say it to the person who chose."""
        said = (
            f"Decided: {self.decided}. Instances for which other bytes count now: {self.changed}."
        )
        if not self.sent:
            return said
        numbers = ", ".join(map(str, sorted(self.sent)))
        return (
            f"{said} Peers have results that were made from bytes that do not count any more "
            f"(delivery {numbers}): have them removed there."
        )


def choose(db: Connection, conflict_id: int, choice: Choice, *, who: str) -> Chosen | None:
    """Decide a conflict, or decide it anew.

    Args:
        db: A writing transaction.
        conflict_id: Row id.
        choice: Which bytes count.
        who: A person, or the setting that decides.

    Returns:
        What it came to, or None when there is no such conflict.
    """
    seen = find_conflict(db, conflict_id)
    if seen is None:
        return None
    studies = lock_studies(db, (seen.study_uid, seen.of_study_uid))
    conflict = find_conflict(db, conflict_id)
    if conflict is None:
        raise RuntimeError(f"conflict {conflict_id} is not there any more")
    at_ms = now_ms(db)
    db.execute(
        update(Conflict)
        .where(Conflict.id == conflict_id)
        .values(chosen=choice, decided_by=who, decided_ms=at_ms)
    )
    came_last = conflict.version > conflict.of_version
    changes = came_last == (choice is Choice.LAST)
    sent = _let_count(db, conflict, studies, at_ms) if changes else set()
    uids = sorted({conflict.study_uid, conflict.of_study_uid})
    return Chosen(decided=1, changed=int(changes), sent=frozenset(sent), studies=tuple(uids))


def choose_for_study(db: Connection, study_uid: str, choice: Choice, *, who: str) -> Chosen:
    """Decide all conflicts of a study that nobody has decided, and whose study it is.

    With `Choice.LAST` a study in which instances of two patients lie is from then on that of the
    patient whose instance came last.
    """
    lock_studies(
        db,
        {
            uid
            for row in list_conflicts(db, study_uid=study_uid, only_open=True)
            for uid in (row.study_uid, row.of_study_uid, study_uid)
        },
    )
    done = [
        chosen
        for row in list_conflicts(db, study_uid=study_uid, only_open=True)
        if (chosen := choose(db, row.id, choice, who=who)) is not None
    ]
    sent = {delivery for chosen in done for delivery in chosen.sent}
    if choice is Choice.LAST:
        sent |= _give_to_last_patient(db, study_uid)
    return Chosen(
        decided=len(done),
        changed=sum(chosen.changed for chosen in done),
        sent=frozenset(sent),
        studies=tuple(sorted({study_uid}.union(*(chosen.studies for chosen in done)))),
    )


def _let_count(
    db: Connection, conflict: ConflictRow, studies: Mapping[str, LockedStudy], at_ms: int
) -> set[int]:
    """Let the bytes of a conflict and those that count change places; return what was sent."""
    instance = _row(db, Instance, conflict.instance_id)
    other = _row(db, Conflict, conflict.id)
    before = studies[conflict.of_study_uid]
    old_facts = _facts(db, instance["series_id"])
    sent = _void(db, _jobs_with(db, conflict.instance_id))
    new = _as_new(conflict.sop_uid, other)
    after = studies.get(new.study_uid) or ensure_study(db, new, at_ms)
    series_id = ensure_series(db, new, after.id, at_ms)
    db.execute(
        update(Conflict)
        .where(Conflict.id == conflict.id)
        .values(
            **{name: instance[name] for name in _OF_THE_BYTES},
            checksum=instance["checksum"] or instance["digest"][:32],
            study_uid=conflict.of_study_uid,
            series_uid=conflict.of_series_uid,
            facts=old_facts,
        )
    )
    db.execute(
        update(Instance)
        .where(Instance.id == conflict.instance_id)
        .values(
            **{name: other[name] for name in _OF_THE_BYTES},
            # What only stood for a checksum must not be compared with one.
            checksum="" if other["checksum"] == other["digest"][:32] else other["checksum"],
            series_id=series_id,
        )
    )
    if series_id != instance["series_id"]:
        count_in_series(db, instance["series_id"], -1, at_ms)
        count_in_series(db, series_id, 1, at_ms)
    for study in {before, after}:
        arrive_again(db, study.id, at_ms)
        sent |= _follow_patient(db, study, new)
    if not lock_studies(db, [after.uid])[after.uid].is_of_patient(new):
        hold(db, after.id, OTHER_PATIENT.format(sop_uid=conflict.sop_uid))
    return sent


def _row(db: Connection, mapped: type[Instance | Conflict], row_id: int) -> Mapping[str, Any]:
    table = table_of(mapped)
    return dict(db.execute(select(table).where(table.c.id == row_id)).mappings().one())


def _facts(db: Connection, series_id: int) -> dict[str, Any]:
    """Return what study and series rows say: the same that a conflict keeps of its bytes."""
    statement = (
        select(
            Study.patient_name,
            Study.study_date,
            Study.description,
            Series.modality,
            Series.header,
        )
        .join(Series, Series.study_id == Study.id)
        .where(Series.id == series_id)
    )
    return dict(db.execute(statement).mappings().one())


def _as_new(sop_uid: str, row: Mapping[str, Any]) -> NewInstance:
    return NewInstance(
        study_uid=row["study_uid"],
        series_uid=row["series_uid"],
        sop_uid=sop_uid,
        sop_class=row["sop_class"],
        transfer_syntax=row["transfer_syntax"],
        place=Place(row["object_name"], row["offset"], row["length"]),
        patient_id=row["patient_id"],
        issuer=row["issuer"],
        accession=row["accession"],
        **row["facts"],
    )


def _jobs_with(db: Connection, instance_id: int) -> list[int]:
    """Return the jobs that read an instance, or would."""
    statement = (
        select(Job.id)
        .join(RevisionInstance, RevisionInstance.revision_id == Job.revision_id)
        .join(Instance, Instance.id == RevisionInstance.instance_id)
        .where(Instance.id == instance_id)
        .where(Job.series_id == Instance.series_id)
    )
    return list(db.execute(statement).scalars())


def _void(db: Connection, job_ids: Sequence[int]) -> set[int]:
    """Make jobs and what they owe void; return the deliveries of them that peers have already."""
    if not job_ids:
        return set()
    queue.void(db, job_ids, INPUT_REPLACED)
    return withdraw_results_of(db, job_ids)


def _follow_patient(db: Connection, study: LockedStudy, new: NewInstance) -> set[int]:
    """Give a study to another patient when none of its instances is its own patient's any more."""
    patients = _patients(db, study.id)
    if len(patients) != 1 or study.is_of(patients[0]):
        return set()
    name = new.patient_name if patients[0] == (new.patient_id, new.issuer) else ""
    return _give_to(db, study.id, patients[0], name)


def _give_to_last_patient(db: Connection, study_uid: str) -> set[int]:
    study = lock_studies(db, [study_uid]).get(study_uid)
    patients = [] if study is None else _patients(db, study.id)
    if study is None or len(patients) < 2:
        return set()
    others = [patient for patient in patients if not study.is_of(patient)]
    sent = _give_to(db, study.id, others[-1], "")
    arrive_again(db, study.id, now_ms(db))
    return sent


def _patients(db: Connection, study_id: int) -> list[tuple[str, str]]:
    """Return the patients (ID, issuer) of a study's instances, who came last at the end."""
    statement = (
        select(Instance.patient_id, Instance.issuer)
        .join(Series, Series.id == Instance.series_id)
        .where(Series.study_id == study_id)
        .order_by(Instance.received_ms.desc(), Instance.id.desc())
    )
    last_first = dict.fromkeys((row.patient_id, row.issuer) for row in db.execute(statement))
    return list(reversed(last_first))


def _give_to(db: Connection, study_id: int, patient: tuple[str, str], name: str) -> set[int]:
    """Say whose study it is; all its jobs were for another patient.

    The name is only known where it came with a conflict; a wrong one is worse than none.
    """
    patient_id, issuer = patient
    db.execute(
        update(Study)
        .where(Study.id == study_id)
        .where(or_(Study.patient_id != patient_id, Study.issuer != issuer))
        .values(patient_id=patient_id, issuer=issuer, patient_name=name)
    )
    jobs = select(Job.id).where(Job.study_id == study_id)
    return _void(db, list(db.execute(jobs).scalars()))
