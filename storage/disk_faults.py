"""What a disk that refuses means: it is full, which passes, or fails, which somebody must mend."""

from __future__ import annotations

import errno
from pathlib import Path

from storage.errors import StorageError, StorageFailed, StorageFull


def failed(code: str, what: str, path: Path, error: OSError) -> StorageFailed:
    """Return the error for a disk that fails; `what` begins its sentence."""
    return StorageFailed(
        code,
        f"{what}: {error.strerror or error}.",
        where=str(path),
        remedy="Check the disk, the path and its permissions.",
    )


def not_written(code: str, what: str, path: Path, error: OSError) -> StorageError:
    """Return the error for a write that failed; a full disk is told apart."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(
            "disk-full",
            "The disk is full.",
            where=str(path.parent),
            remedy="Free space; senders keep what is refused and send it again.",
        )
    return failed(code, what, path, error)


def reserve_reached(folder: Path, reserve_bytes: int) -> StorageFull:
    """Return the error for a write that would leave less free than the reserve."""
    return StorageFull(
        "disk-reserve",
        f"Less than {reserve_bytes // (1024 * 1024)} MiB would stay free.",
        where=str(folder),
        remedy="Free space or add a disk; senders keep what is refused and send it again.",
    )
