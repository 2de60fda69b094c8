"""From stored samples to grey: greyscale, palette, RGB and YBR the same way.

A model sees brightness. Where luminance is stored (YBR) it is taken as it is; from red, green
and blue it is computed as JPEG does (ISO 10918-5: 0.299, 0.587, 0.114), exactly where the three
are equal. MONOCHROME1 is turned round, because ultrasound has no physical values, only a picture.

What three samples mean stands in PhotometricInterpretation and, in a JPEG stream, in its markers.
They contradict each other in many files (labelled RGB, stored as YCbCr: green pictures), and
decoders guess differently. The markers win; what has none is believed unless its pixels cannot be
what the header says.
Source: PS3.3 C.7.6.3.1.2, C.7.6.3.1.5; JFIF 1.02; PS3.5 8.2.1.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from node.imaging.attributes import DAMAGE, integer, text
from node.imaging.syntaxes import Codec

_COLOURED: Final = 16
"""Steps of 255 between two of red, green, blue from which a pixel is coloured, not tinted grey."""

_NEAR: Final = 2  # steps of 255: what lossy coding makes of two equal samples
_MOST: Final = 0.9  # of the pixels of a frame; screens are mostly grey
_FEW: Final = 0.5

_HEAD_BYTES: Final = 1 << 16
_ADOBE: Final = 0xEE
_JFIF: Final = 0xE0
_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})

Samples = NDArray[np.unsignedinteger[Any]]


class Space(StrEnum):
    """What the samples of a pixel are."""

    GREY = "grey"  # MONOCHROME2
    INVERTED = "inverted"  # MONOCHROME1
    PALETTE = "palette"  # an index into three tables
    RGB = "rgb"  # red, green, blue
    YBR = "ybr"  # luminance and two differences, full range


_SPACES: Final = {
    ("MONOCHROME1", 1): Space.INVERTED,
    ("MONOCHROME2", 1): Space.GREY,
    ("PALETTE COLOR", 1): Space.PALETTE,
    ("RGB", 3): Space.RGB,
    ("YBR_FULL", 3): Space.YBR,
    ("YBR_FULL_422", 3): Space.YBR,
    ("YBR_ICT", 3): Space.RGB,  # the decoder undoes this transform, whatever it is called
    ("YBR_RCT", 3): Space.RGB,
}


def declared_space(header: Dataset) -> Space | str:
    """Return what the header says of the samples, or one sentence on why that is no picture."""
    photometric = text(header, "PhotometricInterpretation").upper()
    samples = integer(header, "SamplesPerPixel") or 1
    found = _SPACES.get((photometric, samples))
    if found is None:
        return f"{samples} samples per pixel of {photometric or 'no'} interpretation."
    if found is Space.PALETTE and isinstance(table := palette_grey(header), str):
        return table
    return found


def palette_grey(header: Dataset) -> NDArray[np.uint8] | str:
    """Return the grey of every index of a palette, or one sentence on why there is none."""
    bits = integer(header, "BitsStored") or 0
    if not 1 <= bits <= 16:
        return f"A palette cannot have indices of {bits} bits."
    try:
        colours = apply_color_lut(np.arange(1 << bits, dtype=np.uint16)[None], header)[0]
    except DAMAGE:
        return "The palette is absent or malformed."
    eight = (colours >> 8 if colours.dtype.itemsize == 2 else colours).astype(np.uint8)
    return luma(eight)


def stream_space(codec: Codec, data: bytes, declared: Space) -> Space:
    """Return what three samples of a compressed frame are, once its own markers are heard.

    Args:
        codec: What the frame is.
        data: The stream.
        declared: What the header says.
    """
    if codec is Codec.JPEG:
        return _jpeg_space(data) or declared
    if codec in (Codec.JPEG_2000, Codec.HTJ2K):
        at = data.find(b"\xff\x52", 0, _HEAD_BYTES)
        transformed = 0 < at < len(data) - 8 and data[at + 8] == 1
        return Space.RGB if transformed else declared
    return declared


def _jpeg_space(data: bytes) -> Space | None:
    """Return what the markers of a JPEG stream of three components say, None if nothing."""
    at, jfif = 2, False
    while at + 12 <= min(len(data), _HEAD_BYTES) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        length = int(struct.unpack_from(">H", data, at + 2)[0])
        body = data[at + 4 : at + 2 + length]
        if marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            return Space.YBR if body[11] else Space.RGB
        if marker == _JFIF and body.startswith(b"JFIF\0"):
            jfif = True
        if marker in _START_OF_FRAME:
            ids, factors = body[6::3][:3], body[7::3][:3]
            if len(set(factors)) > 1:  # only differences of colour are stored more coarsely
                return Space.YBR
            if ids == b"RGB":
                return Space.RGB
            return Space.YBR if jfif and marker not in _LOSSLESS else None
        at += 2 + length
    return None


def seen_space(samples: Samples, space: Space) -> Space:
    """Return what three samples of (..., 3) must be, by what a grey screen looks like.

    A grey pixel has three equal samples as RGB, and differences of 128 as YBR. A frame that is
    nearly all of the one kind and largely not of the other is that kind, whatever was declared.
    """
    first, second, third = (samples[..., i].astype(np.int16) for i in range(3))
    as_ybr = (np.abs(second - 128) <= _NEAR) & (np.abs(third - 128) <= _NEAR)
    as_rgb = (np.abs(first - second) <= _NEAR) & (np.abs(second - third) <= _NEAR)
    if space is Space.RGB and as_ybr.mean() > _MOST and as_rgb.mean() < _FEW:
        return Space.YBR
    if space is Space.YBR and as_rgb.mean() > _MOST and as_ybr.mean() < _FEW:
        return Space.RGB
    return space


def luma(colours: Samples) -> NDArray[np.uint8]:
    """Return the luminance of red, green, blue (..., 3) of 8 bits, rounded."""
    red, green, blue = (colours[..., i].astype(np.uint32) for i in range(3))
    total = 19595 * red + 38470 * green + 7471 * blue + 32768  # of 65536
    grey: NDArray[np.uint8] = (total >> 16).astype(np.uint8)
    return grey


def coloured_pixels(samples: Samples, space: Space) -> NDArray[np.bool_]:
    """Return where pixels of (..., 3) are coloured."""
    first, second, third = (samples[..., i].astype(np.float32) for i in range(3))
    if space is Space.RGB:
        apart = np.abs(first - second), np.abs(second - third)
    else:  # differences of red - green and green - blue, without going through RGB
        blue, red = second - 128.0, third - 128.0
        apart = np.abs(2.116136 * red + 0.344136 * blue), np.abs(0.714136 * red + 2.116136 * blue)
    result: NDArray[np.bool_] = (apart[0] > _COLOURED) | (apart[1] > _COLOURED)
    return result
