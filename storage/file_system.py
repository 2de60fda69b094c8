"""Which file system a folder lies on; SQLite must not lie on a network one.

SQLite's write-ahead log needs shared memory and locks that NFS and SMB do not give: two processes
would damage the file without any error.
"""

from __future__ import annotations

import ctypes
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
