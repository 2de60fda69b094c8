"""Steps on labels, in the patient's measures: pieces, holes, closing, sides.

Every step is a pure function of labels and geometry. Pieces are 26-connected: what touches by a
corner belongs together, or a thin vessel would fall into crumbs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Floats, Labels
from node.models.parts import (
    Close,
    DropSmall,
    DropWrongSide,
    FillHoles,
    KeepLargest,
    PostStep,
    RestrictTo,
    SplitSides,
    Threshold,
)

Mask = NDArray[np.bool_]
Values = NDArray[np.int16] | NDArray[np.float32]
_TOUCHING: Final = np.ones((3, 3, 3), bool)
_SECOND_SIDE: Final = 0.1
"""A second piece smaller than this share of the first is no other side: one lung and a crumb."""


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """Labels after post-processing.

    Attributes:
        labels: uint8, [slice, row, column].
        removed_ml: Volume of voxels that had a label and have none now.
        notes: Sentences that ask a person to look.
    """

    labels: Labels
    removed_ml: float
    notes: tuple[str, ...]


def postprocess(
    labels: Labels,
    steps: Sequence[PostStep],
    *,
    affine: Floats,
    spacing_mm: tuple[float, float, float],
    values: Values | None = None,
    region: Mask | None = None,
) -> Cleaned:
    """Apply the card's steps in order; `labels` is not changed. Instances are made afterwards.

    Args:
        labels: uint8, [slice, row, column].
        steps: As in the card.
        affine: (4, 4), index [slice, row, column, 1] to LPS mm.
        spacing_mm: Between slices, rows, columns.
        values: The source's values, for `threshold`.
        region: The mask of the stage before, for `restrict_to`.
    """
    found = ndimage.find_objects((labels != 0).view(np.uint8))
    if not found or not steps:
        return Cleaned(labels, 0.0, ())
    # Everything happens in the box of what is labelled, grown by the widest closing.
    reach = max((step.radius_mm for step in steps if isinstance(step, Close)), default=0.0)
    grown = (0, *(math.ceil(reach / one) + 1 for one in spacing_mm[1:]))
    box = tuple(
        slice(max(0, side.start - grow), side.stop + grow)
        for side, grow in zip(found[0], grown, strict=True)
    )
    result = labels.copy()
    view = result[box]
    sides = _Sides(affine, shape=labels.shape, start=tuple(side.start for side in box))
    voxel_ml = float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0
    notes: list[str] = []
    for step in steps:
        match step:
            case KeepLargest():
                _keep_largest(view, step)
            case DropSmall():
                least = max(step.min_ml, math.pi / 6 * step.min_mm**3 / 1000.0)
                drop_pieces(view, step.labels, each=voxel_ml, least=least)
            case FillHoles(numbers):
                _fill_holes(view, numbers)
            case Close():
                close_planes(view, step.labels, radius=step.radius_mm, pixel=spacing_mm[1:])
            case SplitSides():
                notes += sides.split(view, step)
            case DropWrongSide():
                notes += sides.drop_wrong(view, step)
            case Threshold() | RestrictTo():
                _limit(view, step, box, spacing_mm, values=values, region=region)
    removed = int(np.count_nonzero((labels[box] != 0) & (view == 0)))
    return Cleaned(result, removed * voxel_ml, tuple(notes))


def _pieces(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return piece numbers from 1, and the voxels of each with 0 in front for no piece."""
    pieces, _ = ndimage.label(mask, structure=_TOUCHING)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces, sizes


def _keep_largest(view: Labels, step: KeepLargest) -> None:
    groups = [step.labels] if step.joint else [(label,) for label in step.labels]
    for group in groups:
        mask = np.isin(view, group)
        pieces, sizes = _pieces(mask)
        if sizes.size < 2:
            continue
        keep = sizes > step.also_over * sizes.max()
        keep[np.argsort(-sizes, kind="stable")[: step.count]] = True
        keep[0] = False
        view[mask & ~keep[pieces]] = 0


def drop_pieces(view: Labels, labels: Sequence[int], *, each: float, least: float) -> None:
    """Remove the pieces of each label that are smaller than something.

    Args:
        view: uint8, [slice, row, column], changed.
        labels: Label values concerned.
        each: What a voxel counts, such as its volume.
        least: What a piece must come to.
    """
    for label in labels:
        mask = view == label
        pieces, sizes = _pieces(mask)
        view[mask & (sizes * each < least)[pieces]] = 0


def _limit(
    view: Labels,
    step: Threshold | RestrictTo,
    box: tuple[slice, ...],
    spacing_mm: tuple[float, float, float],
    *,
    values: Values | None,
    region: Mask | None,
) -> None:
    """Take labels away by what lies in the same place: the source's values, or a mask."""
    if isinstance(step, RestrictTo):
        if region is None:
            raise ValueError("restrict_to wants the mask of the stage before")
        touching = step.how == "touch"
        near = _grown(region, box, spacing_mm, grow_mm=step.grow_mm, touching=touching)
        _restrict(view, step, near)
        return
    if values is None:
        raise ValueError("threshold wants the source's values")
    here = values[box]
    outside = (here < step.at_least) | (here > step.at_most)
    view[outside & np.isin(view, step.labels)] = 0


def _grown(
    region: Mask,
    box: tuple[slice, ...],
    spacing_mm: tuple[float, float, float],
    *,
    grow_mm: float,
    touching: bool,
) -> Mask:
    """Return the part of a mask in a box, grown in millimetres and, to touch it, by a voxel.

    What lies around the box counts.
    """
    reach = [math.ceil(grow_mm / one) + 1 for one in spacing_mm]
    wide = tuple(
        slice(max(0, side.start - grow), side.stop + grow)
        for side, grow in zip(box, reach, strict=True)
    )
    near: Mask = region[wide]
    if grow_mm and near.any():
        near = ndimage.distance_transform_edt(~near, sampling=spacing_mm) <= grow_mm
    if touching:
        near = ndimage.binary_dilation(near, _TOUCHING)
    return near[
        tuple(
            slice(side.start - far.start, min(side.stop, size) - far.start)
            for side, far, size in zip(box, wide, region.shape, strict=True)
        )
    ]


def _restrict(view: Labels, step: RestrictTo, region: Mask) -> None:
    for label in step.labels:
        mask = view == label
        if step.how == "inside":
            view[mask & ~region] = 0
            continue
        pieces, sizes = _pieces(mask)
        touching = np.bincount(pieces[region], minlength=sizes.size) > 0
        view[mask & ~touching[pieces]] = 0


def _fill_holes(view: Labels, numbers: Sequence[int]) -> None:
    for label in numbers:
        for plane in _planes_around(view, label, grow=(0, 0)):
            filled = ndimage.binary_fill_holes(plane == label)
            plane[filled & (plane == 0)] = label


def close_planes(
    view: Labels, labels: Sequence[int], *, radius: float, pixel: tuple[float, float]
) -> None:
    """Close each plane by distances, so that the disc is round on any pixel shape.

    Args:
        view: uint8, [slice, row, column], changed.
        labels: Label values concerned.
        radius: Of the disc, in the unit of `pixel`.
        pixel: Distance between rows and between columns.
    """
    grow = (math.ceil(radius / pixel[0]) + 1, math.ceil(radius / pixel[1]) + 1)
    for label in labels:
        for plane in _planes_around(view, label, grow=grow):
            away = ndimage.distance_transform_edt(plane != label, sampling=pixel)
            wide = away <= radius
            if not wide.all():
                wide = ndimage.distance_transform_edt(wide, sampling=pixel) > radius
            plane[wide & (plane == 0)] = label


def _planes_around(view: Labels, label: int, *, grow: tuple[int, int]) -> Iterator[Labels]:
    """Yield, for each plane that has the label, the part of it around the label."""
    for plane in view:
        mask = plane == label
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:
            yield plane[
                max(0, rows[0] - grow[0]) : rows[-1] + 1 + grow[0],
                max(0, columns[0] - grow[1]) : columns[-1] + 1 + grow[1],
            ]


class _Sides:
    """Where voxels lie along the patient's x axis, which grows towards the left."""

    def __init__(self, affine: Floats, *, shape: Sequence[int], start: Sequence[int]) -> None:
        self._to_x = affine[0, :3]
        self._start_x = float(self._to_x @ np.array(start, float) + affine[0, 3])
        middle = (np.array(shape, float) - 1) / 2
        self._middle_x = float(self._to_x @ middle + affine[0, 3])

    def split(self, view: Labels, step: SplitSides) -> tuple[str, ...]:
        """Give each piece of a label to a side."""
        mask = view == step.label
        pieces, sizes = _pieces(mask)
        if sizes.size < 2:
            return ()
        centres = self._centres(mask, pieces, len(sizes))
        by_size = np.argsort(-sizes, kind="stable")
        notes: tuple[str, ...] = ()
        if sizes.size > 2 and sizes[by_size[1]] > _SECOND_SIDE * sizes[by_size[0]]:
            plane_x = float(centres[by_size[:2]].mean())
            is_left = (centres > plane_x)[pieces]
        else:
            plane_x = self._middle_x
            notes = (
                f"Label {step.label} is one piece: its sides were cut at the middle of the image.",
            )
            is_left = self._x_of(view.shape) > plane_x
        view[mask] = step.right
        view[mask & is_left] = step.left
        return notes

    def drop_wrong(self, view: Labels, step: DropWrongSide) -> tuple[str, ...]:
        """Remove pieces of a sided label beyond the midline between both labels."""
        centre: dict[int, float] = {}
        for label in (step.right, step.left):
            mask = view == label
            if not mask.any():
                return ()
            centre[label] = float(self._centres(mask, mask.astype(np.int32), 2)[1])
        if centre[step.right] >= centre[step.left]:
            return ("The labels for right and left lie on the opposite sides.",)
        midline = (centre[step.right] + centre[step.left]) / 2
        for label in (step.right, step.left):
            mask = view == label
            pieces, sizes = _pieces(mask)
            centres = self._centres(mask, pieces, len(sizes))
            wrong = centres > midline if label == step.right else centres < midline
            view[mask & wrong[pieces]] = 0
        return ()

    def _centres(self, mask: Mask, pieces: NDArray[np.int32], count: int) -> Floats:
        """Return the mean x of each piece in mm; piece 0 is none."""
        where = np.nonzero(mask)
        x = self._start_x + sum(
            float(step) * index for step, index in zip(self._to_x, where, strict=True)
        )
        numbers = pieces[where]
        total = np.bincount(numbers, weights=x, minlength=count)
        return total / np.maximum(np.bincount(numbers, minlength=count), 1)

    def _x_of(self, shape: Sequence[int]) -> Floats:
        along = [step * np.arange(count) for step, count in zip(self._to_x, shape, strict=True)]
        x: Floats = self._start_x + along[0][:, None, None] + along[1][:, None] + along[2]
        return x
