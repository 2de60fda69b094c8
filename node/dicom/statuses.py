"""C-STORE statuses: the ones we answer with, and what the answers of others mean for a delivery.

Source: DICOM PS3.4 table B.2-1, PS3.7 annex C.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
INVALID_ATTRIBUTE: Final = 0x0106
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_INSTANCE: Final = 0x0111
NO_SUCH_INSTANCE: Final = 0x0112
INVALID_INSTANCE: Final = 0x0117
MISSING_ATTRIBUTE: Final = 0x0120
CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORISED: Final = 0x0124
RESOURCE_LIMITATION: Final = 0x0213
UNRECOGNISED_OPERATION: Final = 0x0211

COMMENT_MAX: Final = 64
"""Error Comment (0000,0902) is LO."""


class SendKind(StrEnum):
    """What became of one instance that we sent."""

    STORED = "stored"  # the peer answered success or a warning
    RETRY = "retry"  # the peer was out of resources, or was never reached; send it again later
    REFUSED = "refused"  # the peer said no for good; a person must look
    LOST = "lost"  # it was sent and no answer came: ask the peer before sending it again
    NO_CONTEXT = "no-context"  # the peer accepted no presentation context for it


_REFUSALS: Final = {
    INVALID_INSTANCE: "says that the SOP Instance UID is invalid",
    CLASS_NOT_SUPPORTED: "does not support this SOP class; configure other result kinds for it",
    NOT_AUTHORISED: "does not allow us to store; its administrator must permit our AE title",
    0x0111: "has another object under this SOP Instance UID",
}


def classify(status: int) -> tuple[SendKind, str]:
    """Return what a C-STORE status means, and the end of a sentence that starts with the peer."""
    if status == SUCCESS:
        return SendKind.STORED, "stored it"
    if status >> 12 == 0xB:
        return SendKind.STORED, f"stored it with a warning ({_changed(status)})"
    if status >> 8 == 0xA7:
        return SendKind.RETRY, "is out of resources; it is tried again"
    if status >> 8 == 0xA9:
        return SendKind.REFUSED, "says that the object does not match its SOP class"
    if status >> 12 == 0xC:
        return SendKind.REFUSED, "cannot understand the object"
    if status in _REFUSALS:
        return SendKind.REFUSED, _REFUSALS[status]
    if status in (PROCESSING_FAILURE, RESOURCE_LIMITATION):
        return SendKind.RETRY, "failed while it stored the object; it is tried again"
    return SendKind.REFUSED, "refused the object"


def comment(text: str) -> str:
    """Return `text` as an Error Comment: ASCII, one line, at most 64 characters."""
    plain = text.encode("ascii", errors="replace").decode("ascii")
    plain = "".join(sign if sign.isprintable() and sign != "\\" else " " for sign in plain)
    return plain if len(plain) <= COMMENT_MAX else plain[: COMMENT_MAX - 3].rstrip() + "..."


def _changed(status: int) -> str:
    return {
        0xB000: "it changed elements",
        0xB006: "it discarded elements",
        0xB007: "the object does not match its SOP class",
    }.get(status, f"0x{status:04X}")
