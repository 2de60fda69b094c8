"""Objects that no row names: found after a crash, and given their rows or removed.

A listener that dies between the durable bytes and the rows leaves a complete object that was
never answered for; so does a database that is restored from a backup older than the disk. Durable
bytes are the truth (design 10.14), therefore such an object is adopted: its header is walked as if
it had just arrived. One that was sent again meanwhile is recognised as the same and removed. An
object whose header cannot be read is left where it is and logged; nothing we wrote is like that.

Only objects older than `SETTLED_S` are looked at, because a younger one may be on its way to its
rows in another thread or process, and only those of the last week, to bound the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Final

import structlog

from node.dicom.filemeta import read_file_meta
from node.dicom.header import HeaderError, walk_header
from node.dicom.intake import Arrival, record
from storage.database import Engine, now_ms, reading
from storage.errors import StorageError
from storage.objects import ObjectStore, Place
from storage.places import instance_objects

SETTLED_S: Final = 600.0
"""From the last byte to the rows takes milliseconds, or the database's time-out of 10 s."""

LOOK_BACK_S: Final = 7 * 86_400.0

CLOCKS_DIFFER_S: Final = 86_400.0
"""How far the database's clock and the file system's may be apart."""

log = structlog.get_logger("dicom")


def adopt(
    engine: Engine,
    store: ObjectStore,
    *,
    senders: Mapping[str, str],
    stop: threading.Event,
    settled_s: float = SETTLED_S,
    look_back_s: float = LOOK_BACK_S,
) -> int:
    """Give objects without a row their rows; return how many were looked into.

    Args:
        engine: The node's database.
        store: The node's objects.
        senders: Names of peers by their AE titles, to say who sent an object.
        stop: Ends the search early.
        settled_s: Age from which an object must have its rows.
        look_back_s: Age beyond which objects are not looked at.
    """
    adopted = 0
    try:
        for place in _without_row(engine, store, settled_s=settled_s, look_back_s=look_back_s):
            if stop.is_set():
                break
            _adopt_one(place, engine, store, senders)
            adopted += 1
    except StorageError as error:
        log.warning("adoption-put-off", code=error.code)
    return adopted


def _without_row(
    engine: Engine, store: ObjectStore, *, settled_s: float, look_back_s: float
) -> Iterator[Place]:
    # Files first: a row that is made meanwhile is then seen, and its object not taken for lost.
    now_s = time.time()
    found = list(_objects(store, now_s - look_back_s, now_s - settled_s))
    with reading(engine) as db:
        since_ms = now_ms(db) - round(1000 * (look_back_s + CLOCKS_DIFFER_S))
        known = instance_objects(db, since_ms)
    return (place for place in found if place.name not in known)


def _objects(store: ObjectStore, after_s: float, before_s: float) -> Iterator[Place]:
    """Yield the instance objects that were last written between two times."""
    for path in store.folder.glob("instances/*/*.obj"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # removed in this moment
        if after_s <= status.st_mtime <= before_s:
            yield Place(path.relative_to(store.folder).as_posix(), 0, status.st_size)


def _adopt_one(
    place: Place, engine: Engine, store: ObjectStore, senders: Mapping[str, str]
) -> None:
    data = store.read(place)
    try:
        meta, start = read_file_meta(data)
        dataset = data[start:]
        facts = walk_header(dataset, meta.transfer_syntax)
    except HeaderError as error:
        log.warning("object-not-adopted", object=place.name, code=error.fault.code)
        return
    arrival = Arrival(
        sop_class=facts.sop_class,
        sop_uid=facts.sop_uid,
        transfer_syntax=meta.transfer_syntax,
        source_ae=meta.source_ae,
        sender=senders.get(meta.source_ae, ""),
        association_id=None,
        dataset=dataset,
    )
    recorded = record(arrival, facts, place, engine=engine, store=store)
    log.info("object-adopted", object=place.name, outcome=recorded.outcome)
