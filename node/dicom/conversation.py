"""Associations as pynetdicom runs them, turned into the calls of `callbacks`.

One `Floor` per acceptor counts who is there; one `Conversation` per association answers for it.
Everything that knows pynetdicom's events is in this file.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from io import BytesIO
from typing import Final, cast

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_P_ABORT
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from node.dicom.admission import STOPPING, TOO_MANY, Admission, Caller, Rejection, Service
from node.dicom.callbacks import (
    Callbacks,
    CommitRequest,
    Ended,
    Incoming,
    Limits,
    SopReference,
)
from node.dicom.commitment import read_report
from node.dicom.library import bound_reads, tune
from node.dicom.statuses import (
    NOT_AUTHORISED,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SUCCESS,
    UNRECOGNISED_OPERATION,
    comment,
)
from node.dicom.storage_contexts import offered_contexts

MAX_REPORT_BYTES: Final = 4 * 1024 * 1024
"""Longest N-ACTION or N-EVENT-REPORT data set that is read; some 30 000 references."""

_BEYOND_PDU: Final = 64 * 1024
"""What a PDU may have beyond the announced maximum: association requests are not bound by it."""

log = structlog.get_logger("dicom")


class Floor:
    """All conversations of one acceptor, and what they share."""

    def __init__(
        self, callbacks: Callbacks, limits: Limits, *, accept_unknown_classes: bool
    ) -> None:
        self.callbacks = callbacks
        self.limits = limits
        self.accept_unknown_classes = accept_unknown_classes
        self.stopping = False
        self._lock = threading.Lock()
        self._open: list[Conversation] = []

    def admit(self, conversation: Conversation, caller: Caller) -> Admission | Rejection:
        """Judge a caller, and count the conversation among the open ones if it may stay."""
        if self.stopping:
            return STOPPING
        verdict = self.callbacks.admit(caller)
        if isinstance(verdict, Admission):
            with self._lock:
                if len(self._open) >= self.limits.max_associations:
                    return TOO_MANY
                self._open.append(conversation)
        return verdict

    def leave(self, conversation: Conversation) -> bool:
        """Take a conversation out; False if it was out already."""
        with self._lock:
            if conversation not in self._open:
                return False
            self._open.remove(conversation)
            return True

    def busy(self) -> bool:
        """Return whether a request is being handled or its answer is on its way."""
        with self._lock:
            return any(conversation.in_flight for conversation in self._open)

    def end_dead(self) -> None:
        """End the conversations whose threads ended without a word."""
        with self._lock:
            dead = [one for one in self._open if one.started and not one.assoc.is_alive()]
        for conversation in dead:
            conversation.end("lost")

    def cut_all(self) -> None:
        """Shut down every socket."""
        with self._lock:
            left = list(self._open)
        for conversation in left:
            conversation.cut()

    def end_all(self) -> None:
        """Abort everything that is still open; sockets of peers that hang are shut down."""
        with self._lock:
            left = list(self._open)
        threads = [threading.Thread(target=one.assoc.abort, daemon=True) for one in left]
        for thread in threads:
            thread.start()
        for conversation, thread in zip(left, threads, strict=True):
            thread.join(timeout=2.0)
            conversation.cut()
            conversation.assoc.join(timeout=2.0)
            conversation.end("aborted")


class Server(ThreadedAssociationServer):
    """pynetdicom's server; the thread that accepts also looks after the dead."""

    floor: Floor
    daemon_threads = True
    request_queue_size = 128

    def service_actions(self) -> None:
        """End the conversations whose threads ended without a word; called twice a second."""
        super().service_actions()
        self.floor.end_dead()


class Connection(RequestHandler):
    """One accepted connection: bounds on its socket, then an association."""

    def _create_association(self) -> Association:
        floor = cast(Server, self.server).floor  # only our Server makes connections
        tune(self.request, stall_s=floor.limits.stall_s)
        assoc = super()._create_association()
        if assoc.dul.socket is not None:
            bound_reads(assoc.dul.socket, self.request, floor.limits.max_pdu + _BEYOND_PDU)
        # Closed until admission has said what is open.
        assoc.acceptor.supported_contexts = []
        Conversation(assoc, floor).listen()
        return assoc


class Conversation:
    """One association: its handlers, its counts, its end."""

    def __init__(self, assoc: Association, floor: Floor) -> None:
        self.assoc = assoc
        self.in_flight = 0
        self.started = False
        self._floor = floor
        self._caller = Caller("", "", "")
        self._admission = Admission("", frozenset())
        self._association: int | None = None
        self._stored = 0
        self._refused = 0
        self._lost = False

    def listen(self) -> None:
        """Bind the handlers of this conversation to its association."""
        for event, handler in (
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_RELEASED, self._released),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_ACSE_RECV, self._received),
            (evt.EVT_PDU_SENT, self._sent),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commit_request),
            (evt.EVT_N_EVENT_REPORT, self._commit_report),
        ):
            self.assoc.bind(event, handler)

    def end(self, outcome: str) -> None:
        """Tell the caller once how it ended."""
        if self._floor.leave(self):
            self._floor.callbacks.on_end(
                Ended(
                    caller=self._caller,
                    peer=self._admission.peer,
                    association=self._association,
                    outcome=outcome,
                    stored=self._stored,
                    refused=self._refused,
                )
            )

    def cut(self) -> None:
        """Shut the socket down, which wakes a thread that reads from a silent peer."""
        transport = self.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            with suppress(OSError):  # it is closed already
                transport.socket.shutdown(socket.SHUT_RDWR)

    def _requested(self, _event: evt.Event) -> None:
        self.started = True
        # This event follows the association request, so there is one.
        request = cast(A_ASSOCIATE, self.assoc.requestor.primitive)
        self._caller = Caller(
            _ae_title(request.calling_ae_title),
            _ae_title(request.called_ae_title),
            self.assoc.requestor.address,
        )
        verdict = self._floor.admit(self, self._caller)
        if isinstance(verdict, Rejection):
            self.assoc.acse.send_reject(verdict.result, verdict.source, verdict.diagnostic)
            self._floor.callbacks.on_rejected(self._caller, verdict)
            self.assoc.kill()
            return
        self._admission = Admission(verdict.peer, verdict.services & self._offered())
        self._association = self._floor.callbacks.on_association(self._caller, verdict)
        self.assoc.acceptor.supported_contexts = offered_contexts(
            [
                str(context.abstract_syntax)
                for context in request.presentation_context_definition_list
            ],
            self._admission.services,
            accept_unknown=self._floor.accept_unknown_classes,
        )

    def _offered(self) -> frozenset[Service]:
        callbacks = self._floor.callbacks
        services = {Service.ECHO}
        if callbacks.on_store is not None:
            services.add(Service.STORE)
        if callbacks.on_commit_request is not None:
            services.add(Service.ASK_COMMITMENT)
        if callbacks.on_commit_report is not None:
            services.add(Service.REPORT_COMMITMENT)
        return frozenset(services)

    def _released(self, _event: evt.Event) -> None:
        self.end("released")

    def _received(self, event: evt.Event) -> None:
        self._lost = isinstance(_attribute(event, "primitive"), A_P_ABORT)

    def _aborted(self, _event: evt.Event) -> None:
        self.end("lost" if self._lost else "aborted")

    def _sent(self, event: evt.Event) -> None:
        if isinstance(_attribute(event, "pdu"), P_DATA_TF):
            self.in_flight = 0

    def _echo(self, _event: evt.Event) -> int:
        if Service.ECHO not in self._admission.services:
            return NOT_AUTHORISED
        return self._floor.callbacks.on_echo(self._caller)

    def _store(self, event: evt.Event) -> Dataset:
        self.in_flight = 1
        status, words = self._answer(event)
        if status == SUCCESS or status >> 12 == 0xB:
            self._stored += 1
        else:
            self._refused += 1
        answer = Dataset()
        answer.Status = status
        if words:
            answer.ErrorComment = comment(words)
        return answer

    def _answer(self, event: evt.Event) -> tuple[int, str]:
        on_store = self._floor.callbacks.on_store
        if on_store is None or Service.STORE not in self._admission.services:
            return NOT_AUTHORISED, "This AE title may not store here."
        if self._floor.stopping:
            return OUT_OF_RESOURCES, STOPPING.reason
        request = cast(C_STORE, event.request)  # EVT_C_STORE carries nothing else
        incoming = Incoming(
            caller=self._caller,
            peer=self._admission.peer,
            association=self._association,
            abstract_syntax=str(event.context.abstract_syntax),
            sop_class=str(request.AffectedSOPClassUID),
            sop_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax=str(event.context.transfer_syntax),
            dataset=request.DataSet.getvalue() if request.DataSet else b"",
        )
        try:
            return on_store(incoming)
        except Exception:  # outermost: a bug must not end as "cannot understand"
            log.exception("store-failed", peer=incoming.peer, association=incoming.association)
            return PROCESSING_FAILURE, "The node failed; its log says why."

    def _commit_request(self, event: evt.Event) -> tuple[int, None]:
        on_request = self._floor.callbacks.on_commit_request
        if on_request is None or Service.ASK_COMMITMENT not in self._admission.services:
            return UNRECOGNISED_OPERATION, None
        request = cast(N_ACTION, event.request)  # EVT_N_ACTION carries nothing else
        if _size(request.ActionInformation) > MAX_REPORT_BYTES:
            return RESOURCE_LIMITATION, None
        asked = event.action_information
        on_request(
            self._caller,
            CommitRequest(
                transaction_uid=str(asked.TransactionUID),
                references=tuple(
                    SopReference(
                        str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)
                    )
                    for item in asked.ReferencedSOPSequence
                ),
            ),
        )
        return SUCCESS, None

    def _commit_report(self, event: evt.Event) -> tuple[int, None]:
        on_report = self._floor.callbacks.on_commit_report
        if on_report is None or Service.REPORT_COMMITMENT not in self._admission.services:
            return UNRECOGNISED_OPERATION, None
        request = cast(N_EVENT_REPORT, event.request)  # EVT_N_EVENT_REPORT has nothing else
        if _size(request.EventInformation) > MAX_REPORT_BYTES:
            return RESOURCE_LIMITATION, None
        self.in_flight = 1
        return on_report(self._caller, read_report(event.event_information)), None


def _size(data: BytesIO | None) -> int:
    return len(data.getbuffer()) if data else 0


def _attribute(event: evt.Event, name: str) -> object:
    """Return an attribute that the library sets for this kind of event only."""
    return getattr(event, name, None)


def _ae_title(value: str) -> str:
    """Return an AE title without padding; signs that could harm a log or a terminal become '?'.

    They are replaced, not left out, so that no title turns into another one that is configured.
    """
    return "".join(sign if sign.isprintable() else "?" for sign in str(value).strip(" \0"))
