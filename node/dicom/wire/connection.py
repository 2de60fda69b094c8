"""One connection: from the accepted socket to its end, in one thread, with one buffer.

The receive path of the node. Bytes are read into one reused buffer; the fragments of a data set
are views of it until the last one is there, then they are handed over together and never copied
here. A data set that outgrows the buffer is handed over in parts. Each answer is one `send`, and
TCP_QUICKACK is set again after every read, because a sender that leaves Nagle's algorithm on waits
for our acknowledgement before it sends its last segment (measured: 46 ms per instance, 1 ms with).

Nothing a peer says is believed: a PDU longer than was announced ends the association before it is
read, fragments that carry nothing are counted, and every wait has an absolute deadline that
arriving bytes do not move (see `watch`).

Source: DICOM PS3.8 sections 9.2 (states), 9.3 (PDUs) and annex E; PS3.7 sections 9.3 and 10.3.
"""

from __future__ import annotations

import mmap
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from node.dicom.statuses import (
    NOT_AUTHORISED,
    PROCESSING_FAILURE,
    SUCCESS,
    UNRECOGNISED_OPERATION,
)
from node.dicom.wire import dimse, pdu
from node.dicom.wire.admission import (
    ECHO,
    OTHER_CONTEXT,
    OTHER_VERSION,
    STORE,
    Admission,
    Caller,
    Rejection,
)
from node.dicom.wire.message import AbortError, ClosedError, Collecting, Message, Refusing
from node.dicom.wire.negotiation import ACCEPTED, negotiate
from node.dicom.wire.service import Association, Ending, Piece, Reception, Service
from node.dicom.wire.states import Action, Event, Machine, event_of_pdu
from node.dicom.wire.tls import TlsError, handshake_fault
from node.dicom.wire.watch import Watch

BUFFER_BYTES: Final = 1 << 20
"""Of one association. A CT or MR slice fits whole; a larger data set is handed over in parts."""

LARGEST_REQUEST: Final = 512 * 1024
"""An A-ASSOCIATE-RQ: 128 contexts of 1.2 KB and two user identity fields of 64 KiB fit."""

_LARGEST_CONTROL: Final = 1024
"""Any other PDU than P-DATA and the request; they have 4 bytes."""

_MOST_PIECES: Final = 960
"""Views held before they are handed over; one write takes 1,024."""

_SLOWEST_BYTES_PER_S: Final = 10_240
_FAREWELL_S: Final = 2.0
_TLS_HELLO: Final = 0x16
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux
_PDV: Final = struct.Struct(">IBB")
_PDV_HEADER_BYTES: Final = 6
_COMMAND: Final = 1
_LAST: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what peers may hold.

    Attributes:
        max_associations: Open at once; one more is rejected as a passing condition.
        max_per_address: The same from one IP address; 0 is no limit.
        max_pdu: P-DATA length that is announced; a longer PDU ends the association.
        request_s: From the connection to its complete association request, TLS included.
        idle_s: Without a message on an open association.
        stall_s: For the next PDU within a message, and for a peer to read our answer.
        object_s: For one data set.
        object_bytes: Of one data set.
    """

    max_associations: int = 50
    max_per_address: int = 0
    max_pdu: int = 131_072
    request_s: float = 10.0
    idle_s: float = 120.0
    stall_s: float = 30.0
    object_s: float = 3600.0
    object_bytes: int = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Self:
    """How we name ourselves to peers."""

    implementation_class_uid: str
    implementation_version: str


class Connection:
    """One connection. `run` returns when it has ended; `deadline` is for the watch."""

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        *,
        service: Service,
        limits: Limits,
        own: Self,
        watch: Watch,
        tls: Callable[[], ssl.SSLContext] | None = None,
        take_place: Callable[[Connection], Rejection | None] = lambda _: None,
        give_place: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        """Take over an accepted socket.

        Args:
            sock: Blocking, without a timeout.
            address: IP address of the peer.
            service: Who is served.
            limits: Bounds.
            own: Our names.
            watch: Keeps the deadlines.
            tls: Serve TLS with the context that this gives.
            take_place: Called for a caller that is admitted; returns why there is no place for
                one more association, or None when this one was given its place.
            give_place: Called before a release is answered: the peer may call again at once.
        """
        self.deadline = time.monotonic() + limits.request_s
        self.association: Association | None = None
        self.in_message = False
        """Whether a request is being received or answered."""
        self.draining = False
        """Whether to end as soon as no message is under way."""
        self._socket = sock
        self._address = address
        self._service = service
        self._limits = limits
        self._own = own
        self._watch = watch
        self._tls = tls
        self._take_place = take_place
        self._give_place = give_place
        self._machine = Machine(requestor=False)
        self._expired = ""
        self._sending = False
        self._shaking_hands = tls is not None
        self._secure: ssl.SSLSocket | None = None
        self._buffer: bytearray | mmap.mmap = bytearray(8192)
        self._view = memoryview(self._buffer)
        self._start = 0  # first byte that is not consumed
        self._end = 0  # first byte that is not filled
        self._message = Message()
        self._commands = dimse.CommandReader()
        self._deadline_of = -1  # the PDU, by the count of consumed bytes, that it is for
        self._consumed = 0

    # -- from outside ------------------------------------------------------------------------------

    def expire(self) -> None:
        """End a wait whose deadline has passed; called by the watch."""
        if not self._expired:
            self._expired = "The deadline passed without a complete PDU."
            self._shut(socket.SHUT_RDWR if self._sending else socket.SHUT_RD)
        else:  # the farewell took too long as well
            self._shut(socket.SHUT_RDWR)
        self.deadline = time.monotonic() + _FAREWELL_S

    def drain(self) -> None:
        """End when the message under way, if there is one, has been answered."""
        self.draining = True
        if not self.in_message:
            self._expired = self._expired or "The listener stopped."
            self._shut(socket.SHUT_RD)

    def cut(self, why: str = "The connection was cut.") -> None:
        """Break the connection without a word, as a failing network does."""
        self._expired = why
        self._shut(socket.SHUT_RDWR)

    # -- the thread --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve the connection until it ends, then close it."""
        self._watch.add(self)
        ending: Ending | None = None
        try:
            self._prepare()
            self._open()
            if self.association is not None:
                self._use_large_buffer()
                ending = self._talk(self.association)
        except AbortError as abort:
            ending = Ending("aborted", abort.what)
            self._say_abort(abort.reason)
        except ClosedError as error:
            ending = self._lost(error)
        except (OSError, ValueError) as error:  # ValueError: a TLS socket that was shut down
            ending = self._lost(error)
        finally:
            self._message.abandon()
            self._watch.remove(self)
            self._close()
            self._tell(ending)

    def _tell(self, ending: Ending | None) -> None:
        if self.association is not None:
            self._service.ended(self.association, ending or Ending("lost", "The node failed."))
        elif ending is not None:
            self._service.turned_away(self._address, ending.reason)

    def _lost(self, error: Exception | None = None) -> Ending:
        if self._expired:
            self._say_abort(0)
            return Ending("aborted", self._expired)
        if isinstance(error, ClosedError) and str(error):
            return Ending("lost", str(error))
        words = f" ({error})" if error is not None and str(error) else ""
        if self.association is None:
            return Ending("lost", f"It closed the connection before it asked for anything{words}.")
        return Ending("lost", f"The connection broke; what was answered before is kept{words}.")

    def _prepare(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return
        try:
            context = self._tls()
        except TlsError as error:
            raise AbortError(0, f"TLS is not served now: {error}.") from error
        wrapped = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = self._secure = wrapped
        try:
            wrapped.do_handshake()
        except OSError as error:
            what = self._expired or handshake_fault(error)
            raise AbortError(0, what) from error
        self._shaking_hands = False

    def _open(self) -> None:
        """Read the association request and answer it."""
        self._machine.on(Event.EVT5)
        kind, body = self._read_control(LARGEST_REQUEST)
        action = self._machine.on(event_of_pdu(kind))
        if action is Action.AA2:
            raise ClosedError("It aborted before it asked for anything.")
        if action is not Action.AE6:
            raise AbortError(0, f"A PDU of type {kind:02X}H came instead of a request ({action}).")
        try:
            request = pdu.decode_associate_request(body)
        except pdu.PduError as error:
            raise AbortError(error.reason, error.what) from error
        caller = self._caller(request)
        verdict = _protocol_fault(request) or self._service.admit(caller, request)
        if isinstance(verdict, Admission):
            verdict = self._take_place(self) or verdict
        if isinstance(verdict, Rejection):
            self._machine.on(Event.EVT8)
            self._service.rejected(caller, request, verdict)
            self._send(
                pdu.encode_associate_reject(verdict.result, verdict.source, verdict.diagnostic)
            )
            self._part()
            return
        contexts, roles = negotiate(request, self._service.offer(verdict))
        self.association = Association(
            caller=caller,
            peer=verdict.peer,
            services=verdict.services,
            request=request,
            contexts={one.id: one for one in contexts if one.result == ACCEPTED},
            answers=contexts,
        )
        self._service.opened(self.association)
        self._machine.on(Event.EVT7)
        self._send(
            pdu.encode_associate_accept(
                request,
                contexts,
                max_length=self._limits.max_pdu,
                roles=roles,
                implementation_class_uid=self._own.implementation_class_uid,
                implementation_version=self._own.implementation_version,
            )
        )

    def _caller(self, request: pdu.AssociateRequest) -> Caller:
        secure = isinstance(self._socket, ssl.SSLSocket)
        names: tuple[str, ...] = ()
        if isinstance(self._socket, ssl.SSLSocket):
            names = _certificate_names(self._socket)
        return Caller(request.calling_ae, request.called_ae, self._address, secure, names)

    def _use_large_buffer(self) -> None:
        left = bytes(self._view[self._start : self._end])
        # Only pages that are used cost memory; a data set that fits is never copied.
        size = max(BUFFER_BYTES, self._limits.max_pdu + 64)
        self._buffer = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._view[: len(left)] = left
        self._start, self._end = 0, len(left)

    def _talk(self, association: Association) -> Ending:
        """Take PDUs until the association ends."""
        self._set_deadline(self._limits.idle_s)
        largest = self._limits.max_pdu
        unpack, header = pdu.PDU_HEADER.unpack_from, pdu.PDU_HEADER.size
        while True:
            while (left := self._end - self._start) >= header:
                kind, length = unpack(self._buffer, self._start)
                if kind != pdu.P_DATA:
                    return self._control(kind, length)
                if length > largest:
                    raise AbortError(
                        6, f"A P-DATA PDU has {length} bytes, announced were {largest}."
                    )
                if left < header + length:
                    break
                at = self._start + header
                self._fragments(association, at, at + length)
                self._start = at + length
                self._consumed += header + length
                if self.draining and not self.in_message:
                    raise AbortError(0, "The listener stopped.")
            self._fill(header)

    def _fill(self, header: int) -> None:
        """Read what is there, at least a byte, after making room for the PDU that has begun."""
        left = self._end - self._start
        if not left:
            if not self._message.pieces:
                self._start = self._end = 0
            if self._message.begun:
                self._set_deadline(self._limits.stall_s)
            else:
                self._set_deadline(self._limits.idle_s)
        elif self._deadline_of != self._consumed:
            # The rest of a PDU: how long it may take is fixed when its first byte is seen.
            self._deadline_of = self._consumed
            length = 0
            if left >= header:
                (_, length) = pdu.PDU_HEADER.unpack_from(self._buffer, self._start)
            self._set_deadline(max(self._limits.stall_s, length / _SLOWEST_BYTES_PER_S))
        wanted = header
        if left >= header:
            wanted += int(pdu.PDU_HEADER.unpack_from(self._buffer, self._start)[1])
        if self._start + wanted > len(self._buffer) or self._end == len(self._buffer):
            self._make_room()
        if self._secure is None:
            self._read()
        else:
            self._read_records(self._secure, self._start + wanted)

    def _read_records(self, secure: ssl.SSLSocket, until: int) -> None:
        """Read up to `until` at least; TLS gives 16 KiB at a time, whatever has arrived."""
        while self._end < until:
            count = secure.recv_into(self._view[self._end :])
            if not count:
                raise ClosedError
            self._end += count
        if _QUICKACK is not None:
            secure.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _read(self) -> None:
        count = self._socket.recv_into(self._view[self._end :])
        if not count:
            raise ClosedError
        self._end += count
        if _QUICKACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _make_room(self) -> None:
        """Move what is not consumed to the front; pieces that lie there are handed over first."""
        self._message.hand_over()
        left = self._end - self._start
        self._view[:left] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, left

    # -- messages ----------------------------------------------------------------------------------

    def _fragments(self, association: Association, at: int, end: int) -> None:
        """Take the presentation data values of one P-DATA PDU."""
        if at == end:
            self._message.count_empty()
        while at < end:
            if end - at < _PDV_HEADER_BYTES:
                raise AbortError(6, "A presentation data value is cut short.")
            length, context_id, control = _PDV.unpack_from(self._buffer, at)
            stop = at + 4 + length
            if length < 2 or stop > end:
                raise AbortError(6, f"A presentation data value claims {length} bytes.")
            context = association.contexts.get(context_id)
            if context is None:
                raise AbortError(6, f"Data came in context {context_id}, which was not accepted.")
            piece = self._view[at + _PDV_HEADER_BYTES : stop]
            if control & _COMMAND:
                self._command_fragment(association, context, piece, last=bool(control & _LAST))
            else:
                self._data_fragment(association, context, piece, last=bool(control & _LAST))
            at = stop

    def _command_fragment(
        self,
        association: Association,
        context: pdu.AnsweredContext,
        piece: memoryview,
        *,
        last: bool,
    ) -> None:
        message = self._message
        if message.begun and (message.command is not None or message.context_id != context.id):
            raise AbortError(2, "A command came within another message.")
        if not message.begun:
            message.until = time.monotonic() + self._limits.object_s
            message.context_id = context.id
            message.begun = self.in_message = True
        message.command_bytes += piece
        if len(message.command_bytes) > dimse.MAX_COMMAND_BYTES:
            raise AbortError(6, f"A command set exceeds {dimse.MAX_COMMAND_BYTES} bytes.")
        if not last:
            message.count_small(len(piece))
            return
        try:
            command = self._commands.read(bytes(message.command_bytes))
        except dimse.DimseError as error:
            if error.command is None:
                raise AbortError(6, error.what) from error
            command = error.command
            message.reception = Refusing(error.status, error.what)
        message.command = command
        if message.reception is None:
            message.reception = self._begin(association, command, context)
        if not command.has_dataset:
            self._answer(association, ())

    def _begin(
        self, association: Association, command: dimse.Command, context: pdu.AnsweredContext
    ) -> Reception:
        """Return what takes the data set of a request, and gives the answer."""
        if command.field == dimse.C_STORE_RQ:
            if STORE not in association.services:
                return Refusing(NOT_AUTHORISED, "This AE title may not store here.")
            if not command.has_dataset:
                return Refusing(PROCESSING_FAILURE, "The request has no data set.")
            return self._service.receive(association, command, context)
        if command.field == dimse.C_ECHO_RQ:
            if ECHO not in association.services:
                return Refusing(NOT_AUTHORISED, "This AE title may not ask for C-ECHO.")
            self._service.echoed(association)
            return Refusing(SUCCESS, "")
        if command.field in _N_SERVICES:
            return Collecting(lambda data: self._service.act(association, command, context, data))
        return Refusing(UNRECOGNISED_OPERATION, "This operation is not served here.")

    def _data_fragment(
        self,
        association: Association,
        context: pdu.AnsweredContext,
        piece: memoryview,
        *,
        last: bool,
    ) -> None:
        message = self._message
        command = message.command
        if command is None or not command.has_dataset or message.context_id != context.id:
            raise AbortError(2, "Data came that no command announced.")
        if piece:
            message.pieces.append(piece)
            message.length += len(piece)
        if last:
            self._answer(association, message.pieces)
            return
        message.count_small(len(piece))
        if message.length > self._limits.object_bytes:
            raise AbortError(0, f"A data set exceeds {self._limits.object_bytes} bytes.")
        if len(message.pieces) >= _MOST_PIECES:
            message.hand_over()

    def _answer(self, association: Association, pieces: Sequence[Piece]) -> None:
        """Hand the last bytes over, and answer."""
        message = self._message
        reception, command = message.reception, message.command
        if reception is None or command is None:  # said to the type checker: both are there
            raise AbortError(0, "A message without a command ended.")
        length = message.length
        # From here to the answer the service is at work; it has its own limits.
        self.deadline = time.monotonic() + self._limits.object_s
        try:
            status, comment = reception.finish(pieces)
        finally:
            message.reception = None
        if command.field == dimse.C_STORE_RQ:
            if status == SUCCESS or status >> 12 == 0xB:
                association.stored += 1
                association.received_bytes += length
            else:
                association.refused += 1
        if not command.field & dimse.RESPONSE and command.field != dimse.C_CANCEL_RQ:
            self._send(
                dimse.encode_response(
                    command,
                    context_id=message.context_id,
                    status=status,
                    comment=comment,
                    max_length=association.request.max_length,
                )
            )
        self._message = Message()
        self.in_message = False

    # -- PDUs other than P-DATA --------------------------------------------------------------------

    def _control(self, kind: int, length: int) -> Ending:
        """Take a PDU that ends the association, or should not be there."""
        if kind not in _KNOWN_PDUS:
            raise AbortError(1, f"A PDU of the unknown type {kind:02X}H came.")
        if length > _LARGEST_CONTROL and kind != pdu.ASSOCIATE_RQ:
            raise AbortError(6, f"A PDU of type {kind:02X}H claims {length} bytes.")
        action = self._machine.on(event_of_pdu(kind))
        if action is Action.AA3:
            return self._aborted()
        if action is Action.AR2 and not self.in_message:
            self._machine.on(Event.EVT14)
            self._give_place(self)
            self._send(pdu.RELEASE_RP_PDU)
            self._part(pdu.PDU_HEADER.size + length)
            return Ending("released")
        if action is Action.AR2:  # the decision is ours, and it is to abort (AA-1)
            raise AbortError(0, "It asked for a release within a message.")
        raise AbortError(2, f"A PDU of type {kind:02X}H came in an open association ({action}).")

    def _aborted(self) -> Ending:
        """Take the peer's abort, which ends the association whatever else it says."""
        self._set_deadline(self._limits.stall_s)
        _, body = self._read_control(_LARGEST_CONTROL)
        try:
            source, reason = pdu.decode_abort(body)
        except pdu.PduError:
            return Ending("aborted", "The peer aborted it, without a reason.")
        return Ending("aborted", f"The peer aborted it (source {source}, reason {reason}).")

    def _read_control(self, largest: int) -> tuple[int, memoryview]:
        """Read one whole PDU; return its type and what follows its header."""
        header = pdu.PDU_HEADER.size
        while self._end - self._start < header:
            self._read_more(header)
            if self._buffer[self._start] == _TLS_HELLO and self._tls is None:
                raise ClosedError("A TLS client called the port without TLS.")
        kind, length = pdu.PDU_HEADER.unpack_from(self._buffer, self._start)
        if kind not in _KNOWN_PDUS:
            raise AbortError(0, f"A PDU of the unknown type {kind:02X}H came.")
        if length > largest:
            raise AbortError(6, f"A PDU of type {kind:02X}H claims {length} bytes.")
        while self._end - self._start < header + length:
            self._read_more(header + length)
        body = self._view[self._start + header : self._start + header + length]
        self._start += header + length
        self._consumed += header + length
        return kind, body

    def _read_more(self, wanted: int) -> None:
        """Read; the buffer grows with what has arrived, never with what was claimed."""
        if self._end == len(self._buffer):
            grown = bytearray(min(2 * len(self._buffer), self._start + max(wanted, 16_384)))
            grown[: self._end] = self._buffer
            self._buffer = grown
            self._view = memoryview(grown)
        self._read()

    # -- sending and ending ------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        self._set_deadline(self._limits.stall_s)
        self._sending = True
        try:
            self._socket.sendall(data)
        finally:
            self._sending = False

    def _say_abort(self, reason: int) -> None:
        """Send an A-ABORT if the peer can still hear it."""
        if self._shaking_hands:  # it has heard so from TLS, and could not read a PDU
            self._farewell()
            return
        with suppress(OSError, ValueError):
            source = 2 if reason else 0
            self._allow_farewell()
            self._sending = True
            self._socket.sendall(pdu.encode_abort(source, reason))
            self._sending = False
            self._farewell()

    def _part(self, unread: int = 0) -> None:
        """Wait a moment for the peer to close first (PS3.8 9.2: Sta13 under ARTIM).

        We do not close our side: a peer that learns of it before it reads our last PDU would take
        a rejection or a release for a broken connection.

        Args:
            unread: Bytes of a PDU that was acted upon and not consumed.
        """
        self._allow_farewell()
        with suppress(OSError, ValueError, ClosedError):
            self._skip(unread)
            while (action := self._next_in_vain()) is Action.AA6:
                pass
            if action is Action.AA7:
                self._say_abort(2)

    def _next_in_vain(self) -> Action:
        """Step over one PDU that comes too late; return what to do about it."""
        header = pdu.PDU_HEADER.size
        while self._end - self._start < header:
            self._make_room()
            self._read()
        kind, length = pdu.PDU_HEADER.unpack_from(self._buffer, self._start)
        self._skip(header + length)
        return self._machine.on(event_of_pdu(kind))

    def _skip(self, count: int) -> None:
        while (there := self._end - self._start) < count:
            count -= there
            self._start = self._end = 0
            self._read()
        self._start += count

    def _farewell(self) -> None:
        """Wait a moment for the peer to close, dropping what it sends, whatever that is.

        Closing with bytes unread would reset the connection and could take our last PDU with it.
        """
        self._allow_farewell()
        with suppress(OSError, ValueError):
            # Not decrypted, if it was encrypted: nobody wants it.
            while socket.socket.recv_into(self._socket, self._view):
                pass

    def _allow_farewell(self) -> None:
        self.deadline = time.monotonic() + _FAREWELL_S
        self._watch.sooner(self.deadline)

    def _set_deadline(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if self._message.until:
            until = min(until, self._message.until)
        self.deadline = until
        self._watch.sooner(until)

    def _shut(self, how: int) -> None:
        with suppress(OSError):  # it is closed already
            # The plain socket's method: a TLS socket's own would drop its state under our thread.
            socket.socket.shutdown(self._socket, how)

    def _close(self) -> None:
        with suppress(OSError):
            self._socket.close()


_KNOWN_PDUS: Final = frozenset(
    {
        pdu.ASSOCIATE_RQ,
        pdu.ASSOCIATE_AC,
        pdu.ASSOCIATE_RJ,
        pdu.P_DATA,
        pdu.RELEASE_RQ,
        pdu.RELEASE_RP,
        pdu.ABORT,
    }
)

_N_SERVICES: Final = frozenset(
    {
        dimse.N_EVENT_REPORT_RQ,
        dimse.N_SET_RQ,
        dimse.N_ACTION_RQ,
        dimse.N_CREATE_RQ,
    }
)


def _protocol_fault(request: pdu.AssociateRequest) -> Rejection | None:
    if request.application_context != pdu.APPLICATION_CONTEXT:
        return OTHER_CONTEXT
    if not request.protocol_version & 1:
        return OTHER_VERSION
    return None


def _certificate_names(sock: ssl.SSLSocket) -> tuple[str, ...]:
    """Return what the peer's verified certificate names: DNS names, addresses, common name."""
    found = sock.getpeercert() or {}
    alternative: Any = found.get("subjectAltName", ())
    names = [str(value) for kind, value in alternative if kind != "DirName"]
    subject: Any = found.get("subject", ())
    names += [str(value) for part in subject for key, value in part if key == "commonName"]
    return tuple(names)
