"""What the writer and the gate read from the source files again: raw headers and digests.

Volumes carry headers that pydicom may have decoded already; here the files are opened once more,
so that copied values are the sender's bytes. Pixel data is not read.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Final

from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from node.imaging.read import open_instance
from node.imaging.values import InstanceFile

_BEHIND_IDENTITY: Final = 0x50000000
"""Reading stops here: identity lies in groups 0008 to 0040, long functional groups at 5200."""


def open_header(file: InstanceFile) -> FileDataset:
    """Read a header without pixel data or functional groups, nothing of it decoded yet."""
    with open_instance(file) as stream:
        # pydicom asks a stream on disk for its name, which a part of a file does not have.
        part = BytesIO(stream.read()) if file.offset or file.length else stream
        return read_partial(part, stop_when=_stop, force=True)


def dataset_digest(file: InstanceFile) -> str:
    """Return the SHA-256 of the bytes behind the file meta group, as the receiver computes it."""
    if file.digest:
        return file.digest
    with open_instance(file) as stream:
        data = stream.read()
    return hashlib.sha256(memoryview(data)[dataset_start(data) :]).hexdigest()


def dataset_start(data: bytes) -> int:
    """Return where the dataset begins: behind preamble and group 0002 (PS3.10 7.1)."""
    at = 132 if data[128:132] == b"DICM" else 0
    while data[at : at + 2] == b"\x02\x00":
        if data[at + 4 : at + 6] in (b"OB", b"UN", b"UT", b"OW", b"SQ", b"UR", b"UC"):
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    return at


def _stop(tag: BaseTag, vr: str | None, length: int) -> bool:
    del vr, length
    return int(tag) > _BEHIND_IDENTITY
