"""Decode compressed frames in child processes that may crash, hang or eat memory alone.

Each child is limited in address space and CPU time and gets a wall limit per frame; one that
crashes or runs over is killed and replaced. Frames come back through shared memory. Decoding is
parallel across frames and never inside one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.imaging.decode_child import ANSWER, REQUEST
from node.imaging.syntaxes import Codec

WALL_LIMIT_S: Final = 10.0
"""Longest wait for one frame; the slowest valid one seen (J2K, 512 x 512) takes 0.03 s."""

CPU_LIMIT_S: Final = 8
"""CPU seconds for one frame, enforced by the kernel even if this process is gone."""

START_LIMIT_S: Final = 60.0
"""Longest wait for a child to load its decoders on a busy machine."""

MEMORY_LIMIT_BYTES: Final = 2 << 30
"""Address space of a child; a header may promise more than any frame needs."""

FRAMES_PER_CHILD: Final = 8
"""Fewer frames than this are not worth another child (0.2 s to start)."""


@dataclass(frozen=True, slots=True)
class FrameTask:
    """One compressed frame that passed the stream checks."""

    codec: Codec
    data: bytes
    rows: int
    columns: int
    cell_bytes: int
    samples: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns, and the samples of a pixel where there are several."""
        plane = (self.rows, self.columns)
        return plane if self.samples == 1 else (*plane, self.samples)


@dataclass(frozen=True, slots=True)
class DecodeFailure:
    """The frame that could not be decoded, and why."""

    index: int
    explanation: str


class _Child:
    """One decoding process with our end of its socket."""

    def __init__(self, memory_limit_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        program = Path(__file__).with_name("decode_child.py")
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    str(program),
                    str(theirs.fileno()),
                    str(memory_limit_bytes),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self.socket = ours
        self.task = -1
        self.deadline = 0.0

    def wait_until_ready(self, wall_s: float) -> None:
        """Wait for the child to load; one that cannot start shows at its first frame."""
        self.socket.settimeout(START_LIMIT_S)
        with suppress(OSError):
            self.answer()
        self.socket.settimeout(wall_s)

    def give_memory(self, descriptor: int) -> None:
        """Hand over where cells are to be written."""
        head = REQUEST.pack(b"memory", 0, 0, 0, 0, 0, 0, 0)
        socket.send_fds(self.socket, [head], [descriptor])

    def give(self, index: int, task: FrameTask, offset: int, cpu_s: int) -> None:
        """Hand over one frame."""
        self.task = index
        head = REQUEST.pack(
            task.codec.encode(),
            len(task.data),
            offset,
            task.rows,
            task.columns,
            task.samples,
            task.cell_bytes,
            cpu_s,
        )
        self.socket.sendall(head + task.data)

    def answer(self) -> str | None:
        """Return None if the frame was decoded, else why not; OSError if the child is gone."""
        decoded, length = ANSWER.unpack(self._receive(ANSWER.size))
        text = self._receive(length).decode("utf-8", "replace")
        return None if decoded else text

    def _receive(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self.socket.recv(count - len(parts))
            if not part:
                raise ConnectionResetError
            parts += part
        return bytes(parts)

    def end(self) -> str:
        """Kill the process and return how it ended."""
        self.socket.close()
        if self._process.poll() is None:
            self._process.kill()
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class FrameDecoder:
    """A pool of decoding children; they start when first needed and live until `close`.

    Args:
        children: Most processes at a time; by default as many as this process may use CPUs.
        wall_s: Longest wait for one frame.
        cpu_s: CPU seconds for one frame.
        memory_limit_bytes: Address space of a child.
    """

    def __init__(
        self,
        *,
        children: int = 0,
        wall_s: float = WALL_LIMIT_S,
        cpu_s: int = CPU_LIMIT_S,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    ) -> None:
        self._most = children or len(os.sched_getaffinity(0))
        self._wall_s, self._cpu_s = wall_s, cpu_s
        self._memory_limit_bytes = memory_limit_bytes
        self._children: list[_Child] = []

    def __enter__(self) -> FrameDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every child."""
        for child in self._children:
            child.end()
        self._children = []

    def decode(self, tasks: Sequence[FrameTask]) -> NDArray[Any] | DecodeFailure:
        """Decode frames of one shape and cell size.

        Returns:
            Unsigned cells, shape (frames, rows, columns), with the samples of a pixel as a fourth
            axis where there are several, or the frame that failed first.
        """
        first = tasks[0]
        frame_bytes = first.rows * first.columns * first.samples * first.cell_bytes
        descriptor = os.memfd_create("limner-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, frame_bytes * len(tasks))
            _seal_size(descriptor)
            failure = self._run(tasks, descriptor, frame_bytes)
            if failure is not None:
                self._abandon()
                return failure
            # The mapping keeps the memory alive behind the closed descriptor.
            memory = mmap.mmap(descriptor, frame_bytes * len(tasks))
        finally:
            os.close(descriptor)
        cells = np.frombuffer(memory, dtype=f"<u{first.cell_bytes}")
        return cells.reshape(len(tasks), *first.shape)

    def _run(
        self, tasks: Sequence[FrameTask], descriptor: int, frame_bytes: int
    ) -> DecodeFailure | None:
        waiting = deque(range(len(tasks)))
        wanted = min(self._most, -(-len(tasks) // FRAMES_PER_CHILD))
        with selectors.DefaultSelector() as selector:
            self._start(wanted)
            for child in self._children[:wanted]:
                try:
                    child.give_memory(descriptor)
                except OSError:
                    return self._lost(child, 0)
                selector.register(child.socket, selectors.EVENT_READ, child)
                if waiting and not self._next(child, tasks, waiting, frame_bytes):
                    return self._lost(child, child.task)
            while busy := [child for child in self._children if child.task >= 0]:
                until = min(child.deadline for child in busy)
                events = selector.select(max(0.0, until - time.monotonic()))
                late = [child for child in busy if child.deadline <= time.monotonic()]
                if not events and late:
                    return self._lost(late[0], late[0].task)
                for child in [key.data for key, _ in events]:
                    failure = self._hear(child, selector)
                    if failure is not None:
                        return failure
                    free = waiting and child in self._children
                    if free and not self._next(child, tasks, waiting, frame_bytes):
                        return self._lost(child, child.task)
        return DecodeFailure(waiting[0], "no decoding process is left") if waiting else None

    def _hear(self, child: _Child, selector: selectors.BaseSelector) -> DecodeFailure | None:
        """Take a child's answer; return what failed, None if nothing did."""
        try:
            trouble = child.answer()
        except OSError:
            selector.unregister(child.socket)
            index = child.task
            failure = self._lost(child, index)
            return failure if index >= 0 else None  # one that dies idle takes nothing with it
        index, child.task = child.task, -1
        return None if trouble is None else DecodeFailure(index, f"the decoder says {trouble}")

    def _next(
        self, child: _Child, tasks: Sequence[FrameTask], waiting: deque[int], frame_bytes: int
    ) -> bool:
        """Give a child its next frame; return whether it took it."""
        index = waiting.popleft()
        child.deadline = time.monotonic() + self._wall_s
        try:
            child.give(index, tasks[index], index * frame_bytes, self._cpu_s)
        except OSError:
            return False
        return True

    def _start(self, wanted: int) -> None:
        """Start the children that are missing and wait until each is ready."""
        started = [_Child(self._memory_limit_bytes) for _ in range(len(self._children), wanted)]
        self._children += started
        for child in started:
            child.wait_until_ready(self._wall_s)

    def _lost(self, child: _Child, index: int) -> DecodeFailure:
        """Take a dead or late child out, and say what became of it."""
        late = child.task >= 0 and child.deadline <= time.monotonic()
        self._children.remove(child)
        ending = child.end()
        what = f"took longer than {self._wall_s:g} s" if late else f"ended with {ending}"
        return DecodeFailure(index, f"the decoding process {what}")

    def _abandon(self) -> None:
        """End children that still work on frames nobody wants any more."""
        for child in [child for child in self._children if child.task >= 0]:
            self._children.remove(child)
            child.end()


def _seal_size(descriptor: int) -> None:
    """Forbid resizing: a child that shrank the memory would kill whoever reads it."""
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
