"""What lies under the diaphragm, above all the gas there that is not lung."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.landmarks import Landmarks
from node.phantom.lungs import ChestSpace, Lungs
from node.phantom.planes import F32
from node.phantom.scene import Scene, paint
from node.phantom.shapes import Ellipsoid
from node.phantom.smooth import Field, draw_field
from node.phantom.tissue import Tissue
from node.phantom.trunk import Frame, Trunk
from node.phantom.tubes import Capsules, coverage, tube


@dataclass(frozen=True, slots=True, eq=False)
class Bowel:
    """One loop.

    Attributes:
        wall: Its outer surface.
        lumen: Its inside.
        content: Mean HU of the content.
        mottled: HU by which stool varies; 0 for plain gas or fluid.
    """

    wall: Capsules
    lumen: Capsules
    content: float
    mottled: float


@dataclass(frozen=True, slots=True, eq=False)
class Abdomen:
    """One patient's upper abdomen.

    Attributes:
        liver: HU.
        liver_reach: x of the liver's left edge at the front, mm from the midline.
        liver_end: z of its lower edge.
        organs: Spleen, kidneys: shapes with HU.
        stomach: The stomach.
        stomach_level: y in front of which it holds gas.
        stomach_fluid: HU of what it holds behind.
        bowel: Loops.
        uneven: Field of borders and stool.
    """

    liver: float
    liver_reach: float
    liver_end: float
    organs: tuple[tuple[Ellipsoid, float], ...]
    stomach: Ellipsoid
    stomach_level: float
    stomach_fluid: float
    bowel: tuple[Bowel, ...]
    uneven: Field


def paint_abdomen(scene: Scene, abdomen: Abdomen, tissue: Tissue, space: ChestSpace) -> F32:
    """Paint diaphragm and organs below it; return the abdomen's coverage."""
    if space.below.max() < -10:
        return np.zeros(scene.plane.shape, np.float32)
    frame, points = scene.frame, scene.frame.points
    region = np.clip(0.5 + space.below / space.softness, 0, 1) * scene.cover(frame.cage)
    uneven = abdomen.uneven.at(points)
    inner = np.full(scene.plane.shape, tissue.fat, np.float32) + 10 * uneven
    inset = np.maximum(frame.cage + 2, 3.5 - space.below)  # within the diaphragm
    paint(inner, scene.cover(_liver_distance(abdomen, frame, inset, uneven)), abdomen.liver)
    for organ, value in abdomen.organs:
        if organ.touches(points, 5):
            off = np.maximum(organ.distance(points) + 3 * uneven, inset)
            paint(inner, scene.cover(off), value)
    for loop in abdomen.bowel:
        wall = coverage(scene.plane, loop.wall)
        if not wall.any():
            continue
        paint(inner, wall, 35.0)
        lumen = coverage(scene.plane, loop.lumen) * scene.cover(inset + 2)
        content = np.clip(loop.content + loop.mottled * uneven, -1000, 90)
        paint(inner, lumen, content.astype(np.float32))
    if abdomen.stomach.touches(points, 5):
        outer = np.maximum(abdomen.stomach.distance(points) + 3 * uneven, inset)
        paint(inner, scene.cover(outer), 40.0)
        lumen = scene.cover(outer + 3.5)
        paint(inner, lumen, abdomen.stomach_fluid)
        level = points.y - np.float32(abdomen.stomach_level)
        paint(inner, lumen * scene.cover(level), -985.0)
    crust = scene.cover(np.minimum(np.abs(space.below) - 2.0, -frame.cage - 2.0))
    paint(inner, crust, tissue.muscle)
    paint(scene.hu, region.astype(np.float32), inner)
    return np.asarray(region, dtype=np.float32)


def _liver_distance(abdomen: Abdomen, frame: Frame, inset: F32, uneven: F32) -> F32:
    edge = np.float32(abdomen.liver_reach) * np.clip(0.35 - frame.v, 0, 1.2) + 6 * uneven
    edge = np.maximum(edge, -70 * np.clip(frame.v - 0.1, 0, 1))
    low = abdomen.liver_end + 0.6 * (frame.x + 60) - frame.points.z
    return np.asarray(np.maximum(np.maximum(inset, frame.x - edge), 0.7 * low), dtype=np.float32)


def draw_abdomen(
    rng: np.random.Generator,
    trunk: Trunk,
    lungs: Lungs,
    marks: Landmarks,
    nodes: F32,
    *,
    contrast: bool,
    hard: bool,
) -> Abdomen:
    """Draw the upper abdomen to fit trunk and diaphragm."""
    u = rng.uniform
    scale = trunk.half_x / 131
    dome = lungs.dome_mm[1]
    t = dome / trunk.height
    deep = float(u(18, 46))
    stomach_at = marks.at(float(u(48, 78)), float(u(-0.35, 0.15)), t - deep / trunk.height)
    turn, _ = np.linalg.qr(np.eye(3) + rng.normal(0, 0.2, (3, 3)))
    stomach = Ellipsoid(
        stomach_at, (float(u(28, 55)) * scale, float(u(28, 52)) * scale, float(u(28, 60))), turn
    )
    spleen = Ellipsoid(
        marks.at(float(u(82, 98)), float(u(0.3, 0.55)), t - u(0.1, 0.25)),
        (float(u(22, 34)), float(u(38, 55)), float(u(40, 60))),
        turn,
    )
    kidneys = [
        Ellipsoid(marks.at(s * u(48, 60), 0.6, -u(0.15, 0.4)), (26.0, 24.0, 52.0), turn)
        for s in (-1, 1)
    ]
    extra = 70 if contrast else 0
    return Abdomen(
        liver=float(u(52, 68)) + extra * float(u(0.4, 0.8)) - float(rng.random() < 0.12) * 55,
        liver_reach=float(u(15, 85)) * scale,
        liver_end=float(-u(0.2, 0.75) * trunk.height),
        organs=(
            (spleen, float(u(45, 60)) + extra),
            *((k, float(u(28, 40)) + 1.6 * extra) for k in kidneys),
        ),
        stomach=stomach,
        stomach_level=stomach_at[1] + float(u(-34, 40)),
        stomach_fluid=float(u(-10, 60)) if rng.random() < 0.85 else float(u(100, 350)),
        bowel=_draw_bowel(rng, trunk, lungs, marks, hard=hard),
        uneven=draw_field(rng, nodes, (9.0, 7.0, 7.0)),
    )


def _draw_bowel(
    rng: np.random.Generator, trunk: Trunk, lungs: Lungs, marks: Landmarks, *, hard: bool
) -> tuple[Bowel, ...]:
    u = rng.uniform
    loops = []
    left_top = lungs.dome_mm[1] / trunk.height
    places = [  # (x range, v range, t of its top, chance)
        ((45, 105), (-0.7, 0.1), left_top, 0.8 if hard else 0.55),  # splenic flexure
        ((-105, -40), (-0.8, -0.4), lungs.dome_mm[0] / trunk.height, 0.25 if hard else 0.05),
        ((-80, 80), (-0.8, 0.1), 0.0, 0.9),
        ((-100, 100), (-0.8, 0.3), -0.1, 0.9),
        ((-90, 90), (-0.8, 0.3), -0.2, 0.8),
    ]
    for xs, vs, top, chance in places:
        if rng.random() > chance:
            continue
        wide = float(u(9, 27))
        t = top - (wide + u(3, 22)) / trunk.height
        line = [
            marks.at(u(*xs) * 0.95, u(*vs), t - d)
            for d in (u(0.1, 0.25), 0.0, u(0, 0.08), u(0.1, 0.3))
        ]
        radii = [wide * u(0.7, 1.1) for _ in line]
        wall = tube(line, radii, per_piece=8)
        folds = 1 + 0.14 * np.sin(np.arange(len(wall)) * 1.9)
        wall = Capsules(wall.starts, wall.ends, wall.start_mm * folds, wall.end_mm * folds)
        gas = rng.random()
        content = -980.0 if gas < 0.55 else float(u(-500, 40))
        mottled = 0.0 if gas < 0.45 else float(u(150, 500))
        loops.append(Bowel(wall, wall.grown(-float(u(1.5, 3.0))), content, mottled))
    return tuple(loops)
