"""How the pixels of an instance are written and what they mean, as its header says it.

A header that contradicts itself, or promises more than a volume may have, is refused here, before
any memory is reserved. Source: PS3.3 C.7.6.3, C.11.1, PS3.5 8.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.imaging.attributes import integer, items, number, numbers, text, values
from node.imaging.syntaxes import COMPRESSED, DEFLATED, NATIVE, why_unread
from node.imaging.values import PixelPlace, SourceInstance
from node.reasons import Reason

CT_FLOOR_HU: Final = -1024
"""Lowest CT number; what lies below is padding that nobody declared (-2000, -3024, -32768)."""

LARGEST_VOXELS: Final = 1 << 31
"""Bound of one instance and of one volume: 8,192 slices of 512 x 512. Checked before memory is
reserved, because a header may promise 65,535 x 65,535 pixels in a file of 4 KB."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of one instance are written.

    Attributes:
        rows: Rows (0028,0010).
        columns: Columns (0028,0011).
        frames: NumberOfFrames (0028,0008), 1 if absent.
        bits_allocated: 8, 16 or 32; 32 or 64 for floating point.
        bits_stored: BitsStored (0028,0101).
        high_bit: HighBit (0028,0102).
        signed: PixelRepresentation (0028,0103) is 1.
        floating: The element is Float or Double Float Pixel Data.
        samples: SamplesPerPixel (0028,0002), 1 if absent.
        halved: Colour stands once for two pixels (uncompressed YBR_FULL_422).
    """

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    floating: bool = False
    samples: int = 1
    halved: bool = False

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame without compression."""
        cells = 2 if self.halved else self.samples
        return self.rows * self.columns * cells * self.bits_allocated // 8


@dataclass(frozen=True, slots=True, eq=False)
class ValueRule:
    """How the cells of one plane become physical values.

    Attributes:
        slope: RescaleSlope of this plane; ignored where there is a table.
        intercept: RescaleIntercept of this plane.
        table: Values of the modality LUT, or None.
        table_start: Stored value that the first entry of the table stands for.
        padding: Lowest and highest stored value that is padding, or None; whole numbers where the
            pixels are.
        background: What padding becomes, in physical units.
        floor: Values below are padding that nobody declared, or None.
    """

    slope: float = 1.0
    intercept: float = 0.0
    table: NDArray[np.float64] | None = None
    table_start: int = 0
    padding: tuple[float, float] | None = None
    background: int = 0
    floor: int | None = None

    @property
    def integral(self) -> bool:
        """Return whether physical values are whole numbers shifted by a whole number."""
        return self.table is None and self.slope == 1.0 and self.intercept.is_integer()

    def scaled(self, factor: float) -> ValueRule:
        """Return the rule that gives `factor` times the values of this one."""
        table = None if self.table is None else self.table * factor
        return replace(
            self, slope=self.slope * factor, intercept=self.intercept * factor, table=table
        )


def pixel_format(header: Dataset, place: PixelPlace) -> PixelFormat | str:
    """Return how pixels are written, or one sentence on why the header makes no sense."""
    rows, columns = integer(header, "Rows"), integer(header, "Columns")
    frames = integer(header, "NumberOfFrames")
    if frames is None:
        if text(header, "NumberOfFrames"):
            return "NumberOfFrames is not a whole number."
        frames = 1
    if not rows or not columns or min(rows, columns, frames) < 1:
        return "Rows, Columns or NumberOfFrames is absent or not above 0."
    if rows * columns * frames > LARGEST_VOXELS:
        return f"{rows} x {columns} x {frames} voxels are more than a volume may have."
    if place.keyword != "PixelData":
        bits = 32 if place.keyword == "FloatPixelData" else 64
        return PixelFormat(rows, columns, frames, bits, bits, bits - 1, signed=True, floating=True)
    allocated, stored = integer(header, "BitsAllocated"), integer(header, "BitsStored")
    if allocated not in (8, 16, 32) or not stored or not 1 <= stored <= allocated:
        return f"BitsAllocated {allocated} with BitsStored {stored} is not supported."
    high_bit = integer(header, "HighBit")
    high_bit = stored - 1 if high_bit is None else high_bit
    if not stored - 1 <= high_bit < allocated:
        return f"HighBit {high_bit} does not fit BitsStored {stored} of {allocated} bits."
    signed = integer(header, "PixelRepresentation")
    if signed not in (0, 1):
        return "PixelRepresentation is neither 0 nor 1."
    samples = integer(header, "SamplesPerPixel") or 1
    subsampled = text(header, "PhotometricInterpretation").upper() == "YBR_FULL_422"
    return PixelFormat(
        rows,
        columns,
        frames,
        allocated,
        stored,
        high_bit,
        signed=bool(signed),
        samples=samples,
        halved=samples == 3 and subsampled and place.transfer_syntax in NATIVE,
    )


_known: WeakKeyDictionary[SourceInstance, tuple[PixelFormat, ValueRule] | str] = WeakKeyDictionary()
"""What headers said; asked for once to judge a series and once more to read it."""


def pixels_of(instance: SourceInstance) -> tuple[PixelFormat, ValueRule] | str:
    """Return how the pixels of an instance are written and how its cells become values.

    The rule is that of the instance itself; frames of a multi-frame one have their own.

    Returns:
        Both, or one sentence on why the header makes no sense.
    """
    found = _known.get(instance)
    if found is None:
        found = _known[instance] = _pixels_of(instance)
    return found


def _pixels_of(instance: SourceInstance) -> tuple[PixelFormat, ValueRule] | str:
    place = instance.pixels
    if place is None:
        return "The instance holds no pixel element."
    form = pixel_format(instance.header, place)
    if isinstance(form, str):
        return form
    rule = value_rule(instance.header, instance.header, form, big_endian=place.big_endian)
    return rule if isinstance(rule, str) else (form, rule)


def refuse_format(instance: SourceInstance) -> tuple[Reason, str] | None:
    """Return why the pixels of an instance cannot be read, as far as headers tell, or None."""
    place = instance.pixels
    if place is None:
        return Reason.BAD_HEADER, "The file ends before its pixel element."
    known = place.transfer_syntax in NATIVE or place.transfer_syntax in COMPRESSED
    if not known:
        return Reason.UNSUPPORTED_SYNTAX, why_unread(place.transfer_syntax)
    found = pixels_of(instance)
    if isinstance(found, str):
        return Reason.BAD_HEADER, found
    form, _ = found
    if place.transfer_syntax in COMPRESSED:
        if place.length is not None or form.floating:
            return Reason.BAD_HEADER, "The pixel element of a compressed image has no fragments."
        return None
    if place.length is None:
        return Reason.BAD_HEADER, "The pixel element of an uncompressed image has no length."
    return _refuse_length(instance, place, form)


def _refuse_length(
    instance: SourceInstance, place: PixelPlace, form: PixelFormat
) -> tuple[Reason, str] | None:
    wanted, present = form.frame_bytes * form.frames, place.length or 0
    if place.transfer_syntax != DEFLATED:
        whole = instance.file.length or (instance.file.path.stat().st_size - instance.file.offset)
        present = min(present, whole - place.offset)
    if present < wanted:
        return Reason.TRUNCATED_FRAME, f"The pixels have {present} of {wanted} bytes."
    return None


def value_rule(
    header: Dataset, transformation: Dataset, form: PixelFormat, *, big_endian: bool
) -> ValueRule | str:
    """Return how cells become values, or one sentence on why the header makes no sense.

    Args:
        header: The instance; padding and modality stand here.
        transformation: Where the modality LUT or rescale of this plane stands: the header itself
            or an item of its functional groups.
        form: How the pixels are written.
        big_endian: Byte order of the instance, for the entries of a table.
    """
    is_ct = text(header, "Modality") == "CT"
    padding = _float_padding(header, form) if form.floating else _padding(header, form)
    background, floor = (CT_FLOOR_HU, CT_FLOOR_HU) if is_ct else (0, None)
    tables = items(transformation, "ModalityLUTSequence")
    if tables:
        found = _table(tables[0], form, big_endian=big_endian)
        if found is None:
            return "The modality LUT is malformed."
        return ValueRule(
            table=found[1],
            table_start=found[0],
            padding=padding,
            background=background,
            floor=floor,
        )
    slope, intercept = 1.0, 0.0
    if values(transformation, "RescaleSlope"):
        slope = number(transformation, "RescaleSlope") or 0.0
    if values(transformation, "RescaleIntercept"):
        intercept = number(transformation, "RescaleIntercept") or 0.0
    if slope == 0.0:
        return "RescaleSlope is 0 or not a number."
    return ValueRule(
        slope=slope, intercept=intercept, padding=padding, background=background, floor=floor
    )


def _as_cell(value: int, bits: int, *, signed: bool) -> int:
    """Return a number as a cell of so many bits would hold it.

    PixelPaddingValue is US or SS by PixelRepresentation, and writers get it wrong: 63536 is
    -2000 in a signed image.
    """
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _us_or_ss(dataset: Dataset, keyword: str) -> int | None:
    """Return a number whose VR depends on PixelRepresentation."""
    found = values(dataset, keyword)
    if found and isinstance(found[0], bytes):
        return int.from_bytes(found[0][:2], "little") if len(found[0]) >= 2 else None
    return integer(dataset, keyword)


def _float_padding(header: Dataset, form: PixelFormat) -> tuple[float, float] | None:
    prefix = "Float" if form.bits_allocated == 32 else "DoubleFloat"
    first = number(header, f"{prefix}PixelPaddingValue")
    if first is None:
        return None
    last = number(header, f"{prefix}PixelPaddingRangeLimit")
    last = first if last is None else last
    return min(first, last), max(first, last)


def _padding(header: Dataset, form: PixelFormat) -> tuple[int, int] | None:
    first = _us_or_ss(header, "PixelPaddingValue")
    if first is None:
        return None
    last = _us_or_ss(header, "PixelPaddingRangeLimit")
    ends = [first, first if last is None else last]
    bits = min(form.bits_allocated, 32)
    low, high = sorted(_as_cell(value, bits, signed=form.signed) for value in ends)
    return low, high


def _table(
    item: Dataset, form: PixelFormat, *, big_endian: bool
) -> tuple[int, NDArray[np.float64]] | None:
    """Return the first mapped value and the entries of a modality LUT (PS3.3 C.11.1.1)."""
    descriptor = numbers(item, "LUTDescriptor", 3)
    entries = values(item, "LUTData")
    if not descriptor or not entries:
        return None
    count = int(descriptor[0]) or 65536
    start = _as_cell(int(descriptor[1]), 16, signed=form.signed)
    if isinstance(entries[0], bytes):
        data = entries[0]
        wide = np.dtype(">u2" if big_endian else "<u2")
        cell = np.dtype(np.uint8) if len(data) in (count, count + 1) else wide
        usable = len(data) - len(data) % cell.itemsize
        table = np.frombuffer(data[:usable], dtype=cell)[:count].astype(np.float64)
    else:
        found = numbers(item, "LUTData", len(entries))
        table = np.array(found[:count], dtype=np.float64)
    return (start, table) if len(table) == count else None
