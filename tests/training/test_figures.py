"""Figures: empty answers are not perfect, intervals are by patient, alarms say what they saw."""

from __future__ import annotations

import math

import numpy as np
import pytest

from node.training.alarms import alarms_of, paired
from node.training.figures import CaseFigures, dice_or_none, interval_of, summary_of, volume_ratio

EMPTY = np.zeros((2, 3), bool)


def _case(dice: float, patient: int, volume: float = 1.0) -> CaseFigures:
    return CaseFigures("0" * 12, patient, (dice,), (volume,), (1.0,))


def test_a_label_that_neither_has_counts_nowhere_and_a_missed_one_counts_as_0() -> None:
    some = EMPTY.copy()
    some[0, 0] = True
    assert math.isnan(dice_or_none(EMPTY, EMPTY))
    assert dice_or_none(EMPTY, some) == dice_or_none(some, EMPTY) == 0
    both = CaseFigures("0" * 12, 0, (0.8, math.nan), (1.0, 0.0), (1.0, 0.0))
    assert both.mean_dice == 0.8


def test_intervals_resample_patients_so_that_copies_make_them_no_narrower() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    values = [float(one) for one in rng.normal(0.7, 0.1, 12)]
    once = interval_of(values, range(12))
    copied = interval_of(values * 20, list(range(12)) * 20)
    assert copied.mean == pytest.approx(once.mean)
    assert copied.high - copied.low == pytest.approx(once.high - once.low)
    as_if_alone = interval_of(values * 20, range(240))
    assert as_if_alone.high - as_if_alone.low < 0.5 * (once.high - once.low)


def test_a_summary_tells_the_mean_over_cases_and_over_patients() -> None:
    said = summary_of([_case(0.9, 0), _case(0.9, 0), _case(0.3, 1)])
    assert said["dice"] == pytest.approx(0.7)
    assert said["dice_by_patient"] == pytest.approx(0.6)
    assert said["dice_worst"] == 0.3


def test_a_gain_is_counted_on_the_same_cases() -> None:
    ours = [_case(0.5 + 0.1 * k, k) for k in range(5)]
    theirs = [_case(0.45 + 0.1 * k, k) for k in range(5)]
    mean, low, high = paired(ours, theirs)
    assert (mean, low, high) == pytest.approx((0.05, 0.05, 0.05))


def _codes(train: float, test: float, *, volume: float = 1.0, other: float = 0.1) -> set[str]:
    found = alarms_of(
        train=[_case(train, k) for k in range(10)],
        train_patients=40,
        test=[_case(test, k, volume) for k in range(20)],
        others={"position": [_case(other, k) for k in range(20)]},
        negatives=True,
        fractions=True,
    )
    return {alarm.code for alarm in found}


def test_alarms_fire_beyond_their_limits_and_not_before() -> None:
    assert _codes(0.85, 0.80) == set()
    assert _codes(0.95, 0.80) == {"overfit-gap"}
    assert _codes(0.985, 0.97) == {"overfit-gap"}
    assert _codes(0.85, 0.80, volume=1.2) == {"volume-bias"}
    assert _codes(0.85, 0.80, other=0.7) == {"shortcut"}
    assert _codes(0.85, 0.80, other=0.8) == {"shortcut", "baseline"}


def test_few_patients_and_wide_intervals_are_told() -> None:
    found = alarms_of(
        train=[_case(0.7, 0)],
        train_patients=12,
        test=[_case(0.7, 0), _case(0.6, 1)],
        others={},
        negatives=True,
        fractions=False,
    )
    assert [alarm.code for alarm in found] == ["few-patients"]


def _of_sizes(small: float, *, negatives: bool) -> set[str]:
    sizes = [CaseFigures("0" * 12, k, (0.8,), (k + 10.0,), (k + 10.0,)) for k in range(8)]
    little = [CaseFigures("0" * 12, 20 + k, (small,), (1.0,), (1.0,)) for k in range(4)]
    found = alarms_of(
        train=[_case(0.8, 0)],
        train_patients=40,
        test=[*sizes, *little],
        others={},
        negatives=negatives,
        fractions=False,
    )
    return {alarm.code for alarm in found} - {"few-patients"}


def test_a_model_that_misses_what_is_small_is_told() -> None:
    assert _of_sizes(0.65, negatives=True) == set()
    assert _of_sizes(0.55, negatives=True) == {"size-bias"}


def test_a_training_that_never_saw_an_empty_case_says_so() -> None:
    assert _of_sizes(0.7, negatives=False) == {"no-negatives"}


def test_volumes_are_compared_case_by_case() -> None:
    figures = [_case(0.9, 0, 1.1), _case(0.9, 1, 0.9), _case(0.9, 2, 1.02)]
    assert volume_ratio(figures) == pytest.approx(1.02)
