"""From a volume to coded findings with probabilities, by the same card, grid and network loop.

Any network serves: each output is averaged, or its highest value taken, over what it says of the
image; one that pools by itself says one number per plane or patch, which is averaged likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from node.imaging.values import Classification, Finding, Outcome, ScoredFinding, Verdict, Volume
from node.models.axis import Axis
from node.models.loaded import LoadedModel
from node.models.parts import Head
from node.models.prepare import prepare
from node.models.region import Region, cut_out
from node.models.scores import Meter, score_planes
from node.models.verdict import joined


def classify_volume(
    volume: Volume,
    model: LoadedModel,
    *,
    region: Region | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Classification:
    """Classify a volume.

    Args:
        volume: A volume that `fit.refusal_of` does not refuse.
        model: A loaded model whose card is a classification.
        region: To what the model is limited, None for the whole volume.
        progress: Called with the share 0..1 of the network's work that is done.

    Raises:
        ValueError: The volume is not in the card's units.
    """
    card = model.card
    begun = perf_counter()
    meter = Meter(progress)
    seen = volume if region is None else cut_out(volume, region, card.backgrounds)[0]
    prepared = prepare(seen, card)
    meter.add("prepare", begun)
    slices, rows, columns = (_inside(axis) for axis in prepared.axes)
    planes = (
        plane[:, _part(rows, plane.shape[1])][:, :, _part(columns, plane.shape[2])]
        for index, plane in enumerate(score_planes(prepared, model, meter))
        if slices.start <= index < slices.stop
    )
    chances = probabilities(pooled(planes, card.head.pool), card.head)
    found = tuple(
        ScoredFinding(finding, chance)
        for finding, chance in zip(card.findings, chances, strict=True)
    )
    return Classification(
        findings=found,
        verdict=joined(Verdict(Outcome.ACCEPT), list(_unsure(found))),
        model=card.identity,
        runtime=model.runtime,
        seconds={**meter.seconds, "total": perf_counter() - begun},
    )


def pooled(planes: Iterator[Tensor], pool: str) -> Tensor:
    """Return one score per output, float64 (outputs,), over all planes (outputs, rows, columns).

    Args:
        planes: At least one.
        pool: `mean` or `max`.
    """
    if pool == "max":
        return torch.stack([plane.flatten(1).amax(dim=1).double() for plane in planes]).amax(dim=0)
    means = [plane.flatten(1).mean(dim=1, dtype=torch.float64) for plane in planes]
    return torch.stack(means).mean(dim=0)


def probabilities(scores: Tensor, head: Head) -> tuple[float, ...]:
    """Return the probability of each output: softmax of `classes`, else each one's sigmoid."""
    chances = scores.softmax(dim=0) if head.kind == "classes" else scores.sigmoid()
    return tuple(float(chance) for chance in chances.cpu())


def _inside(axis: Axis) -> slice:
    """Return the network's voxels whose centres lie in the image."""
    centres = axis.start + (np.arange(axis.model_count) + 0.5) * axis.ratio
    within = np.flatnonzero((centres >= 0) & (centres <= axis.native_count))
    return slice(int(within[0]), int(within[-1]) + 1)


def _part(inside: slice, length: int) -> slice:
    """Return the image's part of an axis; a network that pooled it has nothing to cut."""
    return slice(None) if length == 1 else inside


def _unsure(found: tuple[ScoredFinding, ...]) -> Iterator[tuple[Outcome, str]]:
    for one in found:
        finding: Finding = one.finding
        if abs(one.probability - finding.threshold) < finding.review_within:
            yield (
                Outcome.REVIEW,
                f"{finding.label} has the probability {one.probability:.2f}, close to its "
                f"threshold of {finding.threshold:g}.",
            )
