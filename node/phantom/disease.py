"""Disease in and beside the lungs, each with what the labels say of it.

Nodules up to 30 mm, ground glass, bands, reticulation and emphysema belong to the lung; masses
over 30 mm, consolidation and effusion do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from node.phantom.planes import F32, F64, Points
from node.phantom.smooth import Field, draw_field

LARGEST_NODULE_MM = 30.0
"""Diameter above which a lesion is a mass and no longer counted as lung (Fleischner glossary)."""


@dataclass(frozen=True, slots=True, eq=False)
class Lump:
    """A nodule or mass.

    Attributes:
        centre: LPS mm.
        radii: Half axes along x, y, z.
        hu: Attenuation.
        rough: Share of the radius by which its surface varies.
        uneven: Field of its surface and inside.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    hu: float
    rough: float
    uneven: Field

    @property
    def diameter_mm(self) -> float:
        """Mean diameter."""
        return 2 * float(np.cbrt(np.prod(self.radii)))

    @property
    def is_mass(self) -> bool:
        """Whether it is too large to be a nodule."""
        return self.diameter_mm > LARGEST_NODULE_MM

    def distance(self, points: Points) -> F32:
        """Return the distance from its surface, negative inside."""
        x, y, z = (
            (c - np.float32(o)) / np.float32(r)
            for c, o, r in zip((points.x, points.y, points.z), self.centre, self.radii, strict=True)
        )
        q = np.sqrt(x * x + y * y + z * z)
        if self.rough > 0:
            q = q + np.float32(self.rough) * self.uneven.at(points)
        return np.asarray((q - 1) * np.float32(min(self.radii)), dtype=np.float32)

    @property
    def reach_mm(self) -> float:
        """Distance from the centre beyond which there is nothing of it."""
        return max(self.radii) * (1 + 3.5 * self.rough) + 5

    def volume_ml(self) -> float:
        """Return its volume by sampling it at a fortieth of its diameter, at most 0.6 mm."""
        reach = max(self.radii) * (1 + 3.5 * self.rough) + 1
        step = min(0.6, self.diameter_mm / 40) if self.diameter_mm < 40 else 1.0
        count = int(2 * reach / step) + 1
        offset = (np.arange(count) - (count - 1) / 2) * step
        x = (self.centre[0] + offset).astype(np.float32)[None, :]
        y = (self.centre[1] + offset).astype(np.float32)[:, None]
        total = 0.0
        for dz in offset:
            z = np.full((1, 1), self.centre[2] + dz, np.float32)
            total += float(np.clip(0.5 - self.distance(Points(x, y, z)) / step, 0, 1).sum())
        return total * step**3 / 1000


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A region of changed lung: ground glass or consolidation.

    Attributes:
        centre: LPS mm.
        radius_mm: How far it goes on the whole.
        hu: Attenuation; added to the lung's for ground glass.
        solid: Consolidation: no longer lung.
        uneven: Field of its border.
    """

    centre: tuple[float, float, float]
    radius_mm: float
    hu: float
    solid: bool
    uneven: Field

    def distance(self, points: Points) -> F32:
        """Return the distance from its border, negative inside."""
        gap = np.sqrt(
            (points.x - np.float32(self.centre[0])) ** 2
            + (points.y - np.float32(self.centre[1])) ** 2
            + (points.z - np.float32(self.centre[2])) ** 2
        )
        bumps = self.uneven.at(points) * np.float32(0.45 * self.radius_mm)
        return np.asarray(gap - np.float32(self.radius_mm) + bumps, dtype=np.float32)

    @property
    def reach_mm(self) -> float:
        """Distance from the centre beyond which there is nothing of it."""
        return 2.6 * self.radius_mm + 5


@dataclass(frozen=True, slots=True, eq=False)
class Disease:
    """Everything wrong with a patient's lungs.

    Attributes:
        lumps: Nodules and masses.
        patches: Ground glass and consolidation.
        effusion_v: v behind which fluid lies at the base, right and left; above 1: none.
        effusion_slope: How much v grows per lung height.
        effusion_hu: Attenuation of the fluid.
        emphysema: Share of the lung replaced, 0 to 0.4.
        reticulation: HU added by thickened septa at the lung's border.
        bands: HU added by dependent bands at the back.
        holes: Field of emphysema.
        septa: Field of reticulation.
    """

    lumps: tuple[Lump, ...]
    patches: tuple[Patch, ...]
    effusion_v: tuple[float, float]
    effusion_slope: float
    effusion_hu: float
    emphysema: float
    reticulation: float
    bands: float
    holes: Field
    septa: Field


def draw_disease(
    rng: np.random.Generator,
    nodes: F32,
    inside: Callable[[int], F64],
    border: Callable[[int], F64],
    *,
    hard: bool,
    healthy: bool,
) -> Disease:
    """Draw disease.

    Args:
        rng: Source of randomness.
        nodes: The patient's lattice.
        inside: Gives points inside the right (0) or left (1) lung.
        border: Gives points at the border of the lungs.
        hard: Make it common.
        healthy: Draw none, but for a nodule or two in a third.
    """
    u, more = rng.uniform, 1.9 if hard else 1.0
    chance = 0.0 if healthy else more
    lumps = [
        _draw_lump(rng, nodes, inside(int(rng.integers(2)))[0], diameter=float(u(4, 26)))
        for _ in range(int(rng.integers(0, 3 if healthy else 6)))
    ]
    if rng.random() < 0.22 * chance:
        where = border if rng.random() < 0.6 else inside
        centre = where(int(rng.integers(2)))[0]
        lumps.append(_draw_lump(rng, nodes, centre, diameter=float(u(28, 90))))
    if rng.random() < 0.12 * chance:
        for _ in range(int(rng.integers(5, 25))):
            centre = inside(int(rng.integers(2)))[0]
            lumps.append(_draw_lump(rng, nodes, centre, diameter=float(u(3, 14))))
    patches = []
    if rng.random() < 0.3 * chance:
        for _ in range(int(rng.integers(1, 7))):
            centre = inside(int(rng.integers(2)))[0]
            patches.append(_draw_patch(rng, nodes, centre, hu=float(u(150, 520)), solid=False))
    if rng.random() < 0.25 * chance:
        for _ in range(int(rng.integers(1, 4))):
            centre = border(int(rng.integers(2)))[0]
            patches.append(_draw_patch(rng, nodes, centre, hu=float(u(0, 90)), solid=True))
    fluid = tuple(float(u(0.15, 0.95)) if rng.random() < 0.12 * chance else 2.0 for _ in range(2))
    return Disease(
        lumps=tuple(lumps),
        patches=tuple(patches),
        effusion_v=(fluid[0], fluid[1]),
        effusion_slope=float(u(0.2, 1.6)),
        effusion_hu=float(u(-5, 30)),
        emphysema=float(u(0.03, 0.4)) if rng.random() < 0.17 * chance else 0.0,
        reticulation=float(u(80, 420)) if rng.random() < 0.2 * chance else 0.0,
        bands=float(u(80, 650)) if rng.random() < 0.35 * chance else 0.0,
        holes=draw_field(rng, nodes, float(u(4, 14))),
        septa=draw_field(rng, nodes, float(u(4, 9))),
    )


def draw_nodule(
    rng: np.random.Generator, nodes: F32, centre: F64, *, diameter: float, hu: float
) -> Lump:
    """Draw a nodule of a wanted size and attenuation, round to slightly lobed."""
    radius = diameter / 2
    x, y, z = (float(c) for c in centre)
    uneven = draw_field(rng, nodes, max(0.6 * radius, 1.0))
    return Lump((x, y, z), (radius, radius, radius), hu, float(rng.choice([0.0, 0.06])), uneven)


def _draw_lump(rng: np.random.Generator, nodes: F32, centre: F64, *, diameter: float) -> Lump:
    u, radius = rng.uniform, diameter / 2
    x, y, z = (float(c) for c in centre)
    radii = tuple(float(radius * k) for k in u(0.75, 1.3, 3))
    solid = rng.random() < 0.75 or diameter > LARGEST_NODULE_MM
    return Lump(
        centre=(x, y, z),
        radii=(radii[0], radii[1], radii[2]),
        hu=float(u(0, 90)) if solid else float(u(-630, -250)),
        rough=float(u(0, 0.22)),
        uneven=draw_field(rng, nodes, max(radius * float(u(0.3, 0.8)), 1.0)),
    )


def _draw_patch(
    rng: np.random.Generator, nodes: F32, centre: F64, *, hu: float, solid: bool
) -> Patch:
    x, y, z = (float(c) for c in centre)
    reach = float(rng.uniform(14, 60))
    uneven = draw_field(rng, nodes, max(0.35 * reach, 5.0))
    return Patch((x, y, z), reach, hu, solid, uneven)
