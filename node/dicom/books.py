"""The keeper's books: one thread that turns what the wires tell into rows, in batches.

Everything that arrived within a few milliseconds becomes one transaction, so that a thousand
instances a second cost tens of commits. When the database is away the batch waits and is tried
again; the wires go on, because what they answered for is on disk. Digests are computed when
nothing else is to do.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from node import faultpoints
from node.dicom.indexing import (
    BATCH,
    association_finder,
    catch_up,
    digest_some,
    free_places,
    index_records,
    seal,
)
from node.dicom.wire.link import Message
from storage.associations import AssociationOutcome, close_association, open_association
from storage.callers import refused
from storage.conflicts import OnConflict
from storage.database import Connection, Engine, writing
from storage.errors import StorageAway, StorageError, StorageRefused
from storage.objects import ObjectStore, Place
from storage.peers import heard
from storage.segment_index import note_segment, set_indexed
from storage.segments import Record, read_records

_QUIET_S: Final = 0.1
"""Digests are computed when nothing came for so long,"""

_DIGEST_EVERY_S: Final = 2.0
"""or some of them, under a load without a pause."""

_OF_ITS_BYTES: Final = frozenset(
    {"record-damaged", "segment-unreadable", "object-unreadable", "object-short"}
)
"""Faults of one record's own; with any other the whole batch waits for the database."""

_TASK_S: Final = 3.0
"""How long whoever wants something of the books waits for it to be begun."""

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)

log = structlog.get_logger("dicom")


@dataclass(slots=True)
class _Progress:
    """How far a segment is indexed; records may be told in another order than they lie in."""

    at: int
    spans: dict[int, int] = field(default_factory=dict)

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
            owner: The name of the node, to which its segments belong.
            on_conflict: Which bytes count when others come under a known UID.
        """
        self._on_conflict = on_conflict
        self._engine = engine
        self._store = store
        self._owner = owner
        self._queue: queue.SimpleQueue[Message | _Task | None] = queue.SimpleQueue()
        self._tokens: dict[str, int] = {}
        self._progress: dict[str, _Progress] = {}
        self._find = association_finder(self._tokens)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dicom-books")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def tell(self, message: Message) -> None:
        """Take one message of a wire."""
        self._queue.put(message)

    def stop(self) -> None:
        """Write what was told, then end."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    def catch_up(self, leave: frozenset[str] = frozenset()) -> dict[str, int]:
        """Index what is on disk without rows, after all that was told; wait for it.

        Args:
            leave: Segments of processes that are alive.

        Returns:
            Of each segment that is not full, where its last record ends.

        Raises:
            StorageError: The database or the disk is away, or rows wait for them.
        """
        ends: dict[str, int] = self._do(lambda: self._catch_up(leave))
        return ends

    def seal(self, names: Sequence[str]) -> None:
        """Note that segments get no more records."""
        self._do(lambda: seal(self._engine, self._store, self._owner, names))

    def _do(self, work: Callable[[], Any]) -> Any:
        if not self._thread.is_alive():
            return work()
        task = _Task(work)
        self._queue.put(task)
        if not task.done.wait(_TASK_S) and task.cancel():
            raise StorageAway(
                "rows-waiting",
                "The rows of what arrived wait to be written.",
                where="the database",
                remedy="See why the database does not answer; it is tried again meanwhile.",
            )
        task.done.wait()
        if task.error is not None:
            raise task.error
        return task.result

    def _catch_up(self, leave: frozenset[str]) -> dict[str, int]:
        ends = catch_up(
            self._engine,
            self._store,
            self._owner,
            association_of=self._find,
            on_conflict=self._on_conflict,
            leave=leave,
        )
        self._progress.update({name: _Progress(at) for name, at in ends.items()})
        return ends

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        digests_due = True
        digested_s = 0.0
        while True:
            first = self._next(_QUIET_S if digests_due else None)
            if first is None and self._stopping.is_set() and self._queue.empty():
                return
            digests_due = digests_due or first is not None
            if isinstance(first, _Task):
                first.run()
            elif first is not None:
                batch, task = self._gather(first)
                self._write(batch)
                if task is not None:
                    task.run()
            now_s = time.monotonic()
            if digests_due and (first is None or now_s - digested_s > _DIGEST_EVERY_S):
                digests_due = self._digest()
                digested_s = now_s

    def _next(self, wait_s: float | None) -> Message | _Task | None:
        try:
            return self._queue.get(timeout=wait_s)
        except queue.Empty:
            return None

    def _gather(self, first: Message) -> tuple[list[Message], _Task | None]:
        """Return what has come with `first`, up to the first task, which comes after it."""
        batch = [first]
        while len(batch) < BATCH:
            try:
                one = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(one, _Task):
                return batch, one
            if one is not None:
                batch.append(one)
        return batch, None

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
                wait_s = _RETRY_S[min(attempt, len(_RETRY_S) - 1)]
                if self._stopping.wait(wait_s) and attempt >= 2:
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
        landed = [one for one in batch if one["kind"] == "landed"]
        records = read_records(
            self._store.folder, [(one["segment"], one["offset"]) for one in landed]
        )
        tokens: dict[str, int] = {}
        progress = {one["segment"]: self._after(one["segment"], batch) for one in landed}
        with writing(self._engine) as db:
            for one in batch:
                if one["kind"] == "opened":
                    tokens[one["token"]] = self._opened(db, one)
            self._tokens.update(tokens)
            free = self._index(db, records, progress)
            for one in batch:
                self._note(db, one, progress)
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
        free = index_records(
            db,
            records,
            store=self._store,
            association_of=self._find,
            on_conflict=self._on_conflict,
        )
        for name, each in progress.items():
            if not set_indexed(db, name, each.at, sealed=False):
                note_segment(db, name, (self._store.folder / name).stat().st_size)
                set_indexed(db, name, each.at, sealed=False)
        return free

    def _after(self, segment: str, batch: list[Message]) -> _Progress:
        """Return how far a segment will be indexed once the batch is."""
        before = self._progress.get(segment)
        # The first record follows the block that names the segment.
        after = _Progress(before.at, dict(before.spans)) if before else _Progress(_FIRST)
        for one in batch:
            if one["kind"] == "landed" and one["segment"] == segment:
                after.spans[one["offset"]] = one["span"]
        after.advance()
        return after

    def _opened(self, db: Connection, message: Message) -> int:
        heard(db, message["peer"])
        return open_association(
            db,
            calling_ae=message["calling_ae"],
            called_ae=message["called_ae"],
            address=message["address"],
            peer=message["peer"],
            token=message["token"],
            software=message["software"],
            secure=message["secure"],
            contexts=message["contexts"],
        )

    def _ended(self, db: Connection, message: Message) -> None:
        association = self._find(db, message["token"])
        if association is not None:
            close_association(
                db,
                association,
                AssociationOutcome(message["outcome"]),
                instances=message["stored"],
                refused=message["refused"],
                received_bytes=message["bytes"],
                reason=message["reason"],
            )

    def _finished(self, db: Connection, message: Message, new: dict[str, _Progress]) -> None:
        """Seal a segment that is indexed to its end; else the next start does."""
        name = message["segment"]
        progress = new.get(name) or self._progress.get(name)
        if progress is not None and progress.at >= message["end"]:
            size = (self._store.folder / name).stat().st_size
            set_indexed(db, name, size, sealed=True)

    def _note(self, db: Connection, message: Message, progress: dict[str, _Progress]) -> None:
        if message["kind"] == "ended":
            self._ended(db, message)
        elif message["kind"] == "rejected":
            self._rejected(db, message)
        elif message["kind"] == "finished":
            self._finished(db, message, progress)

    def _rejected(self, db: Connection, message: Message) -> None:
        refused(
            db,
            calling_ae=message["calling_ae"],
            called_ae=message["called_ae"],
            address=message["address"],
            reason=message["reason"],
            wanted=message["wanted"],
        )


_FIRST: Final = 4096


class _Task:
    """Work for the books' thread that somebody waits for."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._begun = threading.Lock()
        self.done = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None

    def cancel(self) -> bool:
        """Keep it from being begun; return whether that came in time."""
        return self._begun.acquire(blocking=False)

    def run(self) -> None:
        """Do it, unless it was cancelled; a fault is told to whoever waits."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            self.result = self._work()
        except Exception as error:  # noqa: BLE001  raised again in the thread that waits
            self.error = error
        finally:
            self.done.set()
