"""What kind of phantom study to make: every choice in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from node.phantom.grid import AXIAL, Orientation
from node.phantom.headers import HeaderStyle
from node.phantom.pixels import Cells, Syntax


class Part(StrEnum):
    """What is scanned."""

    CHEST = "chest"  # CT of the chest; truth: right and left lung
    HEAD = "head"  # MR of head and neck; truth: one lesion


class Form(StrEnum):
    """Into how many objects a series is cut."""

    CLASSIC = "classic"  # one object per slice
    ENHANCED = "enhanced"  # one multi-frame object


class Numbering(StrEnum):
    """In which order slices carry their instance numbers (frames: lie in the object)."""

    ASCENDING = "ascending"  # along row x column
    DESCENDING = "descending"  # against it, such as head first with decreasing z
    RANDOM = "random"  # no order at all, drawn from the seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What kind of study to make.

    Attributes:
        part: What is scanned.
        form: One object per slice, or one for all.
        shape: Slices, rows, columns; at least 32 rows and columns for JPEG 2000.
        spacing_mm: Distance of slices, rows, columns; None covers the anatomy.
        thickness_mm: Slice thickness; the slice distance when None.
        orientation: Directions of rows and columns.
        cells: Cell format; signed for CT and magnitude for MR when None.
        syntax: Transfer syntax of the image series.
        header: How the header is written.
        numbering: Order of instance numbers.
        patient_position: Patient Position (0018,5100).
        decoys: Whether a localizer, a dose report and a secondary capture come along.
        hard: The chest's hard profile.
        healthy: No disease in the chest but a few nodules.
        nodules: Nodules on order, as (diameter in mm, HU).
        lesion_mm: Diameter of the head's lesion; drawn when None.
        study_key: What tells two studies of one seed apart.
    """

    part: Part = Part.CHEST
    form: Form = Form.CLASSIC
    shape: tuple[int, int, int] = (60, 512, 512)
    spacing_mm: tuple[float, float, float] | None = None
    thickness_mm: float | None = None
    orientation: Orientation = AXIAL
    cells: Cells | None = None
    syntax: Syntax = Syntax.EXPLICIT
    header: HeaderStyle = HeaderStyle.PLAIN
    numbering: Numbering = Numbering.ASCENDING
    patient_position: str = "HFS"
    decoys: bool = False
    hard: bool = False
    healthy: bool = False
    nodules: tuple[tuple[float, float], ...] = ()
    lesion_mm: float | None = None
    study_key: str = "study"

    @property
    def cell_format(self) -> Cells:
        """The cells, chosen or usual."""
        if self.cells is not None:
            return self.cells
        return Cells.SIGNED if self.part is Part.CHEST else Cells.MAGNITUDE


SMALL_CHEST = Profile(shape=(24, 128, 128))
"""A chest that is made in well under a second, for tests and trials."""

SMALL_HEAD = Profile(part=Part.HEAD, shape=(24, 128, 128))
"""An MR study that is made in well under a second, for tests and trials."""
