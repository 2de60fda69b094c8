"""From a clean picture to a scanner's: blur, kernel, noise, streaks, field of view, rounding.

Noise is a tile made once per patient, shaped in frequency like a reconstruction kernel's, and
rolled and flipped from slice to slice; nothing is projected or reconstructed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.phantom.planes import F32, Plane
from node.phantom.trunk import Frame

HU_LOWEST, HU_HIGHEST = -1024, 3071
_TILE = 512


@dataclass(frozen=True, slots=True, eq=False)
class Formation:
    """How one patient's scan was made.

    Attributes:
        blur_mm: Standard deviation of the kernel.
        sharpen: Strength of unsharp masking.
        noise: Standard deviation inside the body, HU.
        tile: Noise of standard deviation 1.
        tile_mm: Its pixel.
        streak_tile: Noise drawn out along rows.
        streaks: HU of horizontal streaks through the shoulders.
        streaks_from: t above which they begin.
        offset: HU by which the whole scan is off.
        field_mm: Side of the field of view.
        centre_mm: x and y of the image's centre.
        outside: HU outside the circle of reconstruction, or None where the square is kept.
    """

    blur_mm: float
    sharpen: float
    noise: float
    tile: F32
    tile_mm: float
    streak_tile: F32
    streaks: float
    streaks_from: float
    offset: float
    field_mm: float
    centre_mm: tuple[float, float]
    outside: float | None


def form_image(
    hu: F32, plane: Plane, formation: Formation, frame: Frame, rng: np.random.Generator
) -> F32:
    """Return the picture as the scanner would give it.

    Args:
        hu: Clean picture.
        plane: Where.
        formation: How.
        frame: The trunk's coordinates; noise is strongest deep inside.
        rng: Source of randomness of this slice.
    """
    px = plane.pixel_mm
    picture = hu
    if formation.blur_mm > 0.3 * px:
        picture = ndimage.gaussian_filter(picture, formation.blur_mm / px, truncate=3)
    if formation.sharpen > 0:
        soft = ndimage.gaussian_filter(picture, max(1.2 / px, 0.6), truncate=3)
        picture = picture + np.float32(formation.sharpen * min(1.0, 1.2 / px)) * (picture - soft)
    deep = np.exp(-(frame.u**2) * 0.5) * np.exp(-(frame.v**2) * 0.35)
    strength = np.float32(formation.noise) * (0.35 + 0.8 * deep)
    picture = picture + strength * _cut_tile(
        _reduced(formation.tile, formation.tile_mm, px), plane.shape, rng
    )
    rise = float(np.clip((frame.t.mean() - formation.streaks_from) / 0.15, 0, 1))
    if formation.streaks * rise > 1:
        streak = _cut_tile(_reduced(formation.streak_tile, formation.tile_mm, px), plane.shape, rng)
        picture = picture + np.float32(formation.streaks * rise) * streak * deep
    picture = picture + np.float32(formation.offset)
    np.clip(picture, HU_LOWEST, HU_HIGHEST, out=picture)
    if formation.outside is not None:
        picture[beyond_circle(plane)] = formation.outside
    return np.asarray(picture, dtype=np.float32)


def _cut_tile(tile: F32, shape: tuple[int, int], rng: np.random.Generator) -> F32:
    """Return a piece of a periodic tile, rolled and mirrored at random."""
    row, column = rng.integers(0, tile.shape[0]), rng.integers(0, tile.shape[1])
    cut = tile[
        np.ix_(
            (np.arange(shape[0]) + row) % tile.shape[0],
            (np.arange(shape[1]) + column) % tile.shape[1],
        )
    ]
    if rng.random() < 0.5:
        cut = cut[::-1]
    if rng.random() < 0.5:
        cut = cut[:, ::-1]
    return cut


def _reduced(tile: F32, tile_mm: float, pixel_mm: float) -> F32:
    """Return the tile as seen in coarser pixels, where averaging takes noise away."""
    k = round(pixel_mm / tile_mm)
    if k < 2:
        return tile
    side = tile.shape[0] // k
    blocks = tile[: side * k, : side * k].reshape(side, k, side, k)
    return np.asarray(blocks.mean(axis=(1, 3)))


def beyond_circle(plane: Plane) -> NDArray[np.bool_]:
    """Return the pixels outside the circle of reconstruction, the largest that the square holds."""
    row, column = plane.spacing_mm
    y = (np.arange(plane.shape[0]) - (plane.shape[0] - 1) / 2)[:, None] * row
    x = (np.arange(plane.shape[1]) - (plane.shape[1] - 1) / 2)[None, :] * column
    radius = max(plane.shape[0] * row, plane.shape[1] * column) / 2
    return np.asarray(x * x + y * y > radius * radius)


def draw_formation(
    rng: np.random.Generator, *, cage_half_mm: float, body_half_mm: float, hard: bool
) -> Formation:
    """Draw scanner, kernel and field of view.

    Args:
        rng: Source of randomness.
        cage_half_mm: Half width of the cage.
        body_half_mm: Half width of the body.
        hard: Noisier and wider.
    """
    u = rng.uniform
    kind = rng.choice(3, p=[0.3, 0.35, 0.35])  # smooth, standard, sharp
    cut = float((u(0.1, 0.2), u(0.18, 0.35), u(0.35, 0.8))[kind])
    noise = float((u(3, 25), u(6, 45), u(20, 130))[kind]) * (1.25 if hard else 1.0)
    blur = float((u(0.7, 1.4), u(0.4, 1.0), u(0.2, 0.6))[kind])
    sharpen = float(u(0.2, 0.9)) if kind == 2 and rng.random() < 0.8 else 0.0
    least = 1.75 * cage_half_mm
    wide = 2.15 * body_half_mm
    if hard or rng.random() < 0.3:
        field = float(u(max(wide, 400), max(520, wide + 40)))
    elif rng.random() < 0.45:
        field = float(u(least, 2.15 * cage_half_mm))
    else:
        field = float(u(2.1 * cage_half_mm, wide))
    field = float(np.clip(field, 240, 560))
    off = rng.normal(0, 13, 2)
    where = rng.random()
    outside = None if where < 0.5 else float(rng.choice([-1024, -2000, -3024]))
    return Formation(
        blur_mm=blur,
        sharpen=sharpen,
        noise=noise,
        tile=_draw_tile(rng, cut, float(u(0.3, 1.0)), (1.0, 1.0)),
        tile_mm=field / _TILE,
        streak_tile=_draw_tile(rng, 0.3, 0.3, (1.0, 25.0)),
        streaks=float(u(5, 90)) if rng.random() < 0.5 else 0.0,
        streaks_from=float(u(0.6, 0.9)),
        offset=float(np.clip(rng.normal(0, 10), -25, 25)),
        field_mm=field,
        centre_mm=(float(off[0]), float(off[1])),
        outside=outside,
    )


def _draw_tile(
    rng: np.random.Generator, cut: float, rise: float, stretch: tuple[float, float]
) -> F32:
    """Draw periodic noise with spectrum f^rise exp(-(f / cut)^2), standard deviation 1."""
    white = rng.standard_normal((_TILE, _TILE), dtype=np.float32)
    fy = np.fft.fftfreq(_TILE)[:, None] * stretch[0]
    fx = np.fft.rfftfreq(_TILE)[None, :] * stretch[1]
    f = np.sqrt(fx * fx + fy * fy)
    shape = (f**rise * np.exp(-((f / cut) ** 2))).astype(np.float32)
    tile = np.fft.irfft2(np.fft.rfft2(white) * shape, s=(_TILE, _TILE)).astype(np.float32)
    return np.asarray(tile / tile.std(), dtype=np.float32)
