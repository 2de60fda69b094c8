"""Run the network over a prepared volume: scores plane by plane, in order, in bounded memory.

`slices` gives each plane (with its neighbours) to a 2D network. `window` moves a 3D patch over
the grid; patches overlap and are weighted by a Gaussian, and only the slab that a row of patches
touches is kept. Planes leave the slab as soon as no further patch reaches them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from time import perf_counter
from typing import Final

import numpy as np
import torch
from torch import Tensor

from node.models.loaded import LoadedModel
from node.models.prepare import Prepared, plane_inputs, slab_inputs

_SIGMA: Final = 0.125  # of the patch's side, as nnU-Net and MONAI
_FLOOR: Final = 0.03
"""Smallest weight per axis; without it a corner that one patch alone covers counts as nothing."""


class Meter:
    """Adds up wall seconds by step and tells how far the network is."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        self.seconds: dict[str, float] = {}
        self.report = progress

    def add(self, step: str, since: float) -> None:
        """Add the time from `since` (perf_counter) until now to `step`."""
        self.seconds[step] = self.seconds.get(step, 0.0) + perf_counter() - since


def score_planes(prepared: Prepared, model: LoadedModel, meter: Meter) -> Iterator[Tensor]:
    """Yield float32 scores (outputs, rows, columns) for each plane of the network's grid."""
    if model.card.inference.mode == "slices":
        return _by_slices(prepared, model, meter)
    return _by_window(prepared, model, meter)


def _by_slices(prepared: Prepared, model: LoadedModel, meter: Meter) -> Iterator[Tensor]:
    beside = model.card.inference.neighbours
    count = prepared.shape[0]
    for first in range(0, count, model.card.inference.batch):
        last = min(first + model.card.inference.batch, count)
        since = perf_counter()
        batch = plane_inputs(prepared, first, last, beside)
        meter.add("prepare", since)
        yield from _timed(model, batch, meter)  # (outputs, rows, columns) each
        meter.report(last / count)


def _by_window(prepared: Prepared, model: LoadedModel, meter: Meter) -> Iterator[Tensor]:
    inference = model.card.inference
    if inference.patch is None:
        raise AssertionError("a card with mode window has a patch")
    patch = inference.patch
    starts = [
        tile_starts(size, side, inference.overlap)
        for size, side in zip(prepared.shape, patch, strict=True)
    ]
    profiles = [_profile(side, inference.blending) for side in patch]
    weight = (profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]).to(model.device)
    plane_sum = torch.outer(
        *(_summed(starts[i], profiles[i], prepared.shape[i]) for i in (1, 2))
    ).to(model.device)  # (rows, columns)
    depth_sum = _summed(starts[0], profiles[0], prepared.shape[0])
    places = list(product(starts[1], starts[2]))
    slab = torch.zeros((model.card.network.outputs, patch[0], *prepared.shape[1:])).to(model.device)
    for row, (start, following) in enumerate(pairwise([*starts[0], prepared.shape[0]])):
        since = perf_counter()
        planes = slab_inputs(prepared, start, start + patch[0])  # (channels, d, rows, columns)
        meter.add("prepare", since)
        for first in range(0, len(places), inference.batch):
            some = places[first : first + inference.batch]
            boxes = [(slice(y, y + patch[1]), slice(x, x + patch[2])) for y, x in some]
            batch = torch.stack([planes[:, :, ys, xs] for ys, xs in boxes])
            for (ys, xs), scores in zip(boxes, _timed(model, batch, meter), strict=True):
                slab[:, :, ys, xs].addcmul_(scores, weight)
        done = following - start
        for depth in range(done):
            yield slab[:, depth] / (plane_sum * depth_sum[start + depth])
        rest = patch[0] - done
        slab[:, :rest] = slab[:, done:].clone()
        slab[:, rest:] = 0.0
        meter.report((row + 1) / len(starts[0]))


def _timed(model: LoadedModel, batch: Tensor, meter: Meter) -> Sequence[Tensor]:
    since = perf_counter()
    scores = model.scores(batch)
    if scores.device.type == "cuda":
        torch.cuda.synchronize(scores.device)
    meter.add("network", since)
    return scores.unbind(0)


def tile_starts(size: int, side: int, overlap: float) -> list[int]:
    """Return where patches of `side` begin, evenly spread over `size`, ends covered.

    Neighbours overlap by at least the share `overlap`.
    """
    if size <= side:
        return [0]
    count = math.ceil((size - side) / max(1.0, side * (1.0 - overlap))) + 1
    return [round(start) for start in np.linspace(0, size - side, count)]


def _profile(side: int, blending: str) -> Tensor:
    """Return the weights of a patch along one axis: a Gaussian around its middle.

    nnU-Net's lies around the voxel `side // 2`, half a voxel off in patches of even sides, and
    has no floor; labels follow it in one voxel of some hundred at the rim of what was found.
    """
    nnunet = blending == "nnunet"
    middle = side // 2 if nnunet else (side - 1) / 2
    distance = torch.arange(side, dtype=torch.float64) - middle
    gauss = torch.exp(-0.5 * (distance / (_SIGMA * side)) ** 2)
    return gauss.float() if nnunet else gauss.clamp_min(_FLOOR).float()


def _summed(starts: Sequence[int], profile: Tensor, size: int) -> Tensor:
    """Return the sum of all patches' weights along one axis."""
    total = torch.zeros(size)
    for start in starts:
        total[start : start + profile.numel()] += profile
    return total
