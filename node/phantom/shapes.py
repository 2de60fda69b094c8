"""Signed distances of the few solids that organs are made of, in mm, negative inside.

They are exact near the surface and rough far from it, which is all that a soft border needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.planes import F32, F64, Points


@dataclass(frozen=True, slots=True, eq=False)
class Limb:
    """A tapering capsule as a solid: neck, head, an upper arm.

    Attributes:
        start: LPS mm.
        end: LPS mm.
        start_mm: Radius at the start.
        end_mm: Radius at the end.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    start_mm: float
    end_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class Ellipsoid:
    """A turned ellipsoid.

    Attributes:
        centre: LPS mm.
        radii: mm along its own axes.
        turn: Rows are its own axes in LPS.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: F64

    def distance(self, points: Points) -> F32:
        """Return the distance from its surface, negative inside."""
        d = [
            c - np.float32(o)
            for c, o in zip((points.x, points.y, points.z), self.centre, strict=True)
        ]
        q: F32 = np.float32(1e-6)  # type: ignore[assignment]
        for axis, radius in zip(self.turn, self.radii, strict=True):
            along = (
                d[0] * np.float32(axis[0]) + d[1] * np.float32(axis[1]) + d[2] * np.float32(axis[2])
            )
            q = q + (along / np.float32(radius)) ** 2
        rho = np.sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
        return np.asarray(rho - rho / np.sqrt(q), dtype=np.float32)

    def touches(self, points: Points, margin_mm: float) -> bool:
        """Say whether the points' box comes near it; spares whole-plane work."""
        reach = max(self.radii) + margin_mm
        return all(
            bool(c.min() < o + reach and c.max() > o - reach)
            for c, o in zip((points.x, points.y, points.z), self.centre, strict=True)
        )


def radial_distance(
    x: F32, y: F32, half_x: F32 | float, half_y: F32 | float, *, power: float, rho: F32
) -> F32:
    """Return the distance along the ray from the centre to a superellipse, negative inside."""
    p = np.float32(power)
    q = np.abs(x / half_x) ** p + np.abs(y / half_y) ** p + np.float32(1e-6)
    return np.asarray(rho - rho * q ** np.float32(-1 / power), dtype=np.float32)


def limb_distance(limb: Limb, points: Points) -> F32:
    """Return the distance from a capsule's surface."""
    start, end = np.asarray(limb.start), np.asarray(limb.end)
    axis = (end - start) / max(float(np.sum((end - start) ** 2)), 1e-6)
    d = [points.x - np.float32(start[0]), points.y - np.float32(start[1])]
    dz = points.z - np.float32(start[2])
    along = d[0] * np.float32(axis[0]) + d[1] * np.float32(axis[1]) + dz * np.float32(axis[2])
    along = np.clip(along, 0, 1)
    step = (end - start).astype(np.float32)
    gap = np.sqrt(
        (d[0] - along * step[0]) ** 2 + (d[1] - along * step[1]) ** 2 + (dz - along * step[2]) ** 2
    )
    return np.asarray(
        gap - np.float32(limb.start_mm) - along * np.float32(limb.end_mm - limb.start_mm)
    )


def soft_union(a: F32, b: F32, width: float) -> F32:
    """Return the union of two distances with a rounded groove of `width` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / np.float32(width), 0, 1).astype(np.float32)
    return np.asarray(b + (a - b) * h - np.float32(width) * h * (1 - h))
