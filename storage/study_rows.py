"""Studies, series and revisions as values, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from storage.rows import columns, read_all, read_one
from storage.tables import Revision, Series, Study, StudyState


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A row of `studies`."""

    id: int
    uid: str
    patient_id: str
    issuer: str
    patient_name: str
    accession: str
    study_date: str
    description: str
    state: StudyState
    revision: int
    hold_reason: str | None
    sentence: str
    needs_person: bool
    first_received_ms: int
    last_received_ms: int
    changed_ms: int


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A row of `series`; `header` is the routing header, keyword -> str or list of str."""

    id: int
    study_id: int
    uid: str
    modality: str
    header: Mapping[str, Any]
    instance_count: int
    first_received_ms: int
    last_received_ms: int


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """A row of `revisions`: a set of instances of a study that counted."""

    id: int
    study_id: int
    number: int
    reason: str
    decided_ms: int | None
    created_ms: int


STUDY_COLUMNS = columns(Study, StudyRow)
REVISION_COLUMNS = columns(Revision, RevisionRow)


def find_study(db: Connection, uid: str) -> StudyRow | None:
    """Return the study with Study Instance UID `uid`."""
    return read_one(db, select(*STUDY_COLUMNS).where(Study.uid == uid), StudyRow)


def get_study(db: Connection, study_id: int) -> StudyRow | None:
    """Return the study with row id `study_id`."""
    return read_one(db, select(*STUDY_COLUMNS).where(Study.id == study_id), StudyRow)


def list_series(db: Connection, study_id: int) -> list[SeriesRow]:
    """Return the series of a study in the order of their first instance."""
    statement = (
        select(*columns(Series, SeriesRow)).where(Series.study_id == study_id).order_by(Series.id)
    )
    return read_all(db, statement, SeriesRow)


def list_revisions(db: Connection, study_id: int) -> list[RevisionRow]:
    """Return the revisions of a study, oldest first."""
    statement = (
        select(*REVISION_COLUMNS).where(Revision.study_id == study_id).order_by(Revision.number)
    )
    return read_all(db, statement, RevisionRow)
