"""How much memory a job will take, before it begins.

    host = slab + patches + planes + native + labels + network + 64 MB

On a GPU slab, patches, native and network are there, and the rest is the host's.

    slab     4 x outputs x patch slices x rows of a strip x columns       (window mode)
    patches  4 x batch x (channels + 2 x outputs) x patch voxels           (slices mode: of a plane)
    planes   4 x (patch slices + 4 x 8) x rows x columns; slices mode: 4 x 4 x batch x channels
    native   4 x 4 x outputs x (native + network) rows x columns          (only when resampled)
    labels   2 x native voxels
    network  1.5 x the most bytes of activations that are alive at once

The activations are counted by `activations`, one image and then times the batch; a convolution's
own workspaces are the half on top. 64 MB are what the allocator holds beyond what is in use (50 MB
measured: 166 MB for a sum of 116). The volume itself is there before and is not counted, nor is
what post-processing takes afterwards (up to 8 bytes a voxel).
"""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from node.models.card import Card
from node.models.prepare import Prepared
from node.models.scores import Work

_FLOAT: Final = 4
_WORKSPACES: Final = 1.5
_HELD: Final = 64 << 20
_AT_ONCE: Final = 4 * 8  # planes that are prepared at a time, and a copy for each step's sake


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a job takes above what is there before it.

    Attributes:
        host: In the computer's memory.
        device: On the GPU; 0 where the network runs on the CPU.
    """

    host: int
    device: int

    def __str__(self) -> str:
        device = f" and {_mb(self.device)} on the GPU" if self.device else ""
        return f"{_mb(self.host)}{device}"


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes that may be taken."""

    host: int
    device: int

    def holds(self, need: Need) -> bool:
        """Whether a job fits."""
        return need.host <= self.host and need.device <= self.device

    def __str__(self) -> str:
        device = f" and {_mb(self.device)} on the GPU" if self.device else ""
        return f"{_mb(self.host)}{device}"


def needed(
    prepared: Prepared, card: Card, work: Work, *, activations: int, on_gpu: bool = False
) -> Need:
    """Return what a job takes.

    Args:
        prepared: The volume on its way in.
        card: The model.
        work: How much is held at a time.
        activations: Of one image, from `activations.activation_bytes`.
        on_gpu: Whether the network runs on one.
    """
    slices, rows, columns = prepared.shape
    outputs, channels = card.network.outputs, card.network.channels
    patch = card.inference.patch
    batch = min(work.batch, slices) if patch is None else work.batch
    slab = 0
    if patch is None:
        planes = 4 * batch * channels * rows * columns
        voxels = rows * columns
    else:
        # A strip of native rows may need one more of the network's rows on either side.
        strip = min(rows, math.ceil(rows / work.strips) + 2 * (work.strips > 1))
        slab = _FLOAT * outputs * patch[0] * strip * columns
        planes = (patch[0] + _AT_ONCE) * rows * columns
        voxels = math.prod(patch)
    patches = _FLOAT * batch * (channels + 2 * outputs) * voxels
    network = int(_WORKSPACES * batch * activations)
    native = 0
    if not all(axis.is_shift for axis in prepared.axes):
        native = 4 * _FLOAT * outputs * (math.prod(prepared.array.shape[1:]) + rows * columns)
    host = _FLOAT * planes + 2 * prepared.array.size + _HELD
    if not on_gpu:
        return Need(host + slab + patches + native + network, 0)
    if work.on_host:
        return Need(host + slab + patches + native, patches + network)
    return Need(host, slab + patches + native + network)


def free_memory(device: torch.device) -> Free:
    """Return what this process may still take: of the machine, its group and its own limit."""
    limits = [_meminfo("MemAvailable")]
    limits += [limit for limit in (_group_rest(), _address_rest()) if limit is not None]
    on_gpu = 0
    if device.type == "cuda":
        on_gpu = int(torch.cuda.mem_get_info(device)[0])
    return Free(max(0, min(limits)), on_gpu)


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/meminfo does not tell {key}")


def _group_rest() -> int | None:
    """Return what the control group (version 2) of this process leaves, None without a limit."""
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1]
        folder = Path("/sys/fs/cgroup") / group.rpartition(":")[2].lstrip("/")
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError, IndexError):
        return None
    return None if limit == "max" else int(limit) - used


def _address_rest() -> int | None:
    """Return what this process's limit of address space leaves, None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return limit - pages * resource.getpagesize()


def _mb(size: int) -> str:
    return f"{-(-size // 10**6)} MB"
