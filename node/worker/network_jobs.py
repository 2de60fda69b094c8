"""The network worker: stages 9 and 10, deliver what is owed and see it confirmed.

A result's stored bytes are sent unchanged. What the peer answers decides: success waits for
proof, a passing trouble is tried again later, a final no stops with a sentence for a person. An
answer that was lost is never taken for success or failure: the same bytes are sent again under
the same UID, which the peer may safely have twice. A peer that cannot be reached is left alone
for a while with all that is owed to it, so that it does not slow the others.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog
from pydicom.uid import generate_uid

from node.dicom.scu import (
    CommitReport,
    OutgoingFile,
    SendKind,
    SendOutcome,
    Target,
    ask_commitment,
    find_instance,
    send_instances,
)
from node.errors import LimnerError, PeerError
from node.faultpoints import reached
from node.settings import Peer, Settings
from node.worker.backoff import wait_ms
from node.worker.heartbeat import Heartbeat
from node.worker.lease import LeaseKeeper, LeaseLost
from storage import deliveries, peers, results, studies
from storage.database import Engine, now_ms, writing
from storage.deliveries import DeliveryRow
from storage.errors import StorageError
from storage.objects import ObjectStore
from storage.results import ResultRow
from storage.tables import DeliveryState

POLL_S = 0.3
LEASE_S = 60.0
HOLD_S = 2.0
"""How long the association of a commitment request stays open for an answer on it; peers that
answer on an association of their own do so later and lose nothing."""

PROOF_REFUSALS = 3
"""So often a peer may refuse to give proof before a person is asked."""

log = structlog.get_logger()


@dataclass(slots=True)
class NetworkWorker:
    """One process that talks to peers about results."""

    settings: Settings
    engine: Engine
    store: ObjectStore
    heartbeat: Heartbeat
    rng: random.Random

    def run(self, stop: threading.Event) -> None:
        """Claim and work on deliveries until `stop` is set."""
        while not stop.is_set():
            try:
                busy = self._one()
            except StorageError as error:
                log.warning("ledger not reached", code=error.code)
                busy = False
            if not busy:
                stop.wait(POLL_S * (0.5 + self.rng.random()))

    def _one(self) -> bool:
        """Work on one delivery; return whether there was one."""
        with writing(self.engine) as db:
            row = deliveries.claim(db, self.heartbeat.name, self._lease_ms)
            result = results.find_result(db, row.result_id) if row else None
        if row is None or result is None:
            return False
        self.heartbeat.doing = f"delivery {row.id} to {row.peer}"
        try:
            with LeaseKeeper(lambda: self._renew(row), lease_s=self._lease_ms / 1000) as kept:
                self._work(row, result)
                kept.check()
        except LeaseLost:
            log.info("delivery moved on without this worker", delivery=row.id)
        except Exception as error:
            log.exception("delivery failed", delivery=row.id)
            self._put_off(row, f"An unforeseen fault: {type(error).__name__}; see the log.")
        finally:
            self.heartbeat.doing = ""
        return True

    @property
    def _lease_ms(self) -> int:
        return round(1000 * min(LEASE_S, self.settings.worker.lease_s))

    def _renew(self, row: DeliveryRow) -> bool:
        with writing(self.engine) as db:
            return deliveries.renew(db, row.id, row.attempt, self.heartbeat.name, self._lease_ms)

    def _work(self, row: DeliveryRow, result: ResultRow) -> None:
        peer = self.settings.peer(row.peer)
        if peer is None or not peer.host:
            text = "This peer is not configured any more; add it again, or withdraw the delivery."
            self._refuse(row, "", text)
        elif self._expired(row):
            text = (
                f"Not confirmed within {self.settings.delivery.expire_h:g} h. {row.sentence} "
                "Mend the peer, then resend."
            )
            with writing(self.engine) as db:
                deliveries.mark_expired(db, row.id, row.attempt, self.heartbeat.name, sentence=text)
        elif row.state is DeliveryState.OWED:
            self._deliver(row, result, peer)
        else:
            self._confirm(row, result, peer)

    def _expired(self, row: DeliveryRow) -> bool:
        with writing(self.engine) as db:
            age_ms = now_ms(db) - row.created_ms
        return age_ms > self.settings.delivery.expire_h * 3_600_000

    # Stage 9

    def _deliver(self, row: DeliveryRow, result: ResultRow, peer: Peer) -> None:
        """Send one result and record what the peer answered."""
        with writing(self.engine) as db:
            started = now_ms(db)
        path = self.store.path(result.place)
        outgoing = OutgoingFile(
            path=path,
            offset=result.offset,
            length=result.length,
            sop_class=result.sop_class,
            sop_uid=result.sop_uid,
            transfer_syntax=result.transfer_syntax,
        )
        if fault := _damaged(path, result):
            self._refuse(row, "", fault)
            return
        reached("deliver.before-store")
        try:
            (outcome,) = send_instances(
                Target.of(peer), [outgoing], calling_ae=self.settings.listener.ae_title
            )
        except LimnerError as error:
            outcome = SendOutcome(result.sop_uid, None, str(error.fault), SendKind.RETRY)
        reached("deliver.after-store")
        status = "" if outcome.status is None else f"{outcome.status:04X}"
        self._record(row, "store", started, status, outcome.sentence)
        log.info("sent", delivery=row.id, peer=peer.name, status=status, kind=outcome.kind)
        if outcome.kind is SendKind.STORED:
            self._sent(row, peer, status, outcome.sentence)
        elif outcome.kind in (SendKind.REFUSED, SendKind.NO_CONTEXT):
            self._refuse(row, status, outcome.sentence)
        else:
            self._put_off(row, outcome.sentence, status=status, peer_away=outcome.status is None)

    def _sent(self, row: DeliveryRow, peer: Peer, status: str, sentence: str) -> None:
        with writing(self.engine) as db:
            peers.sent_ok(db, peer.name)
            me = self.heartbeat.name
            if peer.proof == "none":
                text = f"{sentence} The configuration asks for no further proof."
                deliveries.mark_stored(
                    db, row.id, row.attempt, me, status=status, sentence=text.strip()
                )
            else:
                deliveries.mark_sent(db, row.id, row.attempt, me, status=status, sentence=sentence)

    # Stage 10

    def _confirm(self, row: DeliveryRow, result: ResultRow, peer: Peer) -> None:
        if peer.proof == "commitment":
            self._ask(row, result, peer)
        else:
            self._look_up(row, result, peer)

    def _ask(self, row: DeliveryRow, result: ResultRow, peer: Peer) -> None:
        """Ask for storage commitment; the answer may come now, in hours, or never."""
        transaction = generate_uid(prefix=None)
        with writing(self.engine) as db:
            started = now_ms(db)
            deliveries.ask_commitment(db, transaction, row.id, result.sop_uid)

        def on_report(report: CommitReport) -> None:
            with writing(self.engine) as db:
                deliveries.answer_commitment(
                    db, report.transaction_uid, report.committed, report.failed, peer=peer.name
                )

        try:
            ask_commitment(
                Target.of(peer),
                transaction,
                [(result.sop_class, result.sop_uid)],
                calling_ae=self.settings.listener.ae_title,
                hold_s=HOLD_S,
                on_report=on_report,
            )
        except LimnerError as error:
            self._no_proof(row, "commit", started, error)
            return
        reached("confirm.after-ask")
        self._record(row, "commit", started, "0000", "Asked; the answer comes by itself.")
        again = started + round(1000 * self.settings.delivery.commitment_wait_s)
        with writing(self.engine) as db:
            deliveries.wait_until(
                db,
                row.id,
                row.attempt,
                self.heartbeat.name,
                run_after_ms=again,
                sentence="Storage commitment is asked for.",
            )

    def _look_up(self, row: DeliveryRow, result: ResultRow, peer: Peer) -> None:
        """Ask by C-FIND whether the peer has the object."""
        with writing(self.engine) as db:
            started = now_ms(db)
            study = studies.get_study(db, row.study_id)
        try:
            found = find_instance(
                Target.of(peer),
                study_uid=study.uid if study else "",
                series_uid=result.result_series_uid,
                sop_uid=result.sop_uid,
                calling_ae=self.settings.listener.ae_title,
            )
        except LimnerError as error:
            self._no_proof(row, "lookup", started, error)
            return
        text = "Found by C-FIND." if found else "The peer answered success but does not list it."
        self._record(row, "lookup", started, "0000", text)
        with writing(self.engine) as db:
            if not found:
                wait = self._wait_ms(row)
                deliveries.send_again(
                    db,
                    row.id,
                    row.attempt,
                    self.heartbeat.name,
                    run_after_ms=now_ms(db) + wait,
                    sentence=text,
                )
                return
            deliveries.mark_stored(db, row.id, row.attempt, self.heartbeat.name, sentence=text)

    def _no_proof(self, row: DeliveryRow, action: str, started: int, error: LimnerError) -> None:
        """A peer that was away is asked again; one that says no three times needs a person."""
        text = str(error.fault)
        self._record(row, action, started, "", text)
        if isinstance(error, PeerError) and row.failures + 1 >= PROOF_REFUSALS:
            with writing(self.engine) as db:
                deliveries.mark_expired(db, row.id, row.attempt, self.heartbeat.name, sentence=text)
        else:
            self._put_off(row, text, peer_away=not isinstance(error, PeerError))

    # Ends and waits

    def _record(
        self, row: DeliveryRow, action: str, started: int, status: str, sentence: str
    ) -> None:
        with writing(self.engine) as db:
            deliveries.record_attempt(
                db,
                row.id,
                number=row.attempt,
                action=action,
                worker=self.heartbeat.name,
                started_ms=started,
                ended_ms=now_ms(db),
                status=status,
                sentence=sentence,
            )

    def _refuse(self, row: DeliveryRow, status: str, sentence: str) -> None:
        with writing(self.engine) as db:
            deliveries.mark_refused(
                db, row.id, row.attempt, self.heartbeat.name, status=status, sentence=sentence
            )

    def _wait_ms(self, row: DeliveryRow) -> int:
        return wait_ms(
            row.failures + 1,
            first_s=self.settings.delivery.retry_first_s,
            longest_s=self.settings.delivery.retry_longest_s,
            rng=self.rng,
        )

    def _put_off(
        self, row: DeliveryRow, sentence: str, *, status: str = "", peer_away: bool = False
    ) -> None:
        """Try again later; leave a peer that is away alone with all that is owed to it."""
        wait = self._wait_ms(row)
        try:
            with writing(self.engine) as db:
                after = now_ms(db) + wait
                if peer_away:
                    peers.failed(db, row.peer, sentence, after)
                deliveries.retry_later(
                    db,
                    row.id,
                    row.attempt,
                    self.heartbeat.name,
                    run_after_ms=after,
                    sentence=sentence,
                    status=status,
                )
        except StorageError as error:
            # The lease runs out; the next claim tries again.
            log.warning("failure not recorded", delivery=row.id, code=error.code)


def _damaged(path: Path, result: ResultRow) -> str:
    """Return a sentence if the stored bytes are not those that were recorded."""
    try:
        with path.open("rb") as file:
            file.seek(result.offset)
            found = sha256(file.read(result.length)).hexdigest()
    except OSError as error:
        return f"The stored result cannot be read: {error.strerror}. Restore it from the backup."
    if found != result.digest:
        return (
            "The stored result is not the one that was recorded; nothing was sent. Restore it "
            "from the backup, or requeue its job after removing the damaged file."
        )
    return ""
