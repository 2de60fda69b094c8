"""How many bytes of activations a network holds, from two small images through it.

What an operation makes either grows with the image's voxels or does not grow at all. So each
storage's size follows from its sizes with two small images, and the most that are alive at once,
from which of them are alive together. Tensors without memory (torch's `meta`) would tell the same
in one pass, but torch imports sympy for them: 68 MB and two seconds at the first job of a process.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LONGER = (2, 3)
"""How many times what a side must be a multiple of the last side of a small image is: at the
lowest level of a network that leaves two and three voxels, where normalising one is an error."""


def activation_bytes(network: nn.Module, shape: tuple[int, ...], multiples: tuple[int, ...]) -> int:
    """Return the most bytes that are alive at once while one image passes, both ends included.

    Args:
        network: Any network, in evaluation mode.
        shape: Of the image, (1, channels, [slices,] rows, columns).
        multiples: What its last sides must be multiples of.
    """
    (small, moments), (large, _) = (
        _seen(network, (*_least(shape, multiples), times * multiples[-1])) for times in _LONGER
    )
    least = math.prod((*_least(shape, multiples), multiples[-1]))
    grown = math.prod(shape) / least - _LONGER[0]
    sizes = [one + grown * (two - one) for one, two in zip(small, large, strict=True)]
    return round(max(sum(sizes[number] for number in moment) for moment in moments))


def _least(shape: tuple[int, ...], multiples: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the smallest image without its last side; a slice stays a slice."""
    free = len(shape) - 2 - len(multiples)
    return (*shape[: 2 + free], *multiples[:-1])


def _seen(network: nn.Module, shape: tuple[int, ...]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the bytes of each storage in the order they were made, and which lived together."""
    where = next(network.parameters(), torch.empty(0)).device
    counted = _Alive()
    with torch.no_grad(), counted:
        network(torch.zeros(shape, device=where))
    return counted.sizes, counted.moments


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types it in part
    """Notes the storages that operations made and nobody has let go of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.moments: list[tuple[int, ...]] = []
        self._alive: dict[StorageWeakRef, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler, and sympy with it, for the sake of this class."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # the types are torch's
        made = func(*args, **(kwargs or {}))
        self._alive = {
            ref: number
            for ref, number in self._alive.items()
            if not ref.expired()  # type: ignore[no-untyped-call]
        }
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                ref = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                if ref not in self._alive:
                    self._alive[ref] = len(self.sizes)
                    self.sizes.append(storage.nbytes())
        self.moments.append(tuple(self._alive.values()))
        return made
