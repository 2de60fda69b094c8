"""The keeper's books: one thread that turns what the wires tell into rows, in batches.

Everything that arrived within a few milliseconds becomes one transaction, so that a thousand
instances a second cost tens of commits. When the database is away the batch waits and is tried
again; the wires go on, because what they answered for is on disk. Digests are computed when
nothing else is to do.

What a wire tells of landed records are hints that save a search: the records lie on disk. So when
the database is away for long, hints beyond a number are dropped and the records are found there,
and of whoever calls then no row is made.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from binascii import a2b_base64
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from node import faultpoints
from node.dicom.indexing import (
    BATCH,
    CaughtUp,
    association_finder,
    catch_up,
    digest_some,
    free_places,
    index_records,
    index_written,
    sweep_unindexed,
)
from node.dicom.wire.link import Message
from storage.associations import (
    AssociationOutcome,
    Closing,
    Opening,
    close_associations,
    close_lost,
    open_associations,
)
from storage.callers import refused
from storage.conflicts import OnConflict
from storage.database import Connection, Engine, writing
from storage.errors import StorageError, StorageRefused
from storage.objects import ObjectStore, Place
from storage.peers import heard
from storage.records import BLOCK, Record
from storage.segment_index import note_segment, set_indexed
from storage.segments import told_record

_QUIET_S: Final = 0.1
"""Digests are computed when nothing came for so long,"""

_DIGEST_EVERY_S: Final = 2.0
"""or some of them, under a load without a pause."""

_OF_ITS_BYTES: Final = frozenset(
    {"record-damaged", "segment-unreadable", "object-unreadable", "object-short"}
)
"""Faults of one record's own; with any other the whole batch waits for the database."""

_MANY: Final = 8
_GATHER_S: Final = 0.2
"""After a batch of many messages so long passes before the next: fewer and larger transactions."""

_NICE: Final = 5
"""Behind the wires, and yet not starved where inference takes every processor."""

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)

_OWED_EVERY_S: Final = 1.0

MOST_WAITING: Final = 20_000
"""Messages that wait for the database, some 40 MB; what lands beyond them is looked up on disk."""

Work = Callable[[], bool]
"""Work for the books' thread; returns whether it is done, else it is tried again."""

log = structlog.get_logger("dicom")


@dataclass(slots=True)
class _Progress:
    """How far a segment is indexed; records may be told in another order than they lie in."""

    at: int
    spans: dict[int, int] = field(default_factory=dict)

    def pass_by(self, at: int) -> int:
        """Go on from `at`: what lies before it was found without being told."""
        self.at = at
        self.spans = {offset: span for offset, span in self.spans.items() if offset >= at}
        return self.advance()

    def advance(self) -> int:
        while (span := self.spans.pop(self.at, 0)) > 0:
            self.at += span
        return self.at


class Books:
    """Keeps the rows of receiving. `tell` may be called from any thread."""

    def __init__(
        self, engine: Engine, store: ObjectStore, owner: str, *, on_conflict: OnConflict
    ) -> None:
        """Make ready; `start` begins.

        Args:
            engine: The node's database.
            store: The node's objects.
            owner: The name of the node, to which its segments and associations belong.
            on_conflict: Which bytes count when others come under a known UID.
        """
        self._engine = engine
        self._store = store
        self._owner = owner
        self._queue: queue.SimpleQueue[Message | Work | None] = queue.SimpleQueue()
        self._owed: list[Work] = []
        self._owed_at_s = 0.0
        self._lock = threading.Lock()
        self._untold: dict[str, int] = {}  # segment -> end of the last record to be looked up
        self._left_out: set[str] = set()  # tokens of open associations that get no row
        self._tokens: dict[str, int] = {}
        self._progress: dict[str, _Progress] = {}
        self._find = association_finder(self._tokens)
        self._make_rows = partial(
            index_records, store=store, association_of=self._find, on_conflict=on_conflict
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dicom-books")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell(self, message: Message) -> None:
        """Take one message of a wire."""
        if self._queue.qsize() < MOST_WAITING or not self._is_left_out(message):
            self._queue.put(message)

    def owe(self, work: Work) -> None:
        """Have `work` done after all that was told, and each second again until it is done.

        An error of the storage means that it is not done yet.
        """
        self._queue.put(work)

    def stop(self) -> None:
        """Write what was told, then end."""
        self._stopping.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def catch_up(self, *, resumable: int = 0, leave: Collection[str] = ()) -> CaughtUp:
        """Index what is on disk without rows; to be called before `start`, or as work.

        Args:
            resumable: As for `indexing.catch_up`.
            leave: Likewise.

        Raises:
            StorageError: The database or the disk is away.
        """
        found = catch_up(
            self._engine,
            self._store,
            self._owner,
            make_rows=self._make_rows,
            resumable=resumable,
            leave=leave,
        )
        self._progress.update({name: _Progress(at) for name, at in found.indexed.items()})
        return found

    def close_lost(self, reason: str, tokens: Collection[str] | None = None) -> None:
        """Close the rows of associations that ended without a word.

        To be called before `start`, or within work: of what was told by then all has its rows.

        Args:
            reason: Sentence for a person.
            tokens: Theirs; None for all of this node but those that our wires serve.

        Raises:
            StorageError: The database is away.
        """
        living = () if tokens is not None else tuple(self._tokens)
        with writing(self._engine, synced=False) as db:
            count = close_lost(db, reason, tokens, node=self._owner, living=living)
        for token in tokens or ():
            self._tokens.pop(token, None)
        if count:
            log.info("associations-lost", count=count)

    def sweep(self) -> None:
        """Remove large instances that nobody was answered for, when every record has its rows.

        To be called before `start`, or within work, after `catch_up` left nothing out.
        """
        with self._lock:
            complete = not self._untold
        if complete:
            swept = sweep_unindexed(self._engine, self._store, self._owner)
            if swept:
                log.info("objects-swept", count=swept)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        _give_way()
        digests_due = True
        digested_s = 0.0
        is_quiet = False
        while True:
            wait_s = _OWED_EVERY_S if self._owed else None
            if digests_due:
                wait_s = 0.0 if is_quiet else _QUIET_S
            first = self._next(wait_s)
            is_quiet = first is None
            if first is None and self._stopping.is_set() and self._queue.empty():
                return
            if isinstance(first, dict):
                digests_due = True
                batch, work = self._gather(first)
                self._write(batch)
                if len(batch) >= _MANY and work is None and self._queue.qsize() < BATCH:
                    self._stopping.wait(_GATHER_S)
            else:
                work = first
            if work is not None:
                digests_due = True
                self._do(work)
            self._do_owed()
            now_s = time.monotonic()
            if digests_due and (is_quiet or now_s - digested_s > _DIGEST_EVERY_S):
                digests_due = self._digest()
                digested_s = now_s

    def _next(self, wait_s: float | None) -> Message | Work | None:
        try:
            return self._queue.get(timeout=wait_s)
        except queue.Empty:
            return None

    def _gather(self, first: Message) -> tuple[list[Message], Work | None]:
        """Return what has come with `first`, up to the first work, which comes after it."""
        batch = [first]
        while len(batch) < BATCH:
            try:
                one = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(one, dict):
                batch.append(one)
            elif one is not None:
                return batch, one
        return batch, None

    def _do(self, work: Work) -> None:
        try:
            done = work()
        except StorageError as error:
            log.warning("put-off", code=error.code, what=error.what)
            done = False
        except Exception:  # outermost of this thread: it must live on for all others
            log.exception("not-done")
            done = True
        if done and work in self._owed:
            self._owed.remove(work)
        elif not done and work not in self._owed:
            self._owed.append(work)

    def _do_owed(self) -> None:
        now_s = time.monotonic()
        if self._owed and now_s >= self._owed_at_s:
            for work in tuple(self._owed):
                self._do(work)
            self._owed_at_s = time.monotonic() + _OWED_EVERY_S

    def _is_left_out(self, message: Message) -> bool:
        """Return whether a message need not wait for a database that is away for long.

        Records are found on disk. Of those who called meanwhile it is not known when and how.
        """
        kind = message["kind"]
        if kind == "landed":
            self._leave_on_disk(message)
        elif kind == "opened":
            if not self._left_out:
                log.warning("callers-left-out", what="The database is away for long.")
            self._left_out.add(message["token"])
        elif kind == "ended":
            if message["token"] not in self._left_out:
                return False
            self._left_out.remove(message["token"])
        return bool(kind != "finished")

    def _leave_on_disk(self, landed: Message) -> None:
        """Remember that records of a segment have to be looked up."""
        segment, end = landed["segment"], landed["offset"] + landed["span"]
        with self._lock:
            if not self._untold:
                log.warning("rows-left-on-disk", what="The database is away for long.")
                self.owe(self._look_up)
            self._untold[segment] = max(end, self._untold.get(segment, 0))

    def _look_up(self) -> bool:
        """Index records of which nobody told, in segments that are written to."""
        for name in tuple(self._untold):
            progress = self._progress.setdefault(name, _Progress(BLOCK))
            at = progress.pass_by(
                index_written(
                    self._engine, self._store, name, progress.at, make_rows=self._make_rows
                )
            )
            with self._lock:
                if at >= self._untold[name]:
                    del self._untold[name]
        with self._lock:
            return not self._untold

    def _digest(self) -> bool:
        """Compute some digests; return whether there may be more to do."""
        try:
            return digest_some(self._engine, self._store) > 0
        except StorageError as error:
            log.warning("digests-put-off", code=error.code)
            return not self._stopping.wait(_RETRY_S[2])

    def _write(self, batch: list[Message]) -> None:
        """Write a batch, however long the database is away."""
        for attempt in range(1_000_000):
            try:
                self._write_once(batch)
            except StorageError as error:
                if error.code in _OF_ITS_BYTES or isinstance(error, StorageRefused):
                    log.warning("rows-not-written", code=error.code, what=error.what)
                    self._write_singly(batch)
                    return
                log.warning("rows-put-off", code=error.code, messages=len(batch))
                if self._stopping.wait(_RETRY_S[min(attempt, len(_RETRY_S) - 1)]):
                    log.warning("rows-left-to-the-next-start", messages=len(batch))
                    return
            except Exception:  # outermost of this thread: it must live on for all others
                log.exception("rows-not-written", messages=len(batch))
                self._write_singly(batch)
                return
            else:
                return

    def _write_singly(self, batch: list[Message]) -> None:
        """Write what is not at fault itself; the rest, if on disk, is indexed at the next start."""
        if len(batch) > 1:
            for one in batch:
                self._write([one])

    def _write_once(self, batch: list[Message]) -> None:
        landed = [one for one in batch if one["kind"] == "landed" and self._is_new(one)]
        records = [
            told_record(one["segment"], one["offset"], a2b_base64(one["head"])) for one in landed
        ]
        progress = {name: self._after(name, landed) for name in {one["segment"] for one in landed}}
        with writing(self._engine, synced=False) as db:
            self._tokens.update(self._opened(db, batch))
            free = self._index(db, records, progress)
            self._ended(db, batch)
            for one in batch:
                if one["kind"] == "rejected":
                    self._rejected(db, one)
                elif one["kind"] == "finished":
                    self._finished(db, one, progress)
            if records:
                faultpoints.reached("index.before-commit")
        if records:
            faultpoints.reached("index.after-commit")
        self._progress.update(progress)
        for one in batch:
            if one["kind"] == "ended":
                self._tokens.pop(one["token"], None)
        free_places(self._store, free)

    def _index(
        self, db: Connection, records: list[Record], progress: dict[str, _Progress]
    ) -> list[Place]:
        if not records:
            return []
        free = self._make_rows(db, records)
        for name, each in progress.items():
            if not set_indexed(db, name, each.at, sealed=False):
                note_segment(db, name, (self._store.folder / name).stat().st_size)
                set_indexed(db, name, each.at, sealed=False)
        return free

    def _is_new(self, landed: Message) -> bool:
        """Return whether a record is not one that was found on disk before it was told."""
        progress = self._progress.get(landed["segment"])
        return progress is None or landed["offset"] >= progress.at

    def _after(self, segment: str, landed: list[Message]) -> _Progress:
        """Return how far a segment will be indexed once these records are."""
        before = self._progress.get(segment)
        # The first record follows the block that names the segment.
        after = _Progress(before.at, dict(before.spans)) if before else _Progress(BLOCK)
        for one in landed:
            if one["segment"] == segment:
                after.spans[one["offset"]] = one["span"]
        after.advance()
        return after

    def _opened(self, db: Connection, batch: list[Message]) -> dict[str, int]:
        opened = [one for one in batch if one["kind"] == "opened"]
        for peer in {one["peer"] for one in opened}:
            heard(db, peer)
        return open_associations(
            db,
            [
                Opening(
                    token=one["token"],
                    node=self._owner,
                    peer=one["peer"],
                    calling_ae=one["calling_ae"],
                    called_ae=one["called_ae"],
                    address=one["address"],
                    software=one["software"],
                    secure=one["secure"],
                    contexts=one["contexts"],
                )
                for one in opened
            ],
        )

    def _ended(self, db: Connection, batch: list[Message]) -> None:
        ended = [(one, self._find(db, one["token"])) for one in batch if one["kind"] == "ended"]
        close_associations(
            db,
            [
                Closing(
                    id=association,
                    outcome=AssociationOutcome(one["outcome"]),
                    instances=one["stored"],
                    refused=one["refused"],
                    bytes=one["bytes"],
                    reason=one["reason"],
                )
                for one, association in ended
                if association is not None
            ],
        )

    def _finished(self, db: Connection, message: Message, new: dict[str, _Progress]) -> None:
        """Seal a segment that is indexed to its end; else the next start does."""
        name = message["segment"]
        progress = new.get(name) or self._progress.get(name)
        if progress is not None and progress.at >= message["end"]:
            size = (self._store.folder / name).stat().st_size
            set_indexed(db, name, size, sealed=True)

    def _rejected(self, db: Connection, message: Message) -> None:
        refused(
            db,
            calling_ae=message["calling_ae"],
            called_ae=message["called_ae"],
            address=message["address"],
            reason=message["reason"],
            wanted=message["wanted"],
        )


def _give_way() -> None:
    """Let connections have the processor first: they are waited for, rows are not."""
    with suppress(OSError):
        # On Linux the priority is one thread's; elsewhere this names no process.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
