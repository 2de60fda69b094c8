"""Small pictures of every slice with the segments drawn on it, for the pages.

Made once, when a result is written, so that the process that serves pages decodes no DICOM. They
carry no text but the four letters of the picture's sides, and no identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from node.imaging.values import Floats, Labels, Segmentation, Volume

Grey = NDArray[np.uint8]
Colours = NDArray[np.uint8]

_LUNG_WINDOW: Final = (-600.0, 1500.0)
_SOFT_WINDOW: Final = (40.0, 400.0)
"""Centre and width in HU, as radiology departments set them."""

_AIR_HU: Final = -400.0
"""Segments whose median lies below hold air: shown in the lung window."""

_SAMPLES: Final = 200_000
"""Voxels looked at to choose a window; enough for a percentile to 0.1 %."""

_OPACITY: Final = 0.18
_QUALITY: Final = 82
"""JPEG, with colour at full resolution: an outline of one pixel fades otherwise."""

_WHITE: Final = (255, 255, 255)
_BLACK: Final = (0, 0, 0)


def overlay_pictures(
    volume: Volume, segmentation: Segmentation, *, longest_side: int = 384
) -> list[bytes]:
    """Return one JPEG per slice, in the volume's order.

    Each shows the slice as its rows and columns run, stretched so that a millimetre is as long
    in both directions, with the outline and a light tint of every segment.

    Args:
        volume: The source.
        segmentation: Labels on its grid and the segments' colours.
        longest_side: Pixels of the longer side of each picture.
    """
    low, high = _window(volume, segmentation)
    size = _picture_size(volume, longest_side)
    colours = np.zeros((256, 3), np.uint8)
    for segment in segmentation.segments:
        colours[segment.number] = segment.colour
    letters = side_letters(volume.affine)
    pictures = []
    for plane, labels in zip(volume.array, segmentation.labels, strict=True):
        scaled = (plane.astype(np.float32) - low) * (255.0 / (high - low))
        grey = np.clip(scaled, 0, 255).astype(np.uint8)
        if volume.modality == "PT":
            grey = 255 - grey
        shown = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR)
        drawn = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
        picture = Image.fromarray(overlaid(np.asarray(shown), np.asarray(drawn), colours))
        _write_letters(picture, letters)
        pictures.append(as_jpeg(picture))
    return pictures


def as_jpeg(picture: Image.Image) -> bytes:
    """Return a picture as it is stored."""
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


def pack_pictures(pictures: Sequence[bytes]) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """Return all pictures in one byte string, and offset and length of each."""
    index = []
    at = 0
    for picture in pictures:
        index.append((at, len(picture)))
        at += len(picture)
    return b"".join(pictures), tuple(index)


def side_letters(affine: Floats) -> tuple[str, str, str, str]:
    """Return what lies left, right, above and below in a picture: R, L, A, P, H or F.

    PS3.3 C.7.6.1.1.1. Oblique sides get the letter of their longest component.
    """
    right = _letter(affine[:3, 2])
    below = _letter(affine[:3, 1])
    return _OPPOSITE[right], right, _OPPOSITE[below], below


_OPPOSITE: Final = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}


def _letter(direction: Floats) -> str:
    axis = int(np.abs(direction).argmax())
    return ("RL", "AP", "FH")[axis][int(direction[axis] > 0)]


def _picture_size(volume: Volume, longest_side: int) -> tuple[int, int]:
    """Return width and height of a picture in pixels, in the slice's true proportions."""
    rows, columns = volume.array.shape[1:]
    height_mm, width_mm = rows * volume.spacing_mm[1], columns * volume.spacing_mm[2]
    scale = longest_side / max(height_mm, width_mm)
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def _window(volume: Volume, segmentation: Segmentation) -> tuple[float, float]:
    """Return the values shown as black and as white."""
    voxels = volume.array
    if volume.units == "HU":
        labelled = voxels[segmentation.labels > 0]
        airy = labelled.size and float(np.median(_some(labelled))) < _AIR_HU
        centre, width = _LUNG_WINDOW if airy else _SOFT_WINDOW
        return centre - width / 2, centre + width / 2
    measured = voxels if volume.padding is None else voxels[~volume.padding]
    if not measured.size:
        return 0.0, 1.0
    lowest = 0.0 if volume.modality == "PT" else 1.0
    low, high = np.percentile(_some(measured), [lowest, 99.5])
    return float(low), max(float(high), float(low) + 1e-6)


def _some(values: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return evenly spread samples of an array."""
    flat = values.ravel()
    return flat[:: max(1, flat.size // _SAMPLES)].astype(np.float32)


def overlaid(grey: Grey, labels: Labels, colours: Colours) -> Colours:
    """Return the picture in colour: tint inside, full colour on the outline."""
    picture = np.repeat(grey[:, :, None], 3, axis=2)  # (height, width, 3)
    inside = labels > 0
    if inside.any():
        own = colours[labels[inside]]
        picture[inside] = (picture[inside] * (1 - _OPACITY) + own * _OPACITY).astype(np.uint8)
        edge = _outline(labels)
        picture[edge] = colours[labels[edge]]
    return picture


def _outline(labels: Labels) -> NDArray[np.bool_]:
    """Return the labelled pixels that touch another label or the background."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    differs = np.zeros(labels.shape, np.bool_)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        differs |= neighbour != inner
    return differs & (labels > 0)


def _write_letters(picture: Image.Image, letters: tuple[str, str, str, str]) -> None:
    width, height = picture.size
    if min(width, height) < 40:
        return
    draw = ImageDraw.Draw(picture)
    places = (
        (4, height // 2),
        (width - 10, height // 2),
        (width // 2, 2),
        (width // 2, height - 13),
    )
    for letter, place in zip(letters, places, strict=True):
        draw.text(place, letter, fill=_WHITE, stroke_width=1, stroke_fill=_BLACK)
