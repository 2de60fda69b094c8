"""What we ask of peers: send instances, echo, ask for and report commitment, look up.

Stored bytes are sent as they are stored when the peer accepts their transfer syntax. Every answer
becomes a value with a sentence; nothing is sent twice here, the ledger decides about that.

Source: DICOM PS3.4 annexes A (verification), B (storage), C (query), J (storage commitment).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.presentation import build_context

from node.dicom.callbacks import CommitReport
from node.dicom.commitment import (
    ALL_COMMITTED,
    SOME_FAILED,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    read_report,
    report_message,
    request_message,
)
from node.dicom.requestor import Target, associated, lost
from node.dicom.send import OutgoingFile, SendOutcome, send_instances
from node.dicom.statuses import PROCESSING_FAILURE, SUCCESS, SendKind
from node.dicom.wire.negotiation import VERIFICATION
from node.errors import PeerError, peer_error

__all__ = [
    "CommitReport",
    "OutgoingFile",
    "SendKind",
    "SendOutcome",
    "Target",
    "ask_commitment",
    "echo",
    "find_instance",
    "report_commitment",
    "send_instances",
]

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"

log = structlog.get_logger("dicom")


def echo(target: Target, *, calling_ae: str) -> float:
    """Send one C-ECHO; return the seconds from its request to its answer.

    Raises:
        PassingError: The peer was not reached, did not accept, or did not answer.
        PeerError: It does not offer verification, or answered with a failure.
    """
    with associated(target, [build_context(VERIFICATION)], calling_ae=calling_ae) as association:
        if not association.accepted_contexts:
            raise _not_offered(target, "verification (C-ECHO)", "Its other services may work.")
        started = time.monotonic()
        answer = association.send_c_echo()
        seconds = time.monotonic() - started
        if "Status" not in answer:
            raise lost(target, "the C-ECHO")
        if answer.Status != SUCCESS:
            raise _failed(target, "C-ECHO", answer.Status)
    return seconds


def ask_commitment(
    target: Target,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    *,
    calling_ae: str,
    hold_s: float,
    on_report: Callable[[CommitReport], None] | None = None,
) -> None:
    """Ask a peer to commit itself to keep instances.

    Args:
        target: The peer.
        transaction_uid: Of this question; the answer repeats it.
        references: (SOP Class UID, SOP Instance UID) of each instance.
        calling_ae: Our AE title; an answer on a new association comes to the listener of this
            title, as the peer has it configured.
        hold_s: How long the association stays open for an answer on it, which some peers give.
        on_report: Called with that answer, before the peer gets its response; an exception in it
            is answered as a failure.

    Raises:
        PassingError: The peer was not reached, did not accept, or did not answer.
        PeerError: It does not offer storage commitment, or refused the question.
    """
    reported = threading.Event()

    def report_came(event: evt.Event) -> tuple[int, None]:
        try:
            if on_report is not None:
                on_report(read_report(event.event_information))
        except Exception:  # outermost: the library's thread, whose answer must say it
            log.exception("commitment-answer-failed", peer=target.name)
            return PROCESSING_FAILURE, None
        finally:
            reported.set()
        return SUCCESS, None

    with associated(
        target,
        [build_context(STORAGE_COMMITMENT)],
        calling_ae=calling_ae,
        handlers=[(evt.EVT_N_EVENT_REPORT, report_came)],
    ) as association:
        if not association.accepted_contexts:
            raise _not_offered(
                target, "storage commitment", 'Set proof = "lookup" or "none" for this peer.'
            )
        answer, _ = association.send_n_action(
            request_message(transaction_uid, references),
            1,
            STORAGE_COMMITMENT,
            STORAGE_COMMITMENT_INSTANCE,
        )
        if "Status" not in answer:
            raise lost(target, "the storage commitment request")
        if answer.Status != SUCCESS:
            raise _failed(target, "the storage commitment request", answer.Status)
        until = time.monotonic() + hold_s
        while association.is_established and time.monotonic() < until:
            if reported.wait(0.05):
                # The response to the report is sent right after the handler; let it go first.
                time.sleep(0.05)
                break


def report_commitment(
    target: Target,
    transaction_uid: str,
    committed: Sequence[tuple[str, str]],
    failed: Mapping[tuple[str, str], int],
    *,
    calling_ae: str,
) -> None:
    """Answer a commitment request, as its SCP, on a new association.

    Args:
        target: The peer that asked.
        transaction_uid: Of its question.
        committed: (SOP Class UID, SOP Instance UID) of what is kept.
        failed: The same of what is not, with the Failure Reason.
        calling_ae: Our AE title.

    Raises:
        PassingError: The peer was not reached, did not accept, or did not answer.
        PeerError: It does not take reports, or answered with a failure.
    """
    with associated(
        target,
        [build_context(STORAGE_COMMITMENT)],
        calling_ae=calling_ae,
        roles=[build_role(STORAGE_COMMITMENT, scp_role=True)],
    ) as association:
        if not any(context.as_scp for context in association.accepted_contexts):
            raise _not_offered(target, "reports of storage commitment", "It asked in vain.")
        answer, _ = association.send_n_event_report(
            report_message(transaction_uid, committed, failed),
            SOME_FAILED if failed else ALL_COMMITTED,
            STORAGE_COMMITMENT,
            STORAGE_COMMITMENT_INSTANCE,
        )
        if "Status" not in answer:
            raise lost(target, "the storage commitment report")
        if answer.Status != SUCCESS:
            raise _failed(target, "the storage commitment report", answer.Status)


def find_instance(
    target: Target, *, study_uid: str, series_uid: str, sop_uid: str, calling_ae: str
) -> bool:
    """Return whether a peer lists an instance (C-FIND, study root, IMAGE level).

    Raises:
        PassingError: The peer was not reached, did not accept, or did not answer.
        PeerError: It does not offer queries, or answered with a failure.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    query.SOPInstanceUID = sop_uid
    found = False
    with associated(target, [build_context(STUDY_ROOT_FIND)], calling_ae=calling_ae) as association:
        if not association.accepted_contexts:
            raise _not_offered(
                target, "queries (C-FIND)", 'Set proof = "commitment" or "none" for this peer.'
            )
        for answer, identifier in association.send_c_find(query, STUDY_ROOT_FIND):
            if "Status" not in answer:
                raise lost(target, "the C-FIND")
            if answer.Status in (0xFF00, 0xFF01):
                # A peer that ignores the key answers with everything it has.
                found = found or (
                    identifier is not None and identifier.get("SOPInstanceUID") == sop_uid
                )
            elif answer.Status != SUCCESS:
                raise _failed(target, "the C-FIND", answer.Status)
    return found


def _not_offered(target: Target, what: str, remedy: str) -> PeerError:
    return peer_error(
        "peer-not-offered",
        f"{target.name} does not offer {what}.",
        where=str(target),
        remedy=remedy,
    )


def _failed(target: Target, what: str, status: int) -> PeerError:
    return peer_error(
        "peer-failed",
        f"{target.name} answered {what} with status {status:04X}.",
        where=str(target),
        remedy="Look at the peer's log at this time.",
    )
