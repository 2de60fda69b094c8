"""What lies round the patient: table, mattress, blankets, plates with air beneath, tubes, rings.

Air between bright things outside the body is what a network without these in its training calls
lung, and once such a region outgrows a lung, "the largest pieces" keeps the wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.planes import F32, Points
from node.phantom.scene import Scene, paint
from node.phantom.smooth import Field, draw_field
from node.phantom.trunk import Frame, Trunk
from node.phantom.tubes import Capsules, coverage, tube


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """A thin curved layer: y = level + sag (1 - (x / half)^2), bounded in x and z.

    Attributes:
        level: y at its middle, LPS mm.
        middle: x of its middle.
        half: Half width, mm.
        sag: How far its ends lie from the middle's level in y, mm; positive to the back.
        thick: mm.
        hu: Attenuation.
        low: Lowest z.
        high: Highest z.
        waves: mm by which it is uneven.
    """

    level: float
    middle: float
    half: float
    sag: float
    thick: float
    hu: float
    low: float
    high: float
    waves: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """A hollow tube along z, round or oval, filled with air or foam.

    Attributes:
        x: Centre.
        y: Centre.
        half_x: Half width, mm.
        half_y: Half depth, mm.
        wall: Thickness, mm.
        hu: Of the wall.
        filling: HU inside.
        low: Lowest z.
        high: Highest z.
    """

    x: float
    y: float
    half_x: float
    half_y: float
    wall: float
    hu: float
    filling: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Wrap:
    """A blanket or a lid that follows the skin; a lid stands on walls and encloses air.

    Attributes:
        gap: Air between it and the skin, mm.
        thick: mm.
        hu: Attenuation.
        front: It covers what lies in front of this v.
        low: Lowest z.
        high: Highest z.
        middle: x of its middle.
        half: Half width along x, mm; a blanket's is beyond every patient.
        waves: Share of the gap by which it is uneven.
    """

    gap: float
    thick: float
    hu: float
    front: float
    low: float
    high: float
    middle: float = 0.0
    half: float = 1e4
    waves: float = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Outside:
    """Everything round one patient.

    Attributes:
        foam: Mattress and table filling: two sheets between which foam lies, with its HU.
        sheets: Table shells, plates, blankets.
        wraps: Blankets that follow the skin.
        rings: Tubes, pillows, head rests.
        wires: Leads and lines.
        wires_hu: Their attenuation.
        uneven: Field of waves.
    """

    foam: tuple[tuple[Sheet, Sheet, float], ...]
    sheets: tuple[Sheet, ...]
    wraps: tuple[Wrap, ...]
    rings: tuple[Ring, ...]
    wires: Capsules
    wires_hu: float
    uneven: Field


def paint_outside(scene: Scene, outside: Outside) -> None:
    """Paint everything round the patient; the body is painted over it later."""
    hu, px, frame = scene.hu, scene.pixel_mm, scene.frame
    points = frame.points
    waves = outside.uneven.at(points)
    for top, bottom, value in outside.foam:
        if not _in_reach(top.low, top.high, points.z):
            continue
        high, low = _height(top, frame, waves), _height(bottom, frame, waves)
        between = np.maximum(high - points.y, points.y - low)
        between = np.maximum(between, np.abs(points.x - top.middle) - top.half)
        between = _cut(between, top.low, top.high, points.z)
        paint(hu, scene.cover(between), value + 8 * waves)
    for ring in outside.rings:
        if _in_reach(ring.low, ring.high, points.z):
            off = _cut(_ring_distance(ring, points), ring.low, ring.high, points.z)
            paint(hu, scene.cover(off), ring.hu)
            paint(hu, scene.cover(off + ring.wall), ring.filling)
    for sheet in outside.sheets:
        if not _in_reach(sheet.low, sheet.high, points.z):
            continue
        off = np.abs(points.y - _height(sheet, frame, waves)) - np.float32(sheet.thick / 2)
        off = np.maximum(off, np.abs(points.x - np.float32(sheet.middle)) - np.float32(sheet.half))
        off = _cut(off, sheet.low, sheet.high, points.z)
        paint(hu, scene.cover(off) * np.float32(min(1.0, sheet.thick / px)), sheet.hu)
    for wrap in outside.wraps:
        if not _in_reach(wrap.low, wrap.high, points.z):
            continue
        gap = wrap.gap * (1.3 + wrap.waves * waves)
        off = np.abs(scene.skin - gap) - np.float32(wrap.thick / 2)
        beyond = np.abs(points.x - np.float32(wrap.middle)) - np.float32(wrap.half)
        wall = np.maximum(
            np.abs(beyond) - wrap.thick / 2, np.maximum(-scene.skin, scene.skin - gap)
        )
        off = np.minimum(np.maximum(off, beyond), wall)
        off = np.maximum(off, frame.y - wrap.front * frame.half_y)
        off = _cut(off, wrap.low, wrap.high, points.z)
        paint(hu, scene.cover(off) * np.float32(min(1.0, wrap.thick / px)), wrap.hu)
    paint(hu, coverage(scene.plane, outside.wires, thin=True), outside.wires_hu)


def _ring_distance(ring: Ring, points: Points) -> F32:
    x = (points.x - np.float32(ring.x)) / np.float32(ring.half_x)
    y = (points.y - np.float32(ring.y)) / np.float32(ring.half_y)
    smaller = np.float32(min(ring.half_x, ring.half_y))
    return np.asarray((np.sqrt(x * x + y * y) - 1) * smaller, dtype=np.float32)


def _height(sheet: Sheet, frame: Frame, waves: F32) -> F32:
    x = (frame.points.x - np.float32(sheet.middle)) / np.float32(sheet.half)
    y = np.float32(sheet.level) + np.float32(sheet.sag) * np.minimum(x * x, 1.5)
    return np.asarray(y + np.float32(sheet.waves) * waves if sheet.waves else y, dtype=np.float32)


def _in_reach(low: float, high: float, z: F32) -> bool:
    return bool(z.max() >= low and z.min() <= high)


def _cut(off: F32, low: float, high: float, z: F32) -> F32:
    return np.asarray(np.maximum(off, np.maximum(low - z, z - high)), dtype=np.float32)


def draw_outside(rng: np.random.Generator, trunk: Trunk, nodes: F32, *, hard: bool) -> Outside:
    """Draw what lies round a patient; hard: more of it."""
    u = rng.uniform
    more = 1.6 if hard else 1.0
    back = trunk.half_y + trunk.back_muscle + trunk.fat[2] - trunk.flat
    front = -trunk.half_y - trunk.wall - trunk.fat[0]
    foam, sheets = _draw_table(rng, float(back), hard=hard)
    for _ in range(int(rng.poisson(0.9 * more))):
        sheets.append(_draw_plate(rng, trunk, front))
    rings = [
        _draw_ring(rng, trunk, float(back), front) for _ in range(int(rng.poisson(0.9 * more)))
    ]
    wraps = []
    for _ in range(int(rng.poisson(1.1 * more))):
        low = u(-1.0, 0.6) * trunk.height
        high = low + u(0.2, 2.0) * trunk.height
        gap = float(u(0.5, 22))
        wraps.append(
            Wrap(
                gap=gap,
                thick=float(u(1, 5)),
                hu=float(u(-850, -50)),
                front=float(u(-0.7, 1.6)),
                low=float(low),
                high=float(high),
            )
        )
    wraps += [_draw_lid(rng, trunk) for _ in range(int(rng.poisson(0.6 * more)))]
    wires = []
    for _ in range(int(rng.poisson(1.2 * more)) + 1):
        side = u(-1, 1) * trunk.half_x * 1.2
        at = np.array([side, front - u(2, 35), u(-0.3, 1.2) * trunk.height])
        line = [at + rng.normal(0, 45, 3) * [1, 0.3, 1] * k for k in range(4)]
        wires.append(tube(line, [float(u(0.6, 2.5))] * 4, per_piece=8))
    chosen = wires[0] if len(wires) == 1 else wires[int(rng.integers(len(wires)))]
    return Outside(
        foam=tuple(foam),
        sheets=tuple(sheets),
        wraps=tuple(wraps),
        rings=tuple(rings),
        wires=chosen,
        wires_hu=float(u(-200, 2000)),
        uneven=draw_field(rng, nodes, (60.0, 30.0, 30.0)),
    )


def _draw_table(
    rng: np.random.Generator, back: float, *, hard: bool
) -> tuple[list[tuple[Sheet, Sheet, float]], list[Sheet]]:
    u = rng.uniform
    if rng.random() < (0.02 if hard else 0.08):
        return [], []
    far = (-2000.0, 2000.0)
    half = float(u(190, 290))
    curve = -float(u(0, 70)) if rng.random() < 0.7 else 0.0
    mattress = float(u(0, 55)) if rng.random() < 0.8 else 0.0
    top = back + float(u(0, 6))
    pieces: list[tuple[Sheet, Sheet, float]] = []
    sheets: list[Sheet] = []
    cover = Sheet(top, 0, half * u(0.75, 1), curve, float(u(0.8, 2.5)), float(u(-600, 20)), *far)
    if mattress > 4:
        floor = Sheet(top + mattress, 0, half, curve, 1, 0, *far)
        pieces.append((cover, floor, float(u(-990, -830))))
        sheets.append(cover)
    board = top + mattress + float(u(0, 25) if rng.random() < 0.4 else u(0, 3))
    deep = float(u(18, 75))
    shell = float(u(-350, 500))
    thick = float(u(1.2, 5))
    upper = Sheet(board, 0, half, curve, thick, shell, *far)
    kind = rng.random()
    lower_curve = curve if kind < 0.45 else -float(u(20, 60)) if kind < 0.8 else curve * 0.2
    lower = Sheet(board + deep, 0, half, lower_curve, thick, shell, *far)
    pieces.append((upper, lower, float(u(-1000, -870)) if rng.random() < 0.7 else -1000.0))
    sheets += [upper, lower]
    if rng.random() < 0.4:
        below = board + deep + float(u(15, 80))
        sheets.append(
            Sheet(
                below, 0, half * u(0.4, 1.1), u(-40, 40), float(u(2, 8)), float(u(-200, 900)), *far
            )
        )
    return pieces, sheets


def _draw_plate(rng: np.random.Generator, trunk: Trunk, front: float) -> Sheet:
    """A plate above the chest, or at the side of the head: closed air lies beneath it."""
    u = rng.uniform
    low = float(u(-0.4, 1.05)) * trunk.height
    half = float(u(35, 230))
    if low > 0.8 * trunk.height:  # over neck and shoulders, which lie further back
        neck = trunk.neck[0]
        front = neck.start[1] - neck.start_mm + float(u(-5, 35))
    return Sheet(
        level=front - float(u(2, 70) if low < 0.8 * trunk.height else u(2, 25)),
        middle=float(rng.normal(0, 50)),
        half=half,
        sag=float(u(-25, 110)),
        thick=float(u(1.5, 14)),
        hu=float(u(-500, 600) if rng.random() < 0.7 else u(600, 2500)),
        low=low,
        high=low + float(u(40, 300)),
        waves=float(rng.choice([0.0, u(1, 8)])),
    )


def _draw_lid(rng: np.random.Generator, trunk: Trunk) -> Wrap:
    """A shield, board or mask on chest, shoulders or neck, often of metal: air lies under it."""
    u = rng.uniform
    low = float(u(-0.3, 1.05)) * trunk.height
    return Wrap(
        gap=float(u(3, 45)),
        thick=float(u(2, 12)),
        hu=float(u(-300, 400) if rng.random() < 0.5 else u(400, 3000)),
        front=float(u(-0.6, 0.6)),
        low=low,
        high=low + float(u(30, 260)),
        middle=float(rng.normal(0, 60)),
        half=float(u(30, 200)),
        waves=float(u(0, 0.3)),
    )


def _draw_ring(rng: np.random.Generator, trunk: Trunk, back: float, front: float) -> Ring:
    u = rng.uniform
    kind = rng.random()
    low = float(u(-0.6, 1.0)) * trunk.height
    high = low + float(u(30, 400))
    half_x, half_y = float(u(5, 75)), float(u(5, 60))
    side = float(rng.choice([-1.0, 1.0]))
    reach = trunk.half_x + trunk.wall + trunk.fat[1]
    if kind < 0.35:  # above the chest
        x, y = float(rng.normal(0, 70)), front - half_y * float(u(0.5, 1.4))
    elif kind < 0.7:  # beside the trunk: arm rests, tubes, bottles
        x, y = side * (reach + half_x * float(u(0.5, 2.0))), float(u(front, back))
    else:  # under neck and head: rests, pillows
        x, y, low = (
            float(rng.normal(0, 20)),
            back - float(u(0, 60)),
            float(u(0.85, 1.2)) * trunk.height,
        )
        high, half_x = low + 400, float(u(40, 140))
    return Ring(
        x,
        y,
        half_x,
        half_y,
        float(u(1.0, 7)),
        float(u(-500, 500)),
        -1000.0 if rng.random() < 0.6 else float(u(-990, -800)),
        low,
        high,
    )
