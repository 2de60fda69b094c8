"""N-service requests that peers send: commitment answers, performed steps, availability notices.

Source: DICOM PS3.4 annexes J (storage commitment), F (Modality Performed Procedure Step) and R
(Instance Availability Notification); PS3.7 section 10.1 (statuses).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from node import faultpoints
from node.dicom.commitment import STORAGE_COMMITMENT, read_report
from node.dicom.statuses import (
    DUPLICATE_INSTANCE,
    INVALID_ATTRIBUTE,
    INVALID_INSTANCE,
    MISSING_ATTRIBUTE,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
    UNRECOGNISED_OPERATION,
)
from node.dicom.values import IMPLICIT_LITTLE, is_uid
from node.dicom.wire.admission import IAN, MPPS, REPORT_COMMITMENT
from node.dicom.wire.dimse import N_CREATE_RQ, N_EVENT_REPORT_RQ, N_SET_RQ
from node.dicom.wire.negotiation import INSTANCE_AVAILABILITY, PERFORMED_PROCEDURE_STEP
from node.settings import Peer
from storage.database import Engine, writing
from storage.deliveries import answer_commitment
from storage.errors import StorageError
from storage.notices import NoticeKind, knows_notice, record_notice, update_notice

_STEP_STATUSES: Final = frozenset({"IN PROGRESS", "COMPLETED", "DISCONTINUED"})
_FINAL: Final = frozenset({"COMPLETED", "DISCONTINUED"})
"""A step that has ended is not changed any more (PS3.4 F.7.2.2.2)."""

log = structlog.get_logger("dicom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One N-service request.

    Attributes:
        services: What its sender may ask for.
        data: The encoded data set, in transfer syntax `syntax`.
    """

    calling_ae: str
    peer: str
    services: frozenset[str]
    field: int
    sop_class: str
    sop_uid: str
    syntax: str
    data: bytes


def act(request: Request, *, engine: Engine, peers: Sequence[Peer]) -> tuple[int, str]:
    """Do what a request asks; return its status and a comment for people."""
    wanted = (request.sop_class, request.field)
    try:
        if wanted == (STORAGE_COMMITMENT, N_EVENT_REPORT_RQ):
            if REPORT_COMMITMENT in request.services:
                return _commitment(request, engine, peers)
        elif wanted == (PERFORMED_PROCEDURE_STEP, N_CREATE_RQ) and MPPS in request.services:
            return _step_begun(request, engine)
        elif wanted == (PERFORMED_PROCEDURE_STEP, N_SET_RQ) and MPPS in request.services:
            return _step_changed(request, engine)
        elif wanted == (INSTANCE_AVAILABILITY, N_CREATE_RQ) and IAN in request.services:
            return _available(request, engine)
    except StorageError as error:
        log.warning("message-not-noted", code=error.code, peer=request.peer)
        return PROCESSING_FAILURE, "The database is away; send it again later."
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        EOFError,
        NotImplementedError,
        OverflowError,
        RecursionError,
        struct.error,
    ) as error:
        log.warning("message-malformed", peer=request.peer, what=type(error).__name__)
        return INVALID_ATTRIBUTE, "The data set of the request cannot be read."
    return UNRECOGNISED_OPERATION, "This operation is not served here."


def _commitment(request: Request, engine: Engine, peers: Sequence[Peer]) -> tuple[int, str]:
    """Move the deliveries that a report is about; unknown and repeated ones move nothing."""
    report = read_report(_dataset(request))
    faultpoints.reached("confirm.before-rows")
    # Two entries may share an AE title: one that we send to, one that may call us.
    names = [peer.name for peer in peers if peer.ae_title == request.calling_ae]
    with writing(engine) as db:
        moved = [
            row.id
            for name in names
            for row in answer_commitment(
                db, report.transaction_uid, report.committed, report.failed, peer=name
            )
        ]
    log.info("commitment-answered", uid=report.transaction_uid, deliveries=moved)
    return SUCCESS, ""


def _step_begun(request: Request, engine: Engine) -> tuple[int, str]:
    if not is_uid(request.sop_uid):
        return INVALID_INSTANCE, "The SOP Instance UID is no UID of 1 to 64 digits and dots."
    dataset = _dataset(request)
    scheduled = dataset.get("ScheduledStepAttributesSequence") or ()
    study_uid = next((str(item.get("StudyInstanceUID", "")) for item in scheduled), "")
    status = str(dataset.get("PerformedProcedureStepStatus", ""))
    if not status:
        return MISSING_ATTRIBUTE, "The Performed Procedure Step Status is missing."
    if status not in _STEP_STATUSES or (study_uid and not is_uid(study_uid)):
        return INVALID_ATTRIBUTE, "Its status or its Study Instance UID is none."
    with writing(engine) as db:
        new = record_notice(
            db,
            NoticeKind.MPPS,
            request.sop_uid,
            study_uid=study_uid,
            status=status,
            detail=_performed(dataset),
            sender=request.peer,
        )
    return (SUCCESS, "") if new else (DUPLICATE_INSTANCE, "This step is known already.")


def _step_changed(request: Request, engine: Engine) -> tuple[int, str]:
    dataset = _dataset(request)
    status = str(dataset.get("PerformedProcedureStepStatus", ""))
    if status and status not in _STEP_STATUSES:
        return INVALID_ATTRIBUTE, "Its status is none of a performed procedure step."
    with writing(engine) as db:
        changed = update_notice(
            db,
            NoticeKind.MPPS,
            request.sop_uid,
            status=status,
            detail=_performed(dataset) or None,
            unless=_FINAL,
        )
        known = changed or knows_notice(db, NoticeKind.MPPS, request.sop_uid)
    if not known:
        return NO_SUCH_INSTANCE, "This step is not known here."
    if not changed:
        return PROCESSING_FAILURE, "This step has ended and is not changed any more."
    return SUCCESS, ""


def _available(request: Request, engine: Engine) -> tuple[int, str]:
    if not is_uid(request.sop_uid):
        return INVALID_INSTANCE, "The SOP Instance UID is no UID of 1 to 64 digits and dots."
    dataset = _dataset(request)
    study_uid = str(dataset.get("StudyInstanceUID", ""))
    if not study_uid:
        return MISSING_ATTRIBUTE, "The Study Instance UID is missing."
    if not is_uid(study_uid):
        return INVALID_ATTRIBUTE, "The Study Instance UID is none."
    detail = {}
    availability = ""
    for series in dataset.get("ReferencedSeriesSequence") or ():
        items = series.get("ReferencedSOPSequence") or ()
        detail[str(series.get("SeriesInstanceUID", ""))] = [
            str(item.get("ReferencedSOPInstanceUID", "")) for item in items
        ]
        availability = next(
            (str(item.get("InstanceAvailability", "")) for item in items), availability
        )
    with writing(engine) as db:
        new = record_notice(
            db,
            NoticeKind.IAN,
            request.sop_uid,
            study_uid=study_uid,
            status=availability,
            detail=detail,
            sender=request.peer,
        )
    return (SUCCESS, "") if new else (DUPLICATE_INSTANCE, "This notice is known already.")


def _performed(dataset: Dataset) -> dict[str, list[str]]:
    """Return series UID -> SOP Instance UIDs of a performed step."""
    found: dict[str, list[str]] = {}
    for series in dataset.get("PerformedSeriesSequence") or ():
        instances = [
            str(item.get("ReferencedSOPInstanceUID", ""))
            for keyword in (
                "ReferencedImageSequence",
                "ReferencedNonImageCompositeSOPInstanceSequence",
            )
            for item in series.get(keyword) or ()
        ]
        found[str(series.get("SeriesInstanceUID", ""))] = instances
    return found


def _dataset(request: Request) -> Dataset:
    return read_dataset(
        BytesIO(request.data),
        is_implicit_VR=request.syntax == IMPLICIT_LITTLE,
        is_little_endian=True,
    )
