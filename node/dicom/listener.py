"""The listener: what peers send becomes durable instances and rows, and each answer is kept.

It wires admission, intake and the ledger to the acceptor. It imports no torch and starts in a
fraction of a second. `run_listener` returns when `stop` is set, after requests in progress have
been answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from node import faultpoints
from node.dicom.admission import Admission, Caller, Rejection, judge_caller
from node.dicom.adoption import adopt
from node.dicom.callbacks import CommitReport, Ended, Incoming
from node.dicom.intake import receive
from node.dicom.scp import Callbacks, Limits, start_scp
from node.dicom.statuses import PROCESSING_FAILURE, SUCCESS
from node.errors import setup_error
from node.settings import Settings
from storage.associations import AssociationOutcome, close_association, open_association
from storage.database import Engine, writing
from storage.deliveries import answer_commitment
from storage.errors import StorageError
from storage.objects import ObjectStore
from storage.peers import heard

ADOPT_EVERY_S: Final = 3600.0

log = structlog.get_logger("dicom")


def run_listener(
    settings: Settings,
    engine: Engine,
    store: ObjectStore,
    *,
    stop: threading.Event,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Receive until `stop` is set.

    Args:
        settings: The node's settings; port 0 takes a free port.
        engine: The node's database.
        store: Where instance bytes go.
        stop: Ends it: requests in progress are answered, then associations are aborted.
        on_ready: Called once with the port when peers can connect.

    Raises:
        SetupError: The address cannot be bound.
    """
    swept = store.sweep()
    if swept:
        log.info("parts-swept", count=swept)
    ledger = _Ledger(settings, engine, store)
    wanted = settings.listener
    try:
        scp = start_scp(
            host=wanted.host,
            port=wanted.port,
            ae_title=wanted.ae_title,
            callbacks=Callbacks(
                admit=ledger.admit,
                on_association=ledger.opened,
                on_rejected=ledger.rejected,
                on_store=ledger.store_instance,
                on_commit_report=ledger.commitment_answered,
                on_end=ledger.ended,
            ),
            limits=Limits(max_associations=wanted.max_associations, max_pdu=wanted.max_pdu),
            accept_unknown_classes=wanted.accept_unknown_classes,
        )
    except OSError as error:
        raise setup_error(
            "listener-address",
            f"The listener cannot take its address: {error.strerror or error}.",
            where=f"[listener] {wanted.host}:{wanted.port}",
            remedy="Another program may hold the port; choose another, or end that program.",
        ) from error
    try:
        log.info("listening", host=wanted.host, port=scp.port, ae_title=wanted.ae_title)
        if on_ready is not None:
            on_ready(scp.port)
        senders = {peer.ae_title: peer.name for peer in settings.peers if peer.may}
        while True:
            adopt(engine, store, senders=senders, stop=stop)
            if stop.wait(ADOPT_EVERY_S):
                break
    finally:
        scp.stop()
        log.info("listener-stopped")


class _Ledger:
    """What the acceptor's callbacks do with settings, database and store."""

    def __init__(self, settings: Settings, engine: Engine, store: ObjectStore) -> None:
        self._settings = settings
        self._engine = engine
        self._store = store

    def admit(self, caller: Caller) -> Admission | Rejection:
        return judge_caller(
            caller, ae_title=self._settings.listener.ae_title, peers=self._settings.peers
        )

    def opened(self, caller: Caller, admission: Admission) -> int | None:
        """Note the association; without a database it goes on, so that C-ECHO still answers."""
        try:
            with writing(self._engine) as db:
                heard(db, admission.peer)
                return open_association(
                    db,
                    calling_ae=caller.calling_ae,
                    called_ae=caller.called_ae,
                    address=caller.address,
                    peer=admission.peer,
                )
        except StorageError as error:
            log.warning("association-not-noted", code=error.code, peer=admission.peer)
            return None

    def rejected(self, caller: Caller, rejection: Rejection) -> None:
        log.warning(
            "association-rejected",
            calling_ae=caller.calling_ae,
            address=caller.address,
            reason=rejection.reason,
        )
        try:
            with writing(self._engine) as db:
                association = open_association(
                    db,
                    calling_ae=caller.calling_ae,
                    called_ae=caller.called_ae,
                    address=caller.address,
                )
                close_association(
                    db, association, AssociationOutcome.REJECTED, reason=rejection.reason
                )
        except StorageError as error:
            log.warning("rejection-not-noted", code=error.code)

    def store_instance(self, incoming: Incoming) -> tuple[int, str]:
        status, comment = receive(incoming, self._engine, self._store)
        if status != SUCCESS:
            log.warning(
                "instance-refused",
                peer=incoming.peer,
                status=f"{status:04X}",
                comment=comment,
                sop_uid=incoming.sop_uid[:64],
            )
        return status, comment

    def commitment_answered(self, caller: Caller, report: CommitReport) -> int:
        """Move the deliveries that the report is about; unknown and repeated ones move nothing."""
        faultpoints.reached("confirm.before-rows")
        # Two entries may share an AE title: one that we send to, one that may call us.
        peers = [p.name for p in self._settings.peers if p.ae_title == caller.calling_ae]
        try:
            with writing(self._engine) as db:
                moved = [
                    row.id
                    for peer in peers
                    for row in answer_commitment(
                        db, report.transaction_uid, report.committed, report.failed, peer=peer
                    )
                ]
        except StorageError as error:
            log.warning("commitment-not-noted", code=error.code, uid=report.transaction_uid)
            return PROCESSING_FAILURE
        log.info("commitment-answered", uid=report.transaction_uid, deliveries=moved)
        return SUCCESS

    def ended(self, ended: Ended) -> None:
        log.info(
            "association-ended",
            peer=ended.peer,
            outcome=ended.outcome,
            stored=ended.stored,
            refused=ended.refused,
        )
        if ended.association is None:
            return
        try:
            with writing(self._engine) as db:
                close_association(
                    db,
                    ended.association,
                    AssociationOutcome(ended.outcome),
                    instances=ended.stored,
                    refused=ended.refused,
                    reason=_WORDS[ended.outcome],
                )
        except StorageError as error:
            log.warning("association-end-not-noted", code=error.code)


_WORDS: Final = {
    "released": "",
    "aborted": "The association was aborted; what was answered before is kept.",
    "lost": "The connection broke; what was answered before is kept.",
}
