"""The segment journal, read: which segments there are, what they hold, and who may touch them.

Whoever writes to a segment holds a lock on it (flock), which ends with the process at the latest.
So nobody reads to the end, resumes or closes a segment while another process may still append.
How segments are written is told in `segment_writer`, what their bytes mean in `records`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from storage.disk_faults import failed
from storage.errors import StorageError, StorageFailed
from storage.file_system import punch_hole
from storage.objects import SEGMENTS as FOLDER
from storage.objects import owner_prefix
from storage.records import (
    BLOCK,
    HEAD_BYTES,
    RECORD_MAGIC,
    Record,
    aligned,
    decode_head,
    head_size,
    read_salt,
)
from storage.segment_writer import lock_segment, write_fault


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
        raise write_fault(path, error) from error
    try:
        try:
            mine = lock_segment(descriptor)
        except OSError as error:
            raise write_fault(path, error) from error
        yield mine
    finally:
        os.close(descriptor)


def trim_segment(root: Path, segment: str, end: int) -> None:
    """Give back the space behind the last record of a segment that is held.

    Raises:
        OSError: The disk did not allow it.
    """
    path = root / segment
    start = max(BLOCK, aligned(end))
    descriptor = os.open(path, os.O_RDWR)
    try:
        if (left := os.fstat(descriptor).st_size - start) > 0:
            punch_hole(descriptor, start, left)
    finally:
        os.close(descriptor)


def told_record(segment: str, offset: int, head: bytes) -> Record:
    """Return the record that a writer says it wrote.

    Args:
        segment: Object name of the segment.
        offset: In the segment.
        head: What `append` returned as such.

    Raises:
        StorageFailed: That is no whole head.
    """
    found = decode_head(segment, offset, head, None)
    if found is None:
        raise StorageFailed(
            "record-damaged",
            f"There is no whole record at byte {offset}.",
            where=segment,
            remedy="It is looked up on disk when the listener starts again.",
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
                yield from _scan(memoryview(mapped), root, segment, max(BLOCK, aligned(start)))
    except OSError as error:
        raise _read_fault(path, error) from error


def _scan(view: memoryview, root: Path, segment: str, at: int) -> Iterator[Record]:
    with view:
        salt = read_salt(bytes(view[:BLOCK]))
        while salt is not None and at + HEAD_BYTES <= len(view):
            record = None
            if bytes(view[at : at + len(RECORD_MAGIC)]) == RECORD_MAGIC:
                size = head_size(bytes(view[at : at + HEAD_BYTES]))
                record = decode_head(segment, at, bytes(view[at : at + size]), salt)
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


def _read_fault(path: Path, error: OSError) -> StorageError:
    return failed("segment-unreadable", "The segment cannot be read", path, error)
