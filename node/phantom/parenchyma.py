"""The inside of the lungs: air, vessels, fissures and what disease does to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from node.phantom.disease import Disease
from node.phantom.lungs import ChestSpace
from node.phantom.mediastinum import Mediastinum
from node.phantom.planes import F32
from node.phantom.scene import Scene, cover_of, paint
from node.phantom.smooth import Field, draw_field
from node.phantom.trunk import Frame
from node.phantom.tubes import coverage
from node.phantom.vessels import LungVessels

_LARGEST_LUNG_VESSEL_MM = 3.0
"""Radius above which a vessel of the tree is hilum, not lung."""


@dataclass(frozen=True, slots=True, eq=False)
class Parenchyma:
    """Attenuation and texture of one patient's lungs.

    Attributes:
        air: HU at the front.
        gradient: HU gained towards the back.
        texture: HU of the fine texture.
        mosaic: HU of the coarse texture.
        fissure: HU added on the fissures.
        fissure_at: t at the front and t at the back of the oblique fissures.
        minor: t of the right minor fissure.
        fine: Field of the fine texture.
        coarse: Field of the coarse texture and the fissures' waves.
        vessels: The trees.
    """

    air: float
    gradient: float
    texture: float
    mosaic: float
    fissure: float
    fissure_at: tuple[float, float]
    minor: float
    fine: Field
    coarse: Field
    vessels: LungVessels


@dataclass(frozen=True, slots=True, eq=False)
class LungCover:
    """Share of each pixel that is lung by the label's rule, or something that took its place.

    Attributes:
        lung: Lung.
        effusion: Fluid.
        consolidation: Consolidation and masses.
    """

    lung: F32
    effusion: F32
    consolidation: F32


def paint_lungs(
    scene: Scene,
    space: ChestSpace,
    lung: Parenchyma,
    disease: Disease,
    organs: Mediastinum,
    *,
    blood_hu: float,
) -> LungCover:
    """Paint both lungs and their disease; return what of it counts as lung.

    Args:
        scene: Picture with mediastinum and abdomen already in it.
        space: Where the lungs are.
        lung: Texture and vessels.
        disease: What is wrong.
        organs: The mediastinum, whose large vessels and bronchi are not lung.
        blood_hu: Attenuation of blood.
    """
    cover = cover_of(space.lung, 1.0)
    if not cover.any():
        _paint_tracts(scene, organs, blood_hu)
        return LungCover(cover, cover, cover)
    frame, plane = scene.frame, scene.plane
    fine, coarse = lung.fine.at(frame.points), lung.coarse.at(frame.points)
    depth = -space.lung * np.float32(scene.pixel_mm)  # mm from the lung's border
    air = lung.air + lung.gradient * np.clip(0.5 + 0.5 * frame.v, 0, 1)
    inner = (air + lung.texture * fine + lung.mosaic * coarse).astype(np.float32)
    _paint_fissures(inner, scene, lung, space, coarse)
    _paint_diffuse(inner, disease, depth, frame)
    vessels = lung.vessels
    paint(inner, coverage(plane, vessels.wall, thin=True), blood_hu * 0.4)
    paint(inner, coverage(plane, vessels.lumen, thin=True), -960.0)
    paint(inner, coverage(plane, vessels.blood, thin=True), blood_hu)
    solid = _paint_focal(inner, scene, disease, fine)
    wet, pressed = _paint_effusion(inner, scene, disease, space, coarse)
    solid = np.maximum(solid, pressed)
    paint(scene.hu, cover, inner)
    large = vessels.blood.where(vessels.blood.start_mm > _LARGEST_LUNG_VESSEL_MM)
    hilum = np.maximum(coverage(plane, large), _paint_tracts(scene, organs, blood_hu))
    free = cover * (1 - hilum)
    return LungCover(free * (1 - np.maximum(solid, wet)), free * wet, free * solid * (1 - wet))


def _paint_tracts(scene: Scene, organs: Mediastinum, blood_hu: float) -> F32:
    """Paint great vessels and airway over lung and mediastinum; return what they cover."""
    blood = coverage(scene.plane, organs.blood)
    paint(scene.hu, blood, blood_hu)
    wall = coverage(scene.plane, organs.airway.grown(organs.airway_wall))
    paint(scene.hu, wall, 45.0)
    paint(scene.hu, coverage(scene.plane, organs.airway), -985.0)
    return np.maximum(blood, wall)


def _paint_focal(inner: F32, scene: Scene, disease: Disease, fine: F32) -> F32:
    """Paint patches, nodules and masses; return what is no longer lung."""
    plane = scene.plane
    solid = np.zeros(plane.shape, np.float32)
    for patch in disease.patches:
        box = plane.box_round(patch.centre, patch.reach_mm)
        if box is None:
            continue
        inside = scene.cover(np.float32(0.5) * patch.distance(plane.points(*box)))
        if patch.solid:
            bronchogram = np.clip(1 - np.abs(fine[box]) / 0.12, 0, 1) * 0.9
            paint(inner[box], inside, (patch.hu - 850 * bronchogram).astype(np.float32))
            np.maximum(solid[box], inside, out=solid[box])
        else:
            haze = np.clip(patch.hu + 60 * fine[box], 0, 700)
            inner[box] += inside * np.minimum(haze, -60 - inner[box]) * np.float32(0.95)
    for lump in disease.lumps:
        box = plane.box_round(lump.centre, lump.reach_mm)
        if box is None:
            continue
        inside = scene.cover(lump.distance(plane.points(*box)))
        paint(inner[box], inside, (lump.hu + 8 * fine[box]).astype(np.float32))
        if lump.is_mass:
            np.maximum(solid[box], inside, out=solid[box])
            paint(scene.hu[box], inside * (scene.frame.cage[box] < 12), lump.hu)
    return solid


def _paint_effusion(
    inner: F32, scene: Scene, disease: Disease, space: ChestSpace, coarse: F32
) -> tuple[F32, F32]:
    """Paint fluid behind the lungs; return it, and the lung that it presses airless."""
    if min(disease.effusion_v) > 1.5:
        none = np.zeros(scene.plane.shape, np.float32)
        return none, none
    frame = scene.frame
    fluid = np.where(space.side < 0, disease.effusion_v[0], disease.effusion_v[1])
    level = (fluid + disease.effusion_slope * frame.t - frame.v) * frame.half_y
    rim = np.clip(
        6 + space.lung * np.float32(scene.pixel_mm), 0, 6
    )  # the meniscus climbs along the wall
    level = level - 3 * rim + 2 * coarse
    pressed = scene.cover(level - 14 - 6 * coarse)
    wet = scene.cover(level)
    paint(inner, pressed, 45.0)
    paint(inner, wet, disease.effusion_hu)
    return wet, pressed


def _paint_fissures(
    inner: F32, scene: Scene, lung: Parenchyma, space: ChestSpace, coarse: F32
) -> None:
    if lung.fissure <= 0:
        return
    frame, plane = scene.frame, scene.plane
    low, high = lung.fissure_at
    shift = np.where(space.side < 0, 0.0, 0.04)
    oblique = low + (high - low) * (frame.v + 1) / 2 + shift + 0.02 * coarse
    off = (frame.t - oblique) * np.float32(0.6 * frame.half_y.mean())
    width = np.float32(0.5 * plane.pixel_mm + 0.35 * plane.thickness_mm + 0.3)
    lines = np.clip(1.2 - np.abs(off) / width, 0, 1)
    minor = np.abs(frame.t - lung.minor - 0.025 * coarse) * 120 / width
    before = (space.side < 0) & (off > 0) & (frame.v < 0.3)
    lines = np.maximum(lines, np.clip(1 - minor, 0, 1) * before)
    inner += ((lung.fissure / (1 + 0.5 * plane.pixel_mm)) * lines).astype(np.float32)


def _paint_diffuse(inner: F32, disease: Disease, depth: F32, frame: Frame) -> None:
    points = frame.points
    if disease.emphysema > 0:
        share = np.float32(1.9 - 3.2 * disease.emphysema) - 0.5 * np.clip(frame.t, 0, 1)
        holes = np.clip((disease.holes.at(points) - share) * 3, 0, 1)
        paint(inner, holes, -965.0)
    if disease.reticulation > 0:
        rim = np.clip(1.4 - depth / 22, 0, 1) * np.clip(1.3 - frame.t, 0.2, 1)
        net = np.clip(1.1 - np.abs(disease.septa.at(points)) / 0.28, 0, 1)
        inner += rim * (0.25 + net) * disease.reticulation
    if disease.bands > 0:
        reach = 10 + 5 * disease.septa.at(points)  # mm; below zero, in spots, all the way in
        reach = np.where(reach == 0, np.float32(1e-6), reach)
        behind = np.clip(1 - depth / reach, 0, 1)
        behind *= np.clip(frame.v * 2.5 - 0.6, 0, 1)
        inner += behind * disease.bands


def draw_parenchyma(
    rng: np.random.Generator, nodes: F32, vessels: LungVessels, *, hard: bool
) -> Parenchyma:
    """Draw texture."""
    u = rng.uniform
    return Parenchyma(
        air=float(np.clip(rng.normal(-862, 40 if hard else 34), -950, -740)),
        gradient=float(u(0, 110)),
        texture=float(u(4, 26)),
        mosaic=float(abs(rng.normal(0, 16))),
        fissure=float(u(60, 330)) if rng.random() < 0.85 else 0.0,
        fissure_at=(float(u(0.05, 0.2)), float(u(0.68, 0.85))),
        minor=float(u(0.42, 0.55)),
        fine=draw_field(rng, nodes, float(u(2.5, 5.0))),
        coarse=draw_field(rng, nodes, float(u(12, 28))),
        vessels=vessels,
    )
