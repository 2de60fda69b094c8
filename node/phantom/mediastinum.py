"""What lies between the lungs: heart, great vessels, airways, oesophagus and the spine's front.

The lungs' inner border is a slab whose half widths vary with level and depth, separately on both
sides, united with the heart and the spine. Behind the heart the right width falls to a few
millimetres or crosses the midline: the azygo-oesophageal recess, which a plain slab would fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from node.phantom.landmarks import Landmarks
from node.phantom.planes import F32
from node.phantom.shapes import Ellipsoid, radial_distance
from node.phantom.tracts import draw_airway, draw_blood, draw_oesophagus
from node.phantom.trunk import Frame, Trunk
from node.phantom.tubes import Capsules

_LEVELS = (-0.3, 0.0, 0.2, 0.4, 0.55, 0.7, 0.85, 1.0)
_DEPTHS = (-1.0, -0.7, -0.4, 0.0, 0.35, 0.65, 1.0)
_RIGHT_MM = (
    (12, 26, 30, 34, 14, 4, 14),
    (10, 24, 30, 34, 12, 2, 14),
    (7, 14, 28, 32, 9, 1, 15),
    (4, 9, 26, 31, 11, 2, 15),
    (3, 8, 25, 31, 21, 9, 15),
    (3, 10, 25, 30, 24, 15, 15),
    (8, 19, 27, 29, 21, 15, 15),
    (17, 25, 29, 29, 22, 15, 15),
)
_LEFT_MM = (
    (16, 30, 34, 30, 14, 10, 14),
    (14, 28, 32, 28, 12, 9, 14),
    (9, 18, 28, 26, 11, 9, 15),
    (4, 10, 25, 27, 14, 10, 15),
    (3, 9, 25, 30, 22, 13, 15),
    (3, 10, 26, 31, 23, 16, 15),
    (8, 19, 28, 30, 21, 15, 15),
    (17, 25, 30, 30, 23, 16, 15),
)
"""Usual half widths of the mediastinum, mm, by level (t) and depth (v)."""


@dataclass(frozen=True, slots=True, eq=False)
class Mediastinum:
    """One patient's mediastinum.

    Attributes:
        right_mm: Half widths on a fine grid of level and depth.
        left_mm: The same on the left.
        heart: The heart without its fat.
        heart_fat: Fat around the heart, mm.
        spine_x: Half width of the vertebral bodies, mm.
        spine_y: Half depth.
        blood: Arteries, veins: tubes with blood.
        airway: Lumen of trachea and main bronchi.
        airway_wall: Thickness of their wall, mm.
        oesophagus: Its outer wall.
        oesophagus_air: Pieces of it with air.
        hila: Where the trees of the right and left lung begin, LPS.
        carina: t of the carina.
    """

    right_mm: F32
    left_mm: F32
    heart: Ellipsoid
    heart_fat: float
    spine_x: float
    spine_y: float
    blood: Capsules
    airway: Capsules
    airway_wall: float
    oesophagus: Capsules
    oesophagus_air: Capsules
    hila: tuple[tuple[float, float, float], tuple[float, float, float]]
    carina: float

    def widths(self, frame: Frame) -> tuple[F32, F32]:
        """Return right and left half width at the frame's points."""
        t = np.interp(frame.t, _LEVELS, np.linspace(0, self.right_mm.shape[0] - 1, len(_LEVELS)))
        v = np.interp(frame.v, _DEPTHS, np.linspace(0, self.right_mm.shape[1] - 1, len(_DEPTHS)))
        at = np.stack(np.broadcast_arrays(t, v))
        right, left = (
            ndimage.map_coordinates(table, at, order=1, mode="nearest", output=np.float32)
            for table in (self.right_mm, self.left_mm)
        )
        return right, left


def mediastinum_distance(trunk: Trunk, organs: Mediastinum, frame: Frame) -> tuple[F32, F32]:
    """Return the distance from the mediastinum, negative inside, and the side.

    The side is negative to the right of the slab's middle, positive to the left.
    """
    right, left = organs.widths(frame)
    side = frame.x - (left - right) / 2
    inside = np.maximum(frame.x - left, -frame.x - right)
    inside = np.minimum(inside, spine_distance(trunk, organs, frame))
    if organs.heart.touches(frame.points, organs.heart_fat + 5):
        inside = np.minimum(
            inside, organs.heart.distance(frame.points) - np.float32(organs.heart_fat)
        )
    return np.asarray(inside, np.float32), np.asarray(side, np.float32)


def spine_distance(trunk: Trunk, organs: Mediastinum, frame: Frame) -> F32:
    """Return the distance from the spine with the muscle in the gutters beside it."""
    y = frame.points.y - trunk.vertebra_y(frame.points.z)
    rho = np.sqrt(frame.x**2 + y**2) + np.float32(1e-3)
    body = radial_distance(frame.x, y, organs.spine_x + 2, organs.spine_y + 2, power=2.3, rho=rho)
    wedge = np.maximum(np.abs(frame.x) - (organs.spine_x - 1 + 0.75 * y), -2 - y) * np.float32(0.8)
    return np.asarray(np.minimum(body, wedge), dtype=np.float32)


def draw_mediastinum(
    rng: np.random.Generator, trunk: Trunk, *, tendon_mm: float, hard: bool
) -> Mediastinum:
    """Draw heart, vessels and airways to fit a trunk.

    Args:
        rng: Source of randomness.
        trunk: The trunk.
        tendon_mm: z of the diaphragm under the heart.
        hard: Wider ranges.
    """
    u = rng.uniform
    scale = trunk.half_x / 131
    heart = _draw_heart(rng, trunk, tendon_mm, scale, hard=hard)
    carina = float(u(0.56, 0.66))
    spine_x, spine_y = float(u(16, 21)), float(u(13.5, 18))

    marks = Landmarks(
        trunk=trunk,
        spine_mm=spine_y,
        scale=scale,
        carina=carina,
        airway_mm=float(u(6.5, 10.5)),
    )
    airway, hila = draw_airway(rng, marks)
    wall_r = np.asarray(_RIGHT_MM) * scale
    wall_l = np.asarray(_LEFT_MM) * scale
    tables = [
        ndimage.zoom(
            w * rng.normal(1, 0.14, w.shape) * u(0.85, 1.18) + rng.normal(0, 1.5, w.shape),
            6,
            order=2,
            mode="nearest",
        ).astype(np.float32)
        for w in (wall_r, wall_l)
    ]
    thin = np.maximum(3.0 - tables[0] - tables[1], 0) / 2
    oesophagus, air = draw_oesophagus(rng, marks, hard=hard)
    return Mediastinum(
        right_mm=tables[0] + thin,
        left_mm=tables[1] + thin,
        heart=heart,
        heart_fat=float(u(2, 10)),
        spine_x=spine_x,
        spine_y=spine_y,
        blood=draw_blood(rng, marks, hila, heart),
        airway=airway,
        airway_wall=float(u(1.0, 2.0)),
        oesophagus=oesophagus,
        oesophagus_air=air,
        hila=hila,
        carina=carina,
    )


def _draw_heart(
    rng: np.random.Generator, trunk: Trunk, tendon_mm: float, scale: float, *, hard: bool
) -> Ellipsoid:
    u = rng.uniform
    grow = scale * float(u(0.95, 1.18)) * (float(u(1, 1.25)) if hard else 1.0)
    radii = (float(u(52, 70)) * grow, float(u(38, 50)) * grow, float(u(40, 54)) * grow)
    level = max(tendon_mm + radii[2] * u(0.62, 0.85), 0.16 * trunk.height)
    z = np.asarray(level, np.float32)
    y = float(trunk.centre_y(z)) - float(trunk.half_widths(z)[1]) * u(0.12, 0.32)
    long = np.array([0.78, -0.42, -u(0.25, 0.7)])  # to the left, the front and the feet
    long += rng.normal(0, 0.08, 3)
    long /= np.linalg.norm(long)
    second = np.cross(long, [0.25, 0.1, 1.0])
    second /= np.linalg.norm(second)
    turn = np.stack([long, second, np.cross(long, second)])
    return Ellipsoid((float(u(12, 30)) * scale, y, float(z)), radii, turn)
