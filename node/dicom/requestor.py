"""Associations that we open: reach a peer, or say in a sentence why not.

Every wait has a limit. What pynetdicom only logs (refused, rejected, aborted, silent) becomes a
`PassingError` that names the peer, its address and what to do.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from node.dicom.library import application_entity, bound_reads, close, keep_answers, tune
from node.errors import PassingError, passing_error
from node.settings import Peer

MAX_PDU: Final = 131_072

_LONGEST_PDU: Final = 16 * 1024 * 1024
"""What a peer may send us on our own association; its answers are small, C-FIND's the largest."""

_REJECTIONS: Final = {
    (1, 1): "without a reason",
    (1, 2): "because it does not know the application context",
    (1, 3): "because it does not know our AE title; its administrator must enter it",
    (1, 7): "because it has another AE title; correct ae_title of this peer",
    (2, 1): "without a reason",
    (2, 2): "because of the protocol version",
    (3, 1): "because it is congested",
    (3, 2): "because too many associations are open",
}

Handler = tuple[Any, Callable[..., Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A peer that we call.

    Attributes:
        name: What people call it.
        connect_s: For the TCP connection.
        answer_s: For the answer to one request.
    """

    name: str
    ae_title: str
    host: str
    port: int
    connect_s: float = 10.0
    answer_s: float = 60.0

    @classmethod
    def of(cls, peer: Peer) -> Target:
        """Return where to call a configured peer."""
        return cls(name=peer.name, ae_title=peer.ae_title, host=peer.host, port=peer.port)

    def __str__(self) -> str:
        return f"{self.name} ({self.ae_title}, {self.host}:{self.port})"


@contextmanager
def associated(
    target: Target,
    contexts: Sequence[PresentationContext],
    *,
    calling_ae: str,
    handlers: Sequence[Handler] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Iterator[Association]:
    """Give an established association; it is released at the end, aborted after an error.

    If the peer accepts none of the contexts, the association is given without any
    `accepted_contexts`, and can be used for nothing.

    Raises:
        PassingError: The peer was not reached or did not accept.
    """
    entity = application_entity(calling_ae)
    entity.connection_timeout = target.connect_s
    entity.acse_timeout = target.connect_s
    entity.dimse_timeout = target.answer_s
    entity.network_timeout = target.answer_s + 10
    reached: list[bool] = []
    rejections: list[A_ASSOCIATE_RJ] = []

    def received(event: evt.Event) -> None:
        # The library forgets a rejection that comes before it has noticed its own connection.
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    def connected(event: evt.Event) -> None:
        reached.append(True)
        transport = event.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            tune(transport.socket, stall_s=target.answer_s)
            bound_reads(transport, transport.socket, _LONGEST_PDU)

    association = entity.associate(
        _address(target),
        target.port,
        contexts=list(contexts),
        ae_title=target.ae_title,
        max_pdu=MAX_PDU,
        ext_neg=list(roles),
        evt_handlers=[
            (evt.EVT_CONN_OPEN, connected),
            (evt.EVT_PDU_RECV, received),
            *handlers,
        ],
    )
    keep_answers(association)
    try:
        if rejections:
            raise _rejected(target, rejections[0])
        yield from _used(target, association, reached=bool(reached))
    finally:
        # A peer that died under a write leaves the library idle with its socket still open.
        if association.dul.socket is not None:
            close(association.dul.socket)


def _used(target: Target, association: Association, *, reached: bool) -> Iterator[Association]:
    if association.rejected_contexts and not association.accepted_contexts:
        # Accepted with no context: the library has ended it, and the caller knows what is missing.
        yield association
        return
    if not association.is_established:
        raise _not_established(target, reached=reached)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    if association.is_established:
        association.release()


def lost(target: Target, what: str) -> PassingError:
    """Return the error for a peer that did not answer a request."""
    return passing_error(
        "peer-no-answer",
        f"{target.name} did not answer {what}: the association ended or "
        f"{target.answer_s:g} s passed.",
        where=str(target),
        remedy="It is tried again; if it lasts, look at the peer's log.",
    )


def _address(target: Target) -> str:
    """Return the IP address of the peer's host; pynetdicom takes no bare names."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise passing_error(
            "peer-name-unknown",
            f"The host name of {target.name} is not known: {error.strerror or error}.",
            where=str(target),
            remedy="Correct host of this peer, or the name service.",
        ) from error
    # IPv4 first: a name with both often has nothing listening on IPv6.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def _rejected(target: Target, answer: A_ASSOCIATE_RJ) -> PassingError:
    reason = (answer.source or 0, answer.reason_diagnostic or 0)
    words = _REJECTIONS.get(reason, "for a reason of its own")
    return passing_error(
        "peer-rejected",
        f"{target.name} rejected the association {words}.",
        where=str(target),
        remedy="Compare AE titles on both sides; `limner peers echo NAME` tries again.",
    )


def _not_established(target: Target, *, reached: bool) -> PassingError:
    if not reached:
        return passing_error(
            "peer-not-reached",
            f"{target.name} cannot be reached: nothing accepted a connection within "
            f"{target.connect_s:g} s.",
            where=str(target),
            remedy="Check that it runs, its host and port, and firewalls between.",
        )
    return passing_error(
        "peer-aborted",
        f"{target.name} took the connection but no association came of it.",
        where=str(target),
        remedy="Check that a DICOM service listens there and that it knows our AE title.",
    )
