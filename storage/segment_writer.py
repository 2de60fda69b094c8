"""The segment journal, written: instances appended to preallocated files, durable at once.

A segment is one file, `segments/NAME.seg`, of a fixed size. Block 0 says which segment it is; then
come records, each starting at a multiple of 4096 bytes (see `records`). An instance too large for
one write lies in a file of its own and has a record that refers to it.

`append` returns once the record survives a power cut. Where the file system allows it, a record
goes past the page cache, from a buffer that is aligned for it, by one write that waits for the
disk (O_DIRECT and O_DSYNC): that is several times cheaper than pages and a sync for them
(docs/decisions/0004). Elsewhere appends that finish at about the same time share one fdatasync.

A write or a sync that fails is never repeated on that file (Linux drops the pages and reports
success the second time): everything that waited for it fails, and the next append opens another
segment.

Preparing a segment ahead means writing it full of zeros: blocks that were written before need no
change of metadata, which is 2 to 5 times faster.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from storage.disk_faults import failed, not_written, reserve_reached
from storage.errors import StorageError, StorageFailed
from storage.file_system import TMPFS, file_system_type, sync_folder
from storage.objects import SEGMENTS as FOLDER
from storage.objects import owner_prefix
from storage.records import (
    BLOCK,
    HEAD_BYTES,
    Arrived,
    Buffer,
    Written,
    aligned,
    encode_head,
    encode_segment_head,
    read_salt,
)

SMALLEST_SEGMENT: Final = 4 * 1024 * 1024

_IOV_MAX: Final = 1000
_ZEROS: Final = bytes(BLOCK)
_FILL_BYTES: Final = 4 << 20
_ALIGNED_BYTES: Final = 1_310_720
"""Of a buffer for one record: 1 MiB of a data set, and its head."""


class SegmentWriter:
    """Appends records; safe for many threads of one process. Each process has segments of its own.

    Args:
        root: The folder of all objects.
        owner: Whose segments these are: the name of the node, in front of each segment's name, so
            that nodes which share a folder leave each other's alone.
        segment_bytes: Size of a segment that has to be made here, because none is prepared.
        reserve_bytes: Free space below which no new segment is begun.
        resume: Object name of a segment of an earlier process to go on in; empty for a new one.
        resume_at: Where its last record ends.
    """

    def __init__(
        self,
        root: Path,
        *,
        owner: str,
        segment_bytes: int,
        reserve_bytes: int = 0,
        resume: str = "",
        resume_at: int = 0,
    ) -> None:
        """Begin, or go on in the segment `resume` from offset `resume_at`.

        Raises:
            StorageFailed: The folder cannot be made.
        """
        self._root = root
        self._owner = owner_prefix(owner)
        self._folder = root / FOLDER
        self._segment_bytes = max(SMALLEST_SEGMENT, aligned(segment_bytes))
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._segment: _Open | None = None
        self.finished: deque[tuple[str, int]] = deque()
        """Segments that get no more records, with where they end; the caller empties it."""
        _make_folder(self._folder)
        if resume:
            self._segment = _resume(root, resume, resume_at)

    def append(self, arrived: Arrived) -> Written:
        """Store one record; it survives a power cut once this returns.

        Raises:
            StorageFull: No segment can be begun: too little space is free.
            StorageFailed: The disk did not take it. It may or may not be found after a crash.
        """
        length = HEAD_BYTES + len(arrived.context) + len(arrived.values) + len(arrived.meta)
        if not arrived.elsewhere:
            length += arrived.length
        span = aligned(length)
        with self._lock:
            segment = self._room_for(span)
            offset = segment.end
            segment.end += span
            segment.users += 1
        try:
            head = encode_head(segment.salt, offset, span, arrived)
            try:
                # Whole blocks: one that was written in part would have to be read first.
                segment.write((head, *arrived.pieces, _ZEROS[: span - length]), span, offset)
            except OSError as error:
                segment.failed = True
                raise write_fault(segment.path, error) from error
            segment.sync()
        finally:
            with self._lock:
                segment.users -= 1
                if segment is not self._segment and not segment.users:
                    segment.close()
        return Written(segment.name, offset, span, head)

    @property
    def current(self) -> tuple[str, int]:
        """Name and end of the segment in use; empty and 0 before the first append."""
        with self._lock:
            return (self._segment.name, self._segment.end) if self._segment else ("", 0)

    def close(self) -> None:
        """Close the segment in use; no append may run any more."""
        with self._lock:
            if self._segment is not None and not self._segment.users:
                self._segment.close()
            self._segment = None

    def _room_for(self, span: int) -> _Open:
        segment = self._segment
        if segment is not None and not segment.failed and segment.end + span <= segment.size:
            return segment
        fresh = self._begin(span)
        if segment is not None:
            self.finished.append((segment.name, segment.end))
            if not segment.users:
                segment.close()
        self._segment = fresh
        return fresh

    def _begin(self, span: int) -> _Open:
        try:
            segment = _begin(self._root, *(self._take_prepared(span) or self._make(span)))
            sync_folder(self._folder)
        except OSError as error:
            raise write_fault(self._folder, error) from error
        return segment

    def _take_prepared(self, span: int) -> tuple[Path, int] | None:
        for ready in sorted(self._folder.glob(f"{self._owner}*.ready")):
            with suppress(FileNotFoundError):  # another process took it
                if ready.stat().st_size < BLOCK + span:
                    continue
                descriptor = os.open(ready, os.O_RDWR)
                path = ready.with_suffix(".seg")
                try:
                    # First the lock, then the name: under its new name it is never without.
                    taken = lock_segment(descriptor)
                    if taken:
                        ready.rename(path)
                except BaseException:
                    os.close(descriptor)
                    raise
                if taken:
                    return path, descriptor
                os.close(descriptor)
        return None

    def _make(self, span: int) -> tuple[Path, int]:
        size = max(self._segment_bytes, BLOCK + span)
        if free_bytes(self._folder, self._reserve_bytes) < size:
            raise reserve_reached(self._folder, self._reserve_bytes)
        path = self._folder / f"{_new_name(self._owner)}.seg"
        return path, _allocate(path, size, in_haste=True)


def prepare_segment(root: Path, owner: str, size: int) -> Path:
    """Write one segment of zeros that a writer can take; return its path.

    Raises:
        StorageFull: The disk is full. Nothing is left behind.
        StorageFailed: The disk did not take it.
    """
    folder = root / FOLDER
    _make_folder(folder)
    new = folder / f"{_new_name(owner_prefix(owner))}.new"
    try:
        os.close(_allocate(new, aligned(size), in_haste=False))
        if file_system_type(folder) != TMPFS:
            _fill(new, aligned(size))
        new.rename(new.with_suffix(".ready"))
        sync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise write_fault(new, error) from error
    return new.with_suffix(".ready")


def count_prepared(root: Path, owner: str) -> int:
    """Return how many segments of this owner wait to be taken."""
    return sum(1 for _ in (root / FOLDER).glob(f"{owner_prefix(owner)}*.ready"))


def sweep_prepared(root: Path, owner: str) -> int:
    """Remove half-prepared segments that a crash left; return how many."""
    left = list((root / FOLDER).glob(f"{owner_prefix(owner)}*.new"))
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def free_bytes(folder: Path, reserve_bytes: int) -> int:
    """Return the free space of the disk less the reserve, never below 0.

    Raises:
        OSError: The folder is gone.
    """
    found = os.statvfs(folder)
    return max(0, found.f_bavail * found.f_frsize - reserve_bytes)


class _Open:
    """A segment that is written to."""

    def __init__(self, path: Path, name: str, descriptor: int, salt: bytes, end: int) -> None:
        self.path = path
        self.name = name
        self.descriptor = descriptor
        self.salt = salt
        self.size = os.fstat(descriptor).st_size
        self.end = end
        self.users = 0
        self.failed = False
        self._direct = _open_direct(path)
        self._waiting = threading.Condition(threading.Lock())
        self._written = 0
        self._synced = 0
        self._syncing = False

    def sync(self) -> None:
        """Return once everything that was written before this call is durable."""
        if self._direct is not None:
            return  # it was when `write` returned
        waiting = self._waiting
        with waiting:
            self._written += 1
            mine = self._written
            while self._synced < mine:
                if self.failed:
                    raise _sync_fault(self.path)
                if self._syncing:
                    waiting.wait()
                    continue
                self._syncing = True
                covered = self._written
                waiting.release()
                try:
                    os.fdatasync(self.descriptor)
                    fault = None
                except OSError as error:
                    fault = error
                finally:
                    waiting.acquire()
                    self._syncing = False
                    waiting.notify_all()
                if fault is not None:
                    self.failed = True
                    raise _sync_fault(self.path) from fault
                self._synced = max(self._synced, covered)

    def write(self, pieces: Sequence[Buffer], span: int, offset: int) -> None:
        """Write a record of `span` bytes; durable at once if it goes past the page cache."""
        if self._direct is None:
            _write_at(self.descriptor, pieces, offset)
            return
        buffer = _take_buffer(span)
        at = 0
        for piece in pieces:
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        _write_at(self._direct, (buffer[:span],), offset)
        _give_buffer(buffer)

    def close(self) -> None:
        """Close it; nobody may write any more. Its lock ends."""
        if self._direct is not None:
            os.close(self._direct)
        os.close(self.descriptor)


_buffers: list[memoryview] = []
"""Aligned memory that no record is being put together in; as many as were ever used at once."""


def _take_buffer(size: int) -> memoryview:
    try:
        buffer = _buffers.pop()
    except IndexError:
        buffer = _aligned_memory(_ALIGNED_BYTES)
    return buffer if len(buffer) >= size else _aligned_memory(size)


def _aligned_memory(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _give_buffer(buffer: memoryview) -> None:
    if len(buffer) == _ALIGNED_BYTES:
        _buffers.append(buffer)


def _open_direct(path: Path) -> int | None:
    """Return a descriptor that writes past the page cache; None where that cannot be had.

    On tmpfs there is nothing behind the cache. Elsewhere a read tells whether the file system
    takes blocks of this size from such memory.
    """
    if file_system_type(path.parent) == TMPFS:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    except OSError:
        return None
    buffer = _take_buffer(BLOCK)
    try:
        os.preadv(descriptor, (buffer[:BLOCK],), 0)
    except OSError:
        os.close(descriptor)
        return None
    finally:
        _give_buffer(buffer)
    return descriptor


def _begin(root: Path, path: Path, descriptor: int) -> _Open:
    """Write block 0 of a segment that is open and locked, and make it durable."""
    try:
        salt = secrets.token_bytes(16)
        size = os.fstat(descriptor).st_size
        _write_at(descriptor, (encode_segment_head(salt, size),), 0)
        os.fsync(descriptor)
        return _Open(path, path.relative_to(root).as_posix(), descriptor, salt, BLOCK)
    except BaseException:
        os.close(descriptor)
        raise


def _resume(root: Path, name: str, end: int) -> _Open | None:
    path = root / name
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    salt = read_salt(os.pread(descriptor, BLOCK, 0))
    # Its writer may live on for a moment: two of them would overwrite each other's records.
    if salt is None or not lock_segment(descriptor):
        os.close(descriptor)
        return None
    return _Open(path, name, descriptor, salt, max(BLOCK, aligned(end)))


def _write_at(descriptor: int, pieces: Sequence[Buffer], offset: int) -> None:
    """Write all pieces, normally with one call."""
    if len(pieces) > _IOV_MAX:
        pieces = (b"".join(pieces),)
    total = sum(map(len, pieces))
    done = os.pwritev(descriptor, pieces, offset)
    while done < total:
        left = memoryview(b"".join(pieces))[done:]
        count = os.pwrite(descriptor, left, offset + done)
        if not count:
            raise OSError(errno.EIO, "the disk takes no more bytes")
        done += count


def _allocate(path: Path, size: int, *, in_haste: bool) -> int:
    """Return the descriptor of a new file, locked before it has a size."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        lock_segment(descriptor)
        if in_haste and file_system_type(path.parent) == TMPFS:
            os.ftruncate(descriptor, size)  # taking the memory now would take as long as writing
        else:
            os.posix_fallocate(descriptor, 0, size)
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    return descriptor


def lock_segment(descriptor: int) -> bool:
    """Lock a file until its descriptor is closed; return False if somebody else has done so.

    Raises:
        OSError: The file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fill(path: Path, size: int) -> None:
    """Write zeros past the page cache, where the file system allows it: it costs next to nothing.

    In pieces that are synced, so that the disk never owes much when an instance wants its sync.
    """
    with mmap.mmap(-1, _FILL_BYTES) as zeros:  # aligned, as O_DIRECT wants it
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
        except OSError:
            descriptor = os.open(path, os.O_WRONLY)
        try:
            for offset in range(0, size, _FILL_BYTES):
                with memoryview(zeros) as view, view[: size - offset] as piece:
                    _write_at(descriptor, (piece,), offset)
                os.fdatasync(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise failed("folder-not-made", "The folder cannot be made", folder, error) from error


def _new_name(prefix: str) -> str:
    # Names ascend with time, so that a listing shows the order in which segments were begun.
    return f"{prefix}{time.time_ns() // 1_000_000:013x}-{secrets.token_hex(6)}"


def _sync_fault(path: Path) -> StorageError:
    return StorageFailed(
        "sync-failed",
        "The disk did not confirm that it keeps what was written; the segment is given up.",
        where=str(path),
        remedy="Check the disk at once; senders keep what is refused and send it again.",
    )


def write_fault(path: Path, error: OSError) -> StorageError:
    """Return the error for a segment, or a folder of them, that the disk does not take."""
    return not_written("segment-not-written", "The segment cannot be written", path, error)
