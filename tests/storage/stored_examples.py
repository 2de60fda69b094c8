"""Rows that tests begin with: a study on its way through the line, as far as a test needs it."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

from sqlalchemy import Connection, Engine

from storage import decisions, deliveries, instances, queue, results, studies
from storage.database import now_ms, open_engine, writing
from storage.deliveries import DeliveryRow
from storage.instances import NewInstance
from storage.objects import Place
from storage.queue import JobRow, NewJob
from storage.results import NewResult, ResultRow

_NUMBERS = itertools.count(1)


def instance(number: int = 1, study_uid: str = "1.2", **changes: object) -> NewInstance:
    """An instance of a CT study of patient P1."""
    made = NewInstance(
        study_uid=study_uid,
        series_uid=f"{study_uid}.7",
        sop_uid=f"{study_uid}.7.{number}",
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax="1.2.840.10008.1.2.1",
        digest=hashlib.sha256(f"{study_uid} {number}".encode()).hexdigest(),
        place=Place(f"instances/ab/{study_uid}.{number}.obj", 0, 1000),
        patient_id="P1",
        issuer="HOSPITAL",
        patient_name="Doe^Jane",
        accession="A1",
        study_date="20261121",
        modality="CT",
        header={"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY"]},
        sender="SCANNER",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def add_job(engine: Engine, *, priority: int = 0, study_uid: str = "") -> JobRow:
    """Receive, settle and decide a study, and queue its job."""
    uid = study_uid or f"1.2.{next(_NUMBERS)}"
    with writing(engine) as db:
        return queue_job(db, uid, priority=priority)


def queue_job(db: Connection, uid: str, *, priority: int = 0) -> JobRow:
    recorded = instances.record_instance(db, instance(1, uid))
    study = studies.get_study(db, recorded.study_id)
    assert study is not None
    revision = studies.make_revision(
        db, study.id, "It was quiet for 30 s.", last_received_ms=study.last_received_ms
    )
    assert revision is not None
    decisions.record_configuration(db, "c" * 64, "[node]")
    decision = decisions.record_decision(
        db,
        decisions.NewDecision(
            revision_id=revision.id,
            series_id=recorded.series_id,
            outcome=decisions.DecisionOutcome.RUN,
            configuration="c" * 64,
            route="ct",
            model="lung-ct",
            reasons=("Modality equals CT",),
        ),
    )
    assert studies.mark_decided(db, revision.id)
    job = queue.enqueue_segment(
        db,
        NewJob(
            study_id=study.id,
            series_id=recorded.series_id,
            revision_id=revision.id,
            decision_id=decision.id,
            route="ct",
            model="lung-ct",
            dedup_key=hashlib.sha256(uid.encode()).hexdigest(),
            send_to=("PACS",),
            priority=priority,
        ),
    )
    assert job is not None
    return job


def result_of(job: JobRow, key: str = "k", **changes: object) -> NewResult:
    made = NewResult(
        key=key,
        kind="SEG",
        encoding="BINARY",
        job_id=job.id,
        study_id=job.study_id,
        series_id=job.series_id,
        sop_uid=f"2.25.{job.id}.{len(key)}",
        sop_class="1.2.840.10008.5.1.4.1.1.66.4",
        result_series_uid="2.25.9",
        transfer_syntax="1.2.840.10008.1.2.1",
        digest="d" * 64,
        place=Place("results/ab/x.obj", 0, 10),
        model="lung-ct",
        model_version="1",
        model_digest="m" * 64,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def add_result(engine: Engine) -> ResultRow:
    """A result of a finished job, owed to nobody."""
    job = add_job(engine)
    with writing(engine) as db:
        claimed = queue.claim(db, "maker", 60_000)
        assert claimed is not None and claimed.id == job.id
        assert queue.finish(db, job.id, claimed.attempt, "maker", "segmented")
        return results.record_result(db, result_of(job, key=f"k{job.id}"))


def add_delivery(engine: Engine, peer: str = "PACS") -> DeliveryRow:
    """A delivery of a finished job's result, owed to `peer`."""
    result = add_result(engine)
    with writing(engine) as db:
        return deliveries.owe(db, result.id, result.study_id, peer)


def now(engine: Engine) -> int:
    with writing(engine) as db:
        return now_ms(db)


def claim_until_empty(url: str, worker: str) -> list[int]:
    """Claim every job that can be had; runs in a process of its own."""
    engine = open_engine(url)
    mine: list[int] = []
    while True:
        with writing(engine) as db:
            job = queue.claim(db, worker, 60_000)
        if job is None:
            engine.dispose()
            return mine
        mine.append(job.id)
