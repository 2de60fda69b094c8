"""One axis of the way from native voxels to the network's and back.

Positions are counted in edges: voxel i covers i..i+1 and its centre lies at i + 0.5, on both
grids. A window of `model_count` voxels, each `ratio` native voxels long, is centred on `centre`.
Where the ratio is 1 and the window begins on a native edge, both ways are index operations and
exact; otherwise they are small matrices, one per axis, because every filter here is separable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Axis:
    """A window of model voxels on a line of native ones.

    Attributes:
        native_count: Native voxels.
        model_count: Model voxels in the window.
        ratio: Length of a model voxel in native voxels.
        start: Native edge position of the window's first edge.
        margin: Model voxels at either end that hold no image, as padding to a patch does: scores
            there are asked of nobody.
        whole: Whether what lies outside the window is known to be empty.
        thick: Whether scores come back from the nearest model voxel on this axis, whatever the
            card says of the others: between slices that far apart nothing is mixed.
    """

    native_count: int
    model_count: int
    ratio: float
    start: float
    margin: tuple[int, int] = (0, 0)
    whole: bool = False
    thick: bool = False

    @property
    def is_shift(self) -> bool:
        """Whether model voxels are native voxels."""
        return self.ratio == 1.0 and self.start == int(self.start)

    @property
    def crops(self) -> bool:
        """Whether native voxels lie outside the window by half a model voxel or more."""
        slack = self.ratio / 2
        return not self.whole and (self.start >= slack or self.stop <= self.native_count - slack)

    @property
    def stop(self) -> float:
        """Native edge position of the window's last edge."""
        return self.start + self.model_count * self.ratio

    @property
    def inside(self) -> slice:
        """The native voxels whose centres lie in the window."""
        before, behind = (count * self.ratio for count in self.margin)
        # A billionth of a voxel, so that a sum of distances that ends on a centre takes it in.
        first = max(0, math.ceil(self.start + before - 0.5 - 1e-9))
        last = min(self.native_count, math.floor(self.stop - behind - 0.5 + 1e-9) + 1)
        return slice(first, max(first, last))

    def forward(self, downsample: str) -> Matrix:
        """Return (model_count, native_count): native to model values, outside counts as 0.

        Args:
            downsample: `area` averages over a coarser voxel, `linear` never does.
        """
        if downsample == "area" and self.ratio > 1.0:
            matrix: Matrix = (self.shared() / self.ratio).astype(np.float32)
            return matrix
        edges = self.start + np.arange(self.model_count + 1) * self.ratio
        centres = (edges[:-1] + edges[1:]) / 2
        matrix = _linear(centres - 0.5, self.native_count)
        matrix[(centres < 0) | (centres > self.native_count)] = 0.0
        return matrix

    def shared(self) -> NDArray[np.float64]:
        """Return (model_count, native_count): the length that two voxels share, in native voxels.

        Divided by `ratio` it averages native values over model voxels; transposed it gives every
        native voxel the mean of the model voxels in it, and the sum over all of them is kept.
        """
        edges = self.start + np.arange(self.model_count + 1) * self.ratio
        natives = np.arange(self.native_count)
        upper = np.minimum(edges[1:, None], natives[None, :] + 1)
        lower = np.maximum(edges[:-1, None], natives[None, :])
        shares: NDArray[np.float64] = np.clip(upper - lower, 0.0, None)
        return shares

    def backward(self, back: str) -> Matrix:
        """Return (native voxels inside, model_count): model to native values, edges held.

        Args:
            back: `linear`, or `nearest` for one model voxel each.
        """
        inside = self.inside
        centres = np.arange(inside.start, inside.stop) + 0.5
        positions = (centres - self.start) / self.ratio - 0.5
        held = np.clip(positions, self.margin[0], self.model_count - 1 - self.margin[1])
        if self.thick:
            return _linear(np.floor(held + 0.5), self.model_count)
        positions = held
        if back == "nearest":
            # Halfway between two, both count: always taking the upper one would move labels.
            halfway = np.abs(positions - np.floor(positions) - 0.5) < 1e-6
            positions = np.where(halfway, positions, np.rint(positions))
        return _linear(positions, self.model_count)


def native_axis(native_count: int, *, at_least: int, multiple: int) -> Axis:
    """Return the whole axis at native distance, padded on both sides."""
    count = _rounded_up(max(native_count, at_least), multiple)
    return Axis(native_count, count, 1.0, float(-((count - native_count) // 2)))


def resampled_axis(native_count: int, ratio: float, *, at_least: int, multiple: int) -> Axis:
    """Return the whole axis in voxels of `ratio` native ones, centred, padded on both sides."""
    if ratio == 1.0:
        return native_axis(native_count, at_least=at_least, multiple=multiple)
    # A thousandth of a voxel may hang over, so that 100 x 1.0 mm is 50 x 2.0 mm and not 51.
    count = max(1, math.ceil(native_count / ratio - 1e-3))
    count = _rounded_up(max(count, at_least), multiple)
    return Axis(native_count, count, ratio, (native_count - count * ratio) / 2)


def cropped_axis(
    native_count: int, inside: slice, count: int, *, at_least: int, thick: bool
) -> Axis:
    """Return `count` model voxels over the native ones `inside`, padded to `at_least`.

    Args:
        native_count: Native voxels.
        inside: The native voxels that are seen; nothing is outside.
        count: Model voxels over them.
        at_least: Model voxels with padding, half of it at either end, the odd one behind.
        thick: As in `Axis`.
    """
    length = inside.stop - inside.start
    ratio = length / count
    missing = max(0, at_least - count)
    margin = (missing // 2, missing - missing // 2)
    return Axis(
        native_count,
        count + missing,
        ratio,
        inside.start - margin[0] * ratio,
        margin=margin,
        whole=True,
        thick=thick,
    )


def window_axis(native_count: int, ratio: float, *, count: int, centre: float) -> Axis:
    """Return a window of `count` model voxels.

    Args:
        native_count: Native voxels.
        ratio: Length of a model voxel in native voxels.
        count: Model voxels.
        centre: Native edge position on which the window is centred, as far as it then lies
            inside the image; a window longer than the image is centred on the image.
    """
    length = count * ratio
    if length >= native_count:
        start = (native_count - length) / 2
    else:
        start = min(max(centre - length / 2, 0.0), native_count - length)
    if ratio == 1.0:
        start = float(math.floor(start + 0.5))
    return Axis(native_count, count, ratio, start)


def _rounded_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _linear(positions: NDArray[np.float64], count: int) -> Matrix:
    """Return (positions, count): weights of the two nearest voxel centres, ends held."""
    held = np.clip(positions, 0.0, count - 1)
    lower = np.minimum(np.floor(held), max(count - 2, 0)).astype(np.intp)
    upper = np.minimum(lower + 1, count - 1)
    share = held - lower
    rows = np.arange(positions.size)
    matrix = np.zeros((positions.size, count))
    np.add.at(matrix, (rows, lower), 1.0 - share)
    np.add.at(matrix, (rows, upper), share)
    return matrix.astype(np.float32)
