"""An acceptor inside one process, with callables for its service: what the phantom PACS runs.

The node's own listener runs the same connections in processes of their own (see `listener`).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Final

import structlog
from pydicom.filereader import read_dataset

from node.dicom.callbacks import (
    Callbacks,
    CommitRequest,
    Ended,
    Incoming,
    SopReference,
)
from node.dicom.commitment import STORAGE_COMMITMENT, read_report
from node.dicom.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.dicom.statuses import PROCESSING_FAILURE, SUCCESS, UNRECOGNISED_OPERATION
from node.dicom.storage_contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.dicom.values import IMPLICIT_LITTLE
from node.dicom.wire.acceptor import Acceptor, listening_socket
from node.dicom.wire.admission import (
    ASK_COMMITMENT,
    ECHO,
    REPORT_COMMITMENT,
    STORE,
    Admission,
    Caller,
    Rejection,
)
from node.dicom.wire.connection import Limits, Self
from node.dicom.wire.dimse import N_ACTION_RQ, N_EVENT_REPORT_RQ, Command
from node.dicom.wire.negotiation import Offer
from node.dicom.wire.pdu import AnsweredContext, AssociateRequest
from node.dicom.wire.service import Association, Ending, Piece

__all__ = ["RunningScp", "start_scp"]

log = structlog.get_logger("dicom")


def start_scp(
    *,
    host: str,
    port: int,
    callbacks: Callbacks,
    limits: Limits | None = None,
    accept_unknown_classes: bool = False,
) -> RunningScp:
    """Listen on `host`:`port` (0 takes a free one) until `stop` is called.

    Raises:
        OSError: The address cannot be bound.
    """
    return RunningScp(host, port, _Service(callbacks, accept_unknown_classes), limits or Limits())


class RunningScp:
    """A listening acceptor."""

    def __init__(self, host: str, port: int, service: _Service, limits: Limits) -> None:
        self._socket = listening_socket(host, port)
        self._acceptor = Acceptor(
            service,
            limits=limits,
            own=Self(
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version=IMPLEMENTATION_VERSION,
            ),
        )
        self._acceptor.listen(self._socket)
        self.port = int(self._socket.getsockname()[1])

    def stop(self, grace_s: float = 5.0) -> None:
        """Stop listening, let requests in progress be answered, then end all associations.

        Args:
            grace_s: How long requests in progress may take.
        """
        self._acceptor.stop(grace_s)
        self._socket.close()

    def cut_all(self) -> None:
        """Break every connection without a word, as a failing network does."""
        self._acceptor.cut_all()


class _Service:
    """Callbacks as a service of the wire."""

    def __init__(self, callbacks: Callbacks, accept_unknown: bool) -> None:  # noqa: FBT001
        self._callbacks = callbacks
        self._accept_unknown = accept_unknown

    def admit(self, caller: Caller, _request: AssociateRequest) -> Admission | Rejection:
        """Ask `admit`; what has no callback is not offered."""
        verdict = self._callbacks.admit(caller)
        if isinstance(verdict, Rejection):
            return verdict
        offered = {ECHO}
        for service, callback in (
            (STORE, self._callbacks.on_store),
            (ASK_COMMITMENT, self._callbacks.on_commit_request),
            (REPORT_COMMITMENT, self._callbacks.on_commit_report),
        ):
            if callback is not None:
                offered.add(service)
        return Admission(verdict.peer, verdict.services & offered)

    def offer(self, admission: Admission) -> Offer:
        """Offer every storage class."""
        return Offer(
            services=admission.services,
            storage_classes=STORAGE_CLASSES,
            transfer_syntaxes=TRANSFER_SYNTAXES,
            accept_unknown=self._accept_unknown,
        )

    def opened(self, association: Association) -> None:
        """Tell `on_association`."""
        self._callbacks.on_association(
            association.caller, Admission(association.peer, association.services)
        )

    def rejected(self, caller: Caller, _request: AssociateRequest, why: Rejection) -> None:
        """Tell `on_rejected`."""
        self._callbacks.on_rejected(caller, why)

    def ended(self, association: Association, ending: Ending) -> None:
        """Tell `on_end`."""
        self._callbacks.on_end(
            Ended(
                caller=association.caller,
                peer=association.peer,
                outcome=ending.outcome,
                stored=association.stored,
                refused=association.refused,
            )
        )

    def echoed(self, association: Association) -> None:
        """Tell `on_echo`."""
        self._callbacks.on_echo(association.caller)

    def turned_away(self, _address: str, _reason: str) -> None:
        """Nobody is told."""

    def receive(
        self, association: Association, command: Command, context: AnsweredContext
    ) -> _Whole:
        """Collect the data set for `on_store`."""
        return _Whole(self._callbacks, association, command, context)

    def act(
        self, association: Association, command: Command, context: AnsweredContext, data: bytes
    ) -> tuple[int, str]:
        """Let the commitment callbacks answer."""
        callbacks = self._callbacks
        if command.sop_class != STORAGE_COMMITMENT:
            return UNRECOGNISED_OPERATION, ""
        message = read_dataset(
            BytesIO(data),
            is_implicit_VR=context.transfer_syntax == IMPLICIT_LITTLE,
            is_little_endian=True,
        )
        if command.field == N_ACTION_RQ and callbacks.on_commit_request is not None:
            references = tuple(
                SopReference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
                for item in message.ReferencedSOPSequence
            )
            callbacks.on_commit_request(
                association.caller, CommitRequest(str(message.TransactionUID), references)
            )
            return SUCCESS, ""
        if command.field == N_EVENT_REPORT_RQ and callbacks.on_commit_report is not None:
            return callbacks.on_commit_report(association.caller, read_report(message)), ""
        return UNRECOGNISED_OPERATION, ""


_LARGEST: Final = 1 << 30


class _Whole:
    """Collects one data set in memory."""

    def __init__(
        self,
        callbacks: Callbacks,
        association: Association,
        command: Command,
        context: AnsweredContext,
    ) -> None:
        self._callbacks = callbacks
        self._association = association
        self._command = command
        self._context = context
        self._data = bytearray()

    def take(self, pieces: Sequence[Piece]) -> None:
        """Keep a copy."""
        if len(self._data) < _LARGEST:
            for piece in pieces:
                self._data += piece

    def finish(self, pieces: Sequence[Piece]) -> tuple[int, str]:
        """Hand the whole to `on_store`."""
        self.take(pieces)
        on_store = self._callbacks.on_store
        if on_store is None:  # said to the type checker: without it, no context was accepted
            return PROCESSING_FAILURE, ""
        incoming = Incoming(
            caller=self._association.caller,
            peer=self._association.peer,
            abstract_syntax=self._context.abstract_syntax,
            sop_class=self._command.sop_class,
            sop_uid=self._command.sop_uid,
            transfer_syntax=self._context.transfer_syntax,
            dataset=bytes(self._data),
        )
        try:
            return on_store(incoming)
        except Exception:  # outermost: a bug must not end as a broken association
            log.exception("store-failed", peer=incoming.peer)
            return PROCESSING_FAILURE, "The node failed; its log says why."

    def abandon(self) -> None:
        """Drop it."""
        self._data.clear()
