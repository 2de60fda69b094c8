"""A whole phantom study: objects as a scanner would send them, and the truth beside them.

`make_study(seed, profile)` gives PS3.10 bytes in memory, `write_study` puts them into a folder.
The same seed and profile give the same bytes with the pinned versions. The truth lies on the grid
of the image series, slices ascending along row x column, like a volume read from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.phantom import chest, mr
from node.phantom.classic import classic_datasets
from node.phantom.decoys import decoy_datasets
from node.phantom.enhanced import enhanced_dataset
from node.phantom.grid import AXIAL, Floats, Grid, Orientation, centred_grid, grid_of
from node.phantom.headers import Header, HeaderStyle, make_header
from node.phantom.objects import ImageSeries, part10
from node.phantom.pixels import FORMATS, Cells, Syntax, Values, outside_circle

_IMAGE_SERIES = 2
_CHEST_EXTENT_MM = (400.0, 300.0)
_HEAD_EXTENT_MM = (230.0, 250.0, 260.0)
_HEAD_CENTRE_MM = (0.0, 0.0, -60.0)


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


SMALL_CHEST = Profile(shape=(24, 128, 128))
"""A chest that is made in well under a second, for tests and trials."""

SMALL_HEAD = Profile(part=Part.HEAD, shape=(24, 128, 128))
"""An MR study that is made in well under a second, for tests and trials."""


@dataclass(frozen=True, slots=True)
class PhantomInstance:
    """One object of a study.

    Attributes:
        sop_class_uid: SOP Class UID.
        sop_instance_uid: SOP Instance UID.
        series_uid: Series Instance UID.
        transfer_syntax_uid: Transfer Syntax UID.
        data: PS3.10 file: preamble, file meta, dataset.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    transfer_syntax_uid: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of the image series.

    Attributes:
        labels: uint8, shape [slice, row, column], slices ascending along row x column.
        affine: float64 (4, 4), index [slice, row, column, 1] to LPS mm.
        spacing_mm: Distance of slices, rows, columns.
        names: Label value to name: `right lung`, `left lung`, or `lesion`.
        exact_ml: Volume by name from the shape, not from counting voxels, where it is known.
        marker_mm: Centre of the marker on the patient's right, LPS; None where there is none.
        lesions: Nodules and masses of a chest, inside the grid or not.
        lesion_side: `right`, `left`, or empty where there is no one lesion.
    """

    labels: NDArray[np.uint8]
    affine: Floats
    spacing_mm: tuple[float, float, float]
    names: Mapping[int, str]
    exact_ml: Mapping[str, float]
    marker_mm: tuple[float, float, float] | None
    lesions: tuple[chest.Lesion, ...] = ()
    lesion_side: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a scanner has measured, before it is written.

    Attributes:
        values: int16, shape [slice, row, column]: HU, or arbitrary for MR.
        grid: Where they lie.
        truth: What is known, on the same grid.
    """

    values: Values
    grid: Grid
    truth: Truth


@dataclass(frozen=True, slots=True, eq=False)
class PhantomStudy:
    """A study and everything known of it.

    Attributes:
        seed: Its seed.
        profile: Its profile.
        header: Its identity.
        study_uid: Study Instance UID.
        series_uid: Series Instance UID of the image series.
        instances: Every object: the image series in the order of its slices, then decoys.
        truth: What is known of the image series.
    """

    seed: int
    profile: Profile
    header: Header
    study_uid: str
    series_uid: str
    instances: tuple[PhantomInstance, ...]
    truth: Truth

    @property
    def images(self) -> tuple[PhantomInstance, ...]:
        """The objects of the image series alone."""
        return tuple(one for one in self.instances if one.series_uid == self.series_uid)


def make_study(seed: int, profile: Profile = SMALL_CHEST) -> PhantomStudy:
    """Return the study that `seed` has in `profile`.

    Args:
        seed: What is drawn: the patient, names, UIDs.
        profile: How it is scanned and written.
    """
    scan = _chest(seed, profile) if profile.part is Part.CHEST else _head(seed, profile)
    return study_of(scan, seed, profile)


def study_of(scan: Scan, seed: int, profile: Profile) -> PhantomStudy:
    """Write `scan` as the study that `seed` has in `profile`.

    Args:
        scan: Any voxels with their truth, on a grid of the profile's shape and orientation.
        seed: Names and UIDs.
        profile: How it is written.
    """
    is_chest = profile.part is Part.CHEST
    series = ImageSeries(
        seed=seed,
        number=_IMAGE_SERIES,
        modality="CT" if is_chest else "MR",
        body_part="CHEST" if is_chest else "HEADNECK",
        description="PHANTOM CHEST" if is_chest else "PHANTOM T2 FS",
        values=scan.values,
        grid=scan.grid,
        thickness_mm=profile.thickness_mm or scan.grid.spacing_mm[0],
        cells=_cells(profile),
        syntax=profile.syntax,
        patient_position=profile.patient_position,
        instance_numbers=_instance_numbers(seed, profile),
        study_key=profile.study_key,
    )
    header = make_header(seed, profile.header)
    if profile.form is Form.CLASSIC:
        datasets: Iterable[Dataset] = classic_datasets(series, header)
    else:
        datasets = (enhanced_dataset(series, header),)
    instances = [instance_of(dataset) for dataset in datasets]
    if profile.decoys:
        instances += [instance_of(dataset) for dataset in decoy_datasets(series, header)]
    return PhantomStudy(
        seed=seed,
        profile=profile,
        header=header,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        instances=tuple(instances),
        truth=scan.truth,
    )


def write_study(folder: Path, study: PhantomStudy) -> tuple[Path, ...]:
    """Write every object of `study` into `folder`, one file each.

    Returns:
        The files, in the order of `study.instances`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, instance in enumerate(study.instances, start=1):
        path = folder / f"IM{number:05d}.dcm"
        path.write_bytes(instance.data)
        files.append(path)
    return tuple(files)


def instance_of(dataset: Dataset) -> PhantomInstance:
    """Return `dataset` as an object of a study."""
    return PhantomInstance(
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        data=part10(dataset),
    )


def _cells(profile: Profile) -> Cells:
    """Return the cell format of `profile`."""
    if profile.cells is not None:
        return profile.cells
    return Cells.SIGNED if profile.part is Part.CHEST else Cells.MAGNITUDE


def _instance_numbers(seed: int, profile: Profile) -> tuple[int, ...]:
    """Return the instance number of each slice, from 1."""
    numbers = np.arange(1, profile.shape[0] + 1)
    if profile.numbering is Numbering.DESCENDING:
        numbers = numbers[::-1]
    elif profile.numbering is Numbering.RANDOM:
        numbers = np.random.Generator(np.random.PCG64(seed)).permutation(numbers)
    return tuple(int(number) for number in numbers)


def _grid(
    profile: Profile, extent_mm: tuple[float, float, float], centre_mm: tuple[float, float, float]
) -> Grid:
    """Return the grid of `profile`; without a spacing it covers `extent_mm` (x, y, z)."""
    shape = profile.shape
    spacing = profile.spacing_mm
    if spacing is None:
        normal, field_mm = np.abs(profile.orientation.normal), max(extent_mm)
        spacing = (
            float(normal @ np.array(extent_mm)) / shape[0],
            field_mm / max(shape[1:]),
            field_mm / max(shape[1:]),
        )
    return centred_grid(shape, spacing, orientation=profile.orientation, centre_mm=centre_mm)


def _chest(seed: int, profile: Profile) -> Scan:
    """Scan a chest."""
    if profile.orientation == AXIAL:
        scanned = chest.volume(
            seed,
            slices=profile.shape[0],
            rows=profile.shape[1],
            columns=profile.shape[2],
            spacing_mm=profile.spacing_mm,
            thickness_mm=profile.thickness_mm,
            hard=profile.hard,
            healthy=profile.healthy,
            nodules=profile.nodules,
        )
        patient, exact = scanned.patient, dict(scanned.truth.organs_ml)
        values, labels, grid = scanned.hu, scanned.labels, grid_of(scanned.affine, profile.shape)
    else:
        patient = chest.ChestPatient.draw(
            seed, hard=profile.hard, healthy=profile.healthy, nodules=profile.nodules
        )
        exact, height = {}, patient.lung_height_mm
        grid = _grid(profile, (*_CHEST_EXTENT_MM, 1.1 * height), (0.0, 0.0, height / 2))
        values, labels = chest.sample(
            patient, grid.affine, profile.shape, thickness_mm=profile.thickness_mm
        )
    if FORMATS[_cells(profile)].padding is not None:
        # What became padding cannot be seen, so it is not asked for.
        labels = labels.copy()
        labels[:, outside_circle(profile.shape[1], profile.shape[2])] = 0
    truth = Truth(
        labels,
        grid.affine,
        grid.spacing_mm,
        {chest.RIGHT_LUNG: "right lung", chest.LEFT_LUNG: "left lung"},
        exact,
        patient.marker_mm,
        lesions=chest.lesions_of(patient),
    )
    return Scan(values, grid, truth)


def _head(seed: int, profile: Profile) -> Scan:
    """Scan a head."""
    patient = mr.HeadPatient.draw(seed, lesion_mm=profile.lesion_mm)
    grid = _grid(profile, _HEAD_EXTENT_MM, _HEAD_CENTRE_MM)
    values, labels = mr.sample(patient, grid.affine, profile.shape)
    truth = Truth(
        labels,
        grid.affine,
        grid.spacing_mm,
        {mr.LESION: "lesion"},
        {"lesion": patient.volume_ml},
        mr.MARKER_MM,
        lesion_side=patient.side,
    )
    return Scan(values, grid, truth)
