"""How far passes over the mirrored image give the same labels.

The pairwise Dice of several passes is the best simple sign of a failed segmentation (Zenk et al.,
Medical Image Analysis 101, 2025, 103392). Labels are compared before post-processing, which would
hide what the passes do not agree on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from node.imaging.values import Labels, Outcome
from node.models.verdict import Said


def pairwise_dice(passes: Sequence[Labels]) -> dict[int, float]:
    """Return the mean Dice of all pairs of passes for each label that any of them gives."""
    counts = [np.bincount(one.ravel(), minlength=256) for one in passes]
    sums = np.zeros(256)
    for first, second in combinations(range(len(passes)), 2):
        same = passes[first] == passes[second]
        both = np.bincount(passes[first][same], minlength=256)
        total = counts[first] + counts[second]
        sums += np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)
    pairs = len(passes) * (len(passes) - 1) // 2
    given = np.flatnonzero(np.sum(counts, axis=0)[1:]) + 1
    return {int(label): float(sums[label] / pairs) for label in given}


def disagreement(
    passes: Sequence[Labels], *, review_below: float, names: Mapping[int, str]
) -> Said:
    """Return a sentence for each label on which the passes agree too little."""
    return [
        (
            Outcome.REVIEW,
            f"{len(passes)} passes over the mirrored image agree on "
            f"{names.get(label, f'label {label}')} only to {dice:.2f} (Dice), expected is at "
            f"least {review_below:g}.",
        )
        for label, dice in pairwise_dice(passes).items()
        if dice < review_below
    ]
