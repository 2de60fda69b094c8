"""How much memory a job will take, before it begins.

    host = slab + patches + planes + native + made + network + 128 MB

On a GPU slab, patches, native and network are there, and the rest is the host's.

    slab     4 x outputs x patch slices x rows of a strip x columns       (window mode)
    patches  4 x (batch x (channels + 2 x outputs) + 1) x patch voxels     (slices mode: of a plane)
    planes   4 x (patch slices x channels + at once) x rows x columns
             slices mode: 4 x (3 x batch x channels + at once) x rows x columns
    native   4 x outputs x (2 x native + 5 x network) rows x columns, and once the network's rows x
             native columns; 1 x network where slices are native ones      (only when resampled)
    made     labels: 2 x native voxels
             fractions: the most of 12 x network voxels, 4 x (native + network), 9 x native
    network  1.5 x the most bytes of activations that are alive at once; of a 3D network on a CPU at
             least these and 160 bytes a voxel of the patch

`at once` is what the planes made at a time take, 8 in window mode and a batch (with its neighbours)
in slices mode: each is there twice, and so are the native planes under it where slices are
resampled. Fractions are made when the network has run, so the larger of the two counts.
With mirrored passes there is a batch more, and once more its scores.

The activations are counted by `activations`, one image and then times the batch; a convolution's
own workspaces are the half on top. Libraries lay 3D images out in blocks of at least 8 channels,
five of them at a time: that is more where a network is narrow (measured on 96^3: 230 MB with 2
channels, 250 with 8). 128 MB are what the allocator holds beyond what is in use. Its holes differ
from run to run, by 55 MB in small cases and 190 MB in large ones: the formula is no closer. The
volume itself is there before and is not counted, nor is what post-processing takes afterwards (up
to 8 bytes a voxel).
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
from node.models.scores import AT_ONCE, Work

_FLOAT: Final = 4
_WORKSPACES: Final = 1.5
_BLOCKED: Final = 5 * 8 * _FLOAT
_HELD: Final = 128 << 20
_GROUPS: Final = Path("/sys/fs/cgroup")
_OWN_GROUP: Final = Path("/proc/self/cgroup")


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
        activations: Of one image, from `activation_bytes`.
        on_gpu: Whether the network runs on one.
    """
    slices, rows, columns = prepared.shape
    outputs, channels = card.network.outputs, card.network.channels
    patch = card.inference.patch
    mirrored = int(bool(card.inference.mirrors))
    batch = min(work.batch, slices) if patch is None else work.batch
    slab = 0
    if patch is None:
        planes = 3 * batch * channels + _made_at_once(
            prepared, batch + 2 * card.inference.neighbours
        )
        voxels = rows * columns
    else:
        # A strip of native rows may need one more of the network's rows on either side.
        strip = min(rows, math.ceil(rows / work.strips) + 2 * (work.strips > 1))
        slab = _FLOAT * outputs * patch[0] * strip * columns
        planes = patch[0] * channels + _made_at_once(prepared, min(AT_ONCE, patch[0]))
        voxels = math.prod(patch)
    images = (1 + mirrored) * channels + (2 + mirrored) * outputs
    patches = _FLOAT * (batch * images + 1) * voxels
    is_deep = patch is not None and patch[0] > 1
    blocked = _BLOCKED * voxels if is_deep and not on_gpu else 0
    network = batch * max(int(_WORKSPACES * activations), activations + blocked)
    native = 0
    if card.head.kind != "occupancy":
        native = _FLOAT * outputs * _on_the_way_back(prepared)
    before = _FLOAT * planes * rows * columns
    there = slab + patches + native + network
    if not on_gpu:
        return Need(_with_made(prepared, card, before + there), 0)
    if work.on_host:
        return Need(_with_made(prepared, card, before + there), patches + network)
    return Need(_with_made(prepared, card, before), there)


def _on_the_way_back(prepared: Prepared) -> int:
    """Return the voxels of planes of one output that are mixed and brought to native ones."""
    slices, *others = prepared.axes
    if all(axis.is_shift for axis in prepared.axes):
        return 0
    _, rows, columns = prepared.shape
    _, native_rows, native_columns = prepared.array.shape
    # Mixing two planes holds three, what comes of them and what came before.
    mixed = 1 if slices.is_shift else 5
    turned = 0 if all(axis.is_shift for axis in others) else 2 * native_rows + rows
    voxels: int = mixed * rows * columns + turned * native_columns
    return voxels


def _made_at_once(prepared: Prepared, count: int) -> int:
    """Return how many of the network's planes it takes to make `count` of them."""
    slices = prepared.axes[0]
    if prepared.whole is not None or slices.is_shift:
        return 2 * count
    return 2 * (math.ceil(count * max(1.0, slices.ratio)) + 1 + count)


def _with_made(prepared: Prepared, card: Card, running: int) -> int:
    """Return the host's bytes: what runs the network, and what is made of its scores."""
    native, network = prepared.array.size, math.prod(prepared.shape)
    if card.head.kind != "occupancy":
        return running + 2 * native + _HELD
    after = max(12 * network, _FLOAT * (native + network), 9 * native)
    return max(running + _FLOAT * network, after) + _HELD


def free_memory(device: torch.device) -> Free:
    """Return what this process may still take: of the machine, its group and its own limit."""
    limits = [_meminfo("MemAvailable")]
    limits += [limit for limit in (group_rest(), _address_rest()) if limit is not None]
    on_gpu = 0
    if device.type == "cuda":
        on_gpu = int(torch.cuda.mem_get_info(device)[0])
    return Free(max(0, min(limits)), on_gpu)


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/meminfo does not tell {key}")


def group_rest(mounted: Path = _GROUPS, of: Path = _OWN_GROUP) -> int | None:
    """Return what the control groups (version 2) of this process leave, None without a limit.

    A limit of a group holds for all groups below it. Files that the kernel has kept a copy of
    count as used there and are given up for whoever needs the memory, so they are free.
    """
    try:
        name = of.read_text(encoding="ascii").splitlines()[-1].split(":", 2)[2]
    except (OSError, IndexError):
        return None
    own = mounted / name.lstrip("/")
    groups = [group for group in (own, *own.parents) if group.is_relative_to(mounted)]
    rests = [_rest_of_one(group) for group in groups]
    return min((rest for rest in rests if rest is not None), default=None)


def _rest_of_one(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        kept = dict(line.split() for line in lines)
        return None if limit == "max" else int(limit) - used + int(kept["inactive_file"])
    except (OSError, ValueError, KeyError):
        return None


def _address_rest() -> int | None:
    """Return what this process's limit of address space leaves, None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return limit - pages * resource.getpagesize()


def _mb(size: int) -> str:
    return f"{-(-size // 10**6)} MB"
