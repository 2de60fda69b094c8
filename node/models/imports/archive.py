"""A folder or a zip file as a folder to read from, with every member's path held inside it."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from node.errors import SetupError, setup_error

MOST_MEMBERS: Final = 10_000
MOST_BYTES: Final = 16 << 30
"""What a zip file may unpack to: five folds of nnU-Net's largest preset have 8 GB."""


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """Give a folder with the source's files; of a zip file, a temporary one.

    Raises:
        SetupError: The source is neither folder nor zip file, or the zip file is not one that
            can be unpacked safely; its first bad member is named and nothing is unpacked.
    """
    if source.is_dir():
        yield source
        return
    if not zipfile.is_zipfile(source):
        raise setup_error(
            "import-unknown",
            f"{source.name} is neither a folder nor a zip file nor a file with weights.",
            where=str(source),
            remedy="docs/models.md lists what can be imported.",
        )
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(source) as archive:
        folder = Path(temporary)
        members = archive.infolist()
        for member in members:
            _check(member, source)
        if len(members) > MOST_MEMBERS or sum(one.file_size for one in members) > MOST_BYTES:
            raise _unsafe(source, f"it has {len(members)} members, or unpacks to more than 16 GiB")
        for member in members:
            _unpack(archive, member, folder, source)
        yield folder


def _check(member: zipfile.ZipInfo, source: Path) -> None:
    """Refuse a member whose place would be outside the folder, or that is no plain file."""
    name = member.filename.replace("\\", "/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
        raise _unsafe(source, f"the member {member.filename!r} leads outside the archive")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _unsafe(source, f"the member {member.filename!r} is a link or a device")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, source: Path) -> None:
    target = folder / member.filename.replace("\\", "/")
    if not target.resolve().is_relative_to(folder.resolve()):
        raise _unsafe(source, f"the member {member.filename!r} leads outside the archive")
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # A member longer than it says ends in an error of zipfile, before more is written.
    with archive.open(member) as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)


def _unsafe(source: Path, what: str) -> SetupError:
    return setup_error(
        "import-archive",
        f"The zip file was refused: {what}.",
        where=str(source),
        remedy="Ask whoever made it for an archive of plain files in folders.",
    )
