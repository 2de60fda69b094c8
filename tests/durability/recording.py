"""The recorder's log: how it is built, switched on, and read.

`recorder.c` says what is recorded and in which order.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

CANNOT_RECORD: Final = "the recorder of system calls needs a C compiler and Linux"
"""Why a machine skips these tests, in the words of the list of allowed skips."""

_RECORD: Final = struct.Struct("<IIQQqqIIQ")


class Kind(IntEnum):
    """What happened, with the numbers of recorder.c."""

    OPENED = 1  # a file was opened with O_CREAT or O_TRUNC; it may be new
    WRITTEN = 2
    TRUNCATED = 3
    ALLOCATED = 4
    SYNC_BEGUN = 5
    SYNCED = 6  # what was done to this file or folder before its SYNC_BEGUN is durable
    RENAMED = 7
    REMOVED = 8
    FOLDER_MADE = 9
    LINKED = 10
    SENT = 11  # about to be sent to a peer


DURABLE: Final = 1
ZEROED: Final = 2
KEEP_SIZE: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record.

    Attributes:
        task: Id of the thread.
        inode: Of the file, folder or socket.
        path: Absolute, of what is named.
        second_path: The new name of a renaming or link.
    """

    kind: Kind
    flags: int
    task: int
    inode: int
    offset: int
    length: int
    path: str
    second_path: str
    data: bytes


def can_record() -> bool:
    """Return whether this machine can build the recorder."""
    return os.uname().sysname == "Linux" and shutil.which("cc") is not None


def build_recorder(folder: Path) -> Path:
    """Compile the recorder into `folder`."""
    library = folder / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(library), str(source), "-ldl"], check=True)
    return library


def record_to(recorder: Path, log: Path, root: Path) -> Mapping[str, str]:
    """Return the environment of a process whose work on the files below `root` is recorded."""
    return {
        "LD_PRELOAD": str(recorder),
        "LIMNER_RECORD_LOG": str(log.resolve()),
        "LIMNER_RECORD_ROOT": str(root.resolve()),
    }


def lose_syncs(recorder: Path) -> Mapping[str, str]:
    """Return the environment of a process whose syncs do nothing and claim success."""
    return {"LD_PRELOAD": str(recorder), "LIMNER_LOSE_SYNCS": "1"}


def read_log(log: Path) -> list[Event]:
    """Return all records of a log in their order."""
    return list(_events(log.read_bytes()))


def _events(data: bytes) -> Iterator[Event]:
    at = 0
    while at < len(data):
        kind, flags, task, inode, offset, length, *sizes = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        path, second_path, content = (
            data[at + sum(sizes[:i]) : at + sum(sizes[: i + 1])] for i in range(3)
        )
        at += sum(sizes)
        yield Event(
            kind=Kind(kind),
            flags=flags,
            task=task,
            inode=inode,
            offset=offset,
            length=length,
            path=os.fsdecode(path),
            second_path=os.fsdecode(second_path),
            data=content,
        )
