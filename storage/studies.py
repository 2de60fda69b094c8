"""Studies: found, listed, settled into revisions, finished. What a person reads of one: `story`."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, exists, insert, literal, or_, select, update

from storage.database import now_ms
from storage.digests import all_digested
from storage.rows import insert_into, read_all, read_one
from storage.story import StudyStory, story
from storage.study_moves import MOVES, hold, release, reopen
from storage.study_rows import (
    REVISION_COLUMNS,
    STUDY_COLUMNS,
    RevisionRow,
    SeriesRow,
    StudyRow,
    find_study,
    get_study,
    list_revisions,
    list_series,
)
from storage.tables import (
    Delivery,
    DeliveryState,
    Instance,
    Job,
    JobState,
    Revision,
    RevisionInstance,
    Series,
    Study,
    StudyState,
)

__all__ = [
    "MOVES",
    "RevisionRow",
    "SeriesRow",
    "StudyRow",
    "StudyStory",
    "find_study",
    "finish",
    "get_study",
    "hold",
    "idle_studies",
    "list_revisions",
    "list_series",
    "list_studies",
    "make_revision",
    "mark_decided",
    "release",
    "reopen",
    "set_sentence",
    "settle_due",
    "story",
    "undecided_revisions",
]


def list_studies(
    db: Connection,
    search: str = "",
    *,
    state: StudyState | None = None,
    needs_person: bool | None = None,
    limit: int = 100,
    before_ms: int | None = None,
) -> list[StudyRow]:
    """Return studies, the one that received last first.

    Args:
        db: Any transaction.
        search: Start of a patient ID, accession number, study UID or patient name; letters in
            names match in either case.
        state: Only studies in this state.
        needs_person: Only those that wait for a person, or only the others.
        limit: At most so many.
        before_ms: Only those that received last before this: the next page.
    """
    statement = (
        select(*STUDY_COLUMNS).order_by(Study.last_received_ms.desc(), Study.id.desc()).limit(limit)
    )
    if search.strip():
        statement = statement.where(_matches(search.strip()))
    if state is not None:
        statement = statement.where(Study.state == state)
    if needs_person is not None:
        statement = statement.where(Study.needs_person.is_(needs_person))
    if before_ms is not None:
        statement = statement.where(Study.last_received_ms < before_ms)
    return read_all(db, statement, StudyRow)


def _matches(search: str) -> ColumnElement[bool]:
    return or_(
        Study.patient_id.startswith(search, autoescape=True),
        Study.accession.startswith(search, autoescape=True),
        Study.uid.startswith(search, autoescape=True),
        Study.patient_name.icontains(search, autoescape=True),
    )


def settle_due(db: Connection, now: int, quiet_ms: int) -> list[StudyRow]:
    """Return the arriving studies whose last instance came at least `quiet_ms` before `now`.

    One of which an instance still lacks its digest is not due yet.
    """
    statement = (
        select(*STUDY_COLUMNS)
        .where(Study.state == StudyState.ARRIVING)
        .where(Study.last_received_ms <= now - quiet_ms)
        .where(all_digested())
        .order_by(Study.last_received_ms, Study.id)
    )
    return read_all(db, statement, StudyRow)


def make_revision(
    db: Connection, study_id: int, reason: str, *, last_received_ms: int
) -> RevisionRow | None:
    """Settle a study: its instances of now become its next revision.

    Instances of another patient under the study's UID are kept but do not count.

    Args:
        db: A writing transaction.
        study_id: Row id.
        reason: Why it counts as complete, as a sentence.
        last_received_ms: Of the row on which the caller decided. An instance that came since
            then keeps the study arriving.

    Returns:
        The revision, or None when the study is not arriving, something came in between, or an
        instance lacks its digest.
    """
    at_ms = now_ms(db)
    number = db.execute(
        update(Study)
        .where(Study.id == study_id)
        .where(Study.state == StudyState.ARRIVING)
        .where(Study.last_received_ms == last_received_ms)
        .where(all_digested())
        .values(state=StudyState.SETTLED, revision=Study.revision + 1, changed_ms=at_ms)
        .returning(Study.revision)
    ).scalar_one_or_none()
    if number is None:
        return None
    made = (
        insert_into(db, Revision)
        .values(study_id=study_id, number=number, reason=reason, created_ms=at_ms)
        .returning(*REVISION_COLUMNS)
    )
    revision = read_one(db, made, RevisionRow)
    if revision is None:
        raise RuntimeError(f"revision {number} of study {study_id} returned no row")
    members = (
        select(literal(revision.id), Instance.id)
        .join(Series, Series.id == Instance.series_id)
        .join(Study, Study.id == Series.study_id)
        .where(Series.study_id == study_id)
        .where(Instance.patient_id == Study.patient_id)
        .where(Instance.issuer == Study.issuer)
    )
    db.execute(insert(RevisionInstance).from_select(["revision_id", "instance_id"], members))
    return revision


def undecided_revisions(db: Connection) -> list[tuple[StudyRow, RevisionRow]]:
    """Return the current revisions of settled studies for which no decision is recorded yet."""
    found = []
    statement = (
        select(*REVISION_COLUMNS)
        .join(Study, Study.id == Revision.study_id)
        .where(Study.state == StudyState.SETTLED)
        .where(Study.revision == Revision.number)
        .where(Revision.decided_ms.is_(None))
        .order_by(Revision.id)
    )
    for revision in read_all(db, statement, RevisionRow):
        study = get_study(db, revision.study_id)
        if study is not None:
            found.append((study, revision))
    return found


def mark_decided(db: Connection, revision_id: int) -> bool:
    """Note that a revision's decisions are recorded, in the transaction that records them.

    Returns:
        False when someone else decided it, or its study is no longer settled at this revision:
        then the transaction is to be rolled back.
    """
    current = (
        select(Study.id)
        .where(Study.id == Revision.study_id)
        .where(Study.state == StudyState.SETTLED)
        .where(Study.revision == Revision.number)
    )
    statement = (
        update(Revision)
        .where(Revision.id == revision_id)
        .where(Revision.decided_ms.is_(None))
        .where(exists(current))
        .values(decided_ms=now_ms(db))
    )
    return db.execute(statement).rowcount == 1


def set_sentence(db: Connection, study_id: int, text: str, *, needs_person: bool) -> bool:
    """Set the sentence that people read of a study, unless it is held: a hold has its own."""
    statement = (
        update(Study)
        .where(Study.id == study_id)
        .where(Study.state != StudyState.HELD)
        .values(sentence=text, needs_person=needs_person, changed_ms=now_ms(db))
    )
    return db.execute(statement).rowcount == 1


def idle_studies(db: Connection) -> list[StudyRow]:
    """Return settled, decided studies with no job or delivery left that the node itself moves."""
    statement = (
        select(*STUDY_COLUMNS)
        .where(Study.state == StudyState.SETTLED)
        .where(_nothing_left())
        .order_by(Study.id)
    )
    return read_all(db, statement, StudyRow)


def finish(
    db: Connection, study_id: int, *, revision: int, sentence: str, needs_person: bool
) -> bool:
    """Declare a settled study done, if nothing is left in it that the node itself moves.

    Args:
        db: A writing transaction.
        study_id: Row id.
        revision: The revision on which the caller's sentence stands.
        sentence: What people read.
        needs_person: Whether something in it waits for a person.
    """
    statement = (
        update(Study)
        .where(Study.id == study_id)
        .where(Study.state == StudyState.SETTLED)
        .where(Study.revision == revision)
        .where(_nothing_left())
        .values(
            state=StudyState.DONE,
            sentence=sentence,
            needs_person=needs_person,
            changed_ms=now_ms(db),
        )
    )
    return db.execute(statement).rowcount == 1


def _nothing_left() -> ColumnElement[bool]:
    decided = (
        select(Revision.id)
        .where(Revision.study_id == Study.id)
        .where(Revision.number == Study.revision)
        .where(Revision.decided_ms.is_not(None))
    )
    jobs = (
        select(Job.id)
        .where(Job.study_id == Study.id)
        .where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
    )
    deliveries = (
        select(Delivery.id)
        .where(Delivery.study_id == Study.id)
        .where(Delivery.state.in_([DeliveryState.OWED, DeliveryState.SENT]))
    )
    return exists(decided) & ~exists(jobs) & ~exists(deliveries)
