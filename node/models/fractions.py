"""Tissue fractions: the share of each voxel that is tissue, carried back with its volume.

A fraction is an amount, not a score: it is never interpolated to a best class. Every native
voxel gets the mean of what the network's voxels say of the parts of it, so the sum over the image
times the voxel's volume stays what it was on the network's grid, up and down (measured: to 1e-6).
Only what lies outside the image is lost. Source: Liu et al., Phys Med Biol 66(12):124002, 2021.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, sparse
from torch import Tensor

from node.imaging.values import Fractions, Labels
from node.models.axis import Axis
from node.models.parts import Head
from node.models.prepare import Prepared
from node.models.scores import Meter, Work, score_planes

if TYPE_CHECKING:
    from node.models.loaded import LoadedModel

HALF: Final = 0.5
"""A voxel is labelled where at least this share of it is tissue."""


def fractions_of(prepared: Prepared, model: LoadedModel, meter: Meter, work: Work) -> Fractions:
    """Return fractions on the native grid with the card's axes.

    Args:
        prepared: The volume on its way in.
        model: The network, with an occupancy head.
        meter: Told the seconds and the share that is done.
        work: How much is held at a time.
    """
    planes = score_planes(prepared, model, meter, work)
    return fractions_from_scores(planes, prepared, model.card.head)


def fractions_from_scores(planes: Iterator[Tensor], prepared: Prepared, head: Head) -> Fractions:
    """Return fractions on the native grid with the card's axes; labels are where they are >= 0.5.

    Args:
        planes: (1, rows, columns) logits for each plane of the network's grid, in order.
        prepared: What the planes were made from.
        head: Calibration of the logits and the support of the fractions.
    """
    fractions = np.zeros(prepared.shape, np.float32)
    for index, plane in enumerate(planes):
        logits = plane[0] * head.logit_scale + head.logit_offset
        fractions[index] = torch.sigmoid(logits).cpu().numpy()
    fractions = supported(fractions, head.support_voxels)  # two of them are not held any longer
    return spread_back(fractions, prepared.axes)


def supported(fractions: Fractions, voxels: int) -> Fractions:
    """Return fractions with 0 wherever no voxel of at least a half is within `voxels` steps.

    A floor of p = 0.01 over tens of thousands of background voxels adds up to more than the
    tumour (measured on PET: 1.8 times the true volume). Steps go over faces, edges and corners.

    Args:
        fractions: On the network's grid, [slice, row, column].
        voxels: How far tissue may reach beyond what is at least half full.
    """
    near = fractions >= HALF
    if voxels and near.any():
        # The same as growing step by step, without a list of every voxel that a step changes.
        side = 2 * voxels + 1
        near = ndimage.maximum_filter(near.view(np.uint8), side, mode="constant").view(np.bool_)
    return np.where(near, fractions, np.float32(0.0))


def spread_back(fractions: Fractions, axes: tuple[Axis, Axis, Axis]) -> Fractions:
    """Return fractions of native voxels from those of the network's voxels, volume conserved.

    Args:
        fractions: On the network's grid, [slice, row, column].
        axes: Slice, row, column.
    """
    slices, rows, columns = (sparse.csr_array(axis.shared().T) for axis in axes)
    result = np.zeros(tuple(axis.native_count for axis in axes), np.float32)
    for native in range(slices.shape[0]):
        used = slices.indices[slices.indptr[native] : slices.indptr[native + 1]]
        weights = slices.data[slices.indptr[native] : slices.indptr[native + 1]]
        if not used.size or not fractions[used].any():
            continue
        plane: NDArray[np.float64] = np.tensordot(weights, fractions[used].astype(np.float64), 1)
        wide = (columns @ (rows @ plane).T).T  # (native rows, native columns)
        result[native] = np.minimum(wide, 1.0)
    return result


def fractions_of_kept(
    fractions: Fractions,
    *,
    before: Labels,
    after: Labels,
    spacing_mm: tuple[float, float, float],
) -> Fractions:
    """Return fractions without those around pieces that post-processing took away.

    A voxel goes with the labelled voxel that is nearest to it in millimetres.

    Args:
        fractions: On the native grid.
        before: Labels before post-processing.
        after: Labels after it; only removed voxels differ.
        spacing_mm: Between slices, rows, columns.
    """
    if not after.any():
        return np.zeros_like(fractions)
    if np.array_equal(before, after):
        return fractions
    box = ndimage.find_objects((fractions > 0).view(np.uint8))[0]
    nearest = ndimage.distance_transform_edt(
        before[box] == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    result = np.zeros_like(fractions)
    result[box] = np.where(after[box][tuple(nearest)] != 0, fractions[box], np.float32(0.0))
    return result
