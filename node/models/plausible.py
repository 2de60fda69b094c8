"""Where a segment may lie: its pieces, its side, its height in the image, inside the body.

Pure, on labels and the source's values. A mask outside the body is wrong whatever it shows; the
other rules ask a person to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Labels, Outcome, Volume
from node.models.parts import Quality, SegmentLimits
from node.models.verdict import Said

_TOUCHING: Final = np.ones((3, 3, 3), bool)
_COARSE_MM: Final = 4.0  # grid on which the body is looked for
_SKIN: Final = 2
"""Coarse voxels by which the body is grown: its surface is not what this rule is about."""


def implausible(
    labels: Labels,
    volume: Volume,
    quality: Quality,
    names: Mapping[int, str],
    *,
    body_above: float,
) -> Said:
    """Return a sentence for each limit of place that the labels break.

    Args:
        labels: uint8, the volume's shape; numbered as the card's segments.
        volume: The source.
        quality: The card's limits.
        names: What the segments are called.
        body_above: What is body, in the volume's units.
    """
    said: list[tuple[Outcome, str]] = []
    for limits in quality.segments:
        if (labels == limits.number).any():
            said += _place(labels == limits.number, volume, limits, names[limits.number])
    if quality.outside_body < 1.0 and labels.any():
        share = _outside_body(labels, volume, body_above)
        if share > quality.outside_body:
            said.append((Outcome.REJECT, f"{share:.0%} of the labels lie outside the body."))
    return said


def _place(mask: NDArray[np.bool_], volume: Volume, limits: SegmentLimits, name: str) -> Said:
    said: list[tuple[Outcome, str]] = []
    if limits.max_pieces:
        pieces = int(ndimage.label(mask, structure=_TOUCHING)[1])
        if pieces > limits.max_pieces:
            said.append(
                (
                    Outcome.REVIEW,
                    f"{name} has {pieces} pieces, at most {limits.max_pieces} are expected.",
                )
            )
    if not limits.side and limits.height is None:
        return said
    x, _, z = (volume.affine @ [*ndimage.center_of_mass(mask), 1.0])[:3]
    if limits.side:
        middle = (volume.affine @ [*((np.array(mask.shape) - 1) / 2), 1.0])[0]
        side = "left" if x > middle else "right"
        if side != limits.side:
            said.append(
                (
                    Outcome.REVIEW,
                    f"{name} lies on the patient's {side} of the image, expected is the "
                    f"{limits.side}.",
                )
            )
    if limits.height is not None:
        steps = volume.affine[2, :3] * (np.array(mask.shape) - 1)
        feet = volume.affine[2, 3] + np.minimum(steps, 0).sum()
        height = float((z - feet) / max(np.abs(steps).sum(), 1e-6))
        low, high = limits.height
        if not low <= height <= high:
            said.append(
                (
                    Outcome.REVIEW,
                    f"{name} lies at {height:.2f} of the image's height from its feet end, "
                    f"expected is {low:g} to {high:g}.",
                )
            )
    return said


def _outside_body(labels: Labels, volume: Volume, body_above: float) -> float:
    """Return the share of labelled voxels outside the largest thing, its holes included."""
    steps = [max(1, round(_COARSE_MM / one)) for one in volume.spacing_mm]
    coarse = volume.array[:: steps[0], :: steps[1], :: steps[2]] > body_above
    pieces, count = ndimage.label(coarse)
    if count == 0:
        return 1.0
    body = pieces == int(np.argmax(np.bincount(pieces.ravel())[1:])) + 1
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    body = ndimage.binary_dilation(body, _TOUCHING, iterations=_SKIN)
    places = np.nonzero(labels)
    near = tuple(
        np.minimum((place + step // 2) // step, size - 1)
        for place, step, size in zip(places, steps, body.shape, strict=True)
    )
    return float(np.count_nonzero(~body[near])) / places[0].size
