"""Where an ultrasound image shows tissue, and how large a pixel is there.

A frame is a screen: beside the tissue stand scales, text, curves and colour bars, each of which
may be a region of its own with its own units. Only 2D regions of tissue count. Regions that do
not fit the matrix are common (exports that were shrunk without their header): they are clipped
and their scale is not believed, because a wrong millimetre is worse than none.
Source: PS3.3 C.8.5.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import integer, items, number, numbers
from node.imaging.values import FrameRegion

_TWO_DIMENSIONAL: Final = 1  # RegionSpatialFormat
_TISSUE: Final = 1  # RegionDataType
_CENTIMETRE: Final = 3  # PhysicalUnitsX/YDirection
_LOW_PRIORITY: Final = 1  # bit 0 of RegionFlags

_SCALE_MM: Final = (0.05, 5.0)
"""Millimetres per pixel that an ultrasound screen can have; another scale is not believed."""

_LARGEST_RATIO: Final = 2.0
"""Pixels of a tissue region that are longer than this times their width are not believed."""

_SMALLEST_SIDE: Final = 8
"""Pixels; a smaller region is a mark and no picture."""


@dataclass(frozen=True, slots=True)
class Regions:
    """What a header says of the tissue in its frames.

    Attributes:
        found: Tissue regions, the most important first: high before low priority, then as in
            the header.
        spacing_mm: Distance between rows, columns: of the first region, or of the whole image
            where the header names no tissue; None where nothing says it reliably.
        notes: Sentences on what was put right or is not believed.
    """

    found: tuple[FrameRegion, ...]
    spacing_mm: tuple[float, float] | None
    notes: tuple[str, ...]


def read_regions(header: Dataset, rows: int, columns: int) -> Regions:
    """Read the tissue regions of a header.

    Args:
        header: An ultrasound instance.
        rows: Rows of its matrix.
        columns: Columns of its matrix.
    """
    notes: list[str] = []
    chosen: list[tuple[int, FrameRegion]] = []
    for place, item in enumerate(items(header, "SequenceOfUltrasoundRegions"), start=1):
        two_dimensional = integer(item, "RegionSpatialFormat") == _TWO_DIMENSIONAL
        if not two_dimensional or integer(item, "RegionDataType") != _TISSUE:
            continue
        region = _region(item, f"Region {place}", (rows, columns), notes)
        if region is not None and region not in [known for _, known in chosen]:
            chosen.append(((integer(item, "RegionFlags") or 0) & _LOW_PRIORITY, region))
    chosen.sort(key=lambda each: each[0])  # stable: equal priority keeps the header's order
    found = tuple(region for _, region in chosen)
    if found:
        return Regions(found, found[0].spacing_mm, tuple(notes))
    return Regions((), _pixel_spacing(header, notes), tuple(notes))


def _region(
    item: Dataset, name: str, matrix: tuple[int, int], notes: list[str]
) -> FrameRegion | None:
    """Return one region inside the matrix, or None if nothing of it lies there."""
    rows, columns = matrix
    vertical = _ends(item, "RegionLocationMinY0", "RegionLocationMaxY1")
    across = _ends(item, "RegionLocationMinX0", "RegionLocationMaxX1")
    if vertical is None or across is None:
        notes.append(f"{name} does not say where it lies and is left out.")
        return None
    (top, bottom), (left, right) = sorted(vertical), sorted(across)
    if (top, left) != (vertical[0], across[0]):
        notes.append(f"{name} names its ends in the wrong order; they are swapped.")
    box = (max(top, 0), max(left, 0), min(bottom + 1, rows), min(right + 1, columns))
    if box[2] - box[0] < _SMALLEST_SIDE or box[3] - box[1] < _SMALLEST_SIDE:
        notes.append(f"{name} has no part in the image worth looking at and is left out.")
        return None
    scale = _scale(item, name, notes)
    # Many writers name the row and column behind the last as the end: that is no disagreement.
    outside = top < 0 or left < 0 or bottom > rows or right > columns
    if outside:
        notes.append(
            f"{name} reaches to row {bottom} and column {right} of {rows} x {columns}: it is "
            "clipped and its scale is not trusted."
        )
    return FrameRegion(box, None if outside else scale)


def _ends(item: Dataset, low: str, high: str) -> tuple[int, int] | None:
    """Return both ends of a region along one axis, or None."""
    first, last = integer(item, low), integer(item, high)
    return None if first is None or last is None else (_signed(first), _signed(last))


def _signed(value: int) -> int:
    """Return an end of a region; writers put negative ones into its unsigned element."""
    return value - (1 << 32) if value >= 1 << 31 else value


def _scale(item: Dataset, name: str, notes: list[str]) -> tuple[float, float] | None:
    """Return millimetres between rows, columns of a region; the sign says which way y grows."""
    units = [integer(item, f"PhysicalUnits{axis}Direction") for axis in "YX"]
    deltas = [number(item, f"PhysicalDelta{axis}") for axis in "YX"]
    if units != [_CENTIMETRE, _CENTIMETRE] or None in deltas:
        notes.append(f"{name} has no scale in centimetres.")
        return None
    return _believed([abs(delta) * 10.0 for delta in deltas if delta is not None], name, notes)


def _believed(
    spacing: list[float] | tuple[float, ...], name: str, notes: list[str]
) -> tuple[float, float] | None:
    """Return a scale that an ultrasound image can have, else None with a note."""
    row_mm, column_mm = spacing
    low, high = _SCALE_MM
    if not all(low <= one <= high for one in spacing):
        notes.append(f"{name} has pixels of {row_mm:g} x {column_mm:g} mm: not believed.")
        return None
    if max(row_mm / column_mm, column_mm / row_mm) > _LARGEST_RATIO:
        notes.append(
            f"{name} has pixels of {row_mm:g} x {column_mm:g} mm, too far from square: "
            "not believed."
        )
        return None
    return row_mm, column_mm


def _pixel_spacing(header: Dataset, notes: list[str]) -> tuple[float, float] | None:
    """Return Pixel Spacing, which some makers write where they write no region."""
    spacing = numbers(header, "PixelSpacing", 2)
    notes.append("The header names no tissue region.")
    return _believed(spacing, "The image", notes) if spacing else None
