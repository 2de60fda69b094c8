"""Bones: ribs that run oblique through the wall, sternum, spine, clavicles, scapulae, humeri."""

from __future__ import annotations

import numpy as np

from node.phantom.mediastinum import Mediastinum
from node.phantom.planes import F32
from node.phantom.scene import Scene, paint
from node.phantom.shapes import radial_distance
from node.phantom.tissue import Tissue
from node.phantom.tubes import coverage


def paint_bones(scene: Scene, tissue: Tissue, organs: Mediastinum) -> F32:
    """Paint ribs, sternum, spine and the shoulder girdle; return the spine's coverage."""
    _paint_ribs(scene, tissue)
    spine = _paint_spine(scene, tissue, organs)
    bones = tissue.plates
    paint(scene.hu, coverage(scene.plane, bones), tissue.cortex)
    spongy = bones.grown(-2.5).where(bones.start_mm > 4.5)
    paint(scene.hu, coverage(scene.plane, spongy), tissue.marrow)
    return spine


def _paint_ribs(scene: Scene, tissue: Tissue) -> None:
    trunk, frame, hu = scene.trunk, scene.frame, scene.hu
    t = frame.t
    if t.max() < -0.5 or t.min() > 1.08:
        return
    middle = np.float32(trunk.wall * 0.55)
    near = np.abs(frame.cage - middle) < trunk.wall * 0.5 + scene.pixel_mm
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
    cover = scene.cover(outside)
    cover *= np.clip((0.15 + level * 4 + facing), 0, 1) * (level < 1.04)  # costal arch, top
    core = np.clip(-outside / 2.5, 0, 1)
    value = tissue.cortex + (tissue.marrow - tissue.cortex) * core
    value = np.where(facing < -0.78, 110.0, value)  # cartilage
    sternum = (np.abs(x) < 19) & (facing < 0) & (level > 0.28) & (level < 0.92)
    flat = scene.cover(np.maximum(radial - thick * 1.2, np.abs(x) - 17))
    cover = np.where(sternum, flat, cover)
    value = np.where(sternum, tissue.marrow + 60 + (radial > thick) * 250, value)
    hu[rows, columns] += cover * (value - hu[rows, columns])


def _paint_spine(scene: Scene, tissue: Tissue, organs: Mediastinum) -> F32:
    frame = scene.frame
    y = frame.points.y - scene.trunk.vertebra_y(frame.points.z)
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
    bone = scene.cover(np.maximum(np.minimum(np.minimum(body, arch), spike), scene.skin + 5))
    edge = np.clip(1 + body / 2.5, 0, 1)
    inner = tissue.marrow + edge * (tissue.cortex - tissue.marrow) * 0.8
    inner = np.where(disc > 0.84, np.float32(85), inner)
    value = np.where(body < 0, inner, np.float32(0.55 * tissue.cortex + 0.45 * tissue.marrow))
    paint(scene.hu, bone, value.astype(np.float32))
    paint(scene.hu, scene.cover(canal), 28.0)
    return scene.cover(body)
