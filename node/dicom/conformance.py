"""The tables of docs/conformance.md, made from what the code does.

The page is written by hand and has marked places for tables; `fill` puts the current ones there, so
that a page which differs from its own filling is out of date. `python -m node.dicom.conformance
docs/conformance.md` writes it anew. Nothing here runs in the node.

Source: DICOM PS3.2 (what a conformance statement tells, and in which order).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from pydicom.uid import UID
from pynetdicom import sop_class as standard_classes

from node.dicom import statuses
from node.dicom.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.dicom.storage_contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.dicom.wire import negotiation, pdu
from node.dicom.wire.admission import (
    OTHER_CONTEXT,
    OTHER_VERSION,
    STOPPING,
    TOO_MANY,
    Rejection,
    unknown_called,
    unknown_caller,
)
from node.dicom.wire.connection import LARGEST_REQUEST, Limits
from node.dicom.wire.dimse import MAX_COMMAND_BYTES, MAX_ELEMENTS, MISTYPED
from node.dicom.wire.message import LARGEST_MESSAGE

_PLACE: Final = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

SERVICES: Final = (
    ("Verification", negotiation.VERIFICATION, "C-ECHO", "SCU", "`echo`"),
    ("Storage", "section 9", "C-STORE", "SCU", "`store`"),
    (
        "Storage Commitment Push Model",
        negotiation.STORAGE_COMMITMENT,
        "N-EVENT-REPORT",
        "SCP",
        '`commit`, or `proof = "commitment"`',
    ),
    (
        "Modality Performed Procedure Step",
        negotiation.PERFORMED_PROCEDURE_STEP,
        "N-CREATE, N-SET",
        "SCU",
        "`store`",
    ),
    (
        "Instance Availability Notification",
        negotiation.INSTANCE_AVAILABILITY,
        "N-CREATE",
        "SCU",
        "`store`",
    ),
)
"""Service, SOP class, messages, role of the peer, and what the peer's `may` must hold."""

CONTEXT_RESULTS: Final[Mapping[int, str]] = {
    negotiation.ACCEPTED: "accepted, in the first transfer syntax of our list that is proposed",
    negotiation.USER_REJECTION: "the node serves the class, but not for this peer, or in no role "
    "that the peer proposes",
    negotiation.ABSTRACT_SYNTAX_NOT_SUPPORTED: "the node does not serve the class",
    negotiation.TRANSFER_SYNTAXES_NOT_SUPPORTED: "none of the proposed transfer syntaxes is taken",
}

REJECTIONS: Final[tuple[tuple[Rejection, str], ...]] = (
    (OTHER_CONTEXT, "the application context is not DICOM's"),
    (
        unknown_caller(""),
        "the calling AE title is no peer's; or its peer may not call from this address, must call "
        "over TLS, has another certificate, or may do nothing here",
    ),
    (unknown_called(""), "the called AE title is not the node's"),
    (OTHER_VERSION, "the protocol version is not 1"),
    (STOPPING, "the listener is stopping"),
    (TOO_MANY, "as many associations are open, in all or from this address, as are allowed"),
)

ABORTS: Final[Mapping[int, str]] = {
    0: "a deadline or a limit of section 3.2.1 is passed, the listener is stopping, another PDU "
    "came instead of a request, or a release within a message; source 0",
    pdu.UNRECOGNISED_PDU: "a PDU of a type that does not exist",
    pdu.UNEXPECTED_PDU: "a PDU, command or data that has no place at that moment",
    pdu.UNEXPECTED_PARAMETER: "an association request with an item twice that may be there once",
    pdu.INVALID_PARAMETER: "a length that cannot be, a presentation context that is even, repeated "
    "or was not accepted, a command set that cannot be answered, fragments that carry nothing",
}

STORE_STATUSES: Final[Mapping[int, str]] = {
    statuses.SUCCESS: "the bytes are on disk and will be found there after any crash; also for an "
    "instance that is there already",
    statuses.PROCESSING_FAILURE: "the command set makes no sense, or announces no data set",
    statuses.INVALID_INSTANCE: "the Affected SOP Instance UID is not 1 to 64 digits and dots",
    statuses.NOT_AUTHORISED: "this peer may not ask for it",
    statuses.UNRECOGNISED_OPERATION: "the node does not serve this message (not C-STORE or C-ECHO)",
    MISTYPED: "the command set lacks an element, has it twice, or has one of another group",
    statuses.OUT_OF_RESOURCES: "the disk is below its reserve, or a write or its sync failed: "
    "nothing was kept, send it again",
    statuses.DOES_NOT_MATCH: "the data set has another SOP class or instance than the command, or "
    "the class is not that of the presentation context",
    statuses.CANNOT_UNDERSTAND: "the header of the data set cannot be read to the pixel data, or "
    "lacks one of the UIDs of study, series, instance and class",
}

MESSAGE_STATUSES: Final[Mapping[int, str]] = {
    statuses.SUCCESS: "it is noted",
    statuses.INVALID_ATTRIBUTE: "the data set of the request cannot be read, its study is no UID, "
    "or its status is none of a performed procedure step",
    statuses.PROCESSING_FAILURE: "it could not be noted now: send it again; or the step has ended "
    "and is not changed any more; or the command set makes no sense",
    statuses.DUPLICATE_INSTANCE: "N-CREATE of a step or a notice that is known already",
    statuses.NO_SUCH_INSTANCE: "N-SET of a performed procedure step that is not known",
    statuses.INVALID_INSTANCE: "the Affected SOP Instance UID is not 1 to 64 digits and dots",
    statuses.MISSING_ATTRIBUTE: "a step without its status, or a notice without its study",
    statuses.UNRECOGNISED_OPERATION: "the node does not serve this message, or not for this peer",
    MISTYPED: "the command set lacks an element, has it twice, or has one of another group",
    statuses.RESOURCE_LIMITATION: "the data set is longer than section 3.2.1 says",
}


def fill(page: str) -> str:
    """Return a page with the current tables in its marked places.

    Raises:
        KeyError: A place names a table that does not exist.
    """
    return _PLACE.sub(lambda place: place[1] + TABLES[place[2]]() + place[3], page)


def _services() -> str:
    return _table(("service", "SOP class", "messages", "the peer is", "peers with"), SERVICES)


def _storage_classes() -> str:
    return _table(("SOP class", "UID"), sorted((_name(uid), uid) for uid in STORAGE_CLASSES))


def _transfer_syntaxes() -> str:
    return _table(
        ("", "transfer syntax", "UID"),
        ((str(place), _name(uid), uid) for place, uid in enumerate(TRANSFER_SYNTAXES, 1)),
    )


def _message_syntaxes() -> str:
    return _table(
        ("", "transfer syntax", "UID"),
        (
            (str(place), _name(uid), uid)
            for place, uid in enumerate(negotiation.MESSAGE_SYNTAXES, 1)
        ),
    )


def _context_results() -> str:
    return _table(("result", "when"), ((str(code), when) for code, when in CONTEXT_RESULTS.items()))


def _rejections() -> str:
    return _table(
        ("result", "source", "reason", "when"),
        ((str(one.result), str(one.source), str(one.diagnostic), when) for one, when in REJECTIONS),
    )


def _aborts() -> str:
    return _table(("reason", "when"), ((str(code), when) for code, when in ABORTS.items()))


def _statuses(when: Mapping[int, str]) -> str:
    return _table(("status", "when"), ((f"{code:04X}", text) for code, text in when.items()))


def _limits() -> str:
    limits = Limits()
    rows = (
        ("associations at once", f"{limits.max_associations}", "`max_associations`"),
        ("of them from one address", _or_none(limits.max_per_address), "`max_per_address`"),
        ("P-DATA-TF PDU that is announced", f"{limits.max_pdu} bytes", "`max_pdu`"),
        ("association request", _bytes(LARGEST_REQUEST), ""),
        ("presentation contexts", str(pdu.MAX_CONTEXTS), ""),
        ("command set", f"{_bytes(MAX_COMMAND_BYTES)}, {MAX_ELEMENTS} elements", ""),
        ("data set of an instance", _bytes(limits.object_bytes), "`object_mb`"),
        ("data set of another message", _bytes(LARGEST_MESSAGE), ""),
        ("from connection to complete request", _seconds(limits.request_s), "`request_s`"),
        ("without a message", _seconds(limits.idle_s), "`idle_s`"),
        ("to the next PDU of a message; to take our answer", _seconds(limits.stall_s), "`stall_s`"),
        ("for one data set", _seconds(limits.object_s), ""),
    )
    return _table(("what", "limit", "`[listener]`"), rows)


def _identity() -> str:
    return _table(
        ("", "value"),
        (
            ("application context", pdu.APPLICATION_CONTEXT),
            ("implementation class UID", IMPLEMENTATION_CLASS_UID),
            ("implementation version name", IMPLEMENTATION_VERSION),
        ),
    )


TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "services": _services,
    "storage-classes": _storage_classes,
    "transfer-syntaxes": _transfer_syntaxes,
    "message-syntaxes": _message_syntaxes,
    "context-results": _context_results,
    "rejections": _rejections,
    "aborts": _aborts,
    "store-statuses": lambda: _statuses(STORE_STATUSES),
    "message-statuses": lambda: _statuses(MESSAGE_STATUSES),
    "limits": _limits,
    "identity": _identity,
}
"""Name of a place in the page -> its table."""


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _name(uid: str) -> str:
    """Return a UID's name in the Standard; its keyword where the dictionary is older than it."""
    name = UID(uid).name
    return _KEYWORDS.get(uid, uid) if name == uid else name


_KEYWORDS: Final = {
    str(value): keyword
    for keyword, value in vars(standard_classes).items()
    if isinstance(value, UID)
}


def _bytes(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"


def _or_none(count: int) -> str:
    return str(count) if count else "no limit"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(fill(path.read_text()))
