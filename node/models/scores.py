"""Run the network over a prepared volume: scores in order of planes, in bounded memory.

`slices` gives each plane (with its neighbours) to a 2D network. `window` moves a 3D patch over
the grid, along slices slowest; patches overlap and are weighted, and only the slab that a row of
patches touches is kept, as a ring: planes that no further patch reaches are handed on, zeroed and
used again, and nothing is moved. Scores leave as they were added up: times the sum of the weights
at their voxel, which `tiles` knows as a product of three numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from node.models.prepare import Prepared, plane_inputs
from node.models.tiles import Line, Tiles, lay_tiles

if TYPE_CHECKING:
    from node.models.loaded import LoadedModel

AT_ONCE: Final = 8
"""Planes that are prepared at a time: each step makes a copy of them, and 96 at a time took
90 MB more at 256 x 256."""


class Meter:
    """Adds up wall seconds by step and tells how far the network is."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        self.seconds: dict[str, float] = {}
        self.report = progress

    def add(self, step: str, since: float) -> None:
        """Add the time from `since` (perf_counter) until now to `step`."""
        self.seconds[step] = self.seconds.get(step, 0.0) + perf_counter() - since


@dataclass(frozen=True, slots=True)
class Work:
    """How much is held at a time; never what a voxel is given.

    Attributes:
        batch: Planes or patches per call of the network.
        strips: Runs of rows that are worked on one after the other, window mode.
        on_host: Scores are added up in the computer's memory, whatever the network runs on.
    """

    batch: int
    strips: int = 1
    on_host: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Planes that are finished.

    Attributes:
        first: Their first plane's index.
        scores: float32 (outputs, planes, rows, columns). The memory is used again as soon as the
            next block is asked for.
    """

    first: int
    scores: Tensor


def score_planes(
    prepared: Prepared, model: LoadedModel, meter: Meter, work: Work | None = None
) -> Iterator[Tensor]:
    """Yield float32 scores (outputs, rows, columns) for each plane of the network's grid.

    These are the network's own scores, blended and divided by the sum of their weights, in memory
    of their own. Labels are made from `score_blocks`, which saves the division and the copy.

    Args:
        prepared: What the network sees.
        model: The network.
        meter: Told the seconds and the share that is done.
        work: How much is held at a time; None takes the card's own batch.
    """
    sums = sums_of(prepared, model)
    plane_sum = None if sums is None else torch.from_numpy(np.outer(sums[1], sums[2]))
    rows = slice(0, prepared.shape[1])
    for block in score_blocks(
        prepared, model, meter, rows=rows, work=work or Work(model.card.inference.batch)
    ):
        for depth in range(block.scores.shape[1]):
            plane = block.scores[:, depth]
            if sums is None or plane_sum is None:
                yield plane.clone()
            else:
                over = plane_sum.to(plane.device) * float(sums[0][block.first + depth])
                yield plane / over


def sums_of(prepared: Prepared, model: LoadedModel) -> tuple[Line, Line, Line] | None:
    """Return per axis what scores are times of; None where they are the network's own."""
    if model.card.inference.mode == "slices":
        return None
    return lay_tiles(prepared.shape, model.card.inference).sums


def score_blocks(
    prepared: Prepared, model: LoadedModel, meter: Meter, *, rows: slice, work: Work
) -> Iterator[Block]:
    """Yield the finished planes of `rows`, in order, times `sums_of`.

    Args:
        prepared: What the network sees.
        model: The network.
        meter: Told the seconds and the share that is done.
        rows: Rows of the network's grid that are wanted; all of them in slices mode.
        work: How much is held at a time.
    """
    if model.card.inference.mode == "slices":
        return _by_slices(prepared, model, meter, work)
    return _by_window(prepared, model, meter, rows, work)


def _by_slices(prepared: Prepared, model: LoadedModel, meter: Meter, work: Work) -> Iterator[Block]:
    beside = model.card.inference.neighbours
    count = prepared.shape[0]
    for first in range(0, count, work.batch):
        last = min(first + work.batch, count)
        since = perf_counter()
        batch = plane_inputs(prepared, first, last, beside)
        meter.add("prepare", since)
        yield Block(first, _timed(model, batch, meter).transpose(0, 1))
        meter.report(last / count)


def _by_window(
    prepared: Prepared, model: LoadedModel, meter: Meter, rows: slice, work: Work
) -> Iterator[Block]:
    tiles = lay_tiles(prepared.shape, model.card.inference)
    depth, height, width = tiles.patch
    device = torch.device("cpu") if work.on_host else model.device
    slab = _Slab(tiles, rows, (model.card.network.outputs, prepared.shape[2]), device)
    series = [_RollingPlanes(each, depth) for each in (prepared, *prepared.others)]
    places = list(product(tiles.rows_of(rows), tiles.starts[2]))
    inputs = torch.empty((min(work.batch, len(places)), len(series), *tiles.patch))
    starts = tiles.starts[0]
    for row, (start, following) in enumerate(pairwise([*starts, prepared.shape[0]])):
        since = perf_counter()
        seen = [each.at(start) for each in series]  # (depth, rows, columns) each
        meter.add("prepare", since)
        for first in range(0, len(places), work.batch):
            some = places[first : first + work.batch]
            for number, (y, x) in enumerate(some):
                for channel, planes in enumerate(seen):
                    inputs[number, channel] = planes[:, y : y + height, x : x + width]
            slab.add(_timed(model, inputs[: len(some)], meter), start, some)
        yield from slab.finished(start, following - start)
        meter.report((row + 1) / len(starts))


class _Slab:
    """Weighted scores of as many planes as a patch is deep, a ring along slices.

    (outputs, patch slices, wanted rows, columns) of float32, and nothing else that grows with
    the number of outputs.
    """

    def __init__(
        self, tiles: Tiles, rows: slice, sides: tuple[int, int], device: torch.device
    ) -> None:
        outputs, columns = sides
        self._patch = tiles.patch
        self._depth = tiles.patch[0]
        self._rows = rows
        self._weight = torch.from_numpy(tiles.weight()).to(device)
        shape = (outputs, self._depth, rows.stop - rows.start, columns)
        self._scores = torch.zeros(shape, device=device)

    def add(self, found: Tensor, start: int, places: Sequence[tuple[int, int]]) -> None:
        """Add patches (patches, outputs, slices, rows, columns), weighted.

        Args:
            found: Scores. The caller keeps no name for them: they are as large as a tenth of the
                slab, and gone before the network runs again.
            start: The plane they begin on.
            places: Row and column that each begins on.
        """
        _, height, width = self._patch
        # A network that pools says one thing of its whole patch.
        found = found.to(self._scores.device).expand(*found.shape[:2], *self._patch)
        for (y, x), scores in zip(places, found, strict=True):
            top, bottom = max(y, self._rows.start), min(y + height, self._rows.stop)
            inside = slice(top - y, bottom - y)
            into = slice(top - self._rows.start, bottom - self._rows.start)
            for part in _ring(start, self._depth, self._depth):
                self._scores[:, part.ring, into, x : x + width].addcmul_(
                    scores[:, part.patch, inside], self._weight[part.patch, inside]
                )

    def finished(self, first: int, count: int) -> Iterator[Block]:
        """Yield planes first..first+count-1 and make their room ready for those to come."""
        for part in _ring(first, count, self._depth):
            yield Block(part.first, self._scores[:, part.ring])
            self._scores[:, part.ring] = 0.0


@dataclass(frozen=True, slots=True)
class _Part:
    """Planes that lie beside each other in the ring."""

    first: int
    ring: slice
    patch: slice


def _ring(first: int, count: int, length: int) -> list[_Part]:
    """Return where planes first..first+count-1 lie in a ring of `length`; at most two parts."""
    parts = []
    done = 0
    while done < count:
        at = (first + done) % length
        here = min(count - done, length - at)
        parts.append(_Part(first + done, slice(at, at + here), slice(done, done + here)))
        done += here
    return parts


class _RollingPlanes:
    """The planes under a row of patches; those of the row before are not prepared again."""

    def __init__(self, prepared: Prepared, depth: int) -> None:
        self._prepared = prepared
        self._planes = torch.empty((depth, *prepared.shape[1:]))
        self._next = 0
        self._start = 0

    def at(self, start: int) -> Tensor:
        """Return planes start..start+depth-1; `start` never goes down."""
        depth = len(self._planes)
        kept = max(0, self._next - start)
        for plane in range(kept):  # one by one, so that the move needs no copy of the slab
            self._planes[plane] = self._planes[plane + start - self._start]
        for first in range(kept, depth, AT_ONCE):
            last = min(first + AT_ONCE, depth)
            new = self._prepared.planes(start + first, start + last)
            self._planes[first:last] = torch.from_numpy(new)
        self._next, self._start = start + depth, start
        return self._planes


def _timed(model: LoadedModel, batch: Tensor, meter: Meter) -> Tensor:
    since = perf_counter()
    scores = model.scores(batch)
    if scores.device.type == "cuda":
        torch.cuda.synchronize(scores.device)
    meter.add("network", since)
    return scores
