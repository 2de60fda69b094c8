"""Pieces of a label as segments of their own: each nodule with its number, volume and tracking.

The order is that of volume, the largest first, and of position (feet to head, front to back,
right to left) among equals, so that the same labels always give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Floats, Labels, Segment
from node.models.parts import Instances, PostStep

_TOUCHING: Final = np.ones((3, 3, 3), bool)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Labels in which every instance has its own number.

    Attributes:
        labels: uint8, [slice, row, column]; numbered as `segments`.
        pooled: The same voxels with the card's own labels.
        segments: What was made, numbered from 1.
        notes: Sentences that ask a person to look.
    """

    labels: Labels
    pooled: Labels
    segments: tuple[Segment, ...]
    notes: tuple[str, ...]


def split_instances(
    labels: Labels, segments: Sequence[Segment], steps: Sequence[PostStep], affine: Floats
) -> Split:
    """Return labels with a segment for each piece (faces, edges and corners touch).

    A label without any voxel keeps its one, empty segment.

    Args:
        labels: uint8, [slice, row, column]; not changed.
        segments: The card's.
        steps: The card's; only `instances` are looked at.
        affine: (4, 4), index [slice, row, column, 1] to LPS mm.
    """
    wanted = {step.label: step.at_most for step in steps if isinstance(step, Instances)}
    if not wanted:
        return Split(labels, labels, tuple(segments), ())
    result, pooled = np.zeros_like(labels), labels.copy()
    made: list[Segment] = []
    notes = []
    for segment in segments:
        mask = labels == segment.number
        if segment.number not in wanted or not mask.any():
            made.append(replace(segment, number=len(made) + 1))
            result[mask] = len(made)
            continue
        pieces, count = ndimage.label(mask, structure=_TOUCHING)
        order = _order(pieces, count, affine)
        kept = order[: wanted[segment.number]]
        for place, piece in enumerate(kept, start=1):
            made.append(replace(segment, number=len(made) + 1, label=f"{segment.label} {place}"))
            result[pieces == piece] = len(made)
        if len(order) > len(kept):
            pooled[mask & (result == 0)] = 0
            notes.append(
                f"{len(order)} pieces of {segment.label} were found, more than the "
                f"{len(kept)} that this model may report; the largest were kept."
            )
    return Split(result, pooled, tuple(made), tuple(notes))


def _order(pieces: NDArray[np.int32], count: int, affine: Floats) -> list[int]:
    """Return the numbers of the pieces, the largest first, then by position in the patient."""
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    centres = ndimage.center_of_mass(pieces > 0, pieces, range(1, count + 1))

    def rank(piece: int) -> tuple[float, ...]:
        x, y, z = (affine @ [*centres[piece - 1], 1.0])[:3]
        return (-float(sizes[piece]), round(z, 3), round(y, 3), round(x, 3))

    return sorted(range(1, count + 1), key=rank)
