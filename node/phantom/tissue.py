"""Soft tissue and bones of wall, neck and arms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.landmarks import Landmarks
from node.phantom.mediastinum import Mediastinum
from node.phantom.planes import F32, Plane
from node.phantom.shapes import limb_distance, radial_distance
from node.phantom.smooth import Field, draw_field
from node.phantom.trunk import Frame, Trunk
from node.phantom.tubes import Capsules, coverage, joined, tube


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """Attenuation and texture of the wall.

    Attributes:
        fat: HU.
        muscle: HU.
        marrow: HU of spongy bone.
        cortex: HU of compact bone.
        skin_mm: Thickness of the skin.
        rib_pitch: Distance of ribs along z, mm.
        rib_drop: How far a rib falls from back to front, mm.
        rib_phase: Shift of the ribs, mm.
        rib_wide: Share of the pitch that is rib.
        vertebra_mm: Height of a vertebra with its disc.
        plates: Clavicles, scapulae, humeri: capsules of bone.
        lobules: Field of fat between muscles.
        mottle: Field of fine texture.
        gland: Share of a breast that is gland.
    """

    fat: float
    muscle: float
    marrow: float
    cortex: float
    skin_mm: float
    rib_pitch: float
    rib_drop: float
    rib_phase: float
    rib_wide: float
    vertebra_mm: float
    plates: Capsules
    lobules: Field
    mottle: Field
    gland: float


def paint(hu: F32, cover: F32, value: F32 | float) -> None:
    """Lay a value over a picture, as strongly as it covers each pixel."""
    hu += cover * (np.float32(value) - hu if np.isscalar(value) else value - hu)


def cover_of(distance: F32, pixel_mm: float) -> F32:
    """Return the share of a pixel inside a surface at a distance (negative inside), 0 to 1."""
    return np.asarray(np.clip(0.5 - distance / np.float32(pixel_mm), 0, 1), dtype=np.float32)


def paint_body(  # noqa: PLR0915 - one layer after the other, outside to inside
    hu: F32, plane: Plane, trunk: Trunk, tissue: Tissue, frame: Frame, skin: F32
) -> F32:
    """Paint skin, fat and muscle; return the body's coverage."""
    px = plane.pixel_mm
    body = cover_of(skin, px)
    mottle = tissue.mottle.at(frame.points)
    lobules = tissue.lobules.at(frame.points)
    facing = (frame.y / frame.rho) ** 2
    depth = np.where(frame.y < 0, np.float32(trunk.fat[0]), np.float32(trunk.fat[2]))
    fat_mm = trunk.fat[1] * (1 - facing) + depth * facing
    girdle = np.clip((frame.t - 0.66) / 0.14, 0, 1) * 220
    behind = np.clip(frame.y / frame.rho - 0.55, 0, 1) * 60
    front = np.clip(-frame.y / frame.rho - 0.1, 0, 1) * trunk.pectoral
    front = front * np.exp(-(((frame.t - 0.7) / 0.22) ** 2))
    limit = np.float32(trunk.wall + 6) + girdle + behind + front + 3 * lobules
    muscle = np.maximum(skin + fat_mm, frame.cage - limit).astype(np.float32)
    inner = np.full(plane.shape, tissue.fat, np.float32) + 7 * mottle
    if tissue.gland > 0:
        gland = cover_of(np.maximum(skin + 9, 0.9 - tissue.gland - 0.8 * lobules), 1.2)
        front_only = (frame.cage > trunk.wall + 10) & (frame.y < -0.6 * frame.half_y)
        paint(inner, gland * front_only, 25.0)
    muscle_cover = cover_of(muscle, px)
    streaks = np.clip(1.2 - np.abs(lobules) / 0.12, 0, 1) * np.clip(frame.cage - trunk.wall, 0, 1)
    muscle_cover *= 1 - 0.8 * np.clip(streaks, 0, 1)
    paint(inner, muscle_cover, tissue.muscle + 5 * mottle)
    for limb in (*trunk.arms, *trunk.neck):
        reach = max(limb.start_mm, limb.end_mm)
        low, high = sorted((limb.start[2], limb.end[2]))
        if frame.points.z.max() < low - reach or frame.points.z.min() > high + reach:
            continue
        core = cover_of(limb_distance(limb, frame.points) + 0.35 * trunk.fat[1] + 2, px)
        paint(inner, core * (1 - 0.7 * np.clip(streaks, 0, 1)), tissue.muscle + 5 * mottle)
    paint(inner, cover_of(-skin - tissue.skin_mm, px), 5.0)
    paint(hu, body, inner)
    return body


def paint_bones(
    hu: F32,
    plane: Plane,
    trunk: Trunk,
    tissue: Tissue,
    organs: Mediastinum,
    frame: Frame,
    skin: F32,
) -> F32:
    """Paint ribs, sternum, spine and the shoulder girdle; return the spine's coverage."""
    px = plane.pixel_mm
    _paint_ribs(hu, trunk, tissue, frame, px)
    spine = _paint_spine(hu, trunk, tissue, organs, frame, skin, px)
    bones = tissue.plates
    paint(hu, coverage(plane, bones), tissue.cortex)
    paint(hu, coverage(plane, bones.grown(-2.5).where(bones.start_mm > 4.5)), tissue.marrow)
    return spine


def _paint_ribs(hu: F32, trunk: Trunk, tissue: Tissue, frame: Frame, px: float) -> None:
    t = frame.t
    if t.max() < -0.5 or t.min() > 1.08:
        return
    middle = np.float32(trunk.wall * 0.55)
    near = np.abs(frame.cage - middle) < trunk.wall * 0.5 + px
    rows, columns = np.nonzero(near)
    if not len(rows):
        return
    shape = near.shape
    facing = (frame.y / frame.rho)[rows, columns]
    z = np.broadcast_to(frame.points.z, shape)[rows, columns]
    level = np.broadcast_to(t, shape)[rows, columns]
    x = np.broadcast_to(frame.x, shape)[rows, columns]
    phase = (z + tissue.rib_drop * (1 - facing) / 2 + tissue.rib_phase) / tissue.rib_pitch
    wave = np.abs(phase - np.round(phase)) * tissue.rib_pitch  # mm from a rib's middle
    half = tissue.rib_wide * tissue.rib_pitch / 2
    radial = np.abs(frame.cage[rows, columns] - middle)
    thick = np.float32(trunk.wall * 0.36)
    outside = np.hypot(wave / half, radial / thick) - 1
    outside = outside * min(float(half), float(thick))
    cover = cover_of(outside, px)
    cover *= np.clip((0.15 + level * 4 + facing), 0, 1) * (level < 1.04)  # costal arch, top
    core = np.clip(-outside / 2.5, 0, 1)
    value = tissue.cortex + (tissue.marrow - tissue.cortex) * core
    value = np.where(facing < -0.78, 110.0, value)  # cartilage
    sternum = (np.abs(x) < 19) & (facing < 0) & (level > 0.28) & (level < 0.92)
    flat = cover_of(np.maximum(radial - thick * 1.2, np.abs(x) - 17), px)
    cover = np.where(sternum, flat, cover)
    value = np.where(sternum, tissue.marrow + 60 + (radial > thick) * 250, value)
    hu[rows, columns] += cover * (value - hu[rows, columns])


def _paint_spine(
    hu: F32, trunk: Trunk, tissue: Tissue, organs: Mediastinum, frame: Frame, skin: F32, px: float
) -> F32:
    y = frame.points.y - trunk.vertebra_y(frame.points.z)
    x = frame.x
    rho = np.sqrt(x * x + y * y) + np.float32(1e-3)
    disc = np.abs(frame.points.z / np.float32(tissue.vertebra_mm) % 1 - 0.5) * 2  # 1 at the disc
    body = radial_distance(x, y, organs.spine_x, organs.spine_y, power=2.3, rho=rho)
    back = y - np.float32(organs.spine_y + 8)
    canal = np.sqrt(x * x + back * back) - np.float32(8.5)
    arch = np.abs(canal - 2.5) - 3.0
    spinous = np.maximum(np.abs(x) - 3.5, np.maximum(-back, back - 42))
    across = np.maximum(np.abs(np.abs(x) * 0.35 - back + 2) - 5, np.abs(x) - 36)
    spike = np.where(disc < 0.55, np.minimum(spinous, across), np.float32(9))
    bone = cover_of(np.maximum(np.minimum(np.minimum(body, arch), spike), skin + 5), px)
    edge = np.clip(1 + body / 2.5, 0, 1)
    inner = tissue.marrow + edge * (tissue.cortex - tissue.marrow) * 0.8
    inner = np.where(disc > 0.84, np.float32(85), inner)
    value = np.where(body < 0, inner, np.float32(0.55 * tissue.cortex + 0.45 * tissue.marrow))
    paint(hu, bone, value.astype(np.float32))
    paint(hu, cover_of(canal, px), 28.0)
    return cover_of(body, px)


def draw_tissue(rng: np.random.Generator, trunk: Trunk, marks: Landmarks, nodes: F32) -> Tissue:
    """Draw attenuation, ribs and the shoulder girdle."""
    u = rng.uniform
    return Tissue(
        fat=float(rng.normal(-102, 9)),
        muscle=float(rng.normal(52, 8)),
        marrow=float(u(110, 300)),
        cortex=float(u(420, 1100)),
        skin_mm=float(u(1.5, 3)),
        rib_pitch=float(u(25, 33)),
        rib_drop=float(u(70, 150)),
        rib_phase=float(u(0, 33)),
        rib_wide=float(u(0.38, 0.55)),
        vertebra_mm=float(u(22, 29)),
        plates=_draw_plates(rng, trunk, marks),
        lobules=draw_field(rng, nodes, (30.0, 11.0, 13.0)),
        mottle=draw_field(rng, nodes, 5.0),
        gland=float(u(0, 0.9)) if trunk.breasts else 0.0,
    )


def _draw_plates(rng: np.random.Generator, trunk: Trunk, marks: Landmarks) -> Capsules:
    u = rng.uniform
    side = trunk.half_x + trunk.wall
    bones = []
    for sign, arm in zip(
        (-1, 1), (trunk.arms * 2)[:: max(len(trunk.arms) // 2, 1)][:2], strict=True
    ):
        shoulder = np.asarray(arm.start)
        head = shoulder + [-sign * 8, 6, 4]
        inner = np.asarray(marks.at(0, -0.85, 0.9)) + [sign * 20, -6, 0]
        bones.append(tube([inner, (inner + head) / 2 + [0, -10, 4], head], [7, 5.5, 6]))
        low = np.asarray(marks.at(0, 0, u(0.5, 0.62)))
        tip = np.array([sign * side * u(0.62, 0.8), trunk.back_y(np.float32(low[2])) + 14, low[2]])
        inner_top = np.array([sign * side * u(0.42, 0.55), tip[1] - 8, 0.86 * trunk.height])
        glenoid = shoulder + [-sign * 24, 18, -6]
        for f in (0.0, 0.25, 0.5, 0.75, 1.0):
            edge = tip + (inner_top - tip) * f
            bones.append(tube([edge, (edge + glenoid) / 2 + [0, 5, 0], glenoid], [3, 2.6, 6]))
        bones.append(tube([inner_top + [0, 8, -8], glenoid + [sign * 14, 6, 24]], [4, 8]))
        elbow = np.asarray(arm.end)
        bones.append(tube([shoulder, shoulder + (elbow - shoulder) * 0.12, elbow], [23, 12, 11]))
    for arm in trunk.arms[2:]:
        if arm is not trunk.arms[0]:
            bones.append(tube([arm.start, arm.end], [8, 6]))
    return joined(bones)
