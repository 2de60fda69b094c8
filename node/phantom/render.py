"""One slice of a patient: every organ painted in its order, then the scanner's share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.phantom.abdomen import paint_abdomen
from node.phantom.bones import paint_bones
from node.phantom.formation import beyond_circle, form_image
from node.phantom.lungs import ChestSpace, chest_space
from node.phantom.outside import paint_outside
from node.phantom.parenchyma import paint_lungs
from node.phantom.patient import MARKER_MM, ChestPatient
from node.phantom.planes import F32, Plane
from node.phantom.scene import Scene, paint
from node.phantom.trunk import frame_at, skin_distance
from node.phantom.tubes import coverage
from node.phantom.wall import paint_body

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
    trunk = patient.trunk
    frame = frame_at(trunk, plane.points())
    scene = Scene(
        hu=np.full(plane.shape, -1000.0, np.float32),
        plane=plane,
        trunk=trunk,
        frame=frame,
        skin=skin_distance(trunk, frame),
    )
    space = chest_space(
        trunk,
        patient.mediastinum,
        patient.lungs,
        frame,
        pixel_mm=plane.pixel_mm,
        thickness_mm=plane.thickness_mm,
    )
    covers: dict[str, F32] = {}
    paint_outside(scene, patient.outside)
    covers["body"] = paint_body(scene, patient.tissue)
    _paint_mediastinal_fat(scene, patient)
    covers["abdomen"] = paint_abdomen(scene, patient.abdomen, patient.tissue, space)
    covers["heart"] = _paint_heart(scene, patient, space)
    paint(scene.hu, coverage(plane, patient.mediastinum.oesophagus), 38.0)
    paint(scene.hu, coverage(plane, patient.mediastinum.oesophagus_air), -960.0)
    covers["spine"] = paint_bones(scene, patient.tissue, patient.mediastinum)
    lung = paint_lungs(
        scene,
        space,
        patient.parenchyma,
        patient.disease,
        patient.mediastinum,
        blood_hu=patient.blood_hu,
    )
    right = np.broadcast_to(space.side < 0, plane.shape)
    covers["right lung"] = lung.lung * right
    covers["left lung"] = lung.lung * ~right
    covers["effusion"] = lung.effusion
    covers["consolidation"] = lung.consolidation
    covers["airway"] = coverage(plane, patient.mediastinum.airway)
    if patient.marker_mm is not None:
        _paint_marker(scene, patient.marker_mm)
    if patient.formation.outside is not None:  # what was not measured is no part of the truth
        seen = ~beyond_circle(plane)
        covers = {name: cover * seen for name, cover in covers.items()}
    shown = covers["right lung"] + covers["left lung"]
    labels = np.where(shown > 0.5, np.where(right, RIGHT_LUNG, LEFT_LUNG), BACKGROUND)
    stream = _slice_stream(patient.seed, plane)
    picture = form_image(scene.hu, plane, patient.formation, frame, stream)
    return Slice(np.rint(picture).astype(np.int16), labels.astype(np.uint8), covers)


def _paint_mediastinal_fat(scene: Scene, patient: ChestPatient) -> None:
    """Fill the cage with fat and soft tissue; what has a shape of its own is painted over it."""
    frame, tissue = scene.frame, patient.tissue
    inside = scene.cover(frame.cage) * (frame.t < 1.15)
    soft = np.clip(patient.fatty.at(frame.points) * 1.5 + 0.2 + 0.8 * (frame.t > 0.8), 0, 1)
    value = tissue.fat + (tissue.muscle - 12 - tissue.fat) * soft
    paint(scene.hu, inside, value.astype(np.float32))


def _paint_heart(scene: Scene, patient: ChestPatient, space: ChestSpace) -> F32:
    heart, points = patient.mediastinum.heart, scene.frame.points
    if not heart.touches(points, 4):
        return np.zeros(scene.plane.shape, np.float32)
    off = heart.distance(points)
    above = np.clip(0.5 - (space.below + 4) / space.softness, 0, 1)
    cover: F32 = (scene.cover(off) * above).astype(np.float32)
    muscle = 40 + 0.45 * (patient.heart_hu - 40)
    chamber = np.clip(-off / 12 - 0.5 + 0.4 * patient.fatty.at(points), 0, 1)
    paint(scene.hu, cover, (muscle + (patient.heart_hu - muscle) * chamber).astype(np.float32))
    return cover


def _paint_marker(scene: Scene, centre: tuple[float, float, float]) -> None:
    plane = scene.plane
    at = plane.to_plane(np.asarray([centre]))[0]
    row, column = plane.spacing_mm
    y = (np.arange(plane.shape[0]) * row - at[0])[:, None]
    x = (np.arange(plane.shape[1]) * column - at[1])[None, :]
    off = max(abs(float(at[2])) - plane.thickness_mm / 4, 0.0)
    gap = np.sqrt(x * x + y * y + off * off).astype(np.float32) - np.float32(MARKER_MM)
    paint(scene.hu, scene.cover(gap), _MARKER_HU)


def _slice_stream(seed: int, plane: Plane) -> np.random.Generator:
    """Return the random stream of a slice: the same level and direction gives the same noise."""
    place = [round(float(v) * 100) & 0xFFFFFFFF for v in (*plane.origin, *plane.normal)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *place])))
