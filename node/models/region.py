"""What one model leaves for the next: the box around a mask, and background outside of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Volume
from node.models.parts import Stage

Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A part of a volume to which a model is limited.

    Attributes:
        mask: bool, the volume's shape: what the stage before found.
        stage: How it limits.
    """

    mask: Mask
    stage: Stage


def cut_out(volume: Volume, region: Region, backgrounds: Sequence[float]) -> tuple[Volume, Box]:
    """Return the box of a region, with background outside the grown mask, and where it lay.

    Voxels outside count as padding, so that a volume's own mean is that of what is left.

    Args:
        volume: The source.
        region: Its mask is not empty.
        backgrounds: In the volume's units, and in those of each of its further channels.
    """
    found = ndimage.find_objects(region.mask.view(np.uint8))[0]
    first, second, third = (
        slice(max(0, side.start - grow), min(size, side.stop + grow))
        for side, grow, size in zip(
            found,
            (math.ceil(region.stage.margin_mm / one) for one in volume.spacing_mm),
            volume.array.shape,
            strict=True,
        )
    )
    box = (first, second, third)
    away = ndimage.distance_transform_edt(~region.mask[box], sampling=volume.spacing_mm)
    outside = away > region.stage.outside_mm
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]

    def blanked(one: Volume, background: float) -> Volume:
        array = one.array[box].copy()
        array[outside] = background
        padding = outside if one.padding is None else outside | one.padding[box]
        return replace(one, array=array, affine=affine, padding=padding)

    own, *further = backgrounds
    others = tuple(blanked(one, b) for one, b in zip(volume.others, further, strict=True))
    cut = replace(blanked(volume, own), slices=volume.slices[first], others=others)
    return cut, box
