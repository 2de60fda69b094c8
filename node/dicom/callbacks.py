"""What an acceptor inside one process asks and tells, as values and callables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from node.dicom.wire.admission import Admission, Caller, Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One C-STORE request.

    Attributes:
        abstract_syntax: Of the presentation context; `sop_class` is what the command set says.
        dataset: The data set's bytes as they came.
    """

    caller: Caller
    peer: str
    abstract_syntax: str
    sop_class: str
    sop_uid: str
    transfer_syntax: str
    dataset: bytes


class SopReference(NamedTuple):
    """An instance that a commitment is about."""

    sop_class: str
    sop_uid: str


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """One N-ACTION: a peer asks us to commit ourselves to keep instances."""

    transaction_uid: str
    references: tuple[SopReference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitReport:
    """One N-EVENT-REPORT: what a peer answers to a commitment that we asked for.

    Attributes:
        committed: SOP Instance UIDs that it keeps.
        failed: SOP Instance UIDs that it does not keep, with the Failure Reason in words.
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an association ended.

    Attributes:
        outcome: `released`, `aborted` (by the peer or by us) or `lost` (no word from the peer).
        stored: C-STORE requests answered with success or a warning.
        refused: C-STORE requests answered otherwise.
    """

    caller: Caller
    peer: str
    outcome: str
    stored: int
    refused: int


def _no_association(_caller: Caller, _admission: Admission) -> None:
    return None


def _no_rejection(_caller: Caller, _rejection: Rejection) -> None:
    return None


def _no_echo(_caller: Caller) -> None:
    return None


def _no_end(_ended: Ended) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the acceptor asks and tells. A service without a callback is not offered.

    Attributes:
        admit: Whether a caller may associate, and for what.
        on_association: Called for each admitted association.
        on_rejected: Called for each association that was rejected.
        on_store: Returns (status, comment) once the instance is kept or refused.
        on_commit_request: The N-ACTION is answered with success when it returns. The report is
            sent by whoever implements it, with `scu.report_commitment`, not from within this call.
        on_commit_report: Returns the status of the N-EVENT-REPORT.
        on_end: Called once for each admitted association.
    """

    admit: Callable[[Caller], Admission | Rejection]
    on_association: Callable[[Caller, Admission], None] = _no_association
    on_rejected: Callable[[Caller, Rejection], None] = _no_rejection
    on_echo: Callable[[Caller], None] = _no_echo
    on_store: Callable[[Incoming], tuple[int, str]] | None = None
    on_commit_request: Callable[[Caller, CommitRequest], None] | None = None
    on_commit_report: Callable[[Caller, CommitReport], int] | None = None
    on_end: Callable[[Ended], None] = _no_end
