"""Accept, review or reject: rules on numbers, each with its sentence.

Pure: what was measured goes in, a verdict comes out. Only an empty segment that the card calls
impossible, sides that are swapped, and labels outside the body reject a result; everything else
asks a person to look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from node.imaging.values import Floats, Labels, Outcome, Segment, Verdict
from node.models.parts import Quality

Said = Sequence[tuple[Outcome, str]]
"""What rules say: an outcome with its sentence each; empty where none spoke."""

_Said = list[tuple[Outcome, str]]

RIGHT: Final = ("24028007", "SCT")
LEFT: Final = ("7771000", "SCT")


@dataclass(frozen=True, slots=True)
class Figures:
    """What the rules look at.

    Attributes:
        volume_ml: Volume of each segment, 0 where it is empty.
        centre_x_mm: Mean x (towards the patient's left) of each segment that is not empty.
        end_slice_cm2: Labelled area on the first and on the last slice.
        removed_ml: What post-processing took away.
        window_cut: Whether labels touch a border of the window that cuts the image.
        notes: Sentences of post-processing that ask a person to look.
    """

    volume_ml: Mapping[int, float]
    centre_x_mm: Mapping[int, float]
    end_slice_cm2: tuple[float, float]
    removed_ml: float
    window_cut: bool
    notes: tuple[str, ...]


def figures_of(
    labels: Labels,
    segments: Sequence[Segment],
    *,
    affine: Floats,
    removed_ml: float,
    window_cut: bool,
    notes: tuple[str, ...],
    volume_ml: Mapping[int, float] | None = None,
) -> Figures:
    """Measure what the rules look at.

    Args:
        labels: uint8, [slice, row, column].
        segments: Every segment of the card.
        affine: (4, 4), index [slice, row, column, 1] to LPS mm.
        removed_ml: What post-processing took away.
        window_cut: Whether labels touch a border of the window that cuts the image.
        notes: Sentences of post-processing.
        volume_ml: Volume of each segment where it is not that of its voxels.
    """
    steps = affine[:3, :3]
    voxel_ml = float(abs(np.linalg.det(steps))) / 1000.0
    pixel_cm2 = float(np.linalg.norm(np.cross(steps[:, 1], steps[:, 2]))) / 100.0
    counts = np.zeros(256, np.int64)
    sums = np.zeros((256, 3))  # of slice, row and column indices
    for index, plane in enumerate(labels):
        where = np.nonzero(plane)
        if not where[0].size:
            continue
        found = plane[where]
        here = np.bincount(found, minlength=256)
        counts += here
        sums[:, 0] += here * float(index)
        for axis in (0, 1):
            sums[:, axis + 1] += np.bincount(found, weights=where[axis], minlength=256)
    numbers = [segment.number for segment in segments]
    centre_x = {
        number: float(affine[0, :3] @ (sums[number] / counts[number]) + affine[0, 3])
        for number in numbers
        if counts[number]
    }
    ends = [float(np.count_nonzero(labels[end])) * pixel_cm2 for end in (0, -1)]
    return Figures(
        volume_ml=volume_ml or {number: float(counts[number]) * voxel_ml for number in numbers},
        centre_x_mm=centre_x,
        end_slice_cm2=(ends[0], ends[1]),
        removed_ml=removed_ml,
        window_cut=window_cut,
        notes=notes,
    )


def judge(
    figures: Figures, quality: Quality, segments: Sequence[Segment], more: Said = ()
) -> Verdict:
    """Return the verdict with a sentence for each rule that spoke, the gravest rule deciding.

    Args:
        figures: What was measured.
        quality: The card's limits.
        segments: Every segment of the card.
        more: What other rules said: place, agreement, distance to the training set.
    """
    names = {segment.number: segment.label for segment in segments}
    said = [
        *_empty(figures, quality, names),
        *_swapped(figures, segments),
        *_limits(figures, quality, names),
        *_whole(figures, quality),
        *((Outcome.REVIEW, note) for note in figures.notes),
        *more,
    ]
    return joined(Verdict(Outcome.ACCEPT), said)


def joined(verdict: Verdict, said: Said) -> Verdict:
    """Return a verdict with further sentences, the gravest outcome deciding."""
    reasons = (*verdict.reasons, *(sentence for _, sentence in said))
    outcomes = {verdict.outcome, *(outcome for outcome, _ in said)}
    for outcome in (Outcome.REJECT, Outcome.REVIEW):
        if outcome in outcomes:
            return Verdict(outcome, reasons)
    return Verdict(Outcome.ACCEPT, reasons)


def _empty(figures: Figures, quality: Quality, names: Mapping[int, str]) -> _Said:
    """Say what is not there; where nothing is expected, that the model looked and found none."""
    expected = {limits.number: Outcome(limits.when_empty) for limits in quality.segments}
    said: _Said = []
    for number, name in names.items():
        if figures.volume_ml[number] > 0:
            continue
        outcome = expected.get(number, Outcome.ACCEPT)
        text = f"{name} is empty."
        if outcome is Outcome.ACCEPT:
            text = f"{name}: none was found by this model."
        said.append((outcome, text))
    return said


def _swapped(figures: Figures, segments: Sequence[Segment]) -> _Said:
    """Compare pairs that differ only in their side."""
    sided: dict[tuple[str, str], dict[tuple[str, str], Segment]] = {}
    for segment in segments:
        for modifier in segment.modifiers:
            side = (modifier.value, modifier.scheme)
            if side in (RIGHT, LEFT) and segment.number in figures.centre_x_mm:
                sided.setdefault((segment.type.value, segment.type.scheme), {})[side] = segment
    return [
        (
            Outcome.REJECT,
            f"{pair[RIGHT].label} lies to the patient's left of {pair[LEFT].label}: "
            "the sides are swapped.",
        )
        for pair in sided.values()
        if len(pair) == 2
        and figures.centre_x_mm[pair[RIGHT].number] > figures.centre_x_mm[pair[LEFT].number]
    ]


def _limits(figures: Figures, quality: Quality, names: Mapping[int, str]) -> _Said:
    said: _Said = []
    for limits in quality.segments:
        volume = figures.volume_ml[limits.number]
        if 0 < volume < limits.min_ml or volume > limits.max_ml:
            said.append(
                (
                    Outcome.REVIEW,
                    f"{names[limits.number]} has {volume:.0f} ml, expected are "
                    f"{limits.min_ml:g} to {limits.max_ml:g} ml.",
                )
            )
    for ratio in quality.ratios:
        of, to = figures.volume_ml[ratio.of], figures.volume_ml[ratio.to]
        if to > 0 and of > 0 and not ratio.low <= of / to <= ratio.high:
            said.append(
                (
                    Outcome.REVIEW,
                    f"{names[ratio.of]} has {of / to:.2f} times the volume of {names[ratio.to]}, "
                    f"expected are {ratio.low:g} to {ratio.high:g}.",
                )
            )
    return said


def _whole(figures: Figures, quality: Quality) -> _Said:
    said: _Said = []
    left = sum(figures.volume_ml.values())
    if figures.removed_ml > quality.removed_fraction * (left + figures.removed_ml):
        said.append(
            (
                Outcome.REVIEW,
                f"Post-processing removed {figures.removed_ml:.0f} ml beside {left:.0f} ml that "
                "stayed: the network saw something it does not know.",
            )
        )
    for end, area in zip(("first", "last"), figures.end_slice_cm2, strict=True):
        if 0 < quality.end_slice_cm2 < area:
            said.append(
                (
                    Outcome.REVIEW,
                    f"Labels cover {area:.0f} cm2 of the {end} slice: the organ may be cut off.",
                )
            )
    if figures.window_cut:
        said.append(
            (
                Outcome.REVIEW,
                "Labels touch the border of the window that the network saw: something may lie "
                "outside it.",
            )
        )
    return said
