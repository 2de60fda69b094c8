"""The segment journal: instances appended to preallocated files, durable before they are answered.

A segment is one file, `segments/NAME.seg`, of a fixed size. Block 0 says which segment it is; then
come records, each starting at a multiple of 4096 bytes:

    head (fixed fields) | context (JSON) | values (of the header walk) | PS3.10 bytes | padding

The PS3.10 bytes are what a `Place` covers. A head names its own segment (by a random salt) and
offset and carries checksums of everything, so that after a crash what is whole can be told from
what is torn, whatever stale or hostile bytes lie between, and nobody can plant a record inside a
data set. An instance too large for one write lies in a file of its own and has a record that
refers to it.

`append` returns once the record survives a power cut. Appends that finish at about the same time
share one fdatasync: the first one syncs for all that are written. A sync that fails is never
repeated on that file (Linux drops the pages and reports success the second time): everything
that waited for it fails, and the next append opens another segment.

Whoever writes to a segment holds a lock on it (flock), which ends with the process at the latest.
So nobody reads to the end, resumes or closes a segment while another process may still append.

Preparing a segment ahead means writing it full of zeros: a sync into blocks that were written
before needs no change of metadata and is 2 to 5 times faster (docs/decisions/0004).
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

import xxhash

from storage.errors import StorageError, StorageFailed, StorageFull
from storage.file_system import TMPFS, file_system_type, punch_hole, sync_folder
from storage.objects import SEGMENTS as FOLDER
from storage.objects import Place, owner_prefix

BLOCK: Final = 4096
SMALLEST_SEGMENT: Final = 4 * 1024 * 1024

_SEGMENT_MAGIC: Final = b"LIMNSEG1"
_RECORD_MAGIC: Final = b"LIMNREC1"
_SEGMENT_HEAD: Final = struct.Struct("<8s16sQQ")  # magic, salt, size, made (ms)
_HEAD: Final = struct.Struct("<8s16sQQIIIIQQ16s")
_LENGTHS_AT: Final = 40
_CHECKSUM_BYTES: Final = 16
HEAD_BYTES: Final = _HEAD.size + _CHECKSUM_BYTES
_REFERS: Final = 1  # flag: the PS3.10 bytes lie in the object that the context names

_IOV_MAX: Final = 1000
_ZEROS: Final = bytes(BLOCK)
_FILL_BYTES: Final = 4 << 20

Buffer = bytes | bytearray | memoryview


class Record(NamedTuple):
    """One durable record.

    Attributes:
        segment: Object name of the segment.
        offset: Of the record in its segment.
        span: Bytes that the record takes there, a multiple of `BLOCK`.
        place: Where the PS3.10 bytes lie.
        dataset_offset: Of the data set in the PS3.10 bytes.
        context: What was known of the sender, as it was given to `append`.
        values: What the header walk found, as it was given to `append`.
        received_ms: Wall clock of the receiver, milliseconds since 1970 UTC.
        checksum: xxh3_128 of the data set, hex.
    """

    segment: str
    offset: int
    span: int
    place: Place
    dataset_offset: int
    context: Mapping[str, str]
    values: bytes
    received_ms: int
    checksum: str


class Arrived(NamedTuple):
    """What `append` stores of one instance.

    Attributes:
        context: JSON bytes of an object of strings.
        values: Opaque bytes, read again by whoever makes the rows.
        meta: Preamble and file meta information.
        pieces: The data set in order; empty if `elsewhere` has it.
        length: Bytes of the data set.
        checksum: xxh3_128 of the data set, 16 bytes.
        received_ms: Milliseconds since 1970 UTC.
        elsewhere: Whether the PS3.10 bytes lie in a file of their own, which the context names
            as `object`. `meta` then only says where its data set starts.
    """

    context: bytes
    values: bytes
    meta: bytes
    pieces: Sequence[Buffer]
    length: int
    checksum: bytes
    received_ms: int
    elsewhere: bool = False


class Written(NamedTuple):
    """Where `append` put a record."""

    segment: str
    offset: int
    span: int


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
        self._segment_bytes = max(SMALLEST_SEGMENT, _aligned(segment_bytes))
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
        head_bytes = HEAD_BYTES + len(arrived.context) + len(arrived.values) + len(arrived.meta)
        span = _aligned(head_bytes + (0 if arrived.elsewhere else arrived.length))
        with self._lock:
            segment = self._room_for(span)
            offset = segment.end
            segment.end += span
            segment.users += 1
        try:
            head = _encode_head(segment.salt, offset, span, arrived)
            try:
                # Whole blocks: one that was written in part would have to be read first.
                length = head_bytes + (0 if arrived.elsewhere else arrived.length)
                padding = _ZEROS[: span - length]
                _write_at(segment.descriptor, (*head, *arrived.pieces, padding), offset)
            except OSError as error:
                segment.failed = True
                raise _write_fault(segment.path, error) from error
            segment.sync()
        finally:
            with self._lock:
                segment.users -= 1
                if segment is not self._segment and not segment.users:
                    segment.close()
        return Written(segment.name, offset, span)

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
            raise _write_fault(self._folder, error) from error
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
                    taken = _lock(descriptor)
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
            raise StorageFull(
                "disk-reserve",
                f"Less than {self._reserve_bytes // (1024 * 1024)} MiB would stay free.",
                where=str(self._folder),
                remedy="Free space or add a disk; senders keep what is refused and send it again.",
            )
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
        os.close(_allocate(new, _aligned(size), in_haste=False))
        if file_system_type(folder) != TMPFS:
            _fill(new, _aligned(size))
        new.rename(new.with_suffix(".ready"))
        sync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise _write_fault(new, error) from error
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


def list_segments(root: Path, owner: str) -> dict[str, int]:
    """Return the object names of an owner's segments, the oldest first, with their sizes."""
    return {
        f"{FOLDER}/{path.name}": path.stat().st_size
        for path in sorted((root / FOLDER).glob(f"{owner_prefix(owner)}*.seg"))
    }


@contextmanager
def held_segment(root: Path, segment: str) -> Iterator[bool]:
    """Keep everybody from appending to a segment; gives False if somebody does so already.

    Raises:
        StorageFailed: The segment cannot be opened or locked.
    """
    path = root / segment
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError as error:
        raise _write_fault(path, error) from error
    try:
        try:
            mine = _lock(descriptor)
        except OSError as error:
            raise _write_fault(path, error) from error
        yield mine
    finally:
        os.close(descriptor)


def trim_segment(root: Path, segment: str, end: int) -> None:
    """Give back the space behind the last record of a segment that is held.

    Raises:
        OSError: The disk did not allow it.
    """
    path = root / segment
    start = max(BLOCK, _aligned(end))
    descriptor = os.open(path, os.O_RDWR)
    try:
        if (left := os.fstat(descriptor).st_size - start) > 0:
            punch_hole(descriptor, start, left)
    finally:
        os.close(descriptor)


def read_records(root: Path, positions: Sequence[tuple[str, int]]) -> list[Record]:
    """Return the records at (segment, offset), whose data sets are not checked again.

    Raises:
        StorageFailed: There is no whole record head at one of them.
    """
    with ExitStack() as opened:
        heads: dict[str, _Heads] = {}
        for segment, _ in positions:
            if segment not in heads:
                heads[segment] = opened.enter_context(_Heads(root, segment))
        return [heads[segment].read(offset) for segment, offset in positions]


class _Heads:
    """Reads the heads of one segment's records."""

    def __init__(self, root: Path, segment: str) -> None:
        self._segment = segment
        self._path = root / segment
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise _read_fault(self._path, error) from error
        self._salt = _read_salt(os.pread(self._descriptor, BLOCK, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, offset: int) -> Record:
        try:
            start = os.pread(self._descriptor, BLOCK, offset)
            size = _head_size(start)
            if size > len(start):
                start = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise _read_fault(self._path, error) from error
        found = _decode_head(self._segment, offset, start, self._salt) if self._salt else None
        if found is None:
            raise StorageFailed(
                "record-damaged",
                f"There is no whole record at byte {offset}.",
                where=str(self._path),
                remedy="Restore it from a backup, or have the sender send the study again.",
            )
        return found


def scan_segment(root: Path, segment: str, start: int = 0) -> Iterator[Record]:
    """Yield the whole records of a segment from offset `start` on, in their order.

    The file is synced first: what is found may have been written by a process that was killed
    before its own sync. Then it is read from the disk and not from memory, which after a sync that
    failed holds what the disk does not. Torn records are stepped over.

    Raises:
        StorageFailed: The segment cannot be read.
    """
    path = root / segment
    try:
        with path.open("r+b", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(file.fileno()).st_size
            if size < BLOCK:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                yield from _scan(memoryview(mapped), root, segment, max(BLOCK, _aligned(start)))
    except OSError as error:
        raise _read_fault(path, error) from error


def _scan(view: memoryview, root: Path, segment: str, at: int) -> Iterator[Record]:
    with view:
        salt = _read_salt(bytes(view[:BLOCK]))
        while salt is not None and at + HEAD_BYTES <= len(view):
            record = None
            if bytes(view[at : at + len(_RECORD_MAGIC)]) == _RECORD_MAGIC:
                size = _head_size(bytes(view[at : at + HEAD_BYTES]))
                record = _decode_head(segment, at, bytes(view[at : at + size]), salt)
            if record is not None and _is_whole(view, root, record):
                yield record
                at += record.span
            else:
                at += BLOCK


def _is_whole(view: memoryview, root: Path, record: Record) -> bool:
    place = record.place
    if place.name != record.segment:
        # The file was whole and named before its record was written.
        try:
            return (root / place.name).stat().st_size == place.length
        except OSError:
            return False
    start, end = place.offset + record.dataset_offset, place.offset + place.length
    if end > len(view):
        return False
    return xxhash.xxh3_128_hexdigest(view[start:end]) == record.checksum


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
        self._waiting = threading.Condition(threading.Lock())
        self._written = 0
        self._synced = 0
        self._syncing = False

    def sync(self) -> None:
        """Return once everything that was written before this call is durable."""
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

    def close(self) -> None:
        os.close(self.descriptor)


def _begin(root: Path, path: Path, descriptor: int) -> _Open:
    """Write block 0 of a segment that is open and locked, and make it durable."""
    try:
        salt = secrets.token_bytes(16)
        size = os.fstat(descriptor).st_size
        fields = _SEGMENT_HEAD.pack(_SEGMENT_MAGIC, salt, size, time.time_ns() // 1_000_000)
        block = fields + xxhash.xxh3_128_digest(fields)
        _write_at(descriptor, (block.ljust(BLOCK, b"\0"),), 0)
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
    salt = _read_salt(os.pread(descriptor, BLOCK, 0))
    # Its writer may live on for a moment: two of them would overwrite each other's records.
    if salt is None or not _lock(descriptor):
        os.close(descriptor)
        return None
    return _Open(path, name, descriptor, salt, max(BLOCK, _aligned(end)))


def _read_salt(block: bytes) -> bytes | None:
    """Return the salt of a segment from its block 0; None if that was never finished."""
    fields = block[: _SEGMENT_HEAD.size]
    if len(fields) < _SEGMENT_HEAD.size or not fields.startswith(_SEGMENT_MAGIC):
        return None
    checksum = block[_SEGMENT_HEAD.size : _SEGMENT_HEAD.size + _CHECKSUM_BYTES]
    if xxhash.xxh3_128_digest(fields) != checksum:
        return None
    salt: bytes = _SEGMENT_HEAD.unpack(fields)[1]
    return salt


def _encode_head(salt: bytes, offset: int, span: int, arrived: Arrived) -> tuple[bytes, ...]:
    fields = _HEAD.pack(
        _RECORD_MAGIC,
        salt,
        offset,
        span,
        len(arrived.context),
        len(arrived.values),
        len(arrived.meta),
        _REFERS if arrived.elsewhere else 0,
        arrived.length,
        arrived.received_ms,
        arrived.checksum,
    )
    rest = arrived.context + arrived.values + arrived.meta
    return (fields + xxhash.xxh3_128_digest(fields + rest) + rest,)


def _head_size(start: bytes) -> int:
    """Return how many bytes the head that starts here claims to have, at most 16 MiB."""
    if len(start) < HEAD_BYTES:
        return HEAD_BYTES
    context_bytes, values_bytes, meta_bytes = struct.unpack_from("<III", start, _LENGTHS_AT)
    return min(HEAD_BYTES + int(context_bytes) + int(values_bytes) + int(meta_bytes), 16 << 20)


def _decode_head(segment: str, offset: int, head: bytes, salt: bytes) -> Record | None:
    """Return the record whose head starts at `offset`; None if that is not a whole head."""
    if len(head) < HEAD_BYTES:
        return None
    magic, its_salt, its_offset, span, context_bytes, values_bytes, meta_bytes, *rest = (
        _HEAD.unpack_from(head)
    )
    flags, length, received_ms, checksum = rest
    size = HEAD_BYTES + context_bytes + values_bytes + meta_bytes
    if (magic, its_salt, its_offset) != (_RECORD_MAGIC, salt, offset) or size > len(head):
        return None
    fields, end = head[: _HEAD.size], HEAD_BYTES + context_bytes
    if xxhash.xxh3_128_digest(fields + head[HEAD_BYTES:size]) != head[_HEAD.size : HEAD_BYTES]:
        return None
    context = json.loads(head[HEAD_BYTES:end])
    if flags & _REFERS:
        place = Place(context["object"], 0, meta_bytes + length)
    else:
        place = Place(segment, offset + end + values_bytes, meta_bytes + length)
    return Record(
        segment=segment,
        offset=offset,
        span=span,
        place=place,
        dataset_offset=meta_bytes,
        context=context,
        values=head[end : end + values_bytes],
        received_ms=received_ms,
        checksum=checksum.hex(),
    )


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
        _lock(descriptor)
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


def _lock(descriptor: int) -> bool:
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
        raise StorageFailed(
            "folder-not-made",
            f"The folder cannot be made: {error.strerror or error}.",
            where=str(folder),
            remedy="Check the disk, the path and its permissions.",
        ) from error


def _new_name(prefix: str) -> str:
    # Names ascend with time, so that a listing shows the order in which segments were begun.
    return f"{prefix}{time.time_ns() // 1_000_000:013x}-{secrets.token_hex(6)}"


def _aligned(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _read_fault(path: Path, error: OSError) -> StorageError:
    return StorageFailed(
        "segment-unreadable",
        f"The segment cannot be read: {error.strerror or error}.",
        where=str(path),
        remedy="Check the disk, the path and its permissions.",
    )


def _sync_fault(path: Path) -> StorageError:
    return StorageFailed(
        "sync-failed",
        "The disk did not confirm that it keeps what was written; the segment is given up.",
        where=str(path),
        remedy="Check the disk at once; senders keep what is refused and send it again.",
    )


def _write_fault(path: Path, error: OSError) -> StorageError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(
            "disk-full",
            "The disk is full.",
            where=str(path.parent),
            remedy="Free space; senders keep what is refused and send it again.",
        )
    return StorageFailed(
        "segment-not-written",
        f"The segment cannot be written: {error.strerror or error}.",
        where=str(path),
        remedy="Check the disk, the path and its permissions.",
    )
