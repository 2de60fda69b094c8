"""Where each slice of a volume lies, in its source's own words.

A frame of a SEG repeats the position of the slice it was computed on exactly as that slice says
it, so that viewers which match planes by value find it. Classic instances say it at the root,
enhanced ones in the functional groups, shared or per frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from node.imaging.attributes import number
from node.imaging.values import Refusal, Volume
from node.reasons import Reason

_SNAP: Final = 1e-4
"""Direction cosines that differ by less are one orientation (some scanners jitter by 1e-7)."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice's source and place.

    Attributes:
        class_uid: SOP Class UID of the instance it came from.
        uid: SOP Instance UID of the instance it came from.
        frame: Frame number from 1 in a multi-frame instance, None for a single-frame one.
        position: Image Position (Patient) as DS text.
    """

    class_uid: str
    uid: str
    frame: int | None
    position: str


@dataclass(frozen=True, slots=True)
class Planes:
    """All slices of a volume, in its order, and what they share.

    Attributes:
        planes: One per slice, ascending along row x column.
        orientation: Image Orientation (Patient) as DS text, the first slice's.
        pixel_spacing: Pixel Spacing as DS text, the first slice's.
        thickness: Slice Thickness as DS text; the distance of slices where the source has none.
        distance: Distance between slices as DS text, from the volume's affine.
    """

    planes: tuple[Plane, ...]
    orientation: str
    pixel_spacing: str
    thickness: str
    distance: str


def read_planes(volume: Volume) -> Planes | Refusal:
    """Read the source and place of every slice.

    Spacing Between Slices of the source is never read: it may contradict the positions, and a
    reader that believes it drops slices without an error.

    Returns:
        The planes, or a refusal where the slices' orientations differ by more than jitter.
    """
    planes = []
    orientations = []
    for piece in volume.slices:
        header = volume.instances[piece.instance].header
        place = _group(header, piece.frame, "PlanePositionSequence")
        turn = _group(header, piece.frame, "PlaneOrientationSequence")
        orientations.append([float(value) for value in turn.ImageOrientationPatient])
        planes.append(
            Plane(
                class_uid=str(header.SOPClassUID),
                uid=str(header.SOPInstanceUID),
                frame=piece.frame,
                position=_ds_text(place.ImagePositionPatient),
            )
        )
    spread = np.abs(np.asarray(orientations) - orientations[0]).max(axis=1)
    if spread.max() > _SNAP:
        worst = planes[int(spread.argmax())]
        return Refusal(
            Reason.MIXED_ORIENTATION,
            f"The orientation of {worst.uid} differs from that of {planes[0].uid} by "
            f"{spread.max():.2g} in a direction cosine; up to {_SNAP:g} is one orientation.",
            series_uid=volume.series_uid,
            modality=volume.modality,
            part=volume.part,
            instances=(planes[0].uid, worst.uid),
        )
    first = volume.slices[0]
    header = volume.instances[first.instance].header
    measures = _group(header, first.frame, "PixelMeasuresSequence")
    turn = _group(header, first.frame, "PlaneOrientationSequence")
    distance = _number_text(volume.spacing_mm[0])
    thickness = number(measures, "SliceThickness") or 0.0
    return Planes(
        planes=tuple(planes),
        orientation=_ds_text(turn.ImageOrientationPatient),
        pixel_spacing=_ds_text(measures.PixelSpacing),
        thickness=_ds_text([measures.SliceThickness]) if thickness > 0 else distance,
        distance=distance,
    )


def _number_text(value: float) -> str:
    """Return a number as DS text of at most 16 characters, without float dust."""
    return str(format_number_as_ds(round(value, 9)))


def _ds_text(values: object) -> str:
    """Return DS values in the sender's own digits; longer than DS allows is shortened."""
    texts = []
    for value in values:  # type: ignore[attr-defined]
        text = str(value).strip()
        texts.append(text if len(text) <= 16 else str(format_number_as_ds(float(value))))
    return "\\".join(texts)


def _group(header: Dataset, frame: int | None, keyword: str) -> Dataset:
    """Return the dataset that holds a functional group's attributes for one frame.

    PS3.3 C.7.6.16: per frame, else shared; a classic instance holds them at the root.
    """
    if "PerFrameFunctionalGroupsSequence" in header:
        own = header.PerFrameFunctionalGroupsSequence[(frame or 1) - 1]
        if own.get(keyword):
            return _first(own, keyword)
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        if shared.get(keyword):
            return _first(shared, keyword)
    return header


def _first(groups: Dataset, keyword: str) -> Dataset:
    item: Dataset = groups[keyword].value[0]
    return item
