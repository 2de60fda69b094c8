"""The lungs: cage minus mediastinum, above the diaphragm, below the apices.

The diaphragm is a height per side, highest in the middle of each half and lowest along the back
and the side, so that slices through the base show crescents round the liver and the recess that
reaches deepest at the back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.mediastinum import Mediastinum, mediastinum_distance
from node.phantom.planes import F32
from node.phantom.smooth import Field, draw_field
from node.phantom.trunk import Frame, Trunk


@dataclass(frozen=True, slots=True, eq=False)
class Apex:
    """The closing top of one lung.

    Attributes:
        begins: t where it begins to close.
        ends: t of its tip.
        x: Its axis, mm from the midline.
        v: Its axis in depth.
        radius_x: Half width where it begins, mm.
        radius_y: Half depth where it begins, mm.
    """

    begins: float
    ends: float
    x: float
    v: float
    radius_x: float
    radius_y: float


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """What bounds the lungs beside cage and mediastinum.

    Attributes:
        dome_mm: Height of the diaphragm's dome, right and left.
        roundness: Power of the dome: small is pointed, large is flat with steep rims.
        deepest_mm: z below which there is no lung, right and left.
        apex: Right and left apex.
        uneven: Field of the diaphragm.
        uneven_mm: Its size.
    """

    dome_mm: tuple[float, float]
    roundness: tuple[float, float]
    deepest_mm: tuple[float, float]
    apex: tuple[Apex, Apex]
    uneven: Field
    uneven_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class ChestSpace:
    """The chest's inside at a set of points.

    Attributes:
        lung: Distance from the lungs, in units of the border's softness, negative inside.
        side: Negative on the right of the mediastinum's middle.
        mediastinum: Distance from the mediastinum, mm.
        below: Height of the diaphragm over the point, mm: positive means abdomen.
        softness: Width over which the diaphragm's border is averaged, mm.
    """

    lung: F32
    side: F32
    mediastinum: F32
    below: F32
    softness: F32


def diaphragm_height(lungs: Lungs, frame: Frame) -> F32:
    """Return z of the diaphragm over each point."""
    u, v = frame.u, frame.v
    q = ((np.abs(u) - 0.45) / 0.56) ** 2 + ((v + 0.12) / 1.12) ** 2
    q = np.clip(q, 1e-4, 1.6)
    right = lungs.dome_mm[0] * (1 - q ** np.float32(lungs.roundness[0]))
    left = lungs.dome_mm[1] * (1 - q ** np.float32(lungs.roundness[1]))
    share = np.clip(u * 4 + 0.5, 0, 1).astype(np.float32)
    height = right + (left - right) * share
    deepest = lungs.deepest_mm[0] + (lungs.deepest_mm[1] - lungs.deepest_mm[0]) * share
    height = np.maximum(height, deepest)
    return np.asarray(
        (height + np.float32(lungs.uneven_mm) * lungs.uneven.at(frame.points)), dtype=np.float32
    )


def chest_space(
    trunk: Trunk,
    organs: Mediastinum,
    lungs: Lungs,
    frame: Frame,
    *,
    pixel_mm: float,
    thickness_mm: float,
) -> ChestSpace:
    """Return where lung, mediastinum and abdomen are at the frame's points.

    Args:
        trunk: The trunk.
        organs: The mediastinum.
        lungs: The lungs.
        frame: The trunk's coordinates at the points.
        pixel_mm: Softness of upright borders.
        thickness_mm: Slice thickness: softness of lying borders.
    """
    middle, side = mediastinum_distance(trunk, organs, frame)
    height = diaphragm_height(lungs, frame)
    below = height - frame.points.z
    softness = _softness(height, pixel_mm, thickness_mm)
    lung = np.maximum(frame.cage, -middle) / np.float32(pixel_mm)
    lung = np.maximum(lung, below / softness)
    if float(frame.t.max()) > min(a.begins for a in lungs.apex):
        lung = np.maximum(lung, _apex_distance(lungs, frame, side) / np.float32(pixel_mm))
    return ChestSpace(lung, side, middle, below, softness)


def _softness(height: F32, pixel_mm: float, thickness_mm: float) -> F32:
    """Return how far the averaging through pixel and slice smears the diaphragm, mm."""
    if height.ndim != 2 or min(height.shape) < 3:
        return np.float32(thickness_mm + pixel_mm) * np.ones_like(height)
    steep = np.abs(np.diff(height, axis=0, append=height[-1:]))
    steep = steep + np.abs(np.diff(height, axis=1, append=height[:, -1:]))
    return np.asarray(np.float32(0.8 * thickness_mm) + np.minimum(steep, 6 * pixel_mm) + 0.2)


def _apex_distance(lungs: Lungs, frame: Frame, side: F32) -> F32:
    found = []
    for sign, apex in zip((-1, 1), lungs.apex, strict=True):
        f = np.clip((frame.t - apex.begins) / (apex.ends - apex.begins), 0, 1.4)
        x = (frame.x - sign * apex.x) / np.float32(apex.radius_x)
        y = (frame.y - apex.v * frame.half_y) / np.float32(apex.radius_y)
        q = np.sqrt(x * x + y * y + f ** np.float32(2.2)) + np.float32(1e-3)
        found.append((q - 1) * np.float32(min(apex.radius_x, apex.radius_y)))
    near = (frame.t > min(a.begins for a in lungs.apex)).astype(np.float32)
    distance = np.where(side < 0, found[0], found[1])
    return np.asarray(np.where(near > 0, distance, np.float32(-1e3)), dtype=np.float32)


def draw_lungs(rng: np.random.Generator, trunk: Trunk, nodes: F32, *, hard: bool) -> Lungs:
    """Draw diaphragm and apices to fit a trunk."""
    u = rng.uniform
    height = trunk.height
    right = float(u(0.18, 0.46)) * height
    left = right - float(u(-2, 26))
    if hard and rng.random() < 0.25:  # a paralysed side stands high
        right, left = (right + 45, left) if rng.random() < 0.5 else (right, left + 45)
    top = 1 - trunk.taper_x
    apex = []
    for _ in range(2):
        width = trunk.half_x * top * float(u(0.42, 0.58))
        apex.append(
            Apex(
                begins=float(u(0.7, 0.82)),
                ends=float(u(0.93, 1.0)),
                x=width + float(u(10, 18)),
                v=float(u(0.05, 0.35)),
                radius_x=width * float(u(1.35, 1.75)),
                radius_y=trunk.half_y * float(u(0.62, 0.9)),
            )
        )
    roundness = float(u(0.85, 1.7))
    return Lungs(
        dome_mm=(right, max(left, 20.0)),
        roundness=(roundness, roundness * float(u(0.85, 1.15))),
        deepest_mm=(-float(u(0, 12)), -float(u(0, 12))),
        apex=(apex[0], apex[1]),
        uneven=draw_field(rng, nodes, 24.0),
        uneven_mm=float(u(0.8, 3.0)),
    )
