"""Platt scaling of a fraction head: scale and offset of the logit, fitted on unvaried cases.

Training sees varied, foreground-rich patches; on whole volumes its shares are biased, and a small
bias over tens of thousands of voxels is a large volume. Two numbers, fitted on whole cases as
inference sees them, take most of it away. Cases that the network was trained on look better to it
than new ones: where every fold is trained, each is calibrated by what the others held out.

Source: Platt 1999; fitted by Newton's method, which for two numbers needs a dozen rounds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.imaging.values import Frames
from node.models.fractions import supported
from node.models.loaded import LoadedModel
from node.models.prepare import prepare
from node.models.scores import Meter, score_planes
from node.training.cases import Case
from node.training.view import view_of

_ROUNDS: Final = 30
_HALVINGS: Final = 24
_WIDEST_OFFSET: Final = 8.0
_LEAST_SCALE, _MOST_SCALE = 0.01, 100.0
"""What a card may hold."""


@dataclass(frozen=True, slots=True, eq=False)
class CaseLogits:
    """What a network says of a case, and what is true, on the network's grid.

    Attributes:
        logits: float32 [slice, row, column], before any calibration.
        shares: float32, same shape: the share of each voxel that is tissue.
    """

    logits: NDArray[np.float32]
    shares: NDArray[np.float32]


def logits_of(model: LoadedModel, case: Case) -> CaseLogits:
    """Return the logits of a model with a fraction head, and the truth, on its grid."""
    if isinstance(case.image, Frames):
        raise TypeError("fractions are of volumes; frames have none")
    planes = score_planes(prepare(case.image, model.card), model, Meter(lambda _: None))
    found = np.stack([plane[0].cpu().numpy() for plane in planes])
    return CaseLogits(found, view_of(case, model.card).shares(case.reference == 1))


def calibrated_text(text: str, cases: Sequence[CaseLogits], *, support_voxels: int) -> str:
    """Return a card's text with logit_scale and logit_offset fitted.

    The scale is that of the least cross-entropy near tissue. The offset then makes the median
    case's volume right: cross-entropy over voxels asks for the sum of all volumes, which a few
    large tumours decide.

    Args:
        text: With both keys in [head].
        cases: Logits and truth.
        support_voxels: The head's support.
    """
    near = [_near(case, support_voxels) for case in cases]
    scale, _ = fitted(
        np.concatenate([case.logits[here] for case, here in zip(cases, near, strict=True)]),
        np.concatenate([case.shares[here] for case, here in zip(cases, near, strict=True)]),
    )
    if not _LEAST_SCALE < scale < _MOST_SCALE:
        scale = 1.0  # the network says nothing of these cases; its volumes will raise an alarm
    offset = median_offset(cases, scale, support_voxels=support_voxels)
    for key, value in (("logit_scale", scale), ("logit_offset", offset)):
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value:.4f}", text)
    return text


def median_offset(cases: Sequence[CaseLogits], scale: float, *, support_voxels: int) -> float:
    """Return the offset at which the median of found over true volume is 1.

    Volumes grow with the offset, so that halving an interval finds it. Cases without anything to
    find have no ratio; where there are no others the offset is 0.
    """
    held = [case for case in cases if case.shares.any()]
    if not held:
        return 0.0
    low, high = -_WIDEST_OFFSET, _WIDEST_OFFSET
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        ratios = [_volume(case, scale, middle, support_voxels) / case.shares.sum() for case in held]
        if np.median(ratios) < 1.0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _volume(case: CaseLogits, scale: float, offset: float, support_voxels: int) -> float:
    """Return the sum of the shares that inference would give, in voxels of the network's grid."""
    logits = np.clip(case.logits * scale + offset, -30, 30)
    shares = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return float(supported(shares, support_voxels).sum())


def _near(case: CaseLogits, reach: int) -> NDArray[np.bool_]:
    """Return where tissue is or is thought to be, and `reach` voxels around."""
    here: NDArray[np.bool_] = (case.logits >= 0) | (case.shares > 0)
    if reach:  # no iterations mean endless ones to scipy
        here = ndimage.binary_dilation(here, np.ones((3, 3, 3), bool), iterations=reach)
    return here


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
