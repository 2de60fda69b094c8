"""A whole phantom study: objects as a scanner would send them, and the truth beside them.

`make_study(seed, profile)` gives PS3.10 bytes in memory, `write_study` puts them into a folder.
The same seed and profile give the same bytes with the pinned versions. The truth lies on the grid
of the image series, slices ascending along row x column, like a volume read from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from node.phantom.classic import classic_datasets
from node.phantom.decoys import decoy_datasets
from node.phantom.enhanced import enhanced_dataset
from node.phantom.headers import Header, make_header
from node.phantom.objects import ImageSeries, part10
from node.phantom.pet_objects import pet_datasets
from node.phantom.profile import (
    SMALL_CHEST,
    SMALL_HEAD,
    SMALL_TRUNK,
    Form,
    Numbering,
    Part,
    Profile,
    Writing,
)
from node.phantom.scan import Scan, Truth, scan_chest, scan_head, scan_trunk

__all__ = [
    "SMALL_CHEST",
    "SMALL_HEAD",
    "SMALL_TRUNK",
    "Form",
    "Numbering",
    "Part",
    "PhantomInstance",
    "PhantomStudy",
    "Profile",
    "Scan",
    "Truth",
    "Writing",
    "instance_of",
    "make_study",
    "study_of",
    "write_study",
]

_IMAGE_SERIES: Final = 2


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
    if profile.part is Part.TRUNK:
        return _pet_study(seed, profile)
    is_chest = profile.part is Part.CHEST
    scan = scan_chest(seed, profile) if is_chest else scan_head(seed, profile)
    return study_of(scan, seed, profile)


def study_of(scan: Scan, seed: int, profile: Profile) -> PhantomStudy:
    """Write `scan` as the study that `seed` has in `profile`.

    Args:
        scan: Any voxels with their truth, on a grid of the profile's shape and orientation.
        seed: Names and UIDs.
        profile: How it is written; of a chest or a head.
    """
    series = _series_of(scan, seed, profile)
    header = make_header(seed, profile.header)
    if profile.form is Form.CLASSIC:
        datasets: Iterable[Dataset] = classic_datasets(series, header)
    else:
        datasets = (enhanced_dataset(series, header),)
    return _study_of(series, header, datasets, scan.truth, profile)


def _pet_study(seed: int, profile: Profile) -> PhantomStudy:
    """Return a PET study: one PET Image per slice, or a ValueError for any other form."""
    if profile.form is not Form.CLASSIC:
        raise ValueError("a PET phantom is written as one object per slice only")
    scan, stored, patient = scan_trunk(seed, profile)
    series = _series_of(scan, seed, profile)
    header = make_header(seed, profile.header)
    datasets = pet_datasets(series, header, stored, patient, profile.writing)
    return _study_of(series, header, datasets, scan.truth, profile)


_SERIES: Final = {
    Part.CHEST: ("CT", "CHEST", "PHANTOM CHEST"),
    Part.HEAD: ("MR", "HEADNECK", "PHANTOM T2 FS"),
    Part.TRUNK: ("PT", "CHEST", "PHANTOM FDG"),
}
"""Modality, body part and description of the image series."""


def _series_of(scan: Scan, seed: int, profile: Profile) -> ImageSeries:
    modality, body_part, description = _SERIES[profile.part]
    return ImageSeries(
        seed=seed,
        number=_IMAGE_SERIES,
        modality=modality,
        body_part=body_part,
        description=description,
        values=scan.values,
        grid=scan.grid,
        thickness_mm=profile.thickness_mm or scan.grid.spacing_mm[0],
        cells=profile.cell_format,
        syntax=profile.syntax,
        patient_position=profile.patient_position,
        instance_numbers=_instance_numbers(seed, profile),
        study_key=profile.study_key,
    )


def _study_of(
    series: ImageSeries,
    header: Header,
    datasets: Iterable[Dataset],
    truth: Truth,
    profile: Profile,
) -> PhantomStudy:
    instances = [instance_of(dataset) for dataset in datasets]
    if profile.decoys:
        instances += [instance_of(dataset) for dataset in decoy_datasets(series, header)]
    return PhantomStudy(
        seed=series.seed,
        profile=profile,
        header=header,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        instances=tuple(instances),
        truth=truth,
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


def _instance_numbers(seed: int, profile: Profile) -> tuple[int, ...]:
    """Return the instance number of each slice, from 1."""
    numbers = np.arange(1, profile.shape[0] + 1)
    if profile.numbering is Numbering.DESCENDING:
        numbers = numbers[::-1]
    elif profile.numbering is Numbering.RANDOM:
        numbers = np.random.Generator(np.random.PCG64(seed)).permutation(numbers)
    return tuple(int(number) for number in numbers)
