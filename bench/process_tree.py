"""What a process and everything it started costs: CPU, memory, wake-ups; read from /proc.

CPU time comes from each process's own clock in nanoseconds (clock_getcpuclockid(3)), that of
children which have ended and were waited for from `cutime` and `cstime` in ticks of 10 ms.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICK_MS: Final = 1000 / os.sysconf("SC_CLK_TCK")
_STAT_PPID: Final = 1  # counted from behind the command's name, proc(5)
_STAT_CUTIME: Final = 13
_STAT_CSTIME: Final = 14
_FORGET_PEAK: Final = "5"
"""Written to clear_refs, it sets VmHWM back to VmRSS (proc(5))."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of a tree in MB: of its largest process, and of all together."""

    largest_mb: float
    sum_mb: float
    processes: int


def tree(root: int) -> list[int]:
    """Return the process ids of `root` and of all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[_STAT_PPID]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_ms(root: int) -> float:
    """Return the CPU time that the tree has taken since its start, user and kernel together."""
    total = 0.0
    for pid in tree(root):
        fields = _stat(pid)
        if fields:
            total += (int(fields[_STAT_CUTIME]) + int(fields[_STAT_CSTIME])) * _TICK_MS
            total += _own_cpu_ms(pid)
    return total


def forget_peak(root: int) -> None:
    """Let the peak of each process's memory begin again."""
    for pid in tree(root):
        try:
            (_PROC / str(pid) / "clear_refs").write_text(_FORGET_PEAK)
        except OSError:
            continue


def peak_memory(root: int) -> Memory:
    """Return the peaks since `forget_peak`; their sum is more than was ever held at one time."""
    return _memory(root, "VmHWM")


def memory(root: int) -> Memory:
    """Return what is resident now."""
    return _memory(root, "VmRSS")


def wake_ups(root: int) -> int:
    """Return how often threads of the tree that still run gave up the CPU to wait."""
    total = 0
    for pid in tree(root):
        for status in (_PROC / str(pid) / "task").glob("*/status"):
            total += _status_value(status, "voluntary_ctxt_switches")
    return total


def threads(root: int) -> int:
    """Return the number of threads in the tree."""
    return sum(_status_value(_PROC / str(pid) / "status", "Threads") for pid in tree(root))


def _memory(root: int, key: str) -> Memory:
    sizes = [_status_value(_PROC / str(pid) / "status", key) / 1024 for pid in tree(root)]
    sizes = [size for size in sizes if size]  # a process that has ended holds nothing
    return Memory(max(sizes, default=0.0), sum(sizes), len(sizes))


def _own_cpu_ms(pid: int) -> float:
    clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of a whole process, linux/posix-timers_types.h
    try:
        return time.clock_gettime_ns(clock) / 1e6
    except OSError:
        return 0.0


def _stat(pid: int) -> list[str]:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _status_value(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)
