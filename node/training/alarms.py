"""What a training warns about: sentences with a code, written into the card and told at the end.

What would make figures worthless (patients in two sets, labels off the grid or undeclared, a
reported class that fills most of the field, losses that are no numbers) is refused before
weights are written; see `splits`, `cases`, `trainer` and `refuse_worthless` here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from node.errors import setup_error
from node.training.cases import Case
from node.training.figures import CaseFigures, interval_of, volume_ratio

_MAJORITY: Final = 0.5
_LEAST_WITH_LABEL: Final = 3
_GAP: Final = (0.10, 0.20)
_TOO_GOOD: Final = 0.98
_TRAIN_PATIENTS, _TEST_PATIENTS = 20, 10
_WIDEST: Final = 0.05
_SHORTCUT: Final = 0.8
_VOLUME: Final = {True: (0.95, 1.05), False: (0.90, 1.10)}
_SIZES: Final = 0.20
_LEAST_FOR_SIZES: Final = 9
_FOLDS: Final = 0.10


@dataclass(frozen=True, slots=True)
class Alarm:
    """One warning.

    Attributes:
        code: Stable.
        sentence: What was found, and against which limit.
    """

    code: str
    sentence: str


def refuse_worthless(train: Sequence[Case], test: Sequence[Case], labels: int) -> None:
    """Refuse data on which no figure means anything.

    Raises:
        SetupError: A label is absent from training or in fewer than 3 patients, or one fills
            more than half of the field.
    """
    for label in range(1, labels + 1):
        holders = {case.patient for case in train if (case.reference == label).any()}
        if len(holders) < _LEAST_WITH_LABEL:
            raise setup_error(
                "label-values",
                f"Label {label} occurs in {len(holders)} patients of the training set.",
                where="the references of the training",
                remedy=f"Give at least {_LEAST_WITH_LABEL} patients with it, or leave it out.",
            )
        shares = [float((case.reference == label).mean()) for case in (*train, *test)]
        if np.mean(shares) > _MAJORITY:
            raise setup_error(
                "majority-metric",
                f"Label {label} fills {np.mean(shares):.0%} of the field: an answer that knows "
                "nothing would score above 0.66.",
                where="the references of the training",
                remedy="Label the rare thing; what surrounds it is background.",
            )


def alarms_of(
    *,
    train: Sequence[CaseFigures],
    train_patients: int,
    test: Sequence[CaseFigures],
    others: Mapping[str, Sequence[CaseFigures]],
    negatives: bool,
    fractions: bool,
) -> tuple[Alarm, ...]:
    """Return what a person should know before trusting the figures.

    Args:
        train: Figures of some training cases, without variation.
        train_patients: Patients that were trained on.
        test: Figures of the held-out cases.
        others: Figures of baselines on the same cases.
        negatives: Whether any case, trained on or held out, is without what is looked for.
        fractions: Whether volumes are sums of shares.
    """
    mean, low, high = _interval(test)
    found = [*_gap(float(np.nanmean([one.mean_dice for one in train])), mean)]
    patients = len({one.patient for one in test})
    if train_patients < _TRAIN_PATIENTS or patients < _TEST_PATIENTS or high - low > 2 * _WIDEST:
        found.append(
            Alarm(
                "few-patients",
                f"{train_patients} patients trained on, {patients} held out; the Dice of "
                f"{mean:.3f} lies between {low:.3f} and {high:.3f}.",
            )
        )
    for name, figures in others.items():
        theirs = float(np.nan_to_num(np.nanmean([np.nan_to_num(f.mean_dice) for f in figures])))
        if name == "position" and theirs > _SHORTCUT * mean:
            found.append(
                Alarm(
                    "shortcut",
                    f"The place alone scores {theirs:.3f}, the model {mean:.3f}: it may have "
                    "learnt where to look and not what to look for.",
                )
            )
        least = paired(test, figures)[1]
        if not least > 0:
            found.append(
                Alarm(
                    "baseline",
                    f"Not better than '{name}' ({theirs:.3f}): the paired 95 % interval of the "
                    f"difference begins at {least:.3f}.",
                )
            )
    ratio, (least_ratio, most_ratio) = volume_ratio(test), _VOLUME[fractions]
    if not least_ratio <= ratio <= most_ratio:
        found.append(
            Alarm(
                "volume-bias",
                f"The median volume is {ratio:.3f} of the true one; wanted is {least_ratio} to "
                f"{most_ratio}.",
            )
        )
    found += _sizes(test)
    if not negatives:
        found.append(
            Alarm(
                "no-negatives",
                "Every case held what is looked for: how often the model finds something where "
                "there is nothing is not known.",
            )
        )
    return tuple(found)


def fold_alarms(means: Sequence[float]) -> tuple[Alarm, ...]:
    """Return what the mean Dice of several folds, each on patients of its own, warns about."""
    spread = max(means) - min(means)
    if not spread > _FOLDS:
        return ()
    each = ", ".join(f"{mean:.3f}" for mean in means)
    return (
        Alarm(
            "fold-spread",
            f"Folds differ by {spread:.3f} in Dice ({each}): one split alone says little; look at "
            "the cases that score worst.",
        ),
    )


def paired(
    ours: Sequence[CaseFigures], theirs: Sequence[CaseFigures]
) -> tuple[float, float, float]:
    """Return the mean gain in Dice on the same cases, with its 95 % interval by patient."""
    gain = [
        np.nan_to_num(one.mean_dice) - np.nan_to_num(other.mean_dice)
        for one, other in zip(ours, theirs, strict=True)
    ]
    over = interval_of(gain, [one.patient for one in ours])
    return over.mean, over.low, over.high


def _interval(figures: Sequence[CaseFigures]) -> tuple[float, float, float]:
    over = interval_of([one.mean_dice for one in figures], [one.patient for one in figures])
    return over.mean, over.low, over.high


def _sizes(figures: Sequence[CaseFigures]) -> tuple[Alarm, ...]:
    """Compare the third of the cases with the smallest references with the largest third."""
    held = sorted((sum(f.reference_ml), f.mean_dice) for f in figures if sum(f.reference_ml) > 0)
    if len(held) < _LEAST_FOR_SIZES:
        return ()
    third = len(held) // 3
    small, large = (
        float(np.nanmean([dice for _, dice in part])) for part in (held[:third], held[-third:])
    )
    if not small < large - _SIZES:
        return ()
    return (
        Alarm(
            "size-bias",
            f"Dice {small:.3f} in the third of the cases with the smallest references, "
            f"{large:.3f} in the third with the largest.",
        ),
    )


def _gap(train: float, test: float) -> tuple[Alarm, ...]:
    gap = train - test
    if math.isnan(gap) or (gap <= _GAP[0] and train <= _TOO_GOOD):
        return ()
    strength = "strong: " if gap > _GAP[1] else ""
    return (
        Alarm(
            "overfit-gap",
            f"{strength}Dice {train:.3f} on cases it was trained on, {test:.3f} on others.",
        ),
    )
