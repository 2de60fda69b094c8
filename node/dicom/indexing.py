"""From durable records to rows: what the journal holds becomes known to everybody else.

The bytes are the truth and the rows an index of them, so everything here may be done twice. A
record that is known under its own place is passed over; another arrival of the same bytes is
counted as the same, and its space given back; other bytes under a known UID become a conflict.

Digests of what was received come last, when nothing waits for its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from node.dicom.compare import find_difference
from node.dicom.filemeta import read_file_meta
from node.dicom.header import HeaderError, facts_of, routing_of
from node.dicom.values import unpack
from storage.associations import association_of as find_association
from storage.conflicts import OnConflict
from storage.database import Connection, Engine, reading, writing
from storage.digests import set_digests, without_digest
from storage.errors import StorageError
from storage.instance_rows import (
    Difference,
    NewInstance,
    Outcome,
    Recorded,
    find_instance,
)
from storage.instances import record_instance
from storage.objects import ObjectStore, Place
from storage.places import places_under
from storage.recording import record_batch
from storage.segment_index import note_segment, segment_positions, set_indexed
from storage.segments import Record, list_segments, scan_segment
from storage.study_moves import hold

BATCH: Final = 128
_DIGESTS_AT_ONCE: Final = 16
_READ_BYTES: Final = 1 << 20

UNREADABLE: Final = (
    "The stored bytes of instance {} cannot be read. Check the disk and restore them from a "
    "backup, or have the sender send the study again; then release the study."
)

log = structlog.get_logger("dicom")

Associations = Callable[[Connection, str], int | None]
"""Returns the row id of an association by its token, in a transaction."""


def index_records(
    db: Connection,
    records: Sequence[Record],
    *,
    store: ObjectStore,
    association_of: Associations,
    on_conflict: OnConflict,
) -> list[Place]:
    """Make the rows of records; return the places that nothing refers to, to be freed after commit.

    Args:
        db: A writing transaction.
        records: At most `BATCH`; their bytes are durable.
        store: Where those lie.
        association_of: Finds the association that a record names.
        on_conflict: Which bytes count when others come under a known UID.
    """
    batch, places = [], []
    for record in records:
        try:
            batch.append(_new_instance(db, record, association_of))
            places.append(record.place)
        except HeaderError as error:  # it was judged before it was answered
            log.warning("record-not-indexed", segment=record.segment, code=error.fault.code)
    answers = record_batch(db, batch, on_conflict=on_conflict)
    return [
        place
        for new, place, answer in zip(batch, places, answers, strict=True)
        if _is_free(db, store, new, answer, on_conflict)
    ]


def _is_free(
    db: Connection,
    store: ObjectStore,
    new: NewInstance,
    answer: Recorded,
    on_conflict: OnConflict,
) -> bool:
    """Return whether no row refers to the bytes of a recorded instance."""
    if answer.outcome is Outcome.COMPARE:
        compared = _compared(db, store, new)
        if compared is None:
            return False
        answer = record_instance(db, compared, on_conflict=on_conflict)
    if answer.outcome is Outcome.CONFLICT:
        log.warning("instance-conflict", sop_uid=new.sop_uid, study_id=answer.study_id)
    if answer.kept:
        return False
    return new.place not in places_under(db, new.sop_uid)


def _compared(db: Connection, store: ObjectStore, new: NewInstance) -> NewInstance | None:
    """Return an instance with what it differs in from the known one; None if it is that one."""
    known = find_instance(db, new.sop_uid)
    if known is None:
        return new
    if new.place in places_under(db, new.sop_uid):
        return None
    mine, its = store.read(new.place), store.read(known.place)
    first, second = its[read_file_meta(its)[1] :], mine[read_file_meta(mine)[1] :]
    if first == second and known.transfer_syntax == new.transfer_syntax:
        return replace(new, difference=Difference.NONE)
    difference = find_difference(first, known.transfer_syntax, second, new.transfer_syntax)
    return replace(new, difference=difference)


def _new_instance(db: Connection, record: Record, association_of: Associations) -> NewInstance:
    values = unpack(record.values)
    facts = facts_of(values)
    context = record.context
    return NewInstance(
        study_uid=facts.study_uid,
        series_uid=facts.series_uid,
        sop_uid=facts.sop_uid,
        sop_class=facts.sop_class,
        transfer_syntax=context["syntax"],
        checksum=record.checksum,
        place=record.place,
        patient_id=facts.patient_id,
        issuer=facts.issuer,
        patient_name=facts.patient_name,
        accession=facts.accession,
        study_date=facts.study_date,
        description=facts.study_description,
        modality=facts.modality,
        header=partial(routing_of, values),
        sender=context["peer"],
        association_id=association_of(db, context["token"]),
        received_ms=record.received_ms,
    )


def catch_up(
    engine: Engine,
    store: ObjectStore,
    owner: str,
    *,
    association_of: Associations,
    on_conflict: OnConflict,
    leave: frozenset[str] = frozenset(),
) -> dict[str, int]:
    """Index every record of the owner's segments that has no rows yet.

    Args:
        engine: The node's database.
        store: The node's objects.
        owner: Whose segments.
        association_of: As for `index_records`.
        on_conflict: As for `index_records`.
        leave: Segments that another process still writes to.

    Returns:
        Of each segment that is not full, where its last record ends.
    """
    with reading(engine) as db:
        positions = segment_positions(db)
    ends: dict[str, int] = {}
    for name, size in list_segments(store.folder, owner).items():
        at = positions.get(name, 0)
        if name in leave or at >= size:
            continue
        found = 0
        for records in _batches(scan_segment(store.folder, name, at)):
            with writing(engine) as db:
                free = index_records(
                    db,
                    records,
                    store=store,
                    association_of=association_of,
                    on_conflict=on_conflict,
                )
                note_segment(db, name, size)
                at = records[-1].offset + records[-1].span
                set_indexed(db, name, at, sealed=False)
            free_places(store, free)
            found += len(records)
        if found:
            log.info("journal-indexed", segment=name, records=found)
        ends[name] = at
    return ends


def seal(engine: Engine, store: ObjectStore, owner: str, names: Sequence[str]) -> None:
    """Note that segments, which are indexed to their ends, get no more records."""
    sizes = list_segments(store.folder, owner)
    with writing(engine) as db:
        for name in names:
            note_segment(db, name, sizes[name])
            set_indexed(db, name, sizes[name], sealed=True)


def free_places(store: ObjectStore, places: Sequence[Place]) -> None:
    """Give back the space of bytes that no row needs; if the disk refuses, they stay."""
    for place in places:
        try:
            store.delete(place)
        except StorageError as error:
            log.warning("space-not-freed", code=error.code, where=error.where)


def digest_some(engine: Engine, store: ObjectStore) -> int:
    """Compute digests of a few instances that have none yet; return how many were dealt with.

    A study with an instance that cannot be read is held: without its digest it would never settle,
    and nobody would know why.
    """
    with reading(engine) as db:
        rows = without_digest(db, _DIGESTS_AT_ONCE)
    digests, unreadable = {}, []
    for row in rows:
        try:
            digests[row] = dataset_digest(store, row.place)
        except (StorageError, HeaderError) as error:
            log.warning("digest-not-computed", sop_uid=row.sop_uid, what=str(error))
            if store.folder.is_dir():  # else it is the whole disk that is away
                unreadable.append(row)
    if not digests and not unreadable:
        return 0
    with writing(engine) as db:
        set_digests(db, digests)
        held = [hold(db, row.study_id, UNREADABLE.format(row.sop_uid)) for row in unreadable]
    return len(digests) + sum(held)


def dataset_digest(store: ObjectStore, place: Place) -> str:
    """Return the SHA-256 of the data set in a stored PS3.10 object, hex.

    Raises:
        StorageFailed: The object is missing or damaged.
        HeaderError: It is no PS3.10 object.
    """
    sha = hashlib.sha256()
    first = True
    for part in store.read_parts(place, _READ_BYTES):
        if first:
            # The meta information has some hundred bytes and lies whole in the first part.
            sha.update(memoryview(part)[read_file_meta(part)[1] :])
            first = False
        else:
            sha.update(part)
    return sha.hexdigest()


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def association_finder(cache: Mapping[str, int]) -> Associations:
    """Return what finds associations by their token, first in `cache`, then in the rows."""

    def find(db: Connection, token: str) -> int | None:
        found = cache.get(token)
        return find_association(db, token) if found is None else found

    return find
