"""Bytes: objects in a folder, each written once under a name of its own and never changed.

On disk: `KIND/ab/abcdef....obj`, where the name is random and `ab` its first two digits. While an
object is written it is called `....part` in the same folder. The order is: write the part, sync its
data, rename it, sync the folder. A crash before the rename leaves a part, which `sweep` removes; a
crash after it leaves an object that no row names, which costs space and nothing else. What `put`
has returned survives a power cut.

A place is (object name, offset, length), so that a record in a larger file or in object storage
is read by the same callers later.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from storage.errors import StorageError, StorageFailed, StorageFull

Kind = Literal["instances", "results", "pictures"]

_CHECK_EVERY_BYTES: Final = 16 * 1024 * 1024
"""How much may be written between two looks at the free space, when the size is not known."""

SWEEP_AFTER_S: Final = 3600.0
"""A part older than this has no writer: an instance takes seconds to arrive. Younger ones may be
another process's work."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie: an object's name, the first byte and the number of bytes."""

    name: str
    offset: int
    length: int


class ObjectStore:
    """Objects under one folder. Safe for many threads and processes at once."""

    def __init__(self, folder: Path, reserve_mb: int = 0) -> None:
        """Use `folder`, which is made when it is missing.

        Args:
            folder: Root of all objects.
            reserve_mb: Space that `put` leaves free, in MiB.

        Raises:
            StorageFailed: The folder cannot be made.
        """
        self.folder = folder
        self._reserve_bytes = reserve_mb * 1024 * 1024
        self._synced: set[Path] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _failed("folder-not-made", "The folder cannot be made", folder, error) from error

    def put(self, data: bytes | Iterable[bytes], *, kind: Kind) -> Place:
        """Store bytes; they survive a power cut once this returns.

        Args:
            data: All bytes, or chunks in order.
            kind: The part of the store they belong to.

        Raises:
            StorageFull: Less would be free than the reserve, or the disk is full.
            StorageFailed: The disk did not take them. Nothing is left behind in either case.
        """
        chunks: Iterable[bytes] = (data,) if isinstance(data, bytes | bytearray) else data
        name = uuid.uuid4().hex
        target = self.folder / kind / name[:2] / f"{name}.obj"
        part = target.with_suffix(".part")
        try:
            self._make_folder(target.parent)
            length = self._write(part, chunks)
            part.rename(target)
            _sync_folder(target.parent)
        except BaseException as error:
            with suppress(OSError):  # the first error is the one to report; `sweep` comes later
                part.unlink(missing_ok=True)
                target.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _write_fault(target, error) from error
            raise
        return Place(name=f"{kind}/{name[:2]}/{target.name}", offset=0, length=length)

    def path(self, place: Place) -> Path:
        """Return the local file that holds `place`.

        Raises:
            StorageFailed: The name points out of the store.
        """
        parts = PurePosixPath(place.name).parts
        if not parts or ".." in parts or parts[0] == "/":
            raise StorageFailed(
                "object-name",
                "The name of the object is not one of this store.",
                where=place.name,
                remedy="The row that holds it is damaged; restore the database.",
            )
        return self.folder.joinpath(*parts)

    def read(self, place: Place) -> bytes:
        """Return exactly the bytes of `place`.

        Raises:
            StorageFailed: The object is missing, shorter than the place says, or unreadable.
        """
        path = self.path(place)
        try:
            with path.open("rb") as file:
                file.seek(place.offset)
                data = file.read(place.length)
        except OSError as error:
            raise _failed("object-unreadable", "The object cannot be read", path, error) from error
        if len(data) != place.length:
            raise StorageFailed(
                "object-short",
                f"The object has {len(data)} of {place.length} bytes.",
                where=str(path),
                remedy="Restore it from a backup, or have the sender send the study again.",
            )
        return data

    def delete(self, place: Place) -> None:
        """Remove the object that holds `place`; one that is gone already is no error.

        Raises:
            StorageFailed: The disk did not allow it.
        """
        path = self.path(place)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _failed(
                "object-not-deleted", "The object cannot be deleted", path, error
            ) from error

    def sweep(self, older_than_s: float = SWEEP_AFTER_S) -> int:
        """Remove what interrupted writers left; return how many parts that were.

        Args:
            older_than_s: Age of the last write from which a part has no writer any more.
        """
        limit = time.time() - older_than_s
        removed = 0
        for part in self.folder.glob("*/*/*.part"):
            try:
                if part.stat().st_mtime <= limit:
                    part.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # its writer finished in this moment
        return removed

    def free_bytes(self) -> int:
        """Return what `put` may still use: free space less the reserve, never below 0."""
        return max(0, shutil.disk_usage(self.folder).free - self._reserve_bytes)

    def _write(self, part: Path, chunks: Iterable[bytes]) -> int:
        length = 0
        checked = -_CHECK_EVERY_BYTES
        with part.open("xb", buffering=0) as file:
            for chunk in chunks:
                if length + len(chunk) - checked >= _CHECK_EVERY_BYTES:
                    self._check_room(part, len(chunk))
                    checked = length + len(chunk)
                _write_all(file.fileno(), chunk)
                length += len(chunk)
            os.fdatasync(file.fileno())
        return length

    def _check_room(self, part: Path, wanted: int) -> None:
        if self.free_bytes() < wanted:
            raise StorageFull(
                "disk-reserve",
                f"Less than {self._reserve_bytes // (1024 * 1024)} MiB would stay free.",
                where=str(part.parent),
                remedy="Free space or add a disk; senders keep what is refused and send it again.",
            )

    def _make_folder(self, folder: Path) -> None:
        """Make KIND/ab and sync each parent, or the object's folder could vanish in a power cut.

        A folder that exists may have been made a moment ago by another process that has not
        synced yet; so each process syncs each folder's parents once itself.
        """
        if folder in self._synced:
            return
        for new in (folder.parent, folder):
            new.mkdir(exist_ok=True)
            _sync_folder(new.parent)
        self._synced.add(folder)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_fault(path: Path, error: OSError) -> StorageError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(
            "disk-full",
            "The disk is full.",
            where=str(path.parent),
            remedy="Free space; senders keep what is refused and send it again.",
        )
    return _failed("object-not-written", "The object cannot be written", path, error)


def _failed(code: str, what: str, path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        code,
        f"{what}: {error.strerror or error}.",
        where=str(path),
        remedy="Check the disk, the path and its permissions.",
    )
