"""Other series on the grid of the first: by patient space alone, without false detail."""

from __future__ import annotations

import numpy as np
import pytest

from node.imaging.registered import on_grid
from node.imaging.values import Volume

TURN = np.array([[0.0, -0.6, 0.8], [0.0, 0.8, 0.6], [-1.0, 0.0, 0.0]])


def volume(
    array: np.ndarray, steps: tuple[float, float, float], origin: tuple[float, ...]
) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = TURN * steps
    affine[:3, 3] = origin
    return Volume(array.astype(np.float32), affine, steps, "HU", "CT", "1.2", 1, (), ())


def field(points: np.ndarray) -> np.ndarray:
    """A plane in the patient: linear interpolation keeps it exactly."""
    return points @ np.array([3.0, -2.0, 5.0]) + 40.0


def places(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    grid = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ grid + affine[:3, 3:]).T.reshape(*shape, 3)


def ramp(steps: tuple[float, float, float], shape: tuple[int, int, int]) -> Volume:
    made = volume(np.zeros(shape), steps, (5.0, 6.0, 7.0))
    made.array[:] = field(places(made.affine, shape))
    return made


def test_the_same_grid_gives_the_same_values() -> None:
    source = ramp((2.0, 1.0, 1.5), (5, 6, 7))
    found = on_grid(source, source.affine, source.array.shape, -1.0)
    np.testing.assert_allclose(found.array, source.array, atol=1e-4)
    assert found.padding is None


@pytest.mark.parametrize("finer", [0.4, 1.0])
def test_a_place_in_the_patient_keeps_its_value_on_a_grid_turned_against_it(finer: float) -> None:
    source = ramp((2.0, 1.0, 1.5), (20, 40, 30))
    affine = np.eye(4)
    affine[:3, :3] = np.diag([finer, finer, finer])
    affine[:3, 3] = places(source.affine, (20, 40, 30))[10, 20, 15] - 2 * finer
    found = on_grid(source, affine, (5, 5, 5), -1.0)
    np.testing.assert_allclose(found.array, field(places(affine, (5, 5, 5))), rtol=1e-4)
    assert found.spacing_mm == pytest.approx((finer, finer, finer))


def test_outside_is_background_and_said_to_be_no_measurement() -> None:
    source = ramp((1.0, 1.0, 1.0), (4, 4, 4))
    affine = source.affine.copy()
    affine[:3, 3] -= 2 * affine[:3, 2]  # begins two columns before
    found = on_grid(source, affine, (4, 4, 6), -7.0)
    assert (found.array[:, :, :2] == -7.0).all()
    np.testing.assert_allclose(found.array[:, :, 2:], source.array, atol=1e-4)
    assert found.padding is not None
    assert found.padding[:, :, :2].all()
    assert not found.padding[:, :, 2:].any()


def test_a_coarser_grid_averages_what_it_cannot_hold() -> None:
    """Stripes one voxel wide would come out as full stripes or none without a filter."""
    stripes = np.zeros((4, 4, 48))
    stripes[:, :, ::2] = 100.0
    source = volume(stripes, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    affine = source.affine.copy()
    affine[:3, 2] *= 4
    found = on_grid(source, affine, (4, 4, 12), 0.0)
    assert np.abs(found.array[:, :, 2:-2] - 50.0).max() < 5.0
