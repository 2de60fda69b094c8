"""From a native volume to the planes that the network sees: one function for every use of it.

Reorient (index operations), resample and cut the window in one go, then the intensity steps.
Planes are made when they are asked for, so that memory holds a slab and never a second volume.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from node.imaging.tilt import Shear, shear_of, straightened
from node.imaging.transform import GridTransform, turn, turn_to
from node.imaging.values import Volume
from node.models.architectures import size_multiple
from node.models.axis import Axis, resampled_axis, window_axis
from node.models.card import Card
from node.models.intensity import FixedStep, apply_steps, fix_steps
from node.models.spline import prepare_whole

Voxels = NDArray[np.int16] | NDArray[np.float32]
_Number = TypeVar("_Number", bound=np.generic)

_SAME_SPACING: Final = 1e-4
"""Ratios this near to 1 are 1: 2.0 and 2.0001 mm differ by 0.05 voxel over 512 of them, and an
index operation is exact where a resampling blurs."""
_COARSE_MM: Final = 4.0  # grid on which the body is looked for


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A volume ready to be asked for planes.

    Attributes:
        array: The native voxels, a view with the card's axes.
        turn: How it was turned.
        axes: Slice, row, column.
        steps: Intensity steps with fixed numbers.
        background: What lies outside the image, before the steps.
        downsample: The card's `area` or `linear`.
        in_plane: Matrices to the network's rows and columns; None where these are native ones.
        shear: How the volume's slices are shifted against `array` before it was turned, which then
            is the straightened box; None where they lie above each other.
        whole: The network's grid where it was prepared as a whole, steps done.
        others: Further channels on the same grid.
    """

    array: Voxels
    turn: GridTransform
    axes: tuple[Axis, Axis, Axis]
    steps: tuple[FixedStep, ...]
    background: float
    downsample: str
    in_plane: tuple[Tensor, Tensor] | None
    shear: Shear | None = None
    whole: NDArray[np.float32] | None = None
    others: tuple[Prepared, ...] = ()

    def to_native(self, array: NDArray[_Number]) -> NDArray[_Number]:
        """Return what has the card's axes on the volume's own grid."""
        straight = np.ascontiguousarray(self.turn.undo(array))
        return straight if self.shear is None else self.shear.to_native(straight)

    def from_native(self, labels: NDArray[_Number]) -> NDArray[_Number]:
        """Return labels on the volume's own grid with the card's axes."""
        straight = labels if self.shear is None else self.shear.from_native(labels)
        return self.turn.apply(straight)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns of the network's grid."""
        slices, rows, columns = self.axes
        return slices.model_count, rows.model_count, columns.model_count

    def planes(self, first: int, last: int) -> NDArray[np.float32]:
        """Return planes first..last-1 of the network's grid, shape (n, rows, columns).

        Planes before the first and behind the last repeat the edge, as the neighbours of an
        end slice.
        """
        slices = self.axes[0]
        wanted = np.clip(np.arange(first, last), 0, slices.model_count - 1)
        if self.whole is not None:
            return self.whole[wanted]
        if slices.is_shift:
            natives = wanted + int(slices.start)
            slab = np.stack([self._plane(int(native)) for native in natives])
        else:
            matrix = slices.forward(self.downsample)[wanted]  # (n, native slices)
            used = np.flatnonzero(matrix.any(axis=0))
            if not used.size:  # all of them lie outside the image
                slab = np.full((wanted.size, *self.shape[1:]), self.background, np.float32)
                return apply_steps(self.steps, slab)
            source = np.stack([self._plane(int(native)) for native in used])
            source -= np.float32(self.background)
            flat = matrix[:, used] @ source.reshape(used.size, -1)  # (n, rows x columns)
            slab = flat.reshape(wanted.size, *source.shape[1:]) + np.float32(self.background)
        return apply_steps(self.steps, slab)

    def _plane(self, native: int) -> NDArray[np.float32]:
        """Return one native plane on the network's rows and columns, before the steps."""
        _, rows, columns = self.axes
        if not 0 <= native < self.array.shape[0]:
            return np.full(self.shape[1:], self.background, np.float32)
        plane = self.array[native]
        if self.in_plane is None:
            return _shifted(plane, rows, columns, self.background)
        values = torch.from_numpy(plane.astype(np.float32) - np.float32(self.background))
        across = self.in_plane[0] @ values @ self.in_plane[1].T
        result: NDArray[np.float32] = across.numpy() + np.float32(self.background)
        return result


def prepare(volume: Volume, card: Card) -> Prepared:
    """Plan the network's grid for a volume.

    Raises:
        ValueError: The volume is not in the card's units; `fit.py` refuses such a volume before.
    """
    voxels = card.voxels
    if volume.units != voxels.units:
        raise ValueError(f"the volume is in {volume.units}, the card wants {voxels.units}")
    slices_rows_columns = cast(tuple[int, int, int], volume.array.shape)  # a volume has three axes
    shear = None
    if voxels.tilt == "resample":
        shear = shear_of(volume.affine, slices_rows_columns)
    if shear is not None:
        further = tuple(
            straightened(other, shear, channel.background)
            for channel, other in zip(card.channels, volume.others, strict=True)
        )
        volume = replace(straightened(volume, shear, voxels.background), others=further)
        slices_rows_columns = shear.box
    if voxels.orientation == "native":
        turned = turn(slices_rows_columns, voxels.transpose, (False, False, False))
    else:
        letters = "".join(voxels.orientation[axis] for axis in voxels.transpose)
        turned = turn_to(letters, slices_rows_columns, volume.affine)
    array = cast(Voxels, turned.apply(volume.array))  # a view has the type of its base
    first, second, third = (volume.spacing_mm[axis] for axis in turned.order)
    spacing = (first, second, third)
    if voxels.downsample == "spline":
        padding = None if volume.padding is None else turned.apply(volume.padding)
        whole, axes = prepare_whole(array, padding, spacing, card)
        return Prepared(
            array=array,
            turn=turned,
            axes=axes,
            steps=(),
            background=voxels.background,
            downsample="spline",
            in_plane=None,
            shear=shear,
            whole=whole,
        )
    ratios = [_ratio(want, have) for want, have in zip(voxels.spacing_mm, spacing, strict=True)]
    multiple = size_multiple(card.network)
    patch = card.inference.patch or (1, 1, 1)
    slices = resampled_axis(array.shape[0], ratios[0], at_least=patch[0], multiple=1)
    if voxels.size is None:
        step = 1 if card.inference.patch else multiple  # patches have the right size themselves
        rows, columns = (
            resampled_axis(array.shape[i], ratios[i], at_least=patch[i], multiple=step)
            for i in (1, 2)
        )
    else:
        centre = _centre(array, spacing, card)
        rows, columns = (
            window_axis(
                array.shape[i],
                ratios[i],
                count=max(voxels.size[i - 1], patch[i]),
                centre=centre[i - 1],
            )
            for i in (1, 2)
        )
    in_plane = None
    if not (rows.is_shift and columns.is_shift):
        row_matrix, column_matrix = (
            torch.from_numpy(axis.forward(voxels.downsample)) for axis in (rows, columns)
        )
        in_plane = (row_matrix, column_matrix)
    first_series = Prepared(
        array=array,
        turn=turned,
        axes=(slices, rows, columns),
        steps=fix_steps(card.steps, volume.array, volume.padding),
        background=voxels.background,
        downsample=voxels.downsample,
        in_plane=in_plane,
        shear=shear,
    )
    others = tuple(
        replace(
            first_series,
            array=cast(Voxels, turned.apply(other.array)),
            steps=fix_steps(channel.steps, other.array, other.padding),
            background=channel.background,
        )
        for channel, other in zip(card.channels, volume.others, strict=True)
    )
    return replace(first_series, others=others)


def plane_inputs(prepared: Prepared, first: int, last: int, beside: int) -> Tensor:
    """Return 2D inputs (n, channels, rows, columns) for planes first..last-1, series by series."""
    return torch.cat(
        [
            in_channels(each.planes(first - beside, last + beside), beside)
            for each in (prepared, *prepared.others)
        ],
        dim=1,
    )


def slab_inputs(prepared: Prepared, first: int, last: int) -> Tensor:
    """Return planes first..last-1 of every channel, (channels, n, rows, columns)."""
    return torch.from_numpy(
        np.stack([each.planes(first, last) for each in (prepared, *prepared.others)])
    )


def in_channels(planes: NDArray[np.float32], neighbours: int) -> Tensor:
    """Return 2D inputs (b, channels, rows, columns) from b + 2 x neighbours planes in a row."""
    channels = 2 * neighbours + 1
    count = planes.shape[0] - 2 * neighbours
    if neighbours == 0:
        return torch.from_numpy(planes[:, None])
    return torch.from_numpy(np.stack([planes[i : i + channels] for i in range(count)]))


def _ratio(wanted: float, native: float) -> float:
    if wanted == 0.0 or abs(wanted / native - 1.0) < _SAME_SPACING:
        return 1.0
    return wanted / native


def _centre(array: Voxels, spacing: tuple[float, float, float], card: Card) -> tuple[float, float]:
    """Return row and column edge positions on which the window is centred."""
    middle = (array.shape[1] / 2, array.shape[2] / 2)
    if card.voxels.centre == "image":
        return middle
    steps = [max(1, round(_COARSE_MM / one)) for one in spacing]
    coarse = array[:: steps[0], :: steps[1], :: steps[2]] > card.voxels.body_above
    # Opening takes away table plates and blankets, which are thinner than two coarse voxels.
    coarse = ndimage.binary_opening(coarse, structure=np.ones((1, 3, 3), bool))
    pieces, count = ndimage.label(coarse)
    if count == 0:
        return middle
    sizes = np.bincount(pieces.ravel())
    largest = pieces == int(np.argmax(sizes[1:])) + 1
    box = ndimage.find_objects(largest.view(np.uint8))[0]
    return (
        (box[1].start + box[1].stop) * steps[1] / 2,
        (box[2].start + box[2].stop) * steps[2] / 2,
    )


def _shifted(plane: Voxels, rows: Axis, columns: Axis, background: float) -> NDArray[np.float32]:
    result = np.full((rows.model_count, columns.model_count), background, np.float32)
    top, left = int(rows.start), int(columns.start)
    r, c = rows.inside, columns.inside
    result[r.start - top : r.stop - top, c.start - left : c.stop - left] = plane[r, c]
    return result
