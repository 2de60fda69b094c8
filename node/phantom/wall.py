"""The body wall: skin, fat, muscle with fat between, breasts, neck and arms."""

from __future__ import annotations

import numpy as np

from node.phantom.planes import F32
from node.phantom.scene import Scene, cover_of, paint
from node.phantom.shapes import limb_distance
from node.phantom.tissue import Tissue


def paint_body(scene: Scene, tissue: Tissue) -> F32:
    """Paint skin, fat and muscle; return the body's coverage."""
    trunk, frame, skin = scene.trunk, scene.frame, scene.skin
    body = scene.cover(skin)
    mottle = tissue.mottle.at(frame.points)
    lobules = tissue.lobules.at(frame.points)
    muscle = _muscle_distance(scene, lobules)
    inner = np.full(scene.plane.shape, tissue.fat, np.float32) + 7 * mottle
    if tissue.gland > 0:
        gland = cover_of(np.maximum(skin + 9, 0.9 - tissue.gland - 0.8 * lobules), 1.2)
        front_only = (frame.cage > trunk.wall + 10) & (frame.y < -0.6 * frame.half_y)
        paint(inner, gland * front_only, 25.0)
    muscle_cover = scene.cover(muscle)
    streaks = np.clip(1.2 - np.abs(lobules) / 0.12, 0, 1) * np.clip(frame.cage - trunk.wall, 0, 1)
    muscle_cover *= 1 - 0.8 * np.clip(streaks, 0, 1)
    paint(inner, muscle_cover, tissue.muscle + 5 * mottle)
    for limb in (*trunk.arms, *trunk.neck):
        reach = max(limb.start_mm, limb.end_mm)
        low, high = sorted((limb.start[2], limb.end[2]))
        if frame.points.z.max() < low - reach or frame.points.z.min() > high + reach:
            continue
        core = scene.cover(limb_distance(limb, frame.points) + 0.35 * trunk.fat[1] + 2)
        paint(inner, core * (1 - 0.7 * np.clip(streaks, 0, 1)), tissue.muscle + 5 * mottle)
    paint(inner, scene.cover(-skin - tissue.skin_mm), 5.0)
    paint(scene.hu, body, inner)
    return body


def _muscle_distance(scene: Scene, lobules: F32) -> F32:
    """Return the distance from the muscle: under the fat, and near the cage below the arms."""
    trunk, frame = scene.trunk, scene.frame
    facing = (frame.y / frame.rho) ** 2
    depth = np.where(frame.y < 0, np.float32(trunk.fat[0]), np.float32(trunk.fat[2]))
    fat_mm = trunk.fat[1] * (1 - facing) + depth * facing
    girdle = np.clip((frame.t - 0.66) / 0.14, 0, 1) * 220
    behind = np.clip(frame.y / frame.rho - 0.55, 0, 1) * 60
    front = np.clip(-frame.y / frame.rho - 0.1, 0, 1) * trunk.pectoral
    front = front * np.exp(-(((frame.t - 0.7) / 0.22) ** 2))
    limit = np.float32(trunk.wall + 6) + girdle + behind + front + 3 * lobules
    return np.asarray(np.maximum(scene.skin + fat_mm, frame.cage - limit), dtype=np.float32)
