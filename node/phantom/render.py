"""One slice of a patient: every organ painted in its order, then the scanner's share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.phantom.abdomen import paint_abdomen
from node.phantom.formation import form_image
from node.phantom.lungs import ChestSpace, chest_space
from node.phantom.outside import paint_outside
from node.phantom.parenchyma import paint_lungs
from node.phantom.patient import MARKER_MM, ChestPatient
from node.phantom.planes import F32, Plane
from node.phantom.tissue import cover_of, paint, paint_body, paint_bones
from node.phantom.trunk import Frame, frame_at, skin_distance
from node.phantom.tubes import coverage

BACKGROUND, RIGHT_LUNG, LEFT_LUNG = 0, 1, 2

_MARKER_HU = 1100.0


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One rendered slice.

    Attributes:
        hu: int16 [row, column].
        labels: uint8 [row, column]: 0 background, 1 right lung, 2 left lung.
        covers: Coverage of each organ by name, float32 [row, column].
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    covers: Mapping[str, F32]


def render(patient: ChestPatient, plane: Plane) -> Slice:
    """Render one slice.

    Args:
        patient: Who.
        plane: Where.
    """
    px = plane.pixel_mm
    trunk = patient.trunk
    frame = frame_at(trunk, plane.points())
    skin = skin_distance(trunk, frame)
    hu = np.full(plane.shape, -1000.0, np.float32)
    paint_outside(hu, plane, patient.outside, frame, skin)
    covers = {"body": paint_body(hu, plane, trunk, patient.tissue, frame, skin)}
    space = chest_space(
        trunk,
        patient.mediastinum,
        patient.lungs,
        frame,
        pixel_mm=px,
        thickness_mm=plane.thickness_mm,
    )
    _paint_inside(hu, plane, patient, space, frame, covers)
    covers["spine"] = paint_bones(
        hu, plane, trunk, patient.tissue, patient.mediastinum, frame, skin
    )
    lung = paint_lungs(
        hu,
        plane,
        patient.parenchyma,
        patient.mediastinum,
        patient.disease,
        patient.blood_hu,
        space,
        frame,
    )
    right = (space.side < 0).astype(np.float32)
    covers["right lung"] = lung.lung * right
    covers["left lung"] = lung.lung * (1 - right)
    covers["effusion"] = lung.effusion
    covers["consolidation"] = lung.consolidation
    covers["airway"] = coverage(plane, patient.mediastinum.airway)
    if patient.marker_mm is not None:
        _paint_marker(hu, plane, patient.marker_mm)
    labels = np.where(lung.lung > 0.5, np.where(right > 0, RIGHT_LUNG, LEFT_LUNG), BACKGROUND)
    rng = _slice_stream(patient.seed, plane)
    picture = form_image(hu, plane, patient.formation, frame, rng)
    return Slice(np.rint(picture).astype(np.int16), labels.astype(np.uint8), covers)


def _paint_inside(
    hu: F32,
    plane: Plane,
    patient: ChestPatient,
    space: ChestSpace,
    frame: Frame,
    covers: dict[str, F32],
) -> None:
    """Paint the mediastinum's fat, the abdomen, the heart and the oesophagus."""
    px, tissue, organs = plane.pixel_mm, patient.tissue, patient.mediastinum
    inside = cover_of(frame.cage, px) * (frame.t < 1.15)
    soft = np.clip(patient.fatty.at(frame.points) * 1.5 + 0.2 + 0.8 * (frame.t > 0.8), 0, 1)
    paint(hu, inside, (tissue.fat + (tissue.muscle - 12 - tissue.fat) * soft).astype(np.float32))
    covers["abdomen"] = paint_abdomen(
        hu, plane, patient.abdomen, (tissue.fat, tissue.muscle), space, frame
    )
    heart = np.zeros(plane.shape, np.float32)
    if organs.heart.touches(frame.points, 4):
        off = organs.heart.distance(frame.points)
        heart = cover_of(off, px) * np.clip(0.5 - (space.below + 4) / space.softness, 0, 1)
        muscle = 40 + 0.45 * (patient.heart_hu - 40)
        chamber = np.clip(-off / 12 - 0.5 + 0.4 * patient.fatty.at(frame.points), 0, 1)
        paint(hu, heart.astype(np.float32), (muscle + (patient.heart_hu - muscle) * chamber))
    covers["heart"] = heart.astype(np.float32)
    paint(hu, coverage(plane, organs.oesophagus), 38.0)
    paint(hu, coverage(plane, organs.oesophagus_air), -960.0)


def _paint_marker(hu: F32, plane: Plane, centre: tuple[float, float, float]) -> None:
    at = plane.to_plane(np.asarray([centre]))[0]
    row, column = plane.spacing_mm
    y = (np.arange(plane.shape[0]) * row - at[0])[:, None]
    x = (np.arange(plane.shape[1]) * column - at[1])[None, :]
    off = max(abs(float(at[2])) - plane.thickness_mm / 4, 0.0)
    gap = np.sqrt(x * x + y * y + off * off).astype(np.float32) - np.float32(MARKER_MM)
    paint(hu, cover_of(gap, plane.pixel_mm), _MARKER_HU)


def _slice_stream(seed: int, plane: Plane) -> np.random.Generator:
    """Return the random stream of a slice: the same level and direction gives the same noise."""
    place = [int(round(float(v) * 100)) & 0xFFFFFFFF for v in (*plane.origin, *plane.normal)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *place])))
