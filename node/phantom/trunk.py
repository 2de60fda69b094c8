"""The frame of the chest: spine curve, thoracic cage, body outline, shoulders, neck and arms.

Everything else hangs on it. `t` is height over lung height (0 lowest lung edge, 1 apices), `u`
and `v` are x and y over the cage's half widths at that level. Distances are millimetres, negative
inside, exact near the surface and only roughly so far from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.planes import F32, Points
from node.phantom.shapes import Limb, limb_distance, radial_distance, soft_union
from node.phantom.smooth import Field, draw_field


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """Shape of one patient's trunk.

    Attributes:
        height: Lung height, mm.
        half_x: Half width of the cage at its widest, mm.
        half_y: Half depth of the cage at its deepest, mm.
        power: Superellipse power of the cage.
        taper_from: t above which the cage narrows.
        taper_x: Share of the half width lost at t = 1.
        taper_y: Share of the half depth lost at t = 1.
        kyphosis: How far the spine comes forward at t = 1, mm.
        lordosis: How far it comes forward at t = -0.4, mm.
        lean: Side shift of the spine over height (scoliosis), mm.
        vertebra: Depth of the vertebral centre before the back of the cage, mm.
        wall: Thickness of ribs and intercostal muscle, mm.
        fat: Fat at front, side, back, mm.
        back_muscle: Muscle behind the cage, mm.
        pectoral: Muscle in front of the upper cage, mm.
        body_power: Superellipse power of the skin.
        shoulder: Added half width at the shoulders, mm.
        neck: The neck, head and chin.
        arms: Upper arms, forearms.
        flat: How much of the back the table presses flat, mm.
        breasts: Centre, radii of each breast (x, y, z, rx, ry, rz).
        uneven: Field that makes the wall uneven; with `uneven_mm`.
        uneven_mm: Its size.
    """

    height: float
    half_x: float
    half_y: float
    power: float
    taper_from: float
    taper_x: float
    taper_y: float
    kyphosis: float
    lordosis: float
    lean: float
    vertebra: float
    wall: float
    fat: tuple[float, float, float]
    back_muscle: float
    pectoral: float
    body_power: float
    shoulder: float
    neck: tuple[Limb, ...]
    arms: tuple[Limb, ...]
    flat: float
    breasts: tuple[tuple[float, float, float, float, float, float], ...]
    uneven: Field
    uneven_mm: float

    def half_widths(self, z: F32) -> tuple[F32, F32]:
        """Return the cage's half width and half depth at a level."""
        t = z / self.height
        rise = np.clip((t - self.taper_from) / (1 - self.taper_from), 0, 1.25) ** 1.8
        fall = np.clip(0.12 - t, 0, 0.6) * 0.25
        return (
            (self.half_x * (1 - self.taper_x * rise - fall)).astype(np.float32),
            (self.half_y * (1 - self.taper_y * rise - fall)).astype(np.float32),
        )

    def back_y(self, z: F32) -> F32:
        """Return y of the cage's back at a level."""
        t = z / self.height
        up = np.clip((t - 0.4) / 0.6, 0, 1.15)
        down = np.clip((0.35 - t) / 0.75, 0, 1.5)
        y = self.half_y - self.kyphosis * up**2 - self.lordosis * down**2
        return np.asarray(y, dtype=np.float32)

    def middle_x(self, z: F32) -> F32:
        """Return x of the midline at a level."""
        return np.asarray((self.lean * np.sin(3.5 * (z / self.height - 0.3))), dtype=np.float32)

    def centre_y(self, z: F32) -> F32:
        """Return y of the cage's centre at a level."""
        return self.back_y(z) - self.half_widths(z)[1]

    def vertebra_y(self, z: F32) -> F32:
        """Return y of the vertebral bodies' centre."""
        return self.back_y(z) - np.float32(self.vertebra)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The trunk seen from a set of points: coordinates every other shape is written in.

    Attributes:
        points: Where.
        t: Height over lung height.
        half_x: Half width of the cage at each point's level.
        half_y: Half depth of the cage.
        x: mm left of the midline.
        y: mm behind the cage's centre.
        rho: Distance from the cage's axis.
        cage: Distance from the cage's inner surface, negative inside.
    """

    points: Points
    t: F32
    half_x: F32
    half_y: F32
    x: F32
    y: F32
    rho: F32
    cage: F32

    @property
    def u(self) -> F32:
        """Return x over the half width."""
        return self.x / self.half_x

    @property
    def v(self) -> F32:
        """Return y over the half depth, -1 at the front."""
        return self.y / self.half_y


def frame_at(trunk: Trunk, points: Points) -> Frame:
    """Return the trunk's coordinates at the points."""
    half_x, half_y = trunk.half_widths(points.z)
    x = points.x - trunk.middle_x(points.z)
    y = points.y - (trunk.back_y(points.z) - half_y)
    rho = np.sqrt(x * x + y * y) + np.float32(1e-3)
    cage = radial_distance(x, y, half_x, half_y, power=trunk.power, rho=rho)
    cage = cage + np.float32(trunk.uneven_mm) * trunk.uneven.at(points)
    return Frame(points, points.z / np.float32(trunk.height), half_x, half_y, x, y, rho, cage)


def skin_distance(trunk: Trunk, frame: Frame) -> F32:
    """Return the distance from the skin of trunk, shoulders, neck, head, arms and breasts."""
    points, t = frame.points, frame.t
    front = frame.half_y + np.float32(trunk.wall + trunk.fat[0])
    back = np.float32(trunk.back_muscle + trunk.fat[2])
    pectoral = trunk.pectoral * np.exp(-(((t - 0.75) / 0.2) ** 2))
    front = front + pectoral.astype(np.float32)
    back_y = trunk.back_y(points.z)
    front_y = back_y - frame.half_y - front
    half_y = (back_y + back - front_y) / 2
    shoulder = np.clip((t - 0.72) / 0.24, 0, 1)
    close = np.clip((t - 1.0) * trunk.height / 70, 0, 1)
    half_x = (
        trunk.half_x
        + trunk.wall
        + trunk.fat[1]
        + trunk.shoulder * _ease(shoulder.astype(np.float32))
    )
    half_x = (half_x * (1 - 0.62 * _ease(close.astype(np.float32)))).astype(np.float32)
    half_y = (half_y * (1 - 0.3 * _ease(close.astype(np.float32)))).astype(np.float32)
    y = points.y - (back_y + back - half_y)
    rho = np.sqrt(frame.x * frame.x + y * y) + np.float32(1e-3)
    skin = radial_distance(frame.x, y, half_x, half_y, power=trunk.body_power, rho=rho)
    skin = skin + np.float32(2.0) * trunk.uneven.at(
        Points(
            points.x * np.float32(0.4) + 77, points.y * np.float32(0.4), points.z * np.float32(0.5)
        )
    )
    skin = np.maximum(skin, (t - 1.0) * np.float32(trunk.height) - 75)
    for limb in (*trunk.neck, *trunk.arms):
        if not _reaches(limb, points):
            continue
        skin = soft_union(skin, limb_distance(limb, points), 14.0)
    for bx, by, bz, rx, ry, rz in trunk.breasts:
        q = ((points.x - bx) / rx) ** 2 + ((points.y - by) / ry) ** 2 + ((points.z - bz) / rz) ** 2
        root = np.sqrt(q) + np.float32(1e-3)
        skin = soft_union(skin, (root - 1) * np.float32(min(rx, ry, rz)), 10.0)
    flat = points.y - (np.float32(trunk.half_y) + back - np.float32(trunk.flat))
    return np.asarray(np.maximum(skin, flat), dtype=np.float32)


def _ease(share: F32) -> F32:
    return np.asarray(share * share * (3 - 2 * share))


def _reaches(limb: Limb, points: Points) -> bool:
    """Say whether a limb can touch the points' levels; spares whole-plane work."""
    margin = max(limb.start_mm, limb.end_mm) + 20
    low = min(limb.start[2], limb.end[2]) - margin
    high = max(limb.start[2], limb.end[2]) + margin
    return bool(points.z.min() < high and points.z.max() > low)


def draw_trunk(rng: np.random.Generator, nodes: F32, *, hard: bool) -> Trunk:
    """Draw a trunk from the ranges of knowledge of adults, small to large."""
    u = rng.uniform
    size = float(np.clip(rng.normal(0, 1), -2, 2))
    height = float(np.clip(248 + 24 * size + rng.normal(0, 20), 185, 315))
    half_x = float(np.clip(131 + 10 * size + rng.normal(0, 9), 102, 172))
    half_y = half_x * float(u(0.62, 0.84))
    heavy = float(rng.beta(1.3, 2.0))
    fat = (4 + 38 * heavy * u(0.5, 1), 4 + 42 * heavy * u(0.5, 1), 3 + 30 * heavy * u(0.5, 1))
    arms_up = rng.random() < 0.68
    shoulder = float(u(5, 45) if arms_up else u(35, 75))
    back_muscle = float(u(22, 42))
    wall = float(u(11, 17))
    kyphosis = float(u(8, 42))
    trunk_side = half_x + wall + fat[1]
    neck_y = half_y - kyphosis * 1.3 - u(18, 40)
    neck = _draw_neck(rng, height, float(neck_y))
    arms = (
        _draw_raised_arms(rng, height, trunk_side + shoulder, float(half_y - kyphosis))
        if arms_up
        else _draw_lowered_arms(rng, height, trunk_side, float(half_y - kyphosis))
    )
    if not arms_up and rng.random() < 0.25:
        arms = arms[: len(arms) // 2]  # one arm up and out of the picture
    breasts = _draw_breasts(rng, height, half_x, half_y, fat[0] + wall)
    return Trunk(
        height=height,
        half_x=half_x,
        half_y=half_y,
        power=float(u(1.95, 2.6)),
        taper_from=float(u(0.3, 0.6)),
        taper_x=float(u(0.36, 0.52)),
        taper_y=float(u(0.36, 0.56)),
        kyphosis=kyphosis,
        lordosis=float(u(5, 30)),
        lean=float(rng.normal(0, 4)) + (float(rng.normal(0, 8)) if hard else 0.0),
        vertebra=float(u(6, 22)),
        wall=wall,
        fat=(float(fat[0]), float(fat[1]), float(fat[2])),
        back_muscle=back_muscle,
        pectoral=float(u(4, 26)),
        body_power=float(u(2.1, 2.9)),
        shoulder=shoulder,
        neck=neck,
        arms=arms,
        flat=float(u(0, 22)),
        breasts=breasts,
        uneven=draw_field(rng, nodes, (60.0, 34.0, 34.0)),
        uneven_mm=float(u(0.6, 2.2)),
    )


def _draw_neck(rng: np.random.Generator, height: float, y: float) -> tuple[Limb, ...]:
    u = rng.uniform
    radius, x = float(u(48, 68)), float(rng.normal(0, 5))
    top = height + float(u(95, 150))
    chin = height + float(u(48, 110))
    head_y, head = y - float(u(0, 35)), float(u(72, 92))
    return (
        Limb((0.0, y + 8, 0.9 * height), (x, head_y, top), radius, radius * 0.95),
        Limb((x, head_y, top + 30), (x, head_y, top + 110), head, head),
        Limb((x, head_y - 20, chin + 22), (x, head_y - head * 0.9, chin), 26.0, float(u(18, 28))),
    )


def _draw_raised_arms(
    rng: np.random.Generator, height: float, side: float, y: float
) -> tuple[Limb, ...]:
    u = rng.uniform
    limbs = []
    for sign in (-1, 1):
        radius = float(u(36, 58))
        start = (sign * (side - radius * u(0.7, 1.1)), y - u(20, 60), height * u(0.84, 0.95))
        elbow = (sign * side * u(0.8, 1.25), y - u(20, 110), height + u(150, 230))
        limbs.append(Limb(_floats(start), _floats(elbow), radius, radius * float(u(0.7, 0.95))))
    return tuple(limbs)


def _draw_lowered_arms(
    rng: np.random.Generator, height: float, side: float, y: float
) -> tuple[Limb, ...]:
    u = rng.uniform
    limbs = []
    for sign in (-1, 1):
        radius = float(u(34, 55))
        out = side + radius * float(u(0.85, 1.25))
        start = (sign * (out + u(-10, 12)), y - u(0, 30), height * u(0.86, 0.97))
        elbow = (sign * (out + u(0, 25)), y + u(-20, 45), height * u(-0.15, 0.25))
        hand = (sign * out * u(0.25, 1.0), y - u(20, 150), height * u(-0.6, -0.1))
        limbs.append(Limb(_floats(start), _floats(elbow), radius, radius * 0.8))
        limbs.append(Limb(_floats(elbow), _floats(hand), radius * 0.8, radius * 0.6))
    return tuple(limbs)


def _draw_breasts(
    rng: np.random.Generator, height: float, half_x: float, half_y: float, depth: float
) -> tuple[tuple[float, float, float, float, float, float], ...]:
    if rng.random() > 0.45:
        return ()
    u = rng.uniform
    rx, ry, rz = u(45, 78), u(22, 58), u(48, 80)
    side, level = half_x * u(0.5, 0.72), height * u(0.3, 0.5)
    y = -half_y - depth * u(0.3, 0.9)
    both: list[tuple[float, float, float, float, float, float]] = []
    for sign in (-1, 1):
        grow = u(0.92, 1.08)
        both.append((sign * side, y, level, rx * grow, ry * grow, rz * grow))
    return tuple(both)


def _floats(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
