"""How to make received instances durable: files or a journal, and what kind of blocks.

    .venv/bin/python -m bench.landing --folder DISK_FOLDER

Writes the same bytes in several ways, from 1, 4 and 8 threads, each way durable before it counts:

- file, rename: write, fdatasync, rename, fsync of the folder, for each instance
- file, no rename: the same under its final name
- journal, allocated: one preallocated file, one fdatasync for all that wait together
- journal, zeroed: the same into blocks that were written once before and lie in the page cache
- journal, zeroed past the cache: the same into blocks that were written once with O_DIRECT
- journal, direct: the same, copied to an aligned buffer and written with O_DIRECT
- journal, direct, each its own: the same with O_DSYNC, nobody waits for another
- journal, recycled: the same into blocks that held other instances

Rounds are interleaved; the folder must lie on the disk in question, not on tmpfs.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

INSTANCE_BYTES: Final = 539_000
BLOCK: Final = 4096
SPAN: Final = -(-(INSTANCE_BYTES + 1024) // BLOCK) * BLOCK
THREADS: Final = (1, 4, 8)

Put = Callable[[int, int], None]


class Journal:
    """One preallocated file, synced for all that wait together."""

    def __init__(
        self, path: Path, instances: int, *, zeroed: bool, cached: bool = True, direct: int = 0
    ) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        size = SPAN * instances
        os.posix_fallocate(self._descriptor, 0, size)
        if zeroed:
            filling = self._descriptor if cached else os.open(path, os.O_WRONLY | os.O_DIRECT)
            zeros = mmap.mmap(-1, 1 << 20)
            for offset in range(0, size, len(zeros)):
                os.pwrite(filling, memoryview(zeros)[: size - offset], offset)
        os.fsync(self._descriptor)
        if direct:
            self._descriptor = os.open(path, os.O_RDWR | direct)
        self._alone = bool(direct & os.O_DSYNC)
        self._buffers = threading.local() if direct else None
        self._changed = threading.Condition()
        self._written = self._synced = self._end = 0
        self._syncing = False

    def rewind(self) -> None:
        """Begin again over what was written."""
        self._end = 0

    def put(self, body: bytes) -> None:
        """Append; durable when it returns."""
        with self._changed:
            offset, self._end = self._end, self._end + SPAN
        if self._buffers is None:
            os.pwrite(self._descriptor, body, offset)
        else:
            if not hasattr(self._buffers, "aligned"):
                self._buffers.aligned = memoryview(mmap.mmap(-1, SPAN))
            self._buffers.aligned[: len(body)] = body
            os.pwrite(self._descriptor, self._buffers.aligned, offset)
        if self._alone:
            return
        with self._changed:
            self._written += 1
            mine = self._written
            while self._synced < mine:
                if self._syncing:
                    self._changed.wait()
                    continue
                self._syncing = True
                covered = self._written
                self._changed.release()
                os.fdatasync(self._descriptor)
                self._changed.acquire()
                self._synced, self._syncing = covered, False
                self._changed.notify_all()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


def measured(put: Put, threads: int, count: int) -> tuple[float, float]:
    """Return instances/s and CPU ms per instance."""

    def work(number: int) -> None:
        for serial in range(count // threads):
            put(number, serial)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    cpu_s, start_s = time.process_time(), time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start_s
    done = count // threads * threads
    return done / seconds, 1000 * (time.process_time() - cpu_s) / done


def ways(
    folder: Path, count: int, body: bytes
) -> dict[str, Callable[[], tuple[Put, Callable[[], None]]]]:
    """Return by its name what prepares each way: it gives what puts, and what ends it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def file(*, rename: bool) -> tuple[Put, Callable[[], None]]:
        stem = f"{time.time_ns()}"

        def put(number: int, serial: int) -> None:
            path = folder / f"{stem}-{number}-{serial}"
            part = path.with_suffix(".part") if rename else path
            written = os.open(part, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(written, body)
            os.fdatasync(written)
            os.close(written)
            if rename:
                part.rename(path)
            os.fsync(descriptor)

        return put, lambda: None

    def journal(
        *, zeroed: bool = True, recycled: bool = False, cached: bool = True, direct: int = 0
    ) -> tuple[Put, Callable[[], None]]:
        path = folder / f"{time.time_ns()}.seg"
        made = Journal(path, count + 8, zeroed=zeroed, cached=cached, direct=direct)
        if recycled:
            for _ in range(count):
                made.put(body)
            made.rewind()
        return (lambda _number, _serial: made.put(body)), made.close

    return {
        "file, rename": lambda: file(rename=True),
        "file, no rename": lambda: file(rename=False),
        "journal, allocated": lambda: journal(zeroed=False),
        "journal, zeroed": journal,
        "journal, zeroed past the cache": lambda: journal(cached=False),
        "journal, direct": lambda: journal(cached=False, direct=os.O_DIRECT),
        "journal, direct, each its own": lambda: journal(
            cached=False, direct=os.O_DIRECT | os.O_DSYNC
        ),
        "journal, recycled": lambda: journal(recycled=True),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="landing-", dir=wanted.folder))
    body = os.urandom(INSTANCE_BYTES)
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    try:
        all_ways = ways(folder, wanted.count, body)
        for _ in range(wanted.rounds):
            for threads in THREADS:
                for name, prepare in all_ways.items():
                    put, end = prepare()
                    found[name, threads].append(measured(put, threads, wanted.count))
                    end()
    finally:
        shutil.rmtree(folder)
    print("| way | " + " | ".join(f"{n} threads: per s (CPU ms)" for n in THREADS) + " |")
    print("|---|" + "---|" * len(THREADS))
    for name in all_ways:
        cells = [
            f"{statistics.median(speed for speed, _ in found[name, n]):.0f} "
            f"({statistics.median(cpu for _, cpu in found[name, n]):.2f})"
            for n in THREADS
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
