"""What a crash may leave of a recorded session: a strict reading of POSIX, nothing kinder.

Bytes of a file are durable up to its last completed sync, and only what was written before that
sync began. A name is durable up to the last completed sync of its folder, a folder's own name only
by the sync of its parent. Of all that is not durable, anything may be there or not: each page of
4 KiB may be as it was at any of its writes since the last sync (so a large write may be torn), each
name may be there or not, a file may have grown without its bytes.

File systems promise more (ext4 writes the name of a new file with its first sync). A node that
keeps its promise here keeps it on all of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from .recording import DURABLE, KEEP_SIZE, ZEROED, Event, Kind

PAGE: Final = 4096


class Luck(StrEnum):
    """What a crash leaves of that which is not durable."""

    NONE = "none"  # nothing of it
    ALL = "all"  # all of it, as after a kill
    SOME = "some"  # any part of it


@dataclass(frozen=True, slots=True)
class _Change:
    """One change to a file that waits for a sync: a piece of one page, or a new size.

    `page` is -1 for a change of size alone; `data` of None is a page of zeros.
    """

    position: int
    page: int = -1
    start: int = 0
    data: bytes | None = None
    size: int = -1  # the least size that the file has with it; of a truncation the size
    truncates: bool = False


@dataclass(slots=True)
class _File:
    """A file's durable pages and size, and the changes that wait for a sync."""

    pages: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    waiting: list[_Change] = field(default_factory=list)

    def settle(self, position: int) -> None:
        """Make all changes before `position` durable."""
        done = [change for change in self.waiting if change.position < position]
        del self.waiting[: len(done)]
        for change in done:
            self._apply(change)

    def settle_page(self, page: int) -> None:
        """Make all changes of one page durable."""
        for change in self.waiting:
            if change.page == page:
                self._apply(change)
        self.waiting = [change for change in self.waiting if change.page != page]

    def crashed(self, luck: Luck, rng: random.Random) -> _File:
        """Return the file as a crash now may leave it."""
        left = _File(dict(self.pages), self.size)
        if luck is Luck.NONE:
            return left
        changes = self.waiting if luck is Luck.ALL else _some(self.waiting, rng)
        for change in changes:
            left._apply(change)
        return left

    def _apply(self, change: _Change) -> None:
        if change.truncates:
            self.size = change.size
            last, cut = divmod(change.size, PAGE)
            self.pages = {number: page for number, page in self.pages.items() if number <= last}
            if last in self.pages:
                self.pages[last] = self.pages[last][:cut].ljust(PAGE, b"\0")
            return
        self.size = max(self.size, change.size)
        if change.page >= 0 and change.data is None:
            self.pages.pop(change.page, None)
        elif change.data is not None:
            old = self.pages.get(change.page, bytes(PAGE))
            end = change.start + len(change.data)
            self.pages[change.page] = old[: change.start] + change.data + old[end:]


def _some(waiting: list[_Change], rng: random.Random) -> Iterator[_Change]:
    """Yield a random part: of each page its first writes up to some moment, sizes by chance."""
    until: dict[int, int] = {}
    by_page: dict[int, list[int]] = {}
    for change in waiting:
        by_page.setdefault(change.page, []).append(change.position)
    share = rng.random()  # some crashes leave nearly all, some nearly nothing
    for page, positions in by_page.items():
        until[page] = rng.choice(positions) if rng.random() < share else -1
    for change in waiting:
        if change.page < 0:
            if rng.random() < share:
                yield change
        elif change.position <= until[change.page]:
            yield change


@dataclass(slots=True)
class _Folder:
    """A folder's durable names, its names now, and the changes that wait for a sync."""

    durable: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    waiting: list[tuple[int, dict[str, int | None]]] = field(default_factory=list)

    def change(self, position: int, names: dict[str, int | None]) -> None:
        """Change names together; None removes one."""
        _rename(self.now, names)
        self.waiting.append((position, names))

    def settle(self, position: int) -> None:
        while self.waiting and self.waiting[0][0] < position:
            _rename(self.durable, self.waiting.pop(0)[1])

    def crashed(self, luck: Luck, rng: random.Random) -> dict[str, int]:
        if luck is Luck.ALL:
            return dict(self.now)
        left = dict(self.durable)
        for _, names in self.waiting:
            if luck is Luck.SOME and rng.random() < 0.5:
                _rename(left, names)
        return left


def _rename(names: dict[str, int], changes: dict[str, int | None]) -> None:
    for name, key in changes.items():
        if key is None:
            names.pop(name, None)
        else:
            names[name] = key


class Replay:
    """A tree of files to which recorded events happen, and which can crash at any of them."""

    def __init__(self, root: Path) -> None:
        """Begin with what lies under `root` now; all of it counts as durable."""
        self._root = root.resolve()
        self._position = 0
        self._nodes: list[_File | _Folder] = []
        self._by_inode: dict[int, int] = {}
        self._begun: dict[tuple[int, int], int] = {}
        self._read_folder(self._root)

    def apply(self, event: Event) -> None:
        """Let one event happen."""
        self._position += 1
        match event.kind:
            case Kind.OPENED:
                self._opened(event)
            case Kind.WRITTEN:
                self._written(event)
            case Kind.TRUNCATED | Kind.ALLOCATED:
                self._resized(event)
            case Kind.SYNC_BEGUN:
                self._begun[event.task, event.inode] = self._position
            case Kind.SYNCED:
                began = self._begun.pop((event.task, event.inode))
                self._nodes[self._by_inode[event.inode]].settle(began)
            case Kind.RENAMED | Kind.LINKED:
                self._renamed(event)
            case Kind.REMOVED:
                folder, name = self._find_folder(event.path)
                folder.change(self._position, {name: None})
            case Kind.FOLDER_MADE:
                self._new(event, _Folder())
            case Kind.SENT:
                pass  # says something, changes nothing

    def leave(self, target: Path, luck: Luck, rng: random.Random) -> None:
        """Write into the empty folder `target` what a crash now may leave."""
        self._leave_folder(0, target, luck, rng)

    def _leave_folder(self, key: int, target: Path, luck: Luck, rng: random.Random) -> None:
        folder = self._nodes[key]
        assert isinstance(folder, _Folder)
        for name, child in folder.crashed(luck, rng).items():
            node = self._nodes[child]
            if isinstance(node, _Folder):
                (target / name).mkdir()
                self._leave_folder(child, target / name, luck, rng)
            else:
                _write(target / name, node.crashed(luck, rng))

    def _read_folder(self, path: Path) -> int:
        folder = _Folder()
        key = self._add(path.stat().st_ino, folder)
        for child in sorted(path.iterdir()):
            if child.is_dir():
                folder.durable[child.name] = self._read_folder(child)
            else:
                file = _File(size=child.stat().st_size)
                data = child.read_bytes()
                for at in range(0, len(data), PAGE):
                    file.pages[at // PAGE] = data[at : at + PAGE].ljust(PAGE, b"\0")
                folder.durable[child.name] = self._add(child.stat().st_ino, file)
        folder.now = dict(folder.durable)
        return key

    def _add(self, inode: int, node: _File | _Folder) -> int:
        self._nodes.append(node)
        self._by_inode[inode] = len(self._nodes) - 1
        return len(self._nodes) - 1

    def _find_folder(self, path: str) -> tuple[_Folder, str]:
        """Return the folder that holds `path` now, and the last part of its name."""
        parts = Path(path).relative_to(self._root).parts
        folder = self._nodes[0]
        for part in parts[:-1]:
            assert isinstance(folder, _Folder)
            folder = self._nodes[folder.now[part]]
        assert isinstance(folder, _Folder)
        return folder, parts[-1]

    def _new(self, event: Event, node: _File | _Folder) -> None:
        folder, name = self._find_folder(event.path)
        folder.change(self._position, {name: self._add(event.inode, node)})

    def _opened(self, event: Event) -> None:
        folder, name = self._find_folder(event.path)
        if name not in folder.now:
            self._new(event, _File())
        assert self._by_inode[event.inode] == folder.now[name], f"{event.path}: changed unseen"

    def _renamed(self, event: Event) -> None:
        folder, name = self._find_folder(event.path)
        second_folder, second_name = self._find_folder(event.second_path)
        added: dict[str, int | None] = {second_name: folder.now[name]}
        removed: dict[str, int | None] = {name: None} if event.kind is Kind.RENAMED else {}
        if folder is second_folder:
            folder.change(self._position, removed | added)
        else:
            second_folder.change(self._position, added)
            folder.change(self._position, removed)

    def _file(self, event: Event) -> _File:
        file = self._nodes[self._by_inode[event.inode]]
        assert isinstance(file, _File)
        return file

    def _written(self, event: Event) -> None:
        file = self._file(event)
        for page, start, data in _by_page(event):
            end = page * PAGE + start + (PAGE if data is None else len(data))
            file.waiting.append(_Change(self._position, page, start, data, size=end))
            if event.flags & DURABLE:
                file.settle_page(page)

    def _resized(self, event: Event) -> None:
        waiting = self._file(event).waiting
        if event.kind is Kind.TRUNCATED:
            waiting.append(_Change(self._position, size=event.length, truncates=True))
            return
        if event.flags & ZEROED:
            assert event.offset % PAGE == event.length % PAGE == 0
            for page in range(event.offset // PAGE, (event.offset + event.length) // PAGE):
                waiting.append(_Change(self._position, page))
        if not event.flags & KEEP_SIZE:
            waiting.append(_Change(self._position, size=event.offset + event.length))


def _by_page(event: Event) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield page, first byte in it and data of what was written; no data for a page of zeros."""
    at = 0
    while at < event.length:
        page, start = divmod(event.offset + at, PAGE)
        count = min(PAGE - start, event.length - at)
        if not event.flags & ZEROED:
            yield page, start, event.data[at : at + count]
        else:
            yield page, start, None if count == PAGE else bytes(count)
        at += count


def _write(path: Path, file: _File) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(descriptor, file.size)
        for number, page in file.pages.items():
            at = number * PAGE
            if at < file.size:
                os.pwrite(descriptor, page[: file.size - at], at)
    finally:
        os.close(descriptor)
