"""Which planes are one regular grid, and which are refused with which reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.imaging.grid import Grid, NotAGrid, Planes, find_grid, quantum_mm
from node.reasons import Reason

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.radians(15))), float(np.sin(np.radians(15))))
DY, DX = 0.7, 0.8


def planes(
    heights: list[float],
    *,
    sideways: list[float] | None = None,
    orientation: tuple[float, ...] = AXIAL,
    quantum: float = 0.0,
    depths: tuple[float, ...] = (),
) -> Planes:
    count = len(heights)
    x = sideways or [0.0] * count
    return Planes(
        positions=np.array([[10.0 + x[i], 20.0, heights[i]] for i in range(count)]),
        orientations=np.array([orientation] * count),
        spacings=np.array([[DY, DX]] * count),
        matrices=[(30, 40)] * count,
        quantum_mm=quantum,
        depths_mm=depths,
    )


@given(
    order=st.permutations(range(8)),
    gap=st.floats(0.3, 10.0),
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_any_order_and_any_orientation_gives_the_same_grid(
    order: list[int], gap: float, angles: tuple[float, float, float]
) -> None:
    turned = _rotation(angles)
    row, column = turned[:, 0], turned[:, 1]
    normal = np.cross(row, column)
    origin = np.array([-120.5, 33.25, 7.0])
    found = find_grid(
        Planes(
            positions=np.array([origin + k * gap * normal for k in order]),
            orientations=np.tile(np.concatenate([row, column]), (8, 1)),
            spacings=np.tile([DY, DX], (8, 1)),
            matrices=[(30, 40)] * 8,
        )
    )
    assert isinstance(found, Grid)
    assert [order[i] for i in found.order] == list(range(8))
    assert found.spacing_mm == pytest.approx((gap, DY, DX))
    corner = found.affine @ [7, 29, 39, 1]
    expected = origin + 7 * gap * normal + 29 * DY * column + 39 * DX * row
    np.testing.assert_allclose(corner[:3], expected, atol=1e-6)


def _rotation(angles: tuple[float, float, float]) -> np.ndarray:
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        one = np.eye(3)
        first, second = [a for a in range(3) if a != axis]
        one[first, first] = one[second, second] = c
        one[first, second], one[second, first] = -s, s
        turned = turned @ one
    return turned


STEP = [k * 1.0 for k in range(12)]


@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        (planes(STEP[:5] + STEP[6:]), Reason.MISSING_SLICES, "1 slice(s) missing"),
        (planes([*STEP, 5.0]), Reason.DUPLICATE_POSITION, "5.00 mm"),
        (planes([*STEP[:6], 6.3, *STEP[7:]]), Reason.UNEVEN_SPACING, "1.000 mm is usual"),
        (planes([0, 1, 2, 3, 4, 5, 7, 9, 11, 13]), Reason.UNEVEN_SPACING, "2.000 mm"),
        (planes([0, 1, 2, 4, 5, 7, 8]), Reason.MISSING_SLICES, "at 3.00, 6.00 mm"),
        (planes([0, 3, 6, 9.5]), Reason.UNEVEN_SPACING, "3.500"),
        (planes(STEP[:2]), Reason.TOO_FEW_SLICES, "at least 3"),
        (planes(STEP[:1]), Reason.TOO_FEW_SLICES, "at least 3"),
        (planes(STEP, orientation=TILTED), Reason.GANTRY_TILT, "15.00 degrees"),
        (planes(STEP, sideways=[0.01 * k for k in range(12)]), Reason.GANTRY_TILT, "0.11 mm"),
        (planes(STEP, sideways=[0.0] * 6 + [0.3] * 6), Reason.MOVING_ORIGIN, "6 slice(s)"),
        (planes(STEP, sideways=[0.0] * 11 + [0.3]), Reason.MOVING_ORIGIN, "slice(s)"),
        (planes(STEP, orientation=(1, 0, 0, 0.1, 0.99, 0)), Reason.NO_GEOMETRY, "right angle"),
        (planes(STEP, orientation=(0.0,) * 6), Reason.NO_GEOMETRY, "unit vectors"),
    ],
)
def test_planes_off_a_grid_are_refused_with_their_reason(
    found: Planes, reason: Reason, words: str
) -> None:
    refusal = find_grid(found)
    assert isinstance(refusal, NotAGrid)
    assert refusal.reason is reason
    assert words in refusal.explanation


def test_one_missing_slice_of_two_hundred_is_found_and_named() -> None:
    refusal = find_grid(planes([k * 0.5 for k in range(200) if k != 137]))
    assert isinstance(refusal, NotAGrid)
    assert refusal.reason is Reason.MISSING_SLICES
    assert "at 68.50 mm" in refusal.explanation
    assert refusal.planes == (136, 137)  # the neighbours of the gap


@pytest.mark.parametrize(("decimals", "gap"), [(1, 0.6667), (2, 0.6667), (2, 1.25), (3, 0.33333)])
def test_positions_rounded_in_their_text_are_one_grid(decimals: int, gap: float) -> None:
    heights = [round(k * gap, decimals) for k in range(40)]
    found = find_grid(planes(heights, quantum=quantum_mm(decimals)))
    assert isinstance(found, Grid)
    assert found.spacing_mm[0] == pytest.approx(gap, abs=0.003)


def test_positions_without_a_fraction_do_not_widen_the_tolerance() -> None:
    assert quantum_mm(0) == 0.0
    shifted = planes([0, 10, 20, 31, 40, 50], quantum=quantum_mm(0))
    refusal = find_grid(shifted)
    assert isinstance(refusal, NotAGrid)
    assert refusal.reason is Reason.UNEVEN_SPACING


@pytest.mark.parametrize(
    ("depths", "grid"), [((3.0,), True), ((5.0, 3.0), True), ((5.0,), False), ((), False)]
)
def test_two_slices_need_a_header_that_confirms_their_distance(
    depths: tuple[float, ...], grid: bool
) -> None:
    found = find_grid(planes([0.0, 3.0], depths=depths), min_slices=1)
    assert isinstance(found, Grid) is grid
    if isinstance(found, NotAGrid):
        assert found.reason is Reason.TOO_FEW_SLICES


def test_a_single_slice_takes_its_depth_from_the_header_only_when_asked_for() -> None:
    found = find_grid(planes([4.0], depths=(2.5,)), min_slices=1)
    assert isinstance(found, Grid)
    assert found.spacing_mm == (2.5, DY, DX)
    assert isinstance(find_grid(planes([4.0]), min_slices=1), NotAGrid)


def test_planes_that_differ_in_direction_matrix_or_spacing_are_refused() -> None:
    base = planes(STEP[:4])
    turned = base.orientations.copy()
    turned[2] = (0, 1, 0, 0, 0, -1)
    spaced = base.spacings.copy()
    spaced[1] = (DY, DX + 0.01)
    cases = {
        Reason.MIXED_ORIENTATION: Planes(base.positions, turned, base.spacings, base.matrices),
        Reason.MIXED_SPACING: Planes(base.positions, base.orientations, spaced, base.matrices),
        Reason.MIXED_MATRIX: Planes(
            base.positions, base.orientations, base.spacings, [(30, 40)] * 3 + [(30, 41)]
        ),
    }
    for reason, case in cases.items():
        refusal = find_grid(case)
        assert isinstance(refusal, NotAGrid)
        assert refusal.reason is reason
        assert len(refusal.planes) == 1


def test_jitter_of_direction_cosines_and_spacings_is_one_grid() -> None:
    base = planes(STEP[:6])
    rng = np.random.default_rng(3)
    found = find_grid(
        Planes(
            base.positions,
            base.orientations + rng.uniform(-5e-5, 5e-5, (6, 6)),
            base.spacings + rng.uniform(-5e-5, 5e-5, (6, 2)),
            base.matrices,
        )
    )
    assert isinstance(found, Grid)


@given(
    numbers=st.lists(
        st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 11), min_size=1, max_size=5
    )
)
@settings(max_examples=80, deadline=None)
def test_any_finite_numbers_are_a_grid_or_a_refusal(numbers: list[tuple[float, ...]]) -> None:
    table = np.array(numbers)
    found = find_grid(
        Planes(table[:, :3], table[:, 3:9], table[:, 9:], [(4, 5)] * len(table)), min_slices=1
    )
    assert isinstance(found, Grid | NotAGrid)


def test_a_gap_of_a_million_slices_is_named_without_listing_them() -> None:
    refusal = find_grid(planes([0.0, 0.05, 0.1, 50_000.0]))
    assert isinstance(refusal, NotAGrid)
    assert len(refusal.explanation) < 300
