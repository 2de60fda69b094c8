"""Platt scaling of a fraction head: scale and offset of the logit, fitted on unvaried cases.

Training sees varied, foreground-rich patches; on whole volumes its shares are biased, and a small
bias over tens of thousands of voxels is a large volume. Two numbers, fitted by cross-entropy on the
training cases as inference sees them, take most of it away.

Source: Platt 1999; fitted by Newton's method, which for two numbers needs a dozen rounds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Frames
from node.models.loaded import LoadedModel
from node.models.prepare import prepare
from node.models.scores import Meter, score_planes
from node.training.cases import Case
from node.training.view import view_of

_ROUNDS: Final = 30


def calibrated_text(
    text: str,
    model: LoadedModel,
    cases: Sequence[Case],
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> str:
    """Return a card's text with logit_scale and logit_offset fitted.

    Args:
        text: With both keys in [head].
        model: With scale 1 and offset 0.
        cases: Training cases.
        progress: Called with the share that is done.
    """
    logits, shares = [], []
    reach = model.card.head.support_voxels
    for done, case in enumerate(cases, start=1):
        if isinstance(case.image, Frames):
            raise TypeError("fractions are of volumes; frames have none")
        planes = score_planes(prepare(case.image, model.card), model, Meter(lambda _: None))
        found = np.stack([plane[0].cpu().numpy() for plane in planes])
        wanted = view_of(case, model.card).shares(case.reference == 1)
        near = ndimage.binary_dilation(
            (found >= 0) | (wanted > 0), np.ones((3, 3, 3), bool), iterations=reach
        )
        logits.append(found[near])
        shares.append(wanted[near])
        progress(done / len(cases))
    scale, offset = fitted(np.concatenate(logits), np.concatenate(shares))
    for key, value in (("logit_scale", scale), ("logit_offset", offset)):
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value:.4f}", text)
    return text


def fitted(logits: NDArray[np.float32], shares: NDArray[np.float32]) -> tuple[float, float]:
    """Return scale and offset with the least cross-entropy.

    Args:
        logits: Any shape.
        shares: The truth, 0 to 1, same shape.
    """
    x, t = logits.astype(np.float64).ravel(), shares.astype(np.float64).ravel()
    design = np.stack([x, np.ones_like(x)])  # (2, n)
    at = np.array([1.0, 0.0])
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-np.clip(at @ design, -30, 30)))
        slope = design @ (p - t)
        curve = (design * (p * (1 - p))) @ design.T + 1e-6 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        at = at - step
        if float(np.abs(step).max()) < 1e-8:
            break
    return float(at[0]), float(at[1])
