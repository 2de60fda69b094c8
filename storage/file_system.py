"""Which file system a folder lies on, and how its names are made durable.

SQLite must not lie on a network file system: its write-ahead log needs shared memory and locks
that NFS and SMB do not give, and two processes would damage the file without any error.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from storage.errors import StorageFailed, StorageRefused

NETWORK_TYPES: Final[dict[int, str]] = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x5346414F: "AFS",
    0x00C36400: "Ceph",
    0x0BD00BD0: "Lustre",
}
"""`f_type` of statfs(2) by the name people know (linux/magic.h)."""

TMPFS: Final = 0x01021994

_KEEP_SIZE: Final = 1  # linux/falloc.h
_PUNCH_HOLE: Final = 2

_STATFS_BYTES: Final = 512
"""More than `struct statfs` has on any Linux (120 bytes on x86-64); `f_type` is its first word."""


def file_system_type(folder: Path) -> int:
    """Return `f_type` of the file system that holds `folder`, as statfs(2) gives it.

    Raises:
        StorageFailed: The folder does not exist or cannot be asked.
    """
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(folder), answer) != 0:
        raise StorageFailed(
            "folder-unreadable",
            f"The folder cannot be read: {os.strerror(ctypes.get_errno())}.",
            where=str(folder),
            remedy="Create it, or correct the path in the settings.",
        )
    word = ctypes.c_long.from_buffer(answer).value
    return word & 0xFFFFFFFF


def refuse_network(path: Path, type_number: int) -> None:
    """Raise when `type_number` is a network file system.

    Raises:
        StorageRefused: SQLite would damage its file there.
    """
    name = NETWORK_TYPES.get(type_number)
    if name is not None:
        raise StorageRefused(
            "database-on-network",
            f"The SQLite database would lie on a network file system ({name}), where its locks "
            "do not hold and its file gets damaged.",
            where=str(path),
            remedy="Put it on a local disk, or use PostgreSQL (storage.database_url).",
        )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: files made, renamed or removed there.

    Raises:
        OSError: The disk did not confirm it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing, each durable before the next is made.

    Raises:
        OSError: One cannot be made, or the disk did not confirm it.
    """
    missing = []
    above = folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)
    folder.mkdir(exist_ok=True)  # fails if it is a file


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Free the blocks of a part of a file, which reads as zeros afterwards (fallocate(2)).

    Raises:
        OSError: The file system cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    mode = _PUNCH_HOLE | _KEEP_SIZE
    if libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        number = ctypes.get_errno()
        if number != errno.EOPNOTSUPP:  # then the space comes back with the whole segment
            raise OSError(number, os.strerror(number))
