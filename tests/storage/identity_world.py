"""A small world in which anything may arrive: what a keeper, a scheduler and workers would do.

The truth is kept beside the database: `bytes_at` says what byte string lies at each place, and a
byte string here is the whole content of an instance. After every act `check` compares.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import count

from sqlalchemy import Connection, func, select

from storage import choosing, decisions, deliveries, instances, queue, results, studies
from storage.choosing import Choice
from storage.conflict_rows import list_conflicts
from storage.database import now_ms
from storage.digests import set_digests, without_digest
from storage.instances import Difference, Doubt, NewInstance, OnConflict, Outcome, Recorded
from storage.objects import Place
from storage.queue import JobRow, NewJob
from storage.recording import record_batch
from storage.results import NewResult
from storage.tables import (
    Conflict,
    Delivery,
    DeliveryState,
    Instance,
    Job,
    JobState,
    Result,
    RevisionInstance,
    Series,
    Study,
    StudyState,
)


@dataclass(frozen=True, slots=True)
class Content:
    """An instance's bytes: two are the same string exactly if all of this is equal."""

    sop: str
    study: str
    series: str
    patient: str
    issuer: str = "H"
    accession: str = "A1"
    header: int = 0
    pixels: int = 0
    syntax: str = "1.2.840.10008.1.2.1"

    @property
    def whose(self) -> tuple[str, str]:
        return self.patient, self.issuer

    @property
    def identity(self) -> tuple[str, ...]:
        return self.study, self.series, self.patient, self.issuer, self.accession


def difference(counts: Content, came: Content) -> Difference:
    """Return what a keeper finds that reads both byte strings."""
    if counts == came:
        return Difference.NONE
    if replace(counts, syntax="", pixels=0) != replace(came, syntax="", pixels=0):
        return Difference.HEADER
    return Difference.PIXELS if counts.syntax == came.syntax else Difference.ENCODING


@dataclass(slots=True)
class World:
    """One database, one keeper, one worker, one sender, and people."""

    db: Connection
    on_conflict: OnConflict
    bytes_at: dict[str, Content] = field(default_factory=dict)
    arrived: list[Content] = field(default_factory=list)
    running: dict[int, tuple[JobRow, tuple[str, ...]]] = field(default_factory=dict)
    sources: dict[int, tuple[str, ...]] = field(default_factory=dict)
    sent: list[int] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def new(self, content: Content, *, compare: bool = True) -> NewInstance:
        """Put bytes somewhere and say what a keeper says of them."""
        number = next(self._numbers)
        place = Place(f"segments/{number}", 0, 1000)
        self.bytes_at[place.name] = content
        known = instances.find_instance(self.db, content.sop) if compare else None
        differs = (
            Difference.UNKNOWN
            if known is None
            else difference(self.bytes_at[known.object_name], content)
        )
        return NewInstance(
            study_uid=content.study,
            series_uid=content.series,
            sop_uid=content.sop,
            sop_class="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax=content.syntax,
            place=place,
            checksum=hashlib.md5(repr(content).encode()).hexdigest(),  # noqa: S324
            patient_id=content.patient,
            issuer=content.issuer,
            accession=content.accession,
            modality="CT",
            header={"Modality": "CT"},
            sender="SCANNER",
            received_ms=number,
            difference=differs,
        )

    # What the node does

    def receive(self, content: Content) -> tuple[NewInstance, Recorded]:
        """Let one instance arrive by the single path."""
        new = self.new(content)
        known = instances.find_instance(self.db, content.sop)
        recorded = instances.record_instance(self.db, new, on_conflict=self.on_conflict)
        self.arrived.append(content)
        self._check_answer(new, recorded)
        if known is not None and recorded.kept:
            said = self.bytes_at[known.object_name].identity != content.identity
            assert (recorded.doubt is Doubt.IDENTITY) is said
        return new, recorded

    def receive_batch(self, batch: list[NewInstance]) -> list[Recorded]:
        """Let several arrive in one batch, as their keeper already compared them."""
        for new in batch:
            self.arrived.append(self.bytes_at[new.place.name])
        recorded = record_batch(self.db, batch, on_conflict=self.on_conflict)
        for new, one in zip(batch, recorded, strict=True):
            self._check_answer(new, one)
        return recorded

    def _check_answer(self, new: NewInstance, one: Recorded) -> None:
        assert one.outcome is not Outcome.COMPARE
        held = studies.find_study(self.db, new.study_uid)
        if one.doubt in {Doubt.IDENTITY, Doubt.PATIENT} and held is not None:
            assert held.state is StudyState.HELD

    def digest(self) -> None:
        rows = without_digest(self.db, 100)
        set_digests(
            self.db,
            {
                row: hashlib.sha256(repr(self.bytes_at[row.object_name]).encode()).hexdigest()
                for row in rows
            },
        )

    def settle(self) -> None:
        """Settle, decide and queue, as the scheduler does."""
        due = studies.settle_due(self.db, now_ms(self.db) + 10_000_000, 0)
        for study in sorted(due, key=lambda one: one.uid):
            revision = studies.make_revision(
                self.db, study.id, "quiet", last_received_ms=study.last_received_ms
            )
            assert revision is not None
            members = select(func.count()).where(RevisionInstance.revision_id == revision.id)
            counting = instances.instances_of_revision(self.db, revision.id)
            assert self.db.execute(members).scalar_one() == len(counting)
            assert studies.mark_decided(self.db, revision.id)
            decisions.record_configuration(self.db, "c", "")
            for series in studies.list_series(self.db, study.id):
                self._queue(study.id, series.id, revision.id)

    def _queue(self, study_id: int, series_id: int, revision_id: int) -> None:
        rows = instances.instances_of_revision(self.db, revision_id, series_id)
        if not rows:
            return
        assert all(row.digest for row in rows)
        key = hashlib.sha256(repr(sorted((r.sop_uid, r.digest) for r in rows)).encode())
        decision = decisions.record_decision(
            self.db,
            decisions.NewDecision(
                revision_id=revision_id,
                series_id=series_id,
                outcome=decisions.DecisionOutcome.RUN,
                configuration="c",
            ),
        )
        queue.enqueue_segment(
            self.db,
            NewJob(
                study_id=study_id,
                series_id=series_id,
                revision_id=revision_id,
                decision_id=decision.id,
                route="r",
                model="m",
                dedup_key=key.hexdigest(),
            ),
        )

    def claim(self) -> None:
        """Workers claim jobs and read their images."""
        while (job := queue.claim(self.db, "w", 10_000_000)) is not None:
            study = studies.get_study(self.db, job.study_id)
            assert study is not None and study.state is not StudyState.HELD
            rows = instances.instances_of_revision(self.db, job.revision_id, job.series_id)
            assert rows and len({self.bytes_at[row.object_name].whose for row in rows}) == 1
            self.running[job.id] = (job, tuple(row.object_name for row in rows))

    def finish(self) -> None:
        """Workers end their jobs with results, which are owed to a peer."""
        for job, read in self.running.values():
            if not queue.finish(self.db, job.id, job.attempt, "w", "segmented"):
                continue
            study = studies.get_study(self.db, job.study_id)
            assert study is not None and study.state is not StudyState.HELD
            self._all_count(study.uid, (study.patient_id, study.issuer), read)
            key = hashlib.sha256(repr(sorted(repr(self.bytes_at[n]) for n in read)).encode())
            made = results.record_result(
                self.db,
                NewResult(
                    key=key.hexdigest(),
                    kind="SEG",
                    job_id=job.id,
                    study_id=job.study_id,
                    series_id=job.series_id,
                    sop_uid=f"2.25.{int(key.hexdigest()[:30], 16)}",
                    sop_class="1.2",
                    result_series_uid="1",
                    transfer_syntax="1",
                    digest="d",
                    place=Place("results/x", 0, 1),
                    model="m",
                    model_version="1",
                    model_digest="d",
                ),
            )
            self.sources[made.id] = read
            deliveries.owe(self.db, made.id, job.study_id, "PACS")
        self.running.clear()

    def deliver(self) -> None:
        """The sender takes what is owed; only what rests on bytes that count may be taken."""
        while owed := deliveries.claim(self.db, "s", 10_000_000, [DeliveryState.OWED]):
            study = studies.get_study(self.db, owed.study_id)
            assert study is not None and study.state is not StudyState.HELD
            read = self.sources[owed.result_id]
            self._all_count(study.uid, (study.patient_id, study.issuer), read)
            assert deliveries.mark_sent(self.db, owed.id, owed.attempt, "s")
            self.sent.append(owed.id)

    def _all_count(self, study_uid: str, whose: tuple[str, str], read: tuple[str, ...]) -> None:
        """Assert that bytes count now, in this study, and are of this patient."""
        rows = instances.list_instances(self.db, study_uid=study_uid)
        counting = {self.bytes_at[row.object_name] for row in rows}
        for name in read:
            assert self.bytes_at[name] in counting
            assert self.bytes_at[name].whose == whose

    # What people do

    def release(self) -> None:
        for study in studies.list_studies(self.db):
            studies.release(self.db, study.id)

    def choose(self, number: int, choice: Choice) -> None:
        rows = list_conflicts(self.db)
        if rows:
            choosing.choose(self.db, rows[number % len(rows)].id, choice, who="anna")

    def choose_for_study(self, number: int, choice: Choice) -> None:
        rows = studies.list_studies(self.db)
        if rows:
            uid = sorted(row.uid for row in rows)[number % len(rows)]
            choosing.choose_for_study(self.db, uid, choice, who="anna")

    def requeue(self) -> None:
        for job in queue.list_jobs(self.db):
            queue.requeue(self.db, job.id)

    # What must be so

    def check(self) -> None:
        self._check_nothing_is_lost()
        self._check_counts()
        self._check_jobs()

    def _check_nothing_is_lost(self) -> None:
        rows = [*self.db.execute(select(Instance.object_name)).scalars()]
        rows += self.db.execute(select(Conflict.object_name)).scalars()
        kept = {self.bytes_at[name] for name in rows}
        assert len(kept) == len(rows)  # nothing is kept twice
        for content in self.arrived:
            again = (difference(one, content) is Difference.ENCODING for one in kept)
            assert content in kept or any(again)

    def _check_counts(self) -> None:
        rows = instances.list_instances(self.db)
        for row in rows:
            content = self.bytes_at[row.object_name]
            said = (row.sop_uid, row.study_uid, row.series_uid, row.patient_id, row.issuer)
            assert said == (content.sop, content.study, content.series, *content.whose)
        counts = Counter(row.series_id for row in rows)
        for series_id, number in self.db.execute(select(Series.id, Series.instance_count)):
            assert counts[series_id] == number
        versions = [*self.db.execute(select(Instance.id, Instance.version))]
        versions += self.db.execute(select(Conflict.instance_id, Conflict.version))
        numbers = {one: sorted(v for i, v in versions if i == one) for one, _ in versions}
        assert all(found == [*range(1, len(found) + 1)] for found in numbers.values())

    def _check_jobs(self) -> None:
        running = (
            select(Job.id)
            .join(Study, Study.id == Job.study_id)
            .where(Job.state == JobState.RUNNING)
            .where(Study.state == StudyState.HELD)
        )
        assert self.db.execute(running).all() == []
        for study in studies.list_studies(self.db):
            for revision in studies.list_revisions(self.db, study.id):
                rows = instances.instances_of_revision(self.db, revision.id)
                whose = {self.bytes_at[row.object_name].whose for row in rows}
                assert whose <= {(study.patient_id, study.issuer)}

    def state(self) -> list[object]:
        """Everything that two ways of receiving must agree on."""
        study = select(Study.uid, Study.patient_id, Study.issuer, Study.state, Study.hold_reason)
        instance = (
            select(Study.uid, Series.uid, Instance.sop_uid, Instance.version, Instance.checksum)
            .join(Series, Series.id == Instance.series_id)
            .join(Study, Study.id == Series.study_id)
        )
        conflict = select(
            Conflict.kind, Conflict.study_uid, Conflict.version, Conflict.checksum, Conflict.chosen
        )
        owed = select(Result.key, Delivery.state).join(Result, Result.id == Delivery.result_id)
        tables = (study, instance, conflict, select(Job.state, Job.outcome), owed)
        return [sorted(map(repr, self.db.execute(table))) for table in tables]
