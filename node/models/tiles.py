"""Where 3D patches lie on the network's grid and what each of their voxels weighs.

Positions and weights are products of one list per axis. So the sum of the weights at a voxel is a
product of three numbers, and no map of it is ever made: where it matters at all (the best class
does not change when all classes are divided by one number), the way back divides by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.models.parts import Inference

Line = NDArray[np.float32]

_SIGMA: Final = 0.125  # of the patch's side, as nnU-Net and MONAI


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Patches over a grid; every tuple is slice, row, column.

    Attributes:
        patch: Sides.
        starts: Where patches begin, ascending.
        profiles: Weights of a patch along each axis; their product weighs a voxel.
        sums: For each place on an axis, the sum of the weights of all patches there.
    """

    patch: tuple[int, int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    profiles: tuple[Line, Line, Line]
    sums: tuple[Line, Line, Line]

    def rows_of(self, rows: slice) -> tuple[int, ...]:
        """Return the row starts of the patches that touch `rows`."""
        side = self.patch[1]
        return tuple(y for y in self.starts[1] if y < rows.stop and y + side > rows.start)

    def weight(self) -> Line:
        """Return the weights of a patch's voxels."""
        first, second, third = self.profiles
        whole: Line = first[:, None, None] * second[:, None] * third
        return whole


def lay_tiles(shape: tuple[int, int, int], inference: Inference) -> Tiles:
    """Return the tiles of a card on a grid that is nowhere shorter than the patch.

    Args:
        shape: Slices, rows, columns.
        inference: Of a card with mode `window`.
    """
    if inference.patch is None:
        raise AssertionError("a card with mode window has a patch")
    one, two, three = (
        _axis(size, side, inference) for size, side in zip(shape, inference.patch, strict=True)
    )
    return Tiles(
        patch=inference.patch,
        starts=(one[0], two[0], three[0]),
        profiles=(one[1], two[1], three[1]),
        sums=(one[2], two[2], three[2]),
    )


def _axis(size: int, side: int, inference: Inference) -> tuple[tuple[int, ...], Line, Line]:
    rule = clipped_starts if inference.tiling == "clipped" else tile_starts
    starts = rule(size, side, inference.overlap)
    profile = _profile(side, inference)
    total = np.zeros(size, np.float32)
    for start in starts:
        total[start : start + side] += profile
    return tuple(starts), profile, total


def tile_starts(size: int, side: int, overlap: float) -> list[int]:
    """Return where patches of `side` begin, evenly spread over `size`, ends covered.

    Neighbours overlap by at least the share `overlap`. The rule of nnU-Net.
    """
    if size <= side:
        return [0]
    count = math.ceil((size - side) / max(1.0, side * (1.0 - overlap))) + 1
    return [round(start) for start in np.linspace(0, size - side, count)]


def clipped_starts(size: int, side: int, overlap: float) -> list[int]:
    """Return where patches of `side` begin at one distance; the last is moved inside.

    The rule of MONAI.
    """
    step = max(1, int(side * (1.0 - overlap)))
    count = max(0, math.ceil((size - side) / step)) + 1
    return [min(number * step, max(0, size - side)) for number in range(count)]


def _profile(side: int, inference: Inference) -> Line:
    if inference.blending == "constant":
        return np.ones(side, np.float32)
    # nnU-Net's lies around the voxel `side // 2`, half a voxel off in patches of even sides, and
    # has no floor; labels follow it in one voxel of some hundred at the rim of what was found.
    nnunet = inference.blending == "nnunet"
    middle = side // 2 if nnunet else (side - 1) / 2
    distance = np.arange(side, dtype=np.float64) - middle
    gauss = np.exp(-0.5 * (distance / (_SIGMA * side)) ** 2)
    if nnunet:
        return gauss.astype(np.float32)
    return np.maximum(gauss, inference.weight_floor).astype(np.float32)


def strips(rows: int, count: int) -> Sequence[slice]:
    """Return `count` runs of rows, as even as whole rows are, that cover 0..rows."""
    edges = [rows * number // count for number in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(edges) if high > low]
