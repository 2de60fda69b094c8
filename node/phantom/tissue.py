"""Attenuation and texture of the chest wall, and the bones of the shoulder girdle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.landmarks import Landmarks
from node.phantom.planes import F32, F64
from node.phantom.smooth import Field, draw_field
from node.phantom.trunk import Trunk
from node.phantom.tubes import Capsules, joined, tube


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
    uppers = [limb for limb in trunk.arms if limb.start[2] > 0.8 * trunk.height]
    bones = []
    for sign, arm in zip((-1, 1), (*uppers, *uppers)[:2], strict=True):
        shoulder = np.asarray(arm.start) * [sign * np.sign(arm.start[0]), 1, 1]

        def near(x: float, y: float, z: float, at: F64 = shoulder) -> F64:
            return np.asarray(at + np.array([x, y, z]))

        head = near(-sign * 8, 6, 4)
        inner = near(sign * 20, -6, 0, np.asarray(marks.at(0, -0.85, 0.9)))
        bones.append(tube([inner, near(0, -10, 4, (inner + head) / 2), head], [7, 5.5, 6]))
        low = float(u(0.5, 0.62)) * trunk.height
        back = float(trunk.back_y(np.asarray(low, np.float32))) + 14
        tip = np.array([sign * side * u(0.62, 0.8), back, low])
        top = np.array([sign * side * u(0.42, 0.55), back - 8, 0.86 * trunk.height])
        socket = near(-sign * 24, 18, -6)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            edge = tip + (top - tip) * share
            bones.append(tube([edge, near(0, 5, 0, (edge + socket) / 2), socket], [3, 2.6, 6]))
        bones.append(tube([near(0, 8, -8, top), near(sign * 14, 6, 24, socket)], [4, 8]))
    for limb in trunk.arms:
        start, end = np.asarray(limb.start), np.asarray(limb.end)
        upper = any(limb is one for one in uppers)
        radii = [23, 12, 11] if upper else [9, 8, 6]
        bones.append(tube([start, start + (end - start) * 0.12, end], radii))
    return joined(bones)
