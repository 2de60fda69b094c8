"""Plan the frames of ultrasound images from their headers: what can be read, and where tissue is.

An ultrasound image has no place in the patient, so each instance stands for itself: a still is
one frame, a cine many, and nothing is ever stacked into a volume.
Source: PS3.3 A.6, A.7, C.8.5.
"""

from __future__ import annotations

from typing import Final

from node.imaging.attributes import integer, text
from node.imaging.colour import Space, declared_space
from node.imaging.frame_times import read_frame_times
from node.imaging.kinds import SECONDARY_CAPTURE, ULTRASOUND_CLASSES
from node.imaging.pixel_format import pixel_format, refuse_format
from node.imaging.regions import read_regions
from node.imaging.values import FramesPlan, SourceInstance
from node.reasons import Reason

_MODALITIES: Final = ("US", "IVUS")
_COLOUR_BITS: Final = 8

MOST_FRAMES: Final = 1 << 17
"""Frames of one image: an hour at 36 a second. A header may promise two thousand million."""


def is_frames(instance: SourceInstance) -> bool:
    """Return whether an instance is an ultrasound image: by its class, or captured as one."""
    if instance.sop_class_uid in ULTRASOUND_CLASSES:
        return True
    captured = (instance.sop_class_uid + ".").startswith(SECONDARY_CAPTURE + ".")
    return captured and text(instance.header, "Modality").upper() in _MODALITIES


def plan_frames(instance: SourceInstance) -> FramesPlan | tuple[Reason, str]:
    """Return the plan of an ultrasound image as part 1 of its series, or why there is none."""
    header, place = instance.header, instance.pixels
    fault = refuse_format(instance)
    if fault is not None:
        return fault
    space = declared_space(header)
    if not isinstance(space, Space):
        return Reason.BAD_HEADER, space
    assert place is not None  # noqa: S101  refuse_format saw it
    form = pixel_format(header, place)
    if isinstance(form, str):
        return Reason.BAD_HEADER, form
    if form.floating or (form.samples == 3 and form.bits_stored != _COLOUR_BITS):
        return Reason.BAD_HEADER, f"Colour of {form.bits_stored} bits is not supported."
    if form.halved and form.columns % 2:
        return Reason.BAD_HEADER, "YBR_FULL_422 needs an even number of columns."
    if form.frames > MOST_FRAMES:
        return Reason.BAD_HEADER, f"{form.frames} frames are more than an image may have."
    regions = read_regions(header, form.rows, form.columns)
    times = read_frame_times(header, form.frames)
    notes = [*regions.notes, *times.notes]
    if instance.sop_class_uid not in ULTRASOUND_CLASSES:
        notes.append("It is a secondary capture: what its pixels show may have been drawn over.")
    multiple = integer(header, "NumberOfFrames") is not None
    row_mm, column_mm = regions.spacing_mm or (None, None)
    return FramesPlan(
        series_uid=text(header, "SeriesInstanceUID"),
        study_uid=text(header, "StudyInstanceUID"),
        part=1,
        modality=text(header, "Modality"),
        shape=(form.frames, form.rows, form.columns),
        spacing_mm=(None, row_mm, column_mm),
        units="grey",
        instance=instance,
        frame_numbers=tuple(range(1, form.frames + 1)) if multiple else (None,),
        regions=regions.found,
        frame_time_ms=times.each_ms,
        frame_times_ms=times.at_ms,
        notes=tuple(notes),
    )
