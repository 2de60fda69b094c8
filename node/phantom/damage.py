"""Studies that are wrong on order: each damage does one thing that scanners and archives do.

Every function of this file takes a good classic study and gives one that a node has to refuse, to
hold or to see through. The truth stays that of the good study.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from node.phantom.grid import Orientation, rotated
from node.phantom.objects import decimals, orientation_text, part10
from node.phantom.study import PhantomInstance, PhantomStudy
from node.phantom.uids import derive_uid

_MOVED_PART = 0.3
_SHIFT_MM = 5.0
_TILT_DEGREES = 15.0
_TURN_DEGREES = 3.0
_KEPT_PART = 0.6


class Damage(StrEnum):
    """What is wrong with a study."""

    MISSING_SLICE = "missing-slice"  # one slice inside the stack never comes
    DUPLICATE_SLICE = "duplicate-slice"  # a copy under another SOP Instance UID, same pixels
    SAME_POSITION = "same-position"  # other pixels at the place of another slice
    SENT_TWICE = "sent-twice"  # the very same instance comes again
    UNEVEN_SPACING = "uneven-spacing"  # one slice moved along the normal
    MOVED_IN_PLANE = "moved-in-plane"  # one slice shifted within its plane
    GANTRY_TILT = "gantry-tilt"  # every slice shifted a step further: a sheared stack
    MIXED_ORIENTATION = "mixed-orientation"  # the upper half is turned by some degrees
    OTHER_PATIENT = "other-patient"  # one slice carries somebody else's identity
    CONFLICT = "conflict"  # one SOP Instance UID comes a second time with other pixels
    TRUNCATED = "truncated"  # one file ends in the middle of its pixels


def damaged(study: PhantomStudy, damage: Damage, *, at: int | None = None) -> PhantomStudy:
    """Return `study` with one thing wrong.

    Args:
        study: A classic study; it is left as it is.
        damage: What shall be wrong.
        at: Index of the slice that is hit; the middle one when None. A tilt hits all, mixed
            orientation all from this one up.

    Raises:
        ValueError: The series is one multi-frame object.
    """
    images = list(study.images)
    if len(images) < 3:
        raise ValueError(f"Damage needs a classic series, this one has {len(images)} objects.")
    index = len(images) // 2 if at is None else at
    others = tuple(one for one in study.instances if one.series_uid != study.series_uid)
    changed = _CHANGES[damage](study, images, index)
    return replace(study, instances=(*changed, *others))


Images = list[PhantomInstance]


def _edited(instance: PhantomInstance, change: Callable[[Dataset], None]) -> PhantomInstance:
    """Return `instance` with its dataset changed."""
    dataset = dcmread(io.BytesIO(instance.data))
    change(dataset)
    return replace(instance, sop_instance_uid=str(dataset.SOPInstanceUID), data=part10(dataset))


def _renamed(dataset: Dataset, why: str) -> None:
    """Give `dataset` another SOP Instance UID."""
    uid = UID(derive_uid(dataset.SOPInstanceUID, why))
    dataset.SOPInstanceUID = uid
    dataset.file_meta.MediaStorageSOPInstanceUID = uid


def _other_pixels(dataset: Dataset) -> None:
    """Turn native pixels upside down, so that they are other pixels of the same size."""
    cells = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    dataset.PixelData = cells[::-1].tobytes()


def _move(dataset: Dataset, by_mm: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Move Image Position (Patient) by a vector in LPS mm."""
    position = np.array([float(value) for value in dataset.ImagePositionPatient])
    dataset.ImagePositionPatient = decimals(position + by_mm)


def _missing(_study: PhantomStudy, images: Images, index: int) -> Images:
    return images[:index] + images[index + 1 :]


def _duplicate(_study: PhantomStudy, images: Images, index: int) -> Images:
    copy = _edited(images[index], lambda dataset: _renamed(dataset, "duplicate"))
    return [*images, copy]


def _same_position(_study: PhantomStudy, images: Images, index: int) -> Images:
    def change(dataset: Dataset) -> None:
        _renamed(dataset, "same-position")
        _other_pixels(dataset)

    return [*images, _edited(images[index], change)]


def _twice(_study: PhantomStudy, images: Images, index: int) -> Images:
    return [*images, images[index]]


def _uneven(study: PhantomStudy, images: Images, index: int) -> Images:
    step = study.truth.affine[:3, 0] * _MOVED_PART
    return _with(images, index, lambda dataset: _move(dataset, step))


def _moved_in_plane(study: PhantomStudy, images: Images, index: int) -> Images:
    column = np.array(study.profile.orientation.column) * _SHIFT_MM
    return _with(images, index, lambda dataset: _move(dataset, column))


def _tilt(study: PhantomStudy, images: Images, _index: int) -> Images:
    shear_mm = study.truth.spacing_mm[0] * np.tan(np.deg2rad(_TILT_DEGREES))
    column = np.array(study.profile.orientation.column) * shear_mm

    def tilted(number: int) -> Callable[[Dataset], None]:
        def change(dataset: Dataset) -> None:
            _move(dataset, column * number)
            if dataset.Modality == "CT":
                dataset.GantryDetectorTilt = decimals((_TILT_DEGREES,))[0]

        return change

    return [_edited(image, tilted(number)) for number, image in enumerate(images)]


def _mixed(study: PhantomStudy, images: Images, index: int) -> Images:
    turned = rotated(study.profile.orientation, degrees=(_TURN_DEGREES, 0.0, 0.0))
    return images[:index] + [_edited(image, _turn(turned)) for image in images[index:]]


def _turn(orientation: Orientation) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = orientation_text(orientation)

    return change


def _other_patient(_study: PhantomStudy, images: Images, index: int) -> Images:
    def change(dataset: Dataset) -> None:
        dataset.PatientName = "PHANTOM^SOMEBODY ELSE"
        dataset.PatientID = "PHANTOM-OTHER"
        dataset.PatientBirthDate = "19700101"

    return _with(images, index, change)


def _conflict(_study: PhantomStudy, images: Images, index: int) -> Images:
    return [*images, _edited(images[index], _other_pixels)]


def _truncated(_study: PhantomStudy, images: Images, index: int) -> Images:
    whole = images[index]
    short = replace(whole, data=whole.data[: int(len(whole.data) * _KEPT_PART)])
    return [*images[:index], short, *images[index + 1 :]]


def _with(images: Images, index: int, change: Callable[[Dataset], None]) -> Images:
    """Return `images` with the one at `index` changed."""
    return [*images[:index], _edited(images[index], change), *images[index + 1 :]]


_CHANGES: dict[Damage, Callable[[PhantomStudy, Images, int], Images]] = {
    Damage.MISSING_SLICE: _missing,
    Damage.DUPLICATE_SLICE: _duplicate,
    Damage.SAME_POSITION: _same_position,
    Damage.SENT_TWICE: _twice,
    Damage.UNEVEN_SPACING: _uneven,
    Damage.MOVED_IN_PLANE: _moved_in_plane,
    Damage.GANTRY_TILT: _tilt,
    Damage.MIXED_ORIENTATION: _mixed,
    Damage.OTHER_PATIENT: _other_patient,
    Damage.CONFLICT: _conflict,
    Damage.TRUNCATED: _truncated,
}
