"""From scores on the network's grid to labels on the native one, a plane at a time.

Scores are interpolated, never labels: two neighbouring score planes are mixed, brought to the
native rows and columns, and the best class is taken. At no time is there more than a few planes
of scores, so memory does not grow with classes times volume. Voxels outside the window are
background.

Scores of overlapping patches come times the sum of their weights. Where native voxels are the
network's, all classes of a voxel have the same factor and it changes nothing; where scores of
neighbours are mixed, the division is part of the matrices that mix them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.imaging.values import Labels
from node.models.axis import Matrix
from node.models.choice import Chooser
from node.models.prepare import Prepared
from node.models.scores import Block, Meter, Work, score_blocks, sums_of
from node.models.tiles import Line, strips

if TYPE_CHECKING:
    from node.models.loaded import LoadedModel

Sums = tuple[Line, Line, Line] | None
"""Per axis, what scores are times of."""

_Found = Iterator[tuple[int, Tensor, float]]
"""Native slice, its scores, and what they are times of for the slice's sake."""


def labels_of(prepared: Prepared, model: LoadedModel, meter: Meter, work: Work) -> Labels:
    """Return labels on the native grid with the card's axes.

    Args:
        prepared: The volume on its way in.
        model: The network with its card.
        meter: Told the seconds and the share that is done.
        work: How much is held at a time; another number of strips gives the same labels.
    """
    labels = np.zeros(prepared.array.shape, np.uint8)
    sums = sums_of(prepared, model)
    chooser = Chooser(model.card.head)
    _, rows, columns = prepared.axes
    parts = strips(rows.inside.stop - rows.inside.start, work.strips)
    report = meter.report
    for number, part in enumerate(parts):
        meter.report = _share_of(report, number, len(parts))
        native = slice(rows.inside.start + part.start, rows.inside.start + part.stop)
        way = _WayBack(prepared, model.card.voxels.back, sums, native)
        blocks = score_blocks(prepared, model, meter, rows=way.rows, work=work)
        for place, scores, times in way.planes(blocks):
            weight = way.weight * np.float32(times) if chooser.wants_weight else np.float32(1.0)
            chooser.write(scores, labels[place, native, columns.inside], weight=weight)
    meter.report = report
    return labels


def _share_of(report: Callable[[float], None], done: int, parts: int) -> Callable[[float], None]:
    return lambda share: report((done + share) / parts)


class _WayBack:
    """The way of some native rows: a crop where voxels agree, else small products.

    Attributes:
        rows: Rows of the network's grid that these native rows are made from.
        weight: (rows, columns), or a number: what the scores of `planes` are times of.
    """

    def __init__(self, prepared: Prepared, back: str, sums: Sums, native: slice) -> None:
        self._slices, rows, columns = prepared.axes
        self._back = back
        self._sums = sums
        self._matrices: tuple[Tensor, Tensor] | None = None
        self.weight: NDArray[np.float32] | np.float32 = np.float32(1.0)
        if rows.is_shift and columns.is_shift:
            self.rows = _moved(native, -int(rows.start))
            self._across = _moved(columns.inside, -int(columns.start))
            if sums is not None:
                self.weight = np.outer(sums[1][self.rows], sums[2][self._across])
            return
        down = _divided(rows.backward(back), sums, 1)[_moved(native, -rows.inside.start)]
        used = np.flatnonzero(down.any(axis=0))
        self.rows = slice(int(used[0]), int(used[-1]) + 1)
        across = _divided(columns.backward(back), sums, 2)
        self._matrices = (
            torch.from_numpy(np.ascontiguousarray(down[:, self.rows])),
            torch.from_numpy(np.ascontiguousarray(across.T)),
        )

    def planes(self, blocks: Iterator[Block]) -> _Found:
        """Yield each native plane inside the window, in ascending order.

        Scores are (outputs, native rows, native columns inside) and valid until the next.
        """
        found = self._shifted(blocks) if self._slices.is_shift else self._mixed(blocks)
        for native, plane, times in found:
            if self._matrices is None:
                yield native, plane[:, :, self._across], times
                continue
            down, across = (one.to(plane.device) for one in self._matrices)
            self._matrices = (down, across)
            yield native, down @ (plane @ across), times

    def _shifted(self, blocks: Iterator[Block]) -> _Found:
        inside, shift = self._slices.inside, int(self._slices.start)
        for index, plane in self._model_planes(blocks):
            if inside.start <= index + shift < inside.stop:
                times = 1.0 if self._sums is None else float(self._sums[0][index])
                yield index + shift, plane, times

    def _mixed(self, blocks: Iterator[Block]) -> _Found:
        inside = self._slices.inside
        matrix = _divided(self._slices.backward(self._back), self._sums, 0)
        held: dict[int, Tensor] = {}
        coming = self._model_planes(blocks)
        index = -1
        for native, weights in zip(range(inside.start, inside.stop), matrix, strict=True):
            wanted = [int(plane) for plane in np.flatnonzero(weights)]
            while index < wanted[-1]:
                index, plane = next(coming)
                if index >= wanted[0]:
                    held[index] = plane.clone()  # the block's memory is used again
            held = {key: plane for key, plane in held.items() if key >= wanted[0]}
            mixed = held[wanted[0]] * float(weights[wanted[0]])
            for other in wanted[1:]:
                mixed = mixed.add_(held[other], alpha=float(weights[other]))
            yield native, mixed, 1.0
        for _ in coming:  # padding behind the last native slice: run on, so that time is told
            pass

    def _model_planes(self, blocks: Iterator[Block]) -> Iterator[tuple[int, Tensor]]:
        """Yield index and scores (outputs, `rows`, columns) of the network's planes."""
        for block in blocks:
            # Slices mode scores whole planes, a window only the rows that are asked for.
            whole = self._sums is None
            for depth in range(block.scores.shape[1]):
                plane = block.scores[:, depth]
                yield block.first + depth, plane[:, self.rows] if whole else plane


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _divided(matrix: Matrix, sums: Sums, axis: int) -> Matrix:
    """Return a matrix that also divides each plane, row or column by the sum of its weights."""
    if sums is None:
        return matrix
    divided: Matrix = (matrix / sums[axis]).astype(np.float32)
    return divided
