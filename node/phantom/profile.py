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
    TRUNK = "trunk"  # PET of the trunk; truth: hot lesions, as share of each voxel


class Form(StrEnum):
    """Into how many objects a series is cut."""

    CLASSIC = "classic"  # one object per slice
    ENHANCED = "enhanced"  # one multi-frame object


class Writing(StrEnum):
    """How a PET series writes what SUV is made of; each gives the same SUV."""

    START = "start"  # Bq/ml corrected to the series time
    ADMIN = "admin"  # Bq/ml corrected to the administration
    NONE = "none"  # Bq/ml without decay correction
    REWRITTEN = "rewritten"  # series time of a later reconstruction, as Siemens writes
    GE_PRIVATE = "ge-private"  # the same, with GE's private scan date-time
    PHILIPS_SUV = "philips-suv"  # counts with the private SUV factor
    PHILIPS_ACTIVITY = "philips-activity"  # counts with the private activity factor
    MIDNIGHT = "midnight"  # injected before midnight, a time without a date
    GML = "gml"  # SUV already


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
        lesion_mm: Diameter of the lesion of a head or trunk; drawn when None.
        writing: How a PET series says what SUV is made of.
        blur_mm: Full width at half maximum of a PET scanner's blur.
        noise: Standard deviation of PET noise where SUV is 1.
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
    writing: Writing = Writing.START
    blur_mm: float = 6.0
    noise: float = 0.08
    study_key: str = "study"

    @property
    def cell_format(self) -> Cells:
        """The cells, chosen or usual."""
        if self.cells is not None:
            return self.cells
        return Cells.MAGNITUDE if self.part is Part.HEAD else Cells.SIGNED


SMALL_CHEST = Profile(shape=(24, 128, 128))
"""A chest that is made in well under a second, for tests and trials."""

SMALL_HEAD = Profile(part=Part.HEAD, shape=(24, 128, 128))
"""An MR study that is made in well under a second, for tests and trials."""

SMALL_TRUNK = Profile(part=Part.TRUNK, shape=(40, 72, 72), spacing_mm=(4.0, 4.5, 4.5))
"""A PET study that is made in about a second, for tests and trials."""
