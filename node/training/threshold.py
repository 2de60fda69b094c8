"""The threshold of a probability head, chosen on training cases.

A loss of overlap and soft references leave probabilities that are no frequencies: at 0.5 the nerve
on ultrasound came out a fifth too large, on cases of the training as on others. What is chosen on
training cases costs held-out ones nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from node.models.loaded import LoadedModel
from node.training.cases import Case
from node.training.scoring import score_cases

_IN_HEAD: Final = re.compile(r"^(\[head\]\n(?:(?!\[).*\n)*?threshold = ).*$", re.MULTILINE)
_TRIED: Final = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)


def threshold_text(text: str, model: LoadedModel, cases: Sequence[Case]) -> str:
    """Return a card's text with the threshold whose mean Dice is best; of equals the lowest.

    Args:
        text: With `threshold` in [head].
        model: Its weights, behind a probability head.
        cases: Training cases.
    """
    dice = [_mean_dice(model, cases, one) for one in _TRIED]
    best = _TRIED[int(np.argmax(dice))]
    return text_with_threshold(text, best)


def text_with_threshold(text: str, threshold: float) -> str:
    """Return a card's text with another `threshold` in [head]."""
    return _IN_HEAD.sub(rf"\g<1>{threshold:g}", text)


def with_threshold(model: LoadedModel, threshold: float) -> LoadedModel:
    """Return the model with another threshold of its head."""
    head = replace(model.card.head, threshold=threshold)
    return replace(model, card=replace(model.card, head=head))


def _mean_dice(model: LoadedModel, cases: Sequence[Case], threshold: float) -> float:
    figures = score_cases(with_threshold(model, threshold), cases)
    return float(np.nanmean([np.nan_to_num(one.mean_dice) for one in figures]))
