"""Storage commitment messages as values: what is asked, and what is answered.

Source: DICOM PS3.4 annex J.3 (N-ACTION and N-EVENT-REPORT information), PS3.3 C.14 (reasons).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from node.dicom.callbacks import CommitReport
from node.dicom.statuses import PROCESSING_FAILURE

STORAGE_COMMITMENT: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"

ALL_COMMITTED: Final = 1
SOME_FAILED: Final = 2
"""Event types of the report."""

_REASONS: Final = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class / instance conflict",
    0x0122: "referenced SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


def request_message(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    """Return the information of an N-ACTION about (SOP class, SOP instance) pairs."""
    message = Dataset()
    message.TransactionUID = transaction_uid
    message.ReferencedSOPSequence = ItemSequence([_item(one) for one in references])
    return message


def report_message(
    transaction_uid: str,
    committed: Sequence[tuple[str, str]],
    failed: Mapping[tuple[str, str], int],
) -> Dataset:
    """Return the information of an N-EVENT-REPORT."""
    message = Dataset()
    message.TransactionUID = transaction_uid
    if committed:
        message.ReferencedSOPSequence = ItemSequence([_item(one) for one in committed])
    if failed:
        items = []
        for reference, reason in failed.items():
            item = _item(reference)
            item.FailureReason = reason
            items.append(item)
        message.FailedSOPSequence = ItemSequence(items)
    return message


def read_report(message: Dataset) -> CommitReport:
    """Return what an N-EVENT-REPORT says."""
    return CommitReport(
        transaction_uid=str(message.TransactionUID),
        committed=frozenset(
            str(item.ReferencedSOPInstanceUID)
            for item in message.get("ReferencedSOPSequence") or ()
        ),
        failed={
            str(item.ReferencedSOPInstanceUID): reason_in_words(
                int(item.get("FailureReason") or PROCESSING_FAILURE)
            )
            for item in message.get("FailedSOPSequence") or ()
        },
    )


def reason_in_words(reason: int) -> str:
    """Return a Failure Reason (0008,1197) for people, its code in front."""
    return f"{reason:04X}: {_REASONS.get(reason, 'a reason of its own')}"


def _item(reference: tuple[str, str]) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item
