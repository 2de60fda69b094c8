"""The long organs of the mediastinum: airway, oesophagus, arteries and veins, as tubes."""

from __future__ import annotations

import numpy as np

from node.phantom.landmarks import Landmarks, Position
from node.phantom.shapes import Ellipsoid
from node.phantom.tubes import Capsules, joined, tube


def draw_airway(
    rng: np.random.Generator, marks: Landmarks
) -> tuple[Capsules, tuple[Position, Position]]:
    """Draw the lumen from mouth to lobar bronchi, and the two hila."""
    u = rng.uniform
    c, r = marks.carina, marks.airway_mm
    gap = float(u(15, 27))
    fork = marks.before_spine(-3, gap, c)
    trachea = tube(
        [
            marks.before_spine(u(-3, 3), u(22, 34), 1.32),
            marks.before_spine(u(-4, 4), u(20, 30), 1.12),
            marks.before_spine(u(-6, 3), u(14, 26), 0.95),
            marks.before_spine(u(-7, 2), u(13, 25), 0.8),
            fork,
        ],
        [r * u(0.8, 1.2), r * u(0.75, 1.05), r, r * u(0.95, 1.1), r * u(1.05, 1.3)],
    )
    right_hilum = marks.before_spine(-u(34, 44), gap + u(-2, 14), c - u(0.09, 0.14))
    left_hilum = marks.before_spine(u(36, 47), gap + u(-4, 12), c - u(0.11, 0.17))
    parts = [trachea]
    for hilum, main, sign in ((right_hilum, 0.82, -1), (left_hilum, 0.72, 1)):
        x, y, z = hilum
        parts.append(tube([fork, _between(fork, hilum, 0.5), hilum], [r * 0.95, r * main, r * 0.6]))
        upper = (x + sign * u(6, 18), y - u(0, 22), z + u(12, 34))
        lower = (x + sign * u(2, 16), y + u(4, 22), z - u(22, 50))
        parts.append(tube([_between(fork, hilum, 0.8), upper], [r * 0.55, r * 0.32]))
        parts.append(tube([hilum, lower], [r * 0.6, r * 0.36]))
    x, y, z = (float(k) for k in trachea.starts[0])
    mouth = tube(
        [(x, y, z), (x + u(-4, 4), y - u(2, 14), z + 25), (x + u(-5, 5), y - u(10, 40), z + 55)],
        [r, r * u(0.6, 2.0), r * u(0.5, 2.4)],
    )
    larynx = tube(
        [(x - u(8, 18), y - 6, z - 12), (x + u(8, 18), y - 6, z - 8)], [u(2, 6), u(2, 6)]
    )  # piriform sinuses
    parts += [mouth, larynx] if rng.random() < 0.7 else [mouth]
    return joined(parts), (right_hilum, left_hilum)


def draw_oesophagus(
    rng: np.random.Generator, marks: Landmarks, *, hard: bool
) -> tuple[Capsules, Capsules]:
    """Draw its outer wall and the pieces of it that hold air."""
    u = rng.uniform
    levels = (1.3, 1.0, 0.8, 0.6, 0.4, 0.22, 0.1, 0.0)
    xs = (u(0, 4), u(2, 8), u(2, 9), u(-3, 6), u(-4, 6), u(2, 10), u(10, 20), u(22, 38))
    gaps = (8, 8, 7, 7, 9, 14, 22, 30)
    line = [
        marks.before_spine(x, g + u(-2, 2), t) for x, g, t in zip(xs, gaps, levels, strict=True)
    ]
    wide = u(1, 2.4) if hard and rng.random() < 0.3 else u(0.8, 1.2)
    radius = 7.0 * wide
    wall = tube(line, [radius * u(0.85, 1.2) for _ in line])
    if rng.random() > (0.75 if hard else 0.45):
        return wall, wall.where(np.zeros(len(wall), bool))
    chance = u(0.15, 0.9)
    air = wall.grown(-u(3.0, 4.5))
    where = np.repeat(rng.random(len(line) - 1) < chance, 5)
    return wall, air.where(where)


def draw_blood(
    rng: np.random.Generator,
    marks: Landmarks,
    hila: tuple[Position, Position],
    heart: Ellipsoid,
) -> Capsules:
    """Draw aorta, great arteries and veins, pulmonary trunk and the vessels of both hila."""
    u, c = rng.uniform, marks.carina
    a = float(u(11, 17)) * marks.scale
    arch = c + u(0.07, 0.13)
    hx, hy, hz = heart.centre
    aorta = tube(
        [
            (hx - 12, hy + 2, hz + 0.45 * heart.radii[2]),
            marks.at(-12, -0.32, c - 0.02),
            marks.at(-8, -0.26, arch - 0.03),
            marks.at(8, -0.05, arch),
            marks.before_spine(19, 4, arch - 0.04),
            marks.before_spine(22, 0, c - 0.06),
            marks.before_spine(u(15, 24), 3, 0.35),
            marks.before_spine(u(8, 18), 7, 0.1),
            marks.before_spine(u(-2, 8), 10, -0.4),
        ],
        [a, a * u(1, 1.15), a, a * 0.95, a * 0.88, a * 0.85, a * 0.8, a * 0.75, a * 0.65],
    )
    neck = [
        tube(
            [marks.at(x, -0.1, arch + 0.02), marks.at(x * 1.5, v, 1.0), marks.at(x * 2.6, v, 1.25)],
            [r, r * 0.9, r * 0.7],
        )
        for x, v, r in ((-10, -0.25, u(5, 7)), (6, -0.1, u(3, 5)), (16, 0.1, u(4, 6)))
    ]
    v = float(u(7, 10))
    vena_cava = tube(
        [
            marks.at(-38, -0.2, 1.02),
            marks.at(-24, -0.3, 0.86),
            marks.at(-25, -0.25, c),
            (hx - 38, hy + 12, hz + 8),
            (hx - 34, hy + 20, hz - heart.radii[2]),
            marks.at(-24, 0.2, -0.3),
        ],
        [v * 0.8, v, v, v * 1.1, v * 1.3, v * 1.3],
    )
    brachiocephalic = tube(
        [marks.at(42, -0.3, 1.0), marks.at(18, -0.45, 0.88), marks.at(-22, -0.35, 0.82)],
        [v * 0.8, v * 0.85, v * 0.9],
    )
    trunk = marks.at(18, -0.28, c - 0.07)
    pulmonary = [
        tube([(hx + 12, hy - 12, hz + 0.6 * heart.radii[2]), trunk], [13, 13]),
        tube([trunk, _lifted(hila[1], 8, 12), hila[1]], [12, 9.5, 7]),
        tube([trunk, marks.at(-8, -0.05, c - 0.09), _lifted(hila[0], -6, 2)], [11, 9.5, 7.5]),
    ]
    veins, azygos = [], marks.before_spine(-8, 1, c + 0.04)
    for hilum in hila:
        for _ in range(2):
            out = (hilum[0] * u(1.0, 1.25), hilum[1] - u(-5, 14), hilum[2] - u(5, 38))
            veins.append(tube([(hx * 0.3, hy + 26, hz + u(8, 26)), out], [6.5, u(3.2, 5.5)]))
        for _ in range(3):
            out = (hilum[0] * u(1.05, 1.45), hilum[1] + u(-18, 18), hilum[2] + u(-36, 30))
            veins.append(tube([hilum, out], [u(5, 7.5), u(3.0, 4.2)]))
    small = [
        tube([marks.before_spine(-6, 2, 0.0), marks.before_spine(-7, 1, c), azygos], [3, 4, 4.5]),
        tube([azygos, marks.at(-26, 0.1, c + 0.08), marks.at(-26, -0.2, c + 0.06)], [4.5, 4.5, 5]),
    ]
    return joined([aorta, *neck, vena_cava, brachiocephalic, *pulmonary, *veins, *small])


def _between(a: Position, b: Position, share: float) -> Position:
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def _lifted(a: Position, x: float, z: float) -> Position:
    return a[0] + x, a[1], a[2] + z
