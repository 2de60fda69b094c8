"""Windows, crops and paste-back put every voxel back where it came from."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from node.models.axis import Axis, resampled_axis, window_axis

counts = st.integers(1, 90)
ratios = st.floats(0.3, 4.0)


@given(native=counts, count=counts, centre=st.floats(-20, 120))
def test_a_window_at_native_distance_is_an_index_operation(
    native: int, count: int, centre: float
) -> None:
    axis = window_axis(native, 1.0, count=count, centre=centre)
    assert axis.is_shift
    values = np.arange(1, native + 1, dtype=np.float32)
    there = axis.forward("area") @ values
    back = axis.backward("linear") @ there
    np.testing.assert_array_equal(back, values[axis.inside])
    assert axis.inside.stop - axis.inside.start == min(native, count)


@given(native=counts, ratio=ratios, count=counts, centre=st.floats(0, 90))
def test_a_window_stays_inside_the_image_or_holds_all_of_it(
    native: int, ratio: float, count: int, centre: float
) -> None:
    axis = window_axis(native, ratio, count=count, centre=centre)
    slack = 0.5 + 1e-6 if ratio == 1.0 else 1e-6
    if count * ratio >= native:
        assert axis.start <= slack
        assert axis.stop >= native - slack
    else:
        assert axis.start >= -slack
        assert axis.stop <= native + slack


@given(native=st.integers(4, 90), ratio=ratios)
def test_a_ramp_comes_back_as_a_ramp(native: int, ratio: float) -> None:
    """No half-voxel shift: what is linear survives both ways, away from the ends.

    Averages over parts of native voxels, which are constant inside, waver by up to an eighth.
    """
    axis = resampled_axis(native, ratio, at_least=1, multiple=1)
    values = np.arange(native, dtype=np.float64)
    edge = int(np.ceil(2 * ratio)) + 2
    middle = slice(edge, max(edge, native - edge))
    for downsample, near in (("area", 0.126), ("linear", 1e-3)):
        back = axis.backward("linear").astype(float) @ (axis.forward(downsample) @ values)
        np.testing.assert_allclose(back[middle], values[axis.inside][middle], atol=near)


@given(native=counts, ratio=ratios)
def test_reading_an_axis_backwards_changes_nothing(native: int, ratio: float) -> None:
    axis = resampled_axis(native, ratio, at_least=1, multiple=1)
    for matrix in (axis.forward("area"), axis.forward("linear"), axis.backward("linear")):
        np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-5)


@given(native=counts, ratio=st.floats(1.01, 4.0))
def test_area_averaging_keeps_the_total(native: int, ratio: float) -> None:
    axis = resampled_axis(native, ratio, at_least=1, multiple=1)
    shares = axis.forward("area").sum(axis=0) * axis.ratio
    np.testing.assert_allclose(shares[1:-1], 1.0, atol=1e-4)


def test_a_window_says_whether_it_cuts_the_image() -> None:
    assert Axis(100, 50, 1.0, 20.0).crops
    assert not Axis(100, 120, 1.0, -10.0).crops
    assert not Axis(100, 50, 2.0, 0.0).crops
