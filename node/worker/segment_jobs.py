"""The segment worker: claim a job, run stages 6-8, and end it in one transaction with its results.

Whatever happens to a job, it ends in a row: done with results, done with a refusal, queued again
with the reason for the wait, or failed with a sentence. Only this outermost loop catches
everything; an exception nobody foresaw is a bug, recorded with its name, and tried again a few
times because the machine may be at fault.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

import structlog

from node.errors import LimnerError, PassingError
from node.faultpoints import reached
from node.imaging.values import (
    Answer,
    InstanceFile,
    Outcome,
    Refusal,
    ScoredFinding,
    Segmentation,
)
from node.models.card import Card
from node.models.loaded import LoadedModel, load_model
from node.results.pictures import pack_pictures
from node.results.write import NodeFacts, ResultObject
from node.settings import Settings
from node.worker.backoff import wait_ms
from node.worker.heartbeat import Heartbeat
from node.worker.lease import LeaseKeeper, LeaseLost
from node.worker.segmenting import GateError, MadeBefore, Progress, Segmented, segment_files
from storage import deliveries, instances, queue, results
from storage.database import Connection, Engine, writing
from storage.errors import StorageError, StorageFailed
from storage.instances import InstanceRow
from storage.objects import ObjectStore, Place
from storage.queue import JobRow
from storage.results import ResultRow
from storage.tables import DeliveryState

_REJECT = Outcome.REJECT
POLL_S = 0.5
RETRY_FIRST_S = 5.0
RETRY_LONGEST_S = 600.0

log = structlog.get_logger()


class _Stopping(Exception):  # noqa: N818  a fact, not a fault
    """The process was asked to end; the job goes back to the queue."""


@dataclass(slots=True)
class SegmentWorker:
    """One process that runs segment jobs on one device."""

    settings: Settings
    engine: Engine
    store: ObjectStore
    cards: Mapping[str, Card]
    heartbeat: Heartbeat
    rng: random.Random = field(default_factory=random.Random)
    _warm: dict[str, LoadedModel] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        """Claim and run jobs until `stop` is set."""
        while not stop.is_set():
            try:
                job = self._claim()
            except StorageError as error:
                log.warning("queue not reached", code=error.code)
                job = None
            if job is None:
                stop.wait(POLL_S * (0.5 + self.rng.random()))
                continue
            self.heartbeat.doing = f"job {job.id}"
            self._run_job(job, stop)
            self.heartbeat.doing = ""

    def _claim(self) -> JobRow | None:
        with writing(self.engine) as db:
            return queue.claim(db, self.heartbeat.name, self._lease_ms)

    @property
    def _lease_ms(self) -> int:
        return round(1000 * self.settings.worker.lease_s)

    def _run_job(self, job: JobRow, stop: threading.Event) -> None:
        said = log.bind(job=job.id, attempt=job.attempt, model=job.model)
        reached("claim.after")
        try:
            with LeaseKeeper(
                lambda: self._renew(job), lease_s=self.settings.worker.lease_s
            ) as kept:
                tell = self._teller(job, kept, stop)
                done = self._work(job, Progress(tell))
                tell("write", 1.0)  # the last look at lease and stop before anything is committed
                self._finish(job, done)
            said.info("job done", outcome=done.outcome, seconds=done.seconds)
        except LeaseLost:
            said.warning("lease lost; nothing was written")
        except _Stopping:
            with writing(self.engine) as db:
                queue.release(db, job.id, job.attempt, self.heartbeat.name)
            said.info("job released")
        except Exception as error:  # noqa: BLE001  outermost loop: every job ends in a row
            bug = not isinstance(error, LimnerError | StorageError)
            said.warning("job failed", why=str(error), exc_info=error if bug else None)
            self._fail(job, error)

    def _teller(
        self, job: JobRow, kept: LeaseKeeper, stop: threading.Event
    ) -> Callable[[str, float], None]:
        """Return what is told at each step: it reports, and ends the work when it must end."""

        def tell(stage: str, fraction: float) -> None:
            kept.check()
            if stop.is_set():
                raise _Stopping
            with writing(self.engine) as db:
                if not queue.report_stage(
                    db, job.id, job.attempt, self.heartbeat.name, stage, progress=fraction
                ):
                    raise LeaseLost

        return tell

    def _renew(self, job: JobRow) -> bool:
        with writing(self.engine) as db:
            return queue.renew(db, job.id, job.attempt, self.heartbeat.name, self._lease_ms)

    def _work(self, job: JobRow, progress: Progress) -> _Done:
        card = self.cards.get(job.model)
        if card is None:
            return _Done(f"refused: the model '{job.model}' is not on this host any more")
        with writing(self.engine) as db:
            rows = instances.instances_of_revision(db, job.revision_id, job.series_id)
            study = instances.instances_of_revision(db, job.revision_id) if card.channels else []
        node = NodeFacts(self.settings.node.name, version("limner"))
        files = [self._file(row) for row in rows]
        route = self.settings.route(job.route)
        found = segment_files(
            files,
            self._model(card),
            node,
            progress,
            exists=self._exists,
            marks=route.marks if route else (),
            beside=[self._file(row) for row in study if row.series_id != job.series_id],
        )
        made = [each for each in found if isinstance(each, Segmented)]
        again = [key for each in found if isinstance(each, MadeBefore) for key in each.keys]
        if not made and not again:
            return _refused([each for each in found if isinstance(each, Refusal)])
        return self._stored(card, made, again)

    def _exists(self, key: str) -> bool:
        with writing(self.engine) as db:
            return bool(results.list_results(db, key=key))

    def _file(self, row: InstanceRow) -> InstanceFile:
        path = self.store.path(Place(row.object_name, row.offset, row.length))
        if not path.exists():
            raise StorageFailed(
                "instance-missing",
                "The bytes of a received instance are gone.",
                where=f"{row.sop_uid} at {path}",
                remedy="Restore the objects folder from its backup, or have the study sent again.",
            )
        return InstanceFile(path, row.offset, row.length, row.digest)

    def _model(self, card: Card) -> LoadedModel:
        """Return the loaded model; one that was used before stays in memory."""
        model = self._warm.get(card.name)
        if model is None:
            model = load_model(
                card,
                device=self.settings.worker.device,
                threads=self.settings.worker.threads,
                runtime=self.settings.worker.runtime,
            )
            self._warm[card.name] = model
            log.info("model loaded", model=card.name, **model.runtime)
        return model

    def _stored(self, card: Card, made: Sequence[Segmented], again: Sequence[str]) -> _Done:
        """Put the bytes of all results into the store; rows come later, in one transaction."""
        stored = []
        seconds: dict[str, float] = {}
        for each in made:
            shown: dict[str, object] = {}
            if each.pictures:
                packed, index = pack_pictures(each.pictures)
                pictures = self.store.put(packed, kind="pictures")
                shown = {"object": pictures.name, "index": [list(place) for place in index]}
            for result in each.results:
                place = self.store.put(result.data, kind="results")
                stored.append(_StoredResult(result, place, shown, each.answer.runtime))
            for stage, value in each.seconds.items():
                seconds[stage] = round(seconds.get(stage, 0.0) + value, 3)
        return _Done(_outcome(made), card, tuple(stored), tuple(again), seconds)

    def _finish(self, job: JobRow, done: _Done) -> None:
        """End the job, its results and what is owed for them in one transaction."""
        reached("write.before-commit")
        with writing(self.engine) as db:
            if not queue.finish(
                db,
                job.id,
                job.attempt,
                self.heartbeat.name,
                done.outcome,
                seconds=done.seconds,
            ):
                raise LeaseLost
            rows = [results.record_result(db, each.row(job, done)) for each in done.stored]
            rows += [row for key in done.again for row in results.list_results(db, key=key)]
            if rows and not self._superseded(db, job, rows):
                for row in rows:
                    self._owe(db, job, row)
        reached("write.after-commit")

    def _superseded(self, db: Connection, job: JobRow, rows: Sequence[ResultRow]) -> bool:
        """Mark which results of this series and model are replaced; return whether these are.

        A newer revision replaces an older one, also where the older job ended last.
        """
        new = {row.id for row in rows}
        replaced = False
        for other in results.list_results(db, study_id=job.study_id):
            same = other.series_id == job.series_id and other.model == job.model
            maker = queue.find_job(db, other.job_id) if same and other.id not in new else None
            if maker is None or _beside(maker, job):
                continue
            if maker.revision_id > job.revision_id:
                replaced = True
                for row in rows:
                    results.supersede(db, row.id, other.id)
            else:
                results.supersede(db, other.id, rows[0].id)
        return replaced

    def _owe(self, db: Connection, job: JobRow, row: ResultRow) -> None:
        """Owe a result to the route's peers that take its kind, as the verdict allows."""
        verdict = str(row.summary.get("verdict", ""))
        route = self.settings.route(job.route)
        policy = route.policy(verdict) if route else _WITHOUT_ROUTE.get(verdict, "send")
        if policy == "drop":
            return
        held = _held(row) if policy == "hold" else ""
        for name in job.send_to:
            peer = self.settings.peer(name)
            if peer is not None and row.kind in peer.takes:
                owed = deliveries.owe(db, row.id, job.study_id, name, held=held)
                waits = (DeliveryState.OWED, DeliveryState.HELD)
                if job.run > 1 and owed.state not in waits:
                    # A person ran the job again: the same bytes are sent again.
                    deliveries.resend(db, owed.id)

    def _fail(self, job: JobRow, error: Exception) -> None:
        """Record why, and when to try again if that may help."""
        code, text, helps = _why(error)
        failures = job.failures + 1
        retry = None
        if helps and failures < self.settings.worker.max_attempts:
            retry = wait_ms(
                failures, first_s=RETRY_FIRST_S, longest_s=RETRY_LONGEST_S, rng=self.rng
            )
        try:
            with writing(self.engine) as db:
                queue.fail(
                    db,
                    job.id,
                    job.attempt,
                    self.heartbeat.name,
                    error_code=code,
                    error_text=text,
                    retry_after_ms=retry,
                )
        except StorageError as away:
            # The lease runs out and the job is taken back by the scheduler.
            log.warning("failure not recorded", job=job.id, code=away.code)


@dataclass(frozen=True, slots=True)
class _StoredResult:
    """A result whose bytes are in the store and whose row is still to come."""

    result: ResultObject
    place: Place
    pictures: dict[str, object]
    runtime: Mapping[str, str]

    def row(self, job: JobRow, done: _Done) -> results.NewResult:
        assert done.card is not None  # noqa: S101  a stored result always has its card
        return results.NewResult(
            key=self.result.key,
            kind=self.result.kind,
            encoding=self.result.encoding,
            job_id=job.id,
            study_id=job.study_id,
            series_id=job.series_id,
            sop_uid=self.result.sop_uid,
            sop_class=self.result.sop_class,
            result_series_uid=self.result.series_uid,
            transfer_syntax=self.result.transfer_syntax,
            digest=self.result.digest,
            place=self.place,
            model=done.card.name,
            model_version=done.card.version,
            model_digest=done.card.weights.sha256,
            summary={**_summary(self.result), "runtime": dict(self.runtime)},
            pictures=self.pictures,
        )


@dataclass(frozen=True, slots=True)
class _Done:
    """What came of a job."""

    outcome: str
    card: Card | None = None
    stored: tuple[_StoredResult, ...] = ()
    again: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


_WITHOUT_ROUTE: Final[dict[str, str]] = {Outcome.REJECT: "drop"}
"""What is done with results of a route that is not configured any more: as by default."""


def _held(row: ResultRow) -> str:
    """Return the sentence of a delivery that waits for a person."""
    reasons = " ".join(str(reason) for reason in row.summary.get("reasons", ()))
    return (
        f"The verdict is {row.summary.get('verdict')}: {reasons} Look at the result, then "
        "`limner release` with the study's UID, or send it by the button."
    )


def _beside(maker: JobRow, job: JobRow) -> bool:
    """Return whether two jobs are those of two routes on the same images: both results count."""
    return maker.revision_id == job.revision_id and maker.route != job.route


def _outcome(made: Sequence[Segmented]) -> str:
    """Return the words that stand in the job's row."""
    if not made:
        return "made before; the stored result is the result"
    rejected = [e.answer.verdict for e in made if e.answer.verdict.outcome is _REJECT]
    if rejected:
        return "rejected: " + "; ".join(rejected[0].reasons)
    return "findings" if any(_found(each.answer) for each in made) else "no-finding"


def _found(answer: Answer) -> bool:
    if isinstance(answer, Segmentation):
        return bool(answer.labels.any())
    return any(finding.present for finding in answer.findings)


def _summary(result: ResultObject) -> dict[str, object]:
    """Return what the pages and `--json` say of a result."""
    said = result.summary
    segments = [
        {
            "number": segment.number,
            "label": segment.label,
            "code": dataclasses.asdict(segment.code),
            **segment.sizes(),
        }
        for segment in said.segments
    ]
    return {
        "segments": segments,
        "verdict": str(said.verdict),
        "reasons": list(said.reasons),
        "measurements": [dataclasses.asdict(one) for one in said.measurements],
        "findings": findings_said(said.findings),
    }


def findings_said(findings: Sequence[ScoredFinding]) -> list[dict[str, object]]:
    """Return findings as rows and JSON hold them."""
    return [
        {
            "label": one.finding.label,
            "code": dataclasses.asdict(one.finding.code),
            "probability": round(one.probability, 4),
            "threshold": one.finding.threshold,
            "present": one.present,
        }
        for one in findings
    ]


def _refused(refusals: Sequence[Refusal]) -> _Done:
    if not refusals:
        return _Done("refused: the series holds no instance that could be read")
    first = refusals[0]
    return _Done(f"refused: {first.explanation} [{first.reason}]")


def _why(error: Exception) -> tuple[str, str, bool]:
    """Return code and sentence of an error, and whether another try may help."""
    if isinstance(error, GateError):
        return error.fault.code, str(error.fault), False
    if isinstance(error, LimnerError):
        return error.fault.code, str(error.fault), isinstance(error, PassingError)
    if isinstance(error, StorageError):
        return error.code, str(error), not isinstance(error, StorageFailed)
    text = (
        f"An unforeseen fault stopped the job: {type(error).__name__}. The log of the worker "
        "has its traceback; report it, and requeue the job after the fault is mended."
    )
    return "bug", text, True
