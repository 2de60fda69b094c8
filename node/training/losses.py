"""What a training makes small: cross-entropy and soft Dice, for labels and for shares."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def loss_of(
    scores: Tensor,
    labels: Tensor,
    *,
    smooth: float,
    dice_weight: float = 1.0,
    of_batch: bool = False,
) -> Tensor:
    """Return cross-entropy plus what the soft Dice per example and class lacks of one.

    Args:
        scores: (b, classes, [slices,] rows, columns), before softmax.
        labels: int64 (b, [slices,] rows, columns).
        smooth: Voxels added above and below in the Dice.
        dice_weight: Weight of the Dice against the cross-entropy.
        of_batch: The Dice is of the whole batch: for what is small or absent in many examples.
    """
    entropy = functional.cross_entropy(scores, labels)
    shares = scores.softmax(dim=1)[:, 1:]  # (b, classes - 1, ...)
    wanted = functional.one_hot(labels, scores.shape[1]).movedim(-1, 1)[:, 1:].to(shares.dtype)
    over = _summed_axes(scores, of_batch=of_batch)
    both = (shares * wanted).sum(dim=over)
    each = shares.sum(dim=over) + wanted.sum(dim=over)
    dice = (2 * both + smooth) / (each + smooth)
    return entropy + dice_weight * (1 - dice.mean())


def share_loss_of(
    scores: Tensor,
    shares: Tensor,
    *,
    smooth: float,
    dice_weight: float = 1.0,
    of_batch: bool = False,
) -> Tensor:
    """Return binary cross-entropy plus what the squared Dice lacks of one.

    Both are smallest where the estimate is the share itself; the usual Dice, sums without squares,
    is not: it pushes every share to 0 or 1.

    Args:
        scores: (b, 1, [slices,] rows, columns), before the sigmoid.
        shares: float32 (b, [slices,] rows, columns), 0 to 1.
        smooth: Voxels added above and below in the Dice.
        dice_weight: Weight of the Dice against the cross-entropy.
        of_batch: The Dice is of the whole batch.
    """
    wanted = shares[:, None]
    entropy = functional.binary_cross_entropy_with_logits(scores, wanted)
    found = torch.sigmoid(scores)
    over = _summed_axes(scores, of_batch=of_batch)
    both = (found * wanted).sum(dim=over)
    each = found.square().sum(dim=over) + wanted.square().sum(dim=over)
    dice = (2 * both + smooth) / (each + smooth)
    return entropy + dice_weight * (1 - dice.mean())


def _summed_axes(scores: Tensor, *, of_batch: bool) -> tuple[int, ...]:
    inside = tuple(range(2, scores.dim()))
    return (0, *inside) if of_batch else inside
