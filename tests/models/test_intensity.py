"""Intensity steps: fixed ones voxel by voxel, statistics from what was measured alone."""

from __future__ import annotations

import numpy as np
import pytest

from node.models.intensity import apply_steps, fix_steps
from node.models.parts import Add, Clip, Normalise, Percentiles, Scale, Step, ZScore

FIXED = {
    "clip": (Clip(-10, 10), [-10.0, 0.0, 10.0]),
    "add": (Add(1024), [924.0, 1024.0, 1124.0]),
    "scale": (Scale(-100, 100, 0, 1), [0.0, 0.5, 1.0]),
    "normalise": (Normalise(50, 25), [-6.0, -2.0, 2.0]),
}


@pytest.mark.parametrize(("step", "wanted"), FIXED.values(), ids=FIXED.keys())
def test_a_fixed_step_is_its_formula(step: Clip | Add | Scale | Normalise, wanted: list) -> None:
    values = np.array([-100, 0, 100], np.float32)
    assert apply_steps((step,), values).tolist() == pytest.approx(wanted)


def test_statistics_leave_padding_out_and_see_the_steps_before_them() -> None:
    rng = np.random.default_rng(4)
    array = rng.normal(300, 40, (6, 20, 20)).astype(np.int16)
    padding = np.zeros(array.shape, bool)
    padding[:, :5] = True
    array[padding] = -2000
    steps: tuple[Step, ...] = (Clip(250, 350), ZScore())
    fixed = fix_steps(steps, array, padding)
    measured = apply_steps(fixed, array[~padding].astype(np.float32))
    assert measured.mean() == pytest.approx(0, abs=1e-4)
    assert measured.std() == pytest.approx(1, abs=1e-4)
    clipped = np.clip(array[~padding], 250, 350)
    assert fixed[1] == Normalise(
        pytest.approx(clipped.mean()), pytest.approx(clipped.std(), rel=1e-6)
    )


def test_percentiles_are_those_of_the_measured_voxels() -> None:
    array = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    fixed = fix_steps((Percentiles(10, 90, -1, 1),), array, None)
    values = apply_steps(fixed, np.array([0, 99.9, 499.5, 899.1, 999], np.float32))
    assert values.tolist() == pytest.approx([-1, -1, 0, 1, 1], abs=1e-5)


@pytest.mark.parametrize("step", [ZScore(), Percentiles(1, 99, 0, 1)])
def test_a_flat_volume_divides_by_nothing(step: Step) -> None:
    array = np.full((3, 4, 5), 7, np.int16)
    for padding in (None, np.ones(array.shape, bool)):
        values = apply_steps(fix_steps((step,), array, padding), array.astype(np.float32))
        assert np.isfinite(values).all()
