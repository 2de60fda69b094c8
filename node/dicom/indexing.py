"""From durable records to rows: what the journal holds becomes known to everybody else.

The bytes are the truth and the rows an index of them, so everything here may be done twice. A
record that is known under its own place is passed over; another arrival of the same bytes is
counted as the same, and its space given back; other bytes under a known UID become a conflict.

For the same reason no commit here waits for the disk: what a power cut takes back is made again at
the next start.

Digests of what was received come last, when nothing waits for its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
import xxhash

from node.dicom.compare import find_difference
from node.dicom.filemeta import read_file_meta
from node.dicom.header import HeaderError, Routing, facts_of, routing_of
from node.dicom.identity import read_identity
from node.dicom.values import read_values, unpack
from node.dicom.walk import CUT_SHORT
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
from storage.objects import SWEEP_AFTER_S, ObjectStore, Place
from storage.places import objects_in_use, places_under
from storage.recording import record_batch
from storage.records import Record
from storage.segment_index import note_segment, segment_positions, set_indexed
from storage.segments import held_segment, list_segments, scan_segment, trim_segment
from storage.study_moves import hold

BATCH: Final = 128
_DIGESTS_AT_ONCE: Final = 32
_READ_BYTES: Final = 1 << 20

LARGEST_COMPARED: Final = 256 * 1024 * 1024
"""Two objects are laid side by side in memory to see what differs. Of larger ones it is said that
their headers may, which a person looks at; or a sender of two huge ones could end the keeper."""
_HEADER_BYTES: Final = 256 * 1024

UNREADABLE: Final = (
    "The stored bytes of instance {} cannot be read. Check the disk and restore them from a "
    "backup, or have the sender send the study again; then release the study."
)

log = structlog.get_logger("dicom")

Associations = Callable[[Connection, str], int | None]
"""Returns the row id of an association by its token, in a transaction."""

MakeRows = Callable[[Connection, Sequence[Record]], list[Place]]
"""`index_records` with all that it wants besides."""


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
            batch.append(_new_instance(db, store, record, association_of))
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
    if max(new.place.length, known.place.length) > LARGEST_COMPARED:
        return replace(new, difference=Difference.HEADER)
    mine, its = memoryview(store.read(new.place)), memoryview(store.read(known.place))
    first, second = its[read_file_meta(its)[1] :], mine[read_file_meta(mine)[1] :]
    if xxhash.xxh3_128_hexdigest(second) != new.checksum:
        # It was indexed before, found to be nothing new, and its space given back.
        return None
    if first == second and known.transfer_syntax == new.transfer_syntax:
        return replace(new, difference=Difference.NONE)
    difference = find_difference(first, known.transfer_syntax, second, new.transfer_syntax)
    return replace(new, difference=difference)


def _new_instance(
    db: Connection, store: ObjectStore, record: Record, association_of: Associations
) -> NewInstance:
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
        header=partial(_routing, store, record),
        sender=context["peer"],
        association_id=association_of(db, context["token"]),
        received_ms=record.received_ms,
    )


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What `catch_up` found.

    Attributes:
        resumable: Segments with room that may be written to again -> where their last record ends.
        in_use: Segments that were left alone, because a process writes to them.
        indexed: Of each segment that was looked through, the offset below which every record has
            its rows.
    """

    resumable: dict[str, int]
    in_use: frozenset[str]
    indexed: Mapping[str, int]


def _routing(store: ObjectStore, record: Record) -> Routing:
    """Return what routes may ask of a new series, from the header of its first instance.

    A header that makes no sense behind the identity gives what stands before that place.
    """
    place, start = record.place, record.dataset_offset
    syntax = record.context["syntax"]
    for size in (_HEADER_BYTES, place.length - start):
        part = min(size, place.length - start)
        data = store.read(Place(place.name, place.offset + start, part))
        try:
            values = read_values(data, syntax, whole=part == place.length - start)
        except HeaderError as error:
            if error.fault.code == CUT_SHORT and size == _HEADER_BYTES:
                continue
            log.warning("header-not-read", sop_uid=record.place.name, code=error.fault.code)
            return {}
        return routing_of(values)
    return {}


def catch_up(
    engine: Engine,
    store: ObjectStore,
    owner: str,
    *,
    make_rows: MakeRows,
    resumable: int = 0,
    leave: Collection[str] = (),
) -> CaughtUp:
    """Index every record without rows of the owner's segments that nobody writes to.

    Args:
        engine: The node's database.
        store: The node's objects.
        owner: Whose segments.
        make_rows: As its type says.
        resumable: So many of the newest segments with room may get more records. The others get
            none any more, and their free space is given back.
        leave: Segments that are not to be touched: somebody is about to write to them.

    Raises:
        StorageError: The database or the disk is away.
    """
    with reading(engine) as db:
        positions = segment_positions(db)
    names = [
        name
        for name, size in list_segments(store.folder, owner).items()
        if positions.get(name, 0) < size and name not in leave
    ]
    in_use: set[str] = set()
    ends: dict[str, int] = {}
    for name in names:
        with held_segment(store.folder, name) as mine:
            if mine:
                at = positions.get(name, 0)
                ends[name] = _index_scanned(
                    engine,
                    store,
                    name,
                    at=at,
                    scanned=scan_segment(store.folder, name, at),
                    make_rows=make_rows,
                )
            else:
                in_use.add(name)
    kept = sorted(ends)[max(0, len(ends) - resumable) :]
    for name in set(ends) - set(kept):
        _seal(engine, store, name, ends[name])
    return CaughtUp({name: ends[name] for name in kept}, frozenset(in_use), ends)


def index_written(
    engine: Engine, store: ObjectStore, name: str, at: int, *, make_rows: MakeRows
) -> int:
    """Index the records from offset `at` on of a segment that is written to.

    Returns:
        Where they end: at the first gap, because what is written there may not be whole yet.
    """
    found = _following(scan_segment(store.folder, name, at), at)
    return _index_scanned(engine, store, name, at=at, scanned=found, make_rows=make_rows)


def _following(records: Iterable[Record], at: int) -> Iterator[Record]:
    for record in records:
        if record.offset != at:
            return
        at += record.span
        yield record


def _index_scanned(
    engine: Engine,
    store: ObjectStore,
    name: str,
    *,
    at: int,
    scanned: Iterable[Record],
    make_rows: MakeRows,
) -> int:
    """Index records of one segment, of which `at` is indexed; return where the last one ends."""
    size = (store.folder / name).stat().st_size
    found = 0
    for records in _batches(scanned):
        with writing(engine, synced=False) as db:
            free = make_rows(db, records)
            note_segment(db, name, size)
            at = records[-1].offset + records[-1].span
            set_indexed(db, name, at, sealed=False)
        free_places(store, free)
        found += len(records)
    if found:
        log.info("journal-indexed", segment=name, records=found)
    return at


def _seal(engine: Engine, store: ObjectStore, name: str, end: int) -> None:
    """Note that a segment whose records end at `end` gets no more of them."""
    with held_segment(store.folder, name) as mine:
        if not mine:
            return  # somebody resumed it, and will tell
        with writing(engine, synced=False) as db:
            size = (store.folder / name).stat().st_size
            note_segment(db, name, size)
            set_indexed(db, name, size, sealed=True)
        try:
            trim_segment(store.folder, name, end)
        except OSError as error:
            log.warning("space-not-freed", where=name, what=error.strerror)


def free_places(store: ObjectStore, places: Sequence[Place]) -> None:
    """Give back the space of bytes that no row needs; if the disk refuses, they stay."""
    for place in places:
        try:
            store.delete(place)
        except StorageError as error:
            log.warning("space-not-freed", code=error.code, where=error.where)


def sweep_unindexed(engine: Engine, store: ObjectStore, owner: str) -> int:
    """Remove large instances of which no record was written: nobody was answered for them.

    Only right when everything that the owner's journal holds has its rows. What cannot be read is
    kept: it may have a record that could not be indexed for the same reason.

    Returns:
        How many were removed.
    """
    old = store.list_owned(kind="instances", owner=owner, older_than_s=SWEEP_AFTER_S)
    if not old:
        return 0
    with reading(engine) as db:
        used = objects_in_use(db)
    left = [Place(name, 0, 0) for name in old if name not in used and _is_readable(store, name)]
    free_places(store, left)
    return len(left)


def _is_readable(store: ObjectStore, name: str) -> bool:
    """Return whether it can be read whose an instance with an object of its own is."""
    path = store.path(Place(name, 0, 0))
    try:
        with path.open("rb") as file:
            data = memoryview(file.read(_READ_BYTES))
            whole = not file.read(1)
        meta, start = read_file_meta(data)
        read_identity(data[start:], meta.transfer_syntax, whole=whole)
    except (OSError, HeaderError) as error:
        log.warning("object-not-swept", where=str(path), what=str(error))
        return False
    return True


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
    with writing(engine, synced=False) as db:
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


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
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
