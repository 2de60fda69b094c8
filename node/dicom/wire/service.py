"""What a connection asks of whoever it serves: the node's receiver, or a phantom PACS.

A connection knows the protocol and nothing else. Who is admitted, where bytes go and what is
written down is its service's. Calls come from the thread of each association.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from node.dicom.wire.admission import Admission, Caller, Rejection
from node.dicom.wire.dimse import Command
from node.dicom.wire.negotiation import Offer
from node.dicom.wire.pdu import AnsweredContext, AssociateRequest

Piece = memoryview | bytes


@dataclass(slots=True)
class Association:
    """One association while it lives.

    Attributes:
        token: Names it in rows and records; random.
        contexts: Accepted presentation contexts by their id.
        answers: What was answered to each proposed context.
        stored: C-STORE requests answered with success or a warning.
        refused: C-STORE requests answered otherwise.
        received_bytes: Of data sets that were stored.
        labels: Whatever the service keeps for each context.
    """

    caller: Caller
    peer: str
    services: frozenset[str]
    request: AssociateRequest
    contexts: dict[int, AnsweredContext]
    answers: tuple[AnsweredContext, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    started_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    stored: int = 0
    refused: int = 0
    received_bytes: int = 0
    labels: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an association ended.

    Attributes:
        outcome: `released`, `aborted` (by the peer or by us) or `lost` (no word from the peer).
        reason: A sentence; empty after an orderly release.
    """

    outcome: str
    reason: str = ""


class Reception(Protocol):
    """One data set that is arriving. After an error of its own it takes the rest and drops it."""

    def take(self, pieces: Sequence[Piece]) -> None:
        """Take bytes of which more will follow; the pieces are overwritten after the call."""

    def finish(self, pieces: Sequence[Piece]) -> tuple[int, str]:
        """Take the last bytes; return the status to answer, and a comment for people."""

    def abandon(self) -> None:
        """Forget it: the rest will never come."""


class Service(Protocol):
    """Who is served."""

    def admit(self, caller: Caller, request: AssociateRequest) -> Admission | Rejection:
        """Return whether a caller may associate."""

    def offer(self, admission: Admission) -> Offer:
        """Return which presentation contexts an admitted caller may have."""

    def opened(self, association: Association) -> None:
        """An association was accepted."""

    def rejected(self, caller: Caller, request: AssociateRequest, why: Rejection) -> None:
        """An association was rejected."""

    def ended(self, association: Association, ending: Ending) -> None:
        """An association ended; called once for each that was opened."""

    def echoed(self, association: Association) -> None:
        """A C-ECHO request was answered."""

    def turned_away(self, address: str, reason: str) -> None:
        """A connection ended without an association: silent, malformed, one too many."""

    def receive(
        self, association: Association, command: Command, context: AnsweredContext
    ) -> Reception:
        """A C-STORE request came in a context; its data set follows."""

    def act(
        self, association: Association, command: Command, context: AnsweredContext, data: bytes
    ) -> tuple[int, str]:
        """Return status and comment for an N-service request with its whole data set."""
