"""The node's side of the wire: what arrives is judged, made durable, answered, and announced.

The order is the promise: judge the header, append the bytes to the journal, wait for its sync,
answer 0x0000. Rows come later and elsewhere: the keeper hears of each record, and finds those of
which it did not hear when it starts again. Nothing here waits for a database.

Source: DICOM PS3.4 section B.2.3 (statuses), PS3.7 section 9.1.1; PS3.10 section 7.1.
"""

from __future__ import annotations

import base64
import json
import logging
import mmap
import os
import threading
import time
from binascii import b2a_base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import xxhash

from node import faultpoints
from node.dicom.filemeta import FileMeta, encode_file_meta
from node.dicom.identity import read_identity
from node.dicom.statuses import (
    CANNOT_UNDERSTAND,
    DOES_NOT_MATCH,
    INVALID_INSTANCE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SUCCESS,
)
from node.dicom.values import SOP_CLASS, SOP_UID, Values, is_uid
from node.dicom.walk import CUT_SHORT, HeaderError
from node.dicom.wire.admission import Admission, Caller, Guest, Rejection, judge_caller
from node.dicom.wire.dimse import Command
from node.dicom.wire.link import Link
from node.dicom.wire.negotiation import Offer
from node.dicom.wire.pdu import AnsweredContext, AssociateRequest
from node.dicom.wire.service import Association, Ending, Piece
from storage.errors import StorageError, StorageFull
from storage.objects import ObjectStore, ObjectWriter
from storage.records import Arrived, Written
from storage.segment_writer import SegmentWriter, free_bytes

_FIRST_LOOK_BYTES: Final = 65_536
"""How much of a data set is put together to walk its header; more only if that is too little."""

_LOOK_AT_DISK_S: Final = 0.2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the keeper configures; replaced as a whole when it changes.

    Attributes:
        ae_title: Ours.
        guests: The peers that may call.
        storage_classes: SOP classes taken for storage.
        transfer_syntaxes: What is kept, in order of preference.
        accept_unknown: Whether classes outside the Standard are taken for storage.
        open_to_all: Whether anybody may store; for development.
        reserve_bytes: Free space below which C-STORE is answered A700.
    """

    ae_title: str
    guests: tuple[Guest, ...]
    storage_classes: frozenset[str]
    transfer_syntaxes: tuple[str, ...]
    accept_unknown: bool = False
    open_to_all: bool = False
    reserve_bytes: int = 0


@dataclass(slots=True)
class Receiver:
    """The service that the node's wire runs; called from the threads of associations."""

    rules: Rules
    store: ObjectStore
    journal: SegmentWriter
    link: Link
    owner: str = ""
    _disk: _Disk = field(init=False)

    def __post_init__(self) -> None:
        self._disk = _Disk(self.store.folder)

    def admit(self, caller: Caller, _request: AssociateRequest) -> Admission | Rejection:
        """Return whether a caller may associate."""
        return judge_caller(
            caller,
            ae_title=self.rules.ae_title,
            guests=self.rules.guests,
            open_to_all=self.rules.open_to_all,
        )

    def offer(self, admission: Admission) -> Offer:
        """Return which presentation contexts an admitted caller may have."""
        return Offer(
            services=admission.services,
            storage_classes=self.rules.storage_classes,
            transfer_syntaxes=self.rules.transfer_syntaxes,
            accept_unknown=self.rules.accept_unknown,
        )

    def opened(self, association: Association) -> None:
        """Tell the keeper of an association."""
        self.link.send(
            {
                "kind": "opened",
                "token": association.token,
                "peer": association.peer,
                "started_ms": association.started_ms,
                "software": association.request.implementation_version,
                **_of_caller(association.caller),
                "contexts": _answers(association),
            }
        )

    def rejected(self, caller: Caller, request: AssociateRequest, why: Rejection) -> None:
        """Tell the keeper of a caller that was turned away."""
        self.link.send(
            {
                "kind": "rejected",
                "reason": why.reason,
                "passing": why.result == 2,
                **_of_caller(caller),
                "wanted": sorted({one.abstract_syntax for one in request.contexts})[:128],
            }
        )

    def ended(self, association: Association, ending: Ending) -> None:
        """Tell the keeper how an association ended."""
        self.link.send(
            {
                "kind": "ended",
                "token": association.token,
                "outcome": ending.outcome,
                "reason": ending.reason,
                "stored": association.stored,
                "refused": association.refused,
                "bytes": association.received_bytes,
            }
        )

    def echoed(self, association: Association) -> None:
        """Nothing is written down: the association itself was."""

    def turned_away(self, address: str, reason: str) -> None:
        """Tell the keeper of a connection that came to nothing."""
        self.link.send({"kind": "turned-away", "address": address, "reason": reason})

    def receive(
        self, association: Association, command: Command, context: AnsweredContext
    ) -> _Reception:
        """Return what takes one data set."""
        return _Reception(self, association, command, context)

    def act(
        self, association: Association, command: Command, context: AnsweredContext, data: bytes
    ) -> tuple[int, str]:
        """Let the keeper answer an N-service request."""
        answer = self.link.ask(
            {
                "kind": "act",
                "peer": association.peer,
                "calling_ae": association.caller.calling_ae,
                "services": sorted(association.services),
                "field": command.field,
                "sop_class": command.sop_class,
                "sop_uid": command.sop_uid,
                "event_type": command.event_type,
                "syntax": context.transfer_syntax,
                "data": base64.b64encode(data).decode("ascii"),
            }
        )
        if answer is None:
            return PROCESSING_FAILURE, "The node could not act on it now; send it again later."
        return int(answer["status"]), str(answer.get("comment", ""))

    def refused(self, association: Association, command: Command, status: int, what: str) -> None:
        """Tell the keeper of an instance that was not kept."""
        self.link.send(
            {
                "kind": "refused",
                "peer": association.peer,
                "token": association.token,
                "status": status,
                "what": what,
                "sop_uid": command.sop_uid[:64],
            }
        )

    def announce(self, written: Written) -> None:
        """Tell the keeper of a durable record, and of segments that get no more of them."""
        self.link.send_line(
            b'{"kind":"landed","segment":"%b","offset":%d,"span":%d,"head":"%b"}'
            % (
                written.segment.encode("ascii"),
                written.offset,
                written.span,
                b2a_base64(written.head, newline=False),
            )
        )
        with suppress(IndexError):  # another thread tells of it
            while self.journal.finished:
                name, end = self.journal.finished.popleft()
                self.link.send({"kind": "finished", "segment": name, "end": end})

    def has_room(self) -> bool:
        """Return whether more is free than the reserve."""
        return self._disk.free_bytes() > self.rules.reserve_bytes


class _Reception:
    """One instance on its way into the journal, or, if it is large, into a file of its own."""

    __slots__ = (
        "_association",
        "_checksum",
        "_command",
        "_context",
        "_fault",
        "_file",
        "_length",
        "_meta",
        "_receiver",
        "_values",
    )

    def __init__(
        self,
        receiver: Receiver,
        association: Association,
        command: Command,
        context: AnsweredContext,
    ) -> None:
        self._receiver = receiver
        self._association = association
        self._command = command
        self._context = context
        self._fault: tuple[int, str] | None = None
        self._file: ObjectWriter | None = None
        self._values: Values | None = None
        self._meta = b""
        self._length = 0
        self._checksum = xxhash.xxh3_128()
        if not is_uid(command.sop_uid):
            self._fault = (
                INVALID_INSTANCE,
                "The SOP Instance UID is no UID of 1 to 64 digits and dots.",
            )
        elif not receiver.has_room():
            self._fault = OUT_OF_RESOURCES, "The disk is nearly full; send again later."

    def take(self, pieces: Sequence[Piece]) -> None:
        """Write a part of a large data set to its file."""
        if self._fault is not None:
            return
        try:
            if self._file is None:
                self._meta = self._encode_meta()
                self._file = self._receiver.store.begin(
                    kind="instances", owner=self._receiver.owner
                )
                self._file.write((self._meta,))
            self._count(pieces)
            self._file.write(pieces)
        except StorageError as error:
            self._fail(error)

    def finish(self, pieces: Sequence[Piece]) -> tuple[int, str]:
        """Judge the instance and make it durable; success means that it is on disk."""
        if self._fault is None:
            try:
                self._keep(pieces)
            except StorageError as error:
                self._fail(error)
            except HeaderError as error:
                self._fault = CANNOT_UNDERSTAND, error.fault.what
        if self._fault is None:
            return SUCCESS, ""
        self.abandon()
        status, what = self._fault
        self._receiver.refused(self._association, self._command, status, what)
        return status, what

    def abandon(self) -> None:
        """Remove what was written."""
        if self._file is not None:
            self._file.abandon()
            self._file = None

    def _keep(self, pieces: Sequence[Piece]) -> None:
        if self._file is None:
            values = _values_of(pieces, self._context.transfer_syntax)
            if self._mismatches(values):
                return
            self._count(pieces)
            arrived = self._arrived(values, pieces=pieces, meta=self._encode_meta())
        else:
            self._count(pieces)
            self._file.write(pieces)
            values = self._values_in_file(self._file)
            if self._mismatches(values):
                return
            place = self._file.finish()
            arrived = self._arrived(values, elsewhere=place.name, meta=self._meta)
        faultpoints.reached("receive.before-sync")
        written = self._receiver.journal.append(arrived)
        self._file = None
        faultpoints.reached("receive.after-sync")
        self._receiver.announce(written)

    def _arrived(
        self,
        values: Values,
        *,
        meta: bytes,
        pieces: Sequence[Piece] = (),
        elsewhere: str = "",
    ) -> Arrived:
        label = self._label()
        if elsewhere:
            label = json.dumps({**json.loads(label), "object": elsewhere}).encode()
        return Arrived(
            context=label,
            values=values.pack(),
            meta=meta,
            pieces=pieces,
            length=self._length,
            checksum=self._checksum.digest(),
            received_ms=time.time_ns() // 1_000_000,
            elsewhere=bool(elsewhere),
        )

    def _label(self) -> bytes:
        """Return what a record says of where its instance came from; made once per context."""
        labels = self._association.labels
        label = labels.get(self._context.id)
        if label is None:
            label = labels[self._context.id] = json.dumps(
                {
                    "token": self._association.token,
                    "peer": self._association.peer,
                    "calling_ae": self._association.caller.calling_ae,
                    "syntax": self._context.transfer_syntax,
                }
            ).encode()
        return label

    def _encode_meta(self) -> bytes:
        return encode_file_meta(
            FileMeta(
                sop_class=self._command.sop_class,
                sop_uid=self._command.sop_uid,
                transfer_syntax=self._context.transfer_syntax,
                source_ae=self._association.caller.calling_ae,
            )
        )

    def _mismatches(self, values: Values) -> bool:
        """Note how the data set contradicts its command set, if it does (PS3.4 B.2.3: A900)."""
        command = self._command
        what = ""
        if values.by_tag[SOP_UID].rstrip(b"\0 ") != command.sop_uid.encode("ascii"):
            what = "The SOP Instance UIDs of command and data set differ."
        elif values.by_tag[SOP_CLASS].rstrip(b"\0 ") != command.sop_class.encode("ascii"):
            what = "The SOP Class UIDs of command and data set differ."
        elif self._context.abstract_syntax != command.sop_class:
            what = "The SOP class is not that of its presentation context."
        if what:
            self._fault = DOES_NOT_MATCH, what
        return bool(what)

    def _count(self, pieces: Sequence[Piece]) -> None:
        update = self._checksum.update
        for piece in pieces:
            update(piece)
            self._length += len(piece)

    def _values_in_file(self, file: ObjectWriter) -> Values:
        with (
            file.part.open("rb") as written,
            mmap.mmap(written.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
            whole[len(self._meta) :] as dataset,
        ):
            try:
                return read_identity(dataset, self._context.transfer_syntax)
            except HeaderError as error:
                # The error itself would keep views of the file, which could then not be closed.
                fault = error.fault
        raise HeaderError(fault)

    def _fail(self, error: StorageError) -> None:
        log.warning("instance not kept: %s", error)
        if isinstance(error, StorageFull):
            self._fault = OUT_OF_RESOURCES, "The disk is full; send again later."
        else:
            self._fault = OUT_OF_RESOURCES, "The node cannot store now; send again later."


class _Disk:
    """The free space of the disk, looked at a few times a second at most."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._free = 0
        self._looked_s = 0.0

    def free_bytes(self) -> int:
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._looked_s >= _LOOK_AT_DISK_S:
                self._looked_s = now_s
                try:
                    self._free = free_bytes(self._folder, 0)
                except OSError as error:
                    log.warning("the disk cannot be looked at: %s", os.strerror(error.errno or 0))
                    self._free = 0
            return self._free


def _values_of(pieces: Sequence[Piece], syntax: str) -> Values:
    """Walk the header of a data set that lies in pieces; put together what that needs, no more."""
    wanted = _FIRST_LOOK_BYTES
    while True:
        beginning, whole = _beginning(pieces, wanted)
        try:
            return read_identity(beginning, syntax, whole=whole)
        except HeaderError as error:
            if whole or error.fault.code != CUT_SHORT:
                raise
        wanted *= 4


def _beginning(pieces: Sequence[Piece], wanted: int) -> tuple[Piece, bool]:
    """Return some `wanted` bytes, uncopied where one piece has them, and whether that is all."""
    if pieces and len(pieces[0]) >= wanted:
        return pieces[0], len(pieces) == 1
    first: list[Piece] = []
    size = 0
    for piece in pieces:
        if size >= wanted:
            break
        first.append(piece)
        size += len(piece)
    return b"".join(first), len(first) == len(pieces)


def _of_caller(caller: Caller) -> dict[str, Any]:
    return {
        "calling_ae": caller.calling_ae,
        "called_ae": caller.called_ae,
        "address": caller.address,
        "secure": caller.secure,
    }


def _answers(association: Association) -> list[dict[str, Any]]:
    return [
        {
            "id": one.id,
            "class": one.abstract_syntax,
            "syntax": one.transfer_syntax if one.id in association.contexts else "",
            "result": one.result,
        }
        for one in association.answers
    ]
