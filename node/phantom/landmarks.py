"""Positions in a chest said the way anatomy says them: by level, by depth, before the spine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.trunk import Trunk

Position = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """What organs of the mediastinum are placed by.

    Attributes:
        trunk: The trunk.
        spine_mm: Half depth of the vertebral bodies.
        scale: Size of the chest, 1 for the usual one.
        carina: t of the carina.
        airway_mm: Radius of the trachea.
    """

    trunk: Trunk
    spine_mm: float
    scale: float
    carina: float
    airway_mm: float

    def at(self, x: float, v: float, t: float) -> Position:
        """Return LPS of x mm left of the midline at depth v (-1 front) and level t."""
        z = np.asarray(t * self.trunk.height, np.float32)
        half_y = float(self.trunk.half_widths(z)[1])
        y = float(self.trunk.centre_y(z)) + v * half_y
        return float(self.trunk.middle_x(z)) + x * self.scale, y, float(z)

    def before_spine(self, x: float, gap: float, t: float) -> Position:
        """Return LPS of x mm left of the midline and `gap` mm before the vertebrae."""
        z = np.asarray(t * self.trunk.height, np.float32)
        y = float(self.trunk.vertebra_y(z)) - self.spine_mm - gap
        return float(self.trunk.middle_x(z)) + x * self.scale, y, float(z)
