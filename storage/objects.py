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

import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from storage.disk_faults import failed, not_written, reserve_reached
from storage.errors import StorageError, StorageFailed
from storage.file_system import make_folders, punch_hole, sync_folder

Kind = Literal["instances", "results", "pictures"]

SEGMENTS: Final = "segments"
"""Folder of the journal (see `segments`), whose files hold many objects each."""

INSTANCES: Final = "instances"
"""Folder of the instances that have an object of their own, because they are large."""

_BLOCK: Final = 4096

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
            make_folders(folder)
        except OSError as error:
            raise failed("folder-not-made", "The folder cannot be made", folder, error) from error

    def begin(self, *, kind: Kind, owner: str) -> ObjectWriter:
        """Begin an object whose bytes come in parts.

        Args:
            kind: The part of the store it belongs to.
            owner: The node that makes it; its name stands in front of the object's.

        Raises:
            StorageFull: Less is free than the reserve.
            StorageFailed: The disk did not take it.
        """
        target = self._new_target(kind, owner_prefix(owner))
        try:
            self._make_folder(target.parent)
            self._check_room(target, 0)
            return ObjectWriter(self, target)
        except OSError as error:
            raise _write_fault(target, error) from error

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
        target = self._new_target(kind)
        part = target.with_suffix(".part")
        try:
            self._make_folder(target.parent)
            length = self._write(part, chunks)
            part.rename(target)
            sync_folder(target.parent)
        except BaseException as error:
            with suppress(OSError):  # the first error is the one to report; `sweep` comes later
                part.unlink(missing_ok=True)
                target.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _write_fault(target, error) from error
            raise
        return self._place(target, length)

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
            raise failed("object-unreadable", "The object cannot be read", path, error) from error
        if len(data) != place.length:
            raise StorageFailed(
                "object-short",
                f"The object has {len(data)} of {place.length} bytes.",
                where=str(path),
                remedy="Restore it from a backup, or have the sender send the study again.",
            )
        return data

    def read_parts(self, place: Place, size: int) -> Iterator[bytes]:
        """Yield the bytes of `place` in parts of `size`, the last one shorter.

        Raises:
            StorageFailed: As for `read`, after some parts perhaps.
        """
        path = self.path(place)
        left = place.length
        try:
            with path.open("rb", buffering=0) as file:
                # Behind it may lie what is being written: nothing is to be read ahead there.
                os.posix_fadvise(file.fileno(), place.offset, place.length, os.POSIX_FADV_RANDOM)
                file.seek(place.offset)
                while left and (part := file.read(min(size, left))):
                    left -= len(part)
                    yield part
        except OSError as error:
            raise failed("object-unreadable", "The object cannot be read", path, error) from error
        if left:
            raise StorageFailed(
                "object-short",
                f"The object lacks {left} of {place.length} bytes.",
                where=str(path),
                remedy="Restore it from a backup, or have the sender send the study again.",
            )

    def delete(self, place: Place) -> None:
        """Remove the bytes of `place`; an object that is gone already is no error.

        Of a segment of the journal only this part goes: the others lie in it too.

        Raises:
            StorageFailed: The disk did not allow it.
        """
        path = self.path(place)
        try:
            if place.name.startswith(f"{SEGMENTS}/"):
                _punch(path, place)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise failed(
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

    def list_owned(self, *, kind: Kind, owner: str, older_than_s: float) -> list[str]:
        """Return the names of the objects that a node made with `begin`, up to an age.

        Args:
            kind: The part of the store.
            owner: The node.
            older_than_s: Time since the last write, so that none is on its way to its row.
        """
        limit = time.time() - older_than_s
        names = []
        for path in self.folder.glob(f"{kind}/*/{owner_prefix(owner)}*.obj"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime <= limit:
                    names.append(path.relative_to(self.folder).as_posix())
        return names

    def _new_target(self, kind: Kind, prefix: str = "") -> Path:
        name = uuid.uuid4().hex
        return self.folder / kind / name[:2] / f"{prefix}{name}.obj"

    def _place(self, target: Path, length: int) -> Place:
        return Place(name=target.relative_to(self.folder).as_posix(), offset=0, length=length)

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
            raise reserve_reached(part.parent, self._reserve_bytes)

    def _make_folder(self, folder: Path) -> None:
        """Make KIND/ab and sync each parent, or the object's folder could vanish in a power cut.

        A folder that exists may have been made a moment ago by another process that has not
        synced yet; so each process syncs each folder's parents once itself.
        """
        if folder in self._synced:
            return
        for new in (folder.parent, folder):
            new.mkdir(exist_ok=True)
            sync_folder(new.parent)
        self._synced.add(folder)


def owner_prefix(owner: str) -> str:
    """Return what the names of an owner's objects and segments begin with."""
    return "".join(sign if sign.isalnum() else "_" for sign in owner.lower()) + "-"


class ObjectWriter:
    """An object that is being written. It exists once `finish` has returned, and not before."""

    def __init__(self, store: ObjectStore, target: Path) -> None:
        """Open the part; only `ObjectStore.begin` calls this."""
        self._store = store
        self._target = target
        self.part = target.with_suffix(".part")
        """The file that holds what was written so far."""
        self.length = 0
        self._checked = 0
        self._file = self.part.open("xb", buffering=0)

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Add bytes.

        Raises:
            StorageFull: Less would be free than the reserve, or the disk is full.
            StorageFailed: The disk did not take them.
        """
        size = sum(map(len, pieces))
        try:
            if self.length + size - self._checked >= _CHECK_EVERY_BYTES:
                self._store._check_room(self.part, size)
                self._checked = self.length + size
            if os.writev(self._file.fileno(), pieces) < size:
                self._file.truncate(self.length)
                self._file.seek(self.length)
                _write_all(self._file.fileno(), b"".join(pieces))
        except OSError as error:
            raise _write_fault(self._target, error) from error
        self.length += size

    def finish(self) -> Place:
        """Make the object durable and give it its name; it survives a power cut from here on.

        Raises:
            StorageFailed: The disk did not confirm it. Nothing is left behind.
        """
        try:
            os.fdatasync(self._file.fileno())
            self._file.close()
            self.part.rename(self._target)
            sync_folder(self._target.parent)
        except OSError as error:
            self.abandon()
            raise _write_fault(self._target, error) from error
        return self._store._place(self._target, self.length)

    def abandon(self) -> None:
        """Remove what was written."""
        self._file.close()
        with suppress(OSError):  # `sweep` comes later
            self.part.unlink(missing_ok=True)
            self._target.unlink(missing_ok=True)


def _punch(path: Path, place: Place) -> None:
    """Give the disk back the whole blocks inside a place."""
    first = -(-place.offset // _BLOCK) * _BLOCK
    last = (place.offset + place.length) // _BLOCK * _BLOCK
    if last > first:
        with path.open("r+b", buffering=0) as file:
            punch_hole(file.fileno(), first, last - first)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_fault(path: Path, error: OSError) -> StorageError:
    return not_written("object-not-written", "The object cannot be written", path, error)
