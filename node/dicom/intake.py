"""What happens to one received instance between its last byte and its answer.

The order is the promise: judge the header, make the bytes durable, make the rows durable, answer
0x0000. What a crash leaves at each step: nothing or a `.part` file (swept), an object without a
row (adopted, see `adoption`), or a complete instance that the sender sends again and that is then
recognised as the same. Nothing here knows a socket.

Source: DICOM PS3.4 section B.2.3 (statuses), PS3.7 9.1.1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import structlog

from node import faultpoints
from node.dicom.callbacks import Incoming
from node.dicom.compare import find_difference
from node.dicom.filemeta import FileMeta, encode_file_meta, read_file_meta
from node.dicom.header import HeaderError, HeaderFacts, is_uid, walk_header
from node.dicom.statuses import (
    CANNOT_UNDERSTAND,
    DOES_NOT_MATCH,
    INVALID_INSTANCE,
    OUT_OF_RESOURCES,
    SUCCESS,
)
from storage.database import Engine, reading, writing
from storage.errors import StorageAway, StorageError, StorageFull
from storage.instances import (
    Difference,
    NewInstance,
    Outcome,
    Recorded,
    find_instance,
    record_instance,
)
from storage.objects import ObjectStore, Place

log = structlog.get_logger("dicom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One instance to keep: its bytes and where they came from.

    Attributes:
        sender: Configured name of the peer.
        association_id: Row id of the association, if it has one.
    """

    sop_class: str
    sop_uid: str
    transfer_syntax: str
    source_ae: str
    sender: str
    association_id: int | None
    dataset: bytes


class RowsInDoubt(StorageError):  # noqa: N818 - named for what is so, as storage does
    """A commit failed, and whether the rows exist is not known."""


def receive(incoming: Incoming, engine: Engine, store: ObjectStore) -> tuple[int, str]:
    """Keep one instance durably, or refuse it.

    Returns:
        The C-STORE status and an error comment in words; the comment is empty on success. Success
        means: bytes and rows are on disk.
    """
    if not is_uid(incoming.sop_uid):
        return INVALID_INSTANCE, "The SOP Instance UID is no UID of 1 to 64 digits and dots."
    try:
        facts = walk_header(incoming.dataset, incoming.transfer_syntax)
    except HeaderError as error:
        return CANNOT_UNDERSTAND, error.fault.what
    mismatch = _mismatch(incoming, facts)
    if mismatch:
        return DOES_NOT_MATCH, mismatch
    arrival = Arrival(
        sop_class=incoming.sop_class,
        sop_uid=incoming.sop_uid,
        transfer_syntax=incoming.transfer_syntax,
        source_ae=incoming.caller.calling_ae,
        sender=incoming.peer,
        association_id=incoming.association,
        dataset=incoming.dataset,
    )
    try:
        place = _put(arrival, store)
        try:
            record(arrival, facts, place, engine=engine, store=store)
        except RowsInDoubt:
            raise
        except StorageError:
            _remove(place, store)
            raise
    except StorageError as error:
        log.warning(
            "instance-not-kept",
            code=error.code,
            what=error.what,
            where=error.where,
            remedy=error.remedy,
            peer=incoming.peer,
            sop_uid=incoming.sop_uid,
        )
        return OUT_OF_RESOURCES, _passing(error)
    faultpoints.reached("receive.after-rows")
    return SUCCESS, ""


def record(
    arrival: Arrival,
    facts: HeaderFacts,
    place: Place,
    *,
    engine: Engine,
    store: ObjectStore,
) -> Recorded:
    """Make the rows of a durable object; an object that no row needs is removed again.

    Raises:
        RowsInDoubt: The commit itself failed. The rows may exist (a server that lost the
            connection after it committed), so the object must stay; adoption finds out later.
        StorageError: The rows do not exist.
    """
    committing = False
    try:
        digest = hashlib.sha256(arrival.dataset).hexdigest()
        difference = _difference(arrival, digest, engine, store)
        new = _new_instance(arrival, facts, place, digest=digest, difference=difference)
        with writing(engine) as db:
            recorded = record_instance(db, new)
            committing = True
    except StorageError as error:
        if committing:
            raise RowsInDoubt(
                error.code, error.what, where=error.where, remedy=error.remedy
            ) from error
        raise
    if not recorded.kept:
        _remove(place, store)
    if recorded.outcome is Outcome.CONFLICT:
        log.warning("instance-conflict", sop_uid=arrival.sop_uid, study_id=recorded.study_id)
    return recorded


def _mismatch(incoming: Incoming, facts: HeaderFacts) -> str:
    """Return in words how the data set contradicts its command set; empty if it does not."""
    if facts.sop_uid != incoming.sop_uid:
        return "The SOP Instance UIDs of command and data set differ."
    if facts.sop_class != incoming.sop_class:
        return "The SOP Class UIDs of command and data set differ."
    if incoming.abstract_syntax != incoming.sop_class:
        return "The SOP class is not that of its presentation context."
    return ""


def _put(arrival: Arrival, store: ObjectStore) -> Place:
    meta = FileMeta(
        sop_class=arrival.sop_class,
        sop_uid=arrival.sop_uid,
        transfer_syntax=arrival.transfer_syntax,
        source_ae=arrival.source_ae,
    )
    faultpoints.reached("receive.before-sync")
    return store.put((encode_file_meta(meta), arrival.dataset), kind="instances")


def _new_instance(
    arrival: Arrival, facts: HeaderFacts, place: Place, *, digest: str, difference: Difference
) -> NewInstance:
    return NewInstance(
        study_uid=facts.study_uid,
        series_uid=facts.series_uid,
        sop_uid=facts.sop_uid,
        sop_class=facts.sop_class,
        transfer_syntax=arrival.transfer_syntax,
        digest=digest,
        place=place,
        patient_id=facts.patient_id,
        issuer=facts.issuer,
        patient_name=facts.patient_name,
        accession=facts.accession,
        study_date=facts.study_date,
        description=facts.study_description,
        modality=facts.modality,
        header=facts.routing,
        sender=arrival.sender,
        association_id=arrival.association_id,
        difference=difference,
    )


def _difference(arrival: Arrival, digest: str, engine: Engine, store: ObjectStore) -> Difference:
    """Return how this instance differs from one that is kept under its UID, if there is one."""
    with reading(engine) as db:
        known = find_instance(db, arrival.sop_uid)
    if known is None or known.digest == digest:
        return Difference.HEADER
    kept = store.read(known.place)
    try:
        _, start = read_file_meta(kept)
    except HeaderError:
        return Difference.HEADER
    return find_difference(
        kept[start:], known.transfer_syntax, arrival.dataset, arrival.transfer_syntax
    )


def _remove(place: Place, store: ObjectStore) -> None:
    """Remove an object that no row needs; if the disk refuses, it stays for adoption."""
    try:
        store.delete(place)
    except StorageError as error:
        log.warning("object-left", code=error.code, where=error.where)


def _passing(error: StorageError) -> str:
    if isinstance(error, StorageFull):
        return "The disk is full; send again later."
    if isinstance(error, StorageAway):
        return "The database is away; send again later."
    return "The node cannot store now; send again later."
