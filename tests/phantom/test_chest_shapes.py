"""What the chest is made of: fields, tubes and planes give the same on every plane."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from node.phantom.planes import Plane, Points
from node.phantom.smooth import draw_field, draw_lattice
from node.phantom.tubes import Capsules, coverage, tube

AXES = np.eye(3)


@pytest.mark.parametrize(("down", "across"), list(permutations(range(3), 2)))
def test_a_field_is_the_same_on_a_plane_along_the_axes_as_point_by_point(
    down: int, across: int
) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    field = draw_field(rng, draw_lattice(rng), (21.0, 13.0, 8.0))
    plane = Plane(np.array([5.0, -30.0, 70.0]), 1.5 * AXES[down], 0.8 * AXES[across], (31, 44), 1.0)
    thin = plane.points()
    full = [np.array(np.broadcast_to(c, plane.shape)) for c in (thin.x, thin.y, thin.z)]
    assert np.allclose(field.at(thin), field.at(Points(*full)), atol=1e-4)


def test_fields_have_a_mean_near_zero_and_a_spread_near_one() -> None:
    rng = np.random.Generator(np.random.PCG64(4))
    values = draw_field(rng, draw_lattice(rng), 4.0).at(
        Plane(np.zeros(3), AXES[1], AXES[0], (256, 256), 1.0).points()
    )
    assert abs(values.mean()) < 0.2
    assert 0.8 < values.std() < 1.2


@pytest.mark.parametrize("radius", [1.5, 4.0, 12.0])
def test_a_tube_across_a_plane_covers_the_area_of_its_circle(radius: float) -> None:
    plane = Plane(np.array([-20.0, -20.0, 0.0]), 0.5 * AXES[1], 0.5 * AXES[0], (81, 81), 1.0)
    line = tube([(0.3, 0.1, -30.0), (0.3, 0.1, 30.0)], [radius, radius])
    covered = float(coverage(plane, line).sum()) * 0.25
    assert covered == pytest.approx(np.pi * radius**2, rel=0.03)


def test_a_tube_looks_the_same_on_an_oblique_plane_that_cuts_it_squarely() -> None:
    angle = np.deg2rad(30)
    along = np.array([0.0, np.sin(angle), np.cos(angle)])
    down = np.array([0.0, np.cos(angle), -np.sin(angle)])
    plane = Plane(-15 * (AXES[0] + down), 0.5 * down, 0.5 * AXES[0], (61, 61), 1.0)
    line = tube([-40 * along, 40 * along], [5.0, 5.0])
    assert float(coverage(plane, line).sum()) * 0.25 == pytest.approx(25 * np.pi, rel=0.03)


def test_tubes_outside_the_plane_cover_nothing_and_none_at_all_is_allowed() -> None:
    plane = Plane(np.zeros(3), AXES[1], AXES[0], (16, 16), 1.0)
    far = tube([(0.0, 0.0, 50.0), (9.0, 9.0, 50.0)], [3.0, 3.0])
    nothing = Capsules(np.empty((0, 3)), np.empty((0, 3)), np.empty(0), np.empty(0))
    assert not coverage(plane, far).any()
    assert not coverage(plane, nothing).any()
