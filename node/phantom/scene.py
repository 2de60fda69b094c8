"""The picture that organs are painted into, with what they need to know of the place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.planes import F32, Plane
from node.phantom.trunk import Frame, Trunk


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One slice in the making.

    Attributes:
        hu: float32 [row, column]; painted in place.
        plane: Where it lies.
        trunk: Whose it is.
        frame: The trunk's coordinates at its pixels.
        skin: Distance from the skin, mm, negative inside.
    """

    hu: F32
    plane: Plane
    trunk: Trunk
    frame: Frame
    skin: F32

    @property
    def pixel_mm(self) -> float:
        """How soft a border is drawn."""
        return self.plane.pixel_mm

    def cover(self, distance: F32) -> F32:
        """Return the share of each pixel inside a surface at a distance in mm."""
        return cover_of(distance, self.pixel_mm)


def cover_of(distance: F32, pixel_mm: float) -> F32:
    """Return the share of a pixel inside a surface at a distance (negative inside), 0 to 1."""
    return np.asarray(np.clip(0.5 - distance / np.float32(pixel_mm), 0, 1), dtype=np.float32)


def paint(hu: F32, cover: F32, value: F32 | float) -> None:
    """Lay a value over a picture, as strongly as it covers each pixel."""
    hu += cover * (value - hu)
