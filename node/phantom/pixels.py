"""Voxel values into stored pixels: cell formats, padding, transfer syntaxes.

Source: PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), PS3.5 8 and A.4 (encodings).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import openjpeg.utils
import rle.utils
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import JPEGLSLosslessEncoder
from pydicom.uid import UID

Values = NDArray[np.int16]
Stored = NDArray[np.int16] | NDArray[np.uint16]


_LOWEST_HU: Final = -1024
"""What is measured lies above; below there is only padding, which is written by its own rule."""


class Syntax(StrEnum):
    """The transfer syntaxes that a phantom can be written in; all of them lossless."""

    IMPLICIT = "1.2.840.10008.1.2"  # Implicit VR Little Endian
    EXPLICIT = "1.2.840.10008.1.2.1"  # Explicit VR Little Endian
    RLE = "1.2.840.10008.1.2.5"  # RLE Lossless
    JPEG_LS = "1.2.840.10008.1.2.4.80"  # JPEG-LS Lossless
    JPEG_2000 = "1.2.840.10008.1.2.4.90"  # JPEG 2000 Lossless Only

    @property
    def compressed(self) -> bool:
        """Whether pixels are encapsulated fragments."""
        return self not in (Syntax.IMPLICIT, Syntax.EXPLICIT)


class Cells(StrEnum):
    """How a value becomes a stored cell of 16 bits."""

    SIGNED = "signed"  # two's complement, 16 bits, intercept 0: Siemens and Philips since long
    PADDED = "padded"  # signed, intercept -1024, padding -2000 outside the circle: GE
    UNSIGNED_1024 = "unsigned-1024"  # 12 bits of 16, intercept -1024
    UNSIGNED_1000 = "unsigned-1000"  # 12 bits of 16, intercept -1000: air saturates at -1000
    MAGNITUDE = "magnitude"  # 12 bits of 16, unsigned, no rescale: MR


@dataclass(frozen=True, slots=True)
class CellFormat:
    """The image pixel attributes that `Cells` stands for.

    Attributes:
        representation: Pixel Representation: 0 unsigned, 1 signed.
        bits_stored: Bits Stored.
        intercept: Rescale Intercept; value = stored + intercept.
        padding: Pixel Padding Value as stored, or None.
        rescaled: Whether intercept and slope are written.
    """

    representation: int
    bits_stored: int
    intercept: int
    padding: int | None = None
    rescaled: bool = True

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest cell."""
        if self.representation:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


FORMATS: dict[Cells, CellFormat] = {
    Cells.SIGNED: CellFormat(1, 16, 0),
    Cells.PADDED: CellFormat(1, 16, -1024, padding=-2000),
    Cells.UNSIGNED_1024: CellFormat(0, 12, -1024),
    Cells.UNSIGNED_1000: CellFormat(0, 12, -1000),
    Cells.MAGNITUDE: CellFormat(0, 12, 0, rescaled=False),
}


def stored_cells(values: Values, cells: Cells) -> Stored:
    """Return stored values for `values`, clipped to what the cells can hold.

    With a padding value, everything outside the circle that fits the image is padding, as a
    scanner leaves it.

    Args:
        values: Physical values, shape [slice, row, column].
        cells: The format.

    Returns:
        int16 or uint16 of the same shape.
    """
    form = FORMATS[cells]
    low, high = form.limits
    stored = np.clip(values.astype(np.int32) - form.intercept, low, high)
    if form.padding is not None:
        stored = np.maximum(stored, _LOWEST_HU - form.intercept)
        stored[:, outside_circle(values.shape[1], values.shape[2])] = form.padding
    if form.representation:
        return stored.astype(np.int16)
    return stored.astype(np.uint16)


def outside_circle(rows: int, columns: int) -> NDArray[np.bool_]:
    """Return True where a pixel lies outside the ellipse that fits the image."""
    y = (np.arange(rows) - (rows - 1) / 2) / (rows / 2)
    x = (np.arange(columns) - (columns - 1) / 2) / (columns / 2)
    outside: NDArray[np.bool_] = (y[:, None] ** 2 + x[None, :] ** 2) > 1.0
    return outside


def describe_cells(dataset: Dataset, cells: Cells, *, rows: int, columns: int) -> None:
    """Write the image pixel attributes of `cells` into `dataset`, pixels apart."""
    form = FORMATS[cells]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = form.bits_stored
    dataset.HighBit = form.bits_stored - 1
    dataset.PixelRepresentation = form.representation
    if form.padding is not None:
        # US or SS by Pixel Representation (PS3.5 annex A): never left to a default.
        dataset.add_new(0x00280120, "SS" if form.representation else "US", form.padding)


def put_pixels(dataset: Dataset, stored: Stored, syntax: Syntax) -> None:
    """Write `stored` into `dataset`, compressed where `syntax` asks for it.

    Args:
        dataset: Has its image pixel attributes already; gets file meta and pixel data.
        stored: Cells, shape [row, column] or [frame, row, column].
        syntax: The transfer syntax.
    """
    frames = stored.reshape(-1, dataset.Rows, dataset.Columns)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if not syntax.compressed:
        dataset.add_new(0x7FE00010, "OW", _little(frames))
        return
    encoded = [_encoded(frame, syntax, bits_stored=dataset.BitsStored) for frame in frames]
    # No offset table: a reader has to find the frames by itself, as with most archives.
    dataset.add_new(0x7FE00010, "OB", encapsulate(encoded, has_bot=False))
    dataset["PixelData"].is_undefined_length = True


def _little(cells: Stored) -> bytes:
    """Return the bytes of `cells` in the byte order of DICOM."""
    return cells.astype(cells.dtype.newbyteorder("<")).tobytes()


def _encoded(frame: Stored, syntax: Syntax, *, bits_stored: int) -> bytes:
    """Return one frame, shape [row, column], as a stream of `syntax`."""
    if syntax is Syntax.JPEG_2000:
        # From the array, not from its bytes: the stream says itself whether cells are signed.
        return bytes(openjpeg.utils.encode_array(frame, bits_stored=bits_stored))
    rows, columns = frame.shape
    options = {"rows": rows, "columns": columns, "samples_per_pixel": 1}
    if syntax is Syntax.RLE:
        return bytes(
            rle.utils.encode_pixel_data(_little(frame), bits_allocated=16, byteorder="<", **options)
        )
    return JPEGLSLosslessEncoder.encode(
        _little(frame),
        encoding_plugin="pyjpegls",
        **options,
        bits_allocated=16,
        bits_stored=bits_stored,
        pixel_representation=int(frame.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )
