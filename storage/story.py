"""One study's story, from the associations that brought it to the proof that its results arrived.

The study's page and `limner study` show exactly this value.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from storage.associations import AssociationRow, list_associations
from storage.conflict_rows import ConflictRow, count_other_patients, list_conflicts
from storage.decisions import DecisionRow, list_decisions
from storage.deliveries import (
    CommitmentRow,
    DeliveryAttemptRow,
    DeliveryRow,
    list_commitments,
    list_deliveries,
    list_delivery_attempts,
)
from storage.notices import NoticeRow, notices_of_study
from storage.queue import AttemptRow, JobRow, list_attempts, list_jobs
from storage.results import ResultRow, list_results
from storage.study_rows import (
    RevisionRow,
    SeriesRow,
    StudyRow,
    get_study,
    list_revisions,
    list_series,
)
from storage.tables import RevisionInstance


@dataclass(frozen=True, slots=True)
class RevisionStory:
    """A revision, how many instances counted in it, and what the routes said."""

    revision: RevisionRow
    instance_count: int
    decisions: tuple[DecisionRow, ...]


@dataclass(frozen=True, slots=True)
class DeliveryStory:
    """A delivery with every contact and every question for commitment."""

    delivery: DeliveryRow
    attempts: tuple[DeliveryAttemptRow, ...]
    commitments: tuple[CommitmentRow, ...]


@dataclass(frozen=True, slots=True)
class ResultStory:
    """A result and to whom it is owed."""

    result: ResultRow
    deliveries: tuple[DeliveryStory, ...]


@dataclass(frozen=True, slots=True)
class JobStory:
    """A job, every try at it, and the results that it made first."""

    job: JobRow
    attempts: tuple[AttemptRow, ...]
    results: tuple[ResultStory, ...]


@dataclass(frozen=True, slots=True)
class StudyStory:
    """Everything that people are shown of one study; lists run from the oldest to the newest.

    Attributes:
        other_patients: Instances under its UID that are of another patient, and do not count.
        notices: What peers said about it beside sending it.
    """

    study: StudyRow
    series: tuple[SeriesRow, ...]
    instance_count: int
    associations: tuple[AssociationRow, ...]
    conflicts: tuple[ConflictRow, ...]
    other_patients: int
    notices: tuple[NoticeRow, ...]
    revisions: tuple[RevisionStory, ...]
    jobs: tuple[JobStory, ...]


def story(db: Connection, study_id: int) -> StudyStory | None:
    """Return a study's story as of one reading transaction, or None when there is no such study."""
    study = get_study(db, study_id)
    if study is None:
        return None
    series = tuple(list_series(db, study_id))
    decisions = list_decisions(db, study_id=study_id)
    results = list_results(db, study_id=study_id)
    return StudyStory(
        study=study,
        series=series,
        instance_count=sum(one.instance_count for one in series),
        associations=tuple(reversed(list_associations(db, study_id=study_id))),
        conflicts=tuple(list_conflicts(db, study_uid=study.uid)),
        other_patients=count_other_patients(db, study_id),
        notices=tuple(notices_of_study(db, study.uid)),
        revisions=tuple(
            RevisionStory(
                revision,
                _count_instances(db, revision.id),
                tuple(one for one in decisions if one.revision_id == revision.id),
            )
            for revision in list_revisions(db, study_id)
        ),
        jobs=tuple(
            JobStory(
                job,
                tuple(list_attempts(db, job.id)),
                tuple(_result_story(db, one) for one in results if one.job_id == job.id),
            )
            for job in reversed(list_jobs(db, study_id=study_id))
        ),
    )


def _count_instances(db: Connection, revision_id: int) -> int:
    statement = (
        select(func.count())
        .select_from(RevisionInstance)
        .where(RevisionInstance.revision_id == revision_id)
    )
    return int(db.execute(statement).scalar_one())


def _result_story(db: Connection, result: ResultRow) -> ResultStory:
    return ResultStory(
        result,
        tuple(
            DeliveryStory(
                delivery,
                tuple(list_delivery_attempts(db, delivery.id)),
                tuple(list_commitments(db, delivery.id)),
            )
            for delivery in reversed(list_deliveries(db, result_id=result.id))
        ),
    )
