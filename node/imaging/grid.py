"""Put image planes on one regular grid, or say why they are not on one.

A pure function of positions, directions and spacings: no file, no header, no vendor. Planes are
ordered by their position along the normal and by nothing else. Differences are compared with a
tolerance; positions are never rounded into bins. SliceThickness and SpacingBetweenSlices are
never geometry, because scanners write both wrong; they only confirm the distance of two slices.

Coordinates are LPS millimetres, arrays `[slice, row, column]`. Source: PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from node.imaging.values import Floats
from node.reasons import Reason

UNIT_TOLERANCE: Final = 1e-3
"""How far a direction may be from length 1, and two directions from a right angle."""

DIRECTION_TOLERANCE: Final = 1e-4
"""How far a direction cosine may be from the middle of all planes: 0.05 mm over 500 mm."""

SPACING_TOLERANCE_MM: Final = 1e-4
"""How far a pixel spacing may be from the middle of all planes: 0.05 mm over 512 pixels."""

SAME_POSITION_MM: Final = 0.01
"""Planes closer than this along the normal lie at one position."""

LARGEST_QUANTUM_MM: Final = 0.1
"""Coarsest rounding of position texts that widens a tolerance.

Positions without any digit after the point are taken as exact: a step of 1 mm would let a slice
that is 1 mm out of place pass for a rounded one.
"""

IN_PLANE_TOLERANCE_PIXELS: Final = 0.1
"""Largest sideways shift of a plane, or of the whole stack, in the smaller pixel spacing."""

SPACING_CHANGE_RUN: Final = 3
"""This many equal wide gaps in a row are a change of spacing; fewer are missing slices."""

LARGEST_MM: Final = 1e5
"""No position or spacing is beyond 100 m; what is would only overflow the arithmetic."""

SHOWN_PLACES: Final = 10
"""A refusal names at most so many places of missing slices."""

_ROUNDING_MM: Final = 1e-6
"""Room for binary arithmetic on decimal texts."""


@dataclass(frozen=True, slots=True)
class Planes:
    """What the headers of n images say about where they lie.

    Attributes:
        positions: ImagePositionPatient (0020,0032), shape (n, 3), mm.
        orientations: ImageOrientationPatient (0020,0037), shape (n, 6): the direction in which
            the column index grows, then the row index.
        spacings: PixelSpacing (0028,0030), shape (n, 2): between rows, between columns, mm.
        matrices: Rows and columns of each image.
        quantum_mm: The step to which position texts are rounded; 0 if they are exact.
        depths_mm: What SpacingBetweenSlices and SliceThickness say, where they say anything.
    """

    positions: Floats
    orientations: Floats
    spacings: Floats
    matrices: Sequence[tuple[int, int]]
    quantum_mm: float = 0.0
    depths_mm: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A regular grid and the order of planes that makes it one.

    Attributes:
        order: Indices into the planes, ascending along row x column.
        affine: Index (slice, row, column, 1) to LPS mm, shape (4, 4).
        spacing_mm: Distances between slices (along the normal), rows and columns, mm.
    """

    order: tuple[int, ...]
    affine: Floats
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class NotAGrid:
    """Why planes are not one grid; `planes` are the indices of the offending ones."""

    reason: Reason
    explanation: str
    planes: tuple[int, ...] = ()


def quantum_mm(most_decimals: int) -> float:
    """Return the rounding step of positions whose texts show at most so many decimals."""
    return 0.0 if most_decimals < 1 else min(LARGEST_QUANTUM_MM, 10.0**-most_decimals)


def find_grid(planes: Planes, *, min_slices: int = 3, tilted: bool = False) -> Grid | NotAGrid:
    """Return the one grid on which all planes lie, whatever order they are in.

    Args:
        planes: At least one plane.
        min_slices: Fewer planes than this are refused; two planes always need a header that
            confirms their distance.
        tilted: Whether a stack whose planes are shifted by one and the same step, as with a tilted
            gantry, is a grid too; its affine then is sheared.
    """
    fault = _disagreement(planes)
    if fault is not None:
        return fault
    directions = np.median(planes.orientations, axis=0)  # (6,)
    dy, dx = (float(value) for value in np.median(planes.spacings, axis=0))
    row, column = directions[:3], directions[3:]
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)

    heights = planes.positions @ normal  # (n,)
    order = np.argsort(heights, kind="stable")
    fault = _same_positions(order, heights) or _too_few(len(order), min_slices)
    if fault is not None:
        return fault
    step = _slice_step(planes, order, heights[order])
    if isinstance(step, NotAGrid):
        return step
    slant = np.zeros(3)  # per slice, within the plane
    fault = _sideways(planes, order, normal, min(dy, dx))
    if fault is not None:
        if not tilted or fault.reason is not Reason.GANTRY_TILT:
            return fault
        whole = planes.positions[order[-1]] - planes.positions[order[0]]
        slant = (whole - (whole @ normal) * normal) / (len(order) - 1)

    affine = np.eye(4)
    affine[:3, 0] = normal * step + slant
    affine[:3, 1] = column * dy
    affine[:3, 2] = row * dx
    affine[:3, 3] = planes.positions[order[0]]
    return Grid(tuple(int(index) for index in order), affine, (step, dy, dx))


def _disagreement(planes: Planes) -> NotAGrid | None:
    """Refuse directions that are none, and planes that differ in direction, matrix or spacing."""
    wild = (
        (np.abs(planes.positions).max(axis=1) > LARGEST_MM)
        | (np.abs(planes.spacings).max(axis=1) > LARGEST_MM)
        | (np.abs(planes.orientations).max(axis=1) > 1 + UNIT_TOLERANCE)
    )
    if wild.any():
        return NotAGrid(
            Reason.NO_GEOMETRY,
            f"The position, direction or spacing of {int(wild.sum())} image(s) is out of bounds.",
            _indices(np.flatnonzero(wild)),
        )
    row, column = planes.orientations[:, :3], planes.orientations[:, 3:]
    off = np.maximum.reduce(
        [
            np.abs(np.linalg.norm(row, axis=1) - 1),
            np.abs(np.linalg.norm(column, axis=1) - 1),
            np.abs((row * column).sum(axis=1)),
        ]
    )
    if off.max() > UNIT_TOLERANCE:
        bad = np.flatnonzero(off > UNIT_TOLERANCE)
        return NotAGrid(
            Reason.NO_GEOMETRY,
            f"The direction cosines of {len(bad)} image(s) are not two unit vectors at a right "
            f"angle (off by {off.max():.3g}).",
            _indices(bad),
        )
    if (planes.spacings <= 0).any():
        bad = np.flatnonzero((planes.spacings <= 0).any(axis=1))
        return NotAGrid(Reason.NO_GEOMETRY, "Pixel spacing must be greater than 0.", _indices(bad))
    bad = _away_from_the_middle(planes.orientations, DIRECTION_TOLERANCE)
    if len(bad):
        first = ", ".join(f"{value:.4f}" for value in planes.orientations[bad[0]])
        return NotAGrid(
            Reason.MIXED_ORIENTATION,
            f"The {len(planes.positions)} images do not share one orientation; for instance "
            f"one has the directions ({first}).",
            _indices(bad),
        )
    matrices = sorted(set(planes.matrices))
    if len(matrices) > 1:
        usual = max(matrices, key=lambda matrix: (list(planes.matrices).count(matrix), matrix))
        bad = np.array([i for i, matrix in enumerate(planes.matrices) if matrix != usual])
        sizes = ", ".join(f"{rows} x {columns}" for rows, columns in matrices)
        return NotAGrid(
            Reason.MIXED_MATRIX,
            f"The images have different rows x columns: {sizes}.",
            _indices(bad),
        )
    bad = _away_from_the_middle(planes.spacings, SPACING_TOLERANCE_MM)
    if len(bad):
        low, high = planes.spacings.min(axis=0), planes.spacings.max(axis=0)
        return NotAGrid(
            Reason.MIXED_SPACING,
            f"Pixel spacing differs between images: rows {low[0]:.4f} to {high[0]:.4f} mm, "
            f"columns {low[1]:.4f} to {high[1]:.4f} mm.",
            _indices(bad),
        )
    return None


def _away_from_the_middle(table: Floats, tolerance: float) -> np.ndarray:
    """Return the rows that differ from the usual one, if the spread is beyond the tolerance."""
    spread = (table.max(axis=0) - table.min(axis=0)).max()
    if spread <= 2 * tolerance + 1e-12:
        return np.array([], dtype=int)
    away = np.abs(table - np.median(table, axis=0)).max(axis=1)
    return np.flatnonzero(away > tolerance)


def _same_positions(order: np.ndarray, heights: Floats) -> NotAGrid | None:
    close = np.flatnonzero(np.diff(heights[order]) < SAME_POSITION_MM)
    if not len(close):
        return None
    bad = sorted({int(order[i]) for i in close} | {int(order[i + 1]) for i in close})
    return NotAGrid(
        Reason.DUPLICATE_POSITION,
        f"{len(bad)} of {len(order)} images share their position with another, the first at "
        f"{heights[order[close[0]]]:.2f} mm along the normal, and no attribute splits them into "
        f"complete stacks.",
        tuple(bad),
    )


def _too_few(count: int, min_slices: int) -> NotAGrid | None:
    if count >= min_slices:
        return None
    return NotAGrid(
        Reason.TOO_FEW_SLICES,
        f"{count} slice(s); a volume needs at least {min_slices}.",
        tuple(range(count)),
    )


def position_tolerance_mm(gap_mm: float, quantum: float) -> float:
    """Return how far a slice may lie from its place along the normal."""
    return min(max(0.01, min(0.1, 0.05 * gap_mm), quantum), 0.25 * gap_mm) + _ROUNDING_MM


def _slice_step(planes: Planes, order: np.ndarray, heights: Floats) -> float | NotAGrid:
    """Return the distance between slices; `heights` are sorted."""
    count = len(heights)
    if count == 1:
        depth = next((value for value in planes.depths_mm if value > 0), None)
        if depth is None:
            return NotAGrid(
                Reason.NO_GEOMETRY, "A single slice without SliceThickness has no depth.", (0,)
            )
        return depth
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(count - 2) // 2])  # the lower median is a gap that exists
    tolerance = position_tolerance_mm(usual, planes.quantum_mm)
    if count == 2 and all(abs(abs(depth) - usual) > tolerance for depth in planes.depths_mm):
        said = ", ".join(f"{depth:g}" for depth in planes.depths_mm) or "nothing"
        return NotAGrid(
            Reason.TOO_FEW_SLICES,
            f"Two slices {usual:.3f} mm apart, where the headers say {said}: slices between "
            f"them may be missing.",
            (0, 1),
        )
    step = float(heights[-1] - heights[0]) / (count - 1)
    off_line = np.abs(heights - (heights[0] + np.arange(count) * step))
    if np.abs(gaps - np.median(gaps)).max() <= tolerance and off_line.max() <= tolerance:
        return step
    return _irregular(order, heights, gaps, usual, tolerance)


def _irregular(
    order: np.ndarray, heights: Floats, gaps: Floats, usual: float, tolerance: float
) -> NotAGrid:
    """Tell missing slices from uneven spacing."""
    times = np.rint(gaps / usual).astype(int)
    wide = np.flatnonzero(times > 1)
    beside = sorted({int(order[i + side]) for i in wide for side in (0, 1)})
    whole = bool((np.abs(gaps - times * usual) <= tolerance).all())
    if len(wide) and whole and _longest_run(times) < SPACING_CHANGE_RUN:
        lost = int((times[wide] - 1).sum())
        places = (heights[i] + k * usual for i in wide for k in range(1, int(times[i])))
        shown = ", ".join(f"{place:.2f}" for place in islice(places, SHOWN_PLACES))
        shown += ", ..." if lost > SHOWN_PLACES else ""
        return NotAGrid(
            Reason.MISSING_SLICES,
            f"{lost} slice(s) missing in a stack of {usual:.3f} mm steps, at {shown} mm "
            f"along the normal.",
            tuple(beside),
        )
    worst = int(np.abs(gaps - usual).argmax())
    return NotAGrid(
        Reason.UNEVEN_SPACING,
        f"The distance between slices changes: {gaps[worst]:.3f} mm at {heights[worst]:.2f} mm "
        f"along the normal, where {usual:.3f} mm is usual (tolerance {tolerance:.3f} mm).",
        (int(order[worst]), int(order[worst + 1])),
    )


def _longest_run(times: np.ndarray) -> int:
    """Return the most neighbouring wide gaps of one width."""
    longest = run = 0
    before = 1
    for width in times:
        run = run + 1 if width == before else 1
        before = int(width)
        if width > 1:
            longest = max(longest, run)
    return longest


def _sideways(
    planes: Planes, order: np.ndarray, normal: Floats, pixel_mm: float
) -> NotAGrid | None:
    """Refuse planes that are shifted within their plane."""
    if len(order) < 2:
        return None
    offsets = planes.positions[order] - planes.positions[order[0]]  # (n, 3)
    in_plane = offsets - np.outer(offsets @ normal, normal)
    line = np.outer(np.arange(len(order)) / (len(order) - 1), in_plane[-1])
    allowed = max(IN_PLANE_TOLERANCE_PIXELS * pixel_mm, planes.quantum_mm) + _ROUNDING_MM
    residuals = np.linalg.norm(in_plane - line, axis=1)
    if residuals.max() > allowed:
        bad = np.flatnonzero(residuals > allowed)
        return NotAGrid(
            Reason.MOVING_ORIGIN,
            f"{len(bad)} slice(s) are shifted within their plane by up to "
            f"{residuals.max():.2f} mm (allowed {allowed:.2f} mm).",
            tuple(int(order[i]) for i in bad),
        )
    shift = float(np.linalg.norm(in_plane[-1]))
    if shift > allowed:
        angle = float(np.degrees(np.arctan2(shift, float(offsets[-1] @ normal))))
        return NotAGrid(
            Reason.GANTRY_TILT,
            f"The stack is sheared by {angle:.2f} degrees: its last slice is shifted {shift:.2f} "
            f"mm within its plane against the first (allowed {allowed:.2f} mm).",
            (int(order[0]), int(order[-1])),
        )
    return None


def _indices(found: np.ndarray) -> tuple[int, ...]:
    return tuple(int(index) for index in found)
