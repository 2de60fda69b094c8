"""Frames of an enhanced multi-frame instance, each as if it were a file of its own.

Per-frame functional groups override shared ones. Positions decide the order; stack and
dimension values only split what lies at one place, because they are optional in converted
objects and contradict the positions in some vendors' files.
Source: PS3.3 C.7.6.16.
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import decimals, integer, items, numbers, text, texts, values
from node.imaging.frames import Frame, depths_mm, rescale_type
from node.imaging.values import SourceInstance
from node.reasons import Reason

_SPLITTING: Final = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "TemporalPositionTimeOffset"),
    ("TemporalPositionSequence", "TemporalPositionTimeOffset"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("FrameContentSequence", "FrameAcquisitionDateTime"),
)
"""Macro and attribute that may tell two frames at one position apart, the plainest first."""

_FRAME_TYPES: Final = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
)


class Groups:
    """The functional groups of one frame: per-frame items first, then shared ones."""

    def __init__(self, frame: Dataset, shared: Dataset | None, top: Dataset) -> None:
        self._frame, self._shared, self._top = frame, shared, top

    def macro(self, keyword: str) -> Dataset:
        """Return the first item of a functional group sequence, an empty dataset if absent."""
        for place in (self._frame, self._shared):
            found = items(place, keyword) if place is not None else ()
            if found:
                return found[0]
        return Dataset()

    def transformation(self) -> Dataset:
        """Return where the modality transformation of this frame stands."""
        found = self.macro("PixelValueTransformationSequence")
        return found if len(found) else self._top


def is_enhanced(instance: SourceInstance) -> bool:
    """Return whether an instance has functional groups, or several frames at all."""
    frames = text(instance.header, "NumberOfFrames")
    return "PerFrameFunctionalGroupsSequence" in instance.header or frames not in ("", "1")


def frame_groups(header: Dataset) -> tuple[Groups, ...]:
    """Return the functional groups of every frame, none if the instance has none."""
    shared = items(header, "SharedFunctionalGroupsSequence")
    first = shared[0] if shared else None
    return tuple(
        Groups(frame, first, header) for frame in items(header, "PerFrameFunctionalGroupsSequence")
    )


def enhanced_frames(instance: SourceInstance) -> list[Frame] | tuple[Reason, str]:
    """Return the frames of a multi-frame instance, or why there are none."""
    header = instance.header
    count = integer(header, "NumberOfFrames")
    if count is None or count < 1:
        return Reason.BAD_HEADER, "NumberOfFrames is not a whole number above 0."
    groups = frame_groups(header)
    if not groups:
        return Reason.NO_GEOMETRY, "Multi-frame without functional groups: no frame has a place."
    if len(groups) != count:
        return (
            Reason.BAD_HEADER,
            f"NumberOfFrames is {count}, but {len(groups)} frames have functional groups.",
        )
    return [_frame(instance, number, group) for number, group in enumerate(groups, start=1)]


def _frame(instance: SourceInstance, number: int, groups: Groups) -> Frame:
    header = instance.header
    measures = groups.macro("PixelMeasuresSequence")
    place = groups.macro("PlanePositionSequence")
    content = groups.macro("FrameContentSequence")
    kind = next((found for name in _FRAME_TYPES if (found := _kind(groups.macro(name)))), ())
    keys = {
        keyword: "\\".join(texts(groups.macro(macro), keyword)) for macro, keyword in _SPLITTING
    }
    directions = items(groups.macro("MRDiffusionSequence"), "DiffusionGradientDirectionSequence")
    for direction in directions[:1]:
        keys["DiffusionGradientOrientation"] = "\\".join(
            texts(direction, "DiffusionGradientOrientation")
        )
    keys["FrameType"] = "\\".join(kind[2:])
    for axis, value in enumerate(values(content, "DimensionIndexValues"), start=1):
        keys[f"DimensionIndexValues {axis}"] = str(value)
    keys["SOPInstanceUID"] = instance.sop_instance_uid
    return Frame(
        instance=instance,
        number=number,
        rows=integer(header, "Rows") or 0,
        columns=integer(header, "Columns") or 0,
        position=numbers(place, "ImagePositionPatient", 3),
        orientation=numbers(groups.macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        spacing=numbers(measures, "PixelSpacing", 2),
        decimals=decimals(place, "ImagePositionPatient"),
        depths_mm=depths_mm(measures),
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        rescale_type=rescale_type(groups.transformation()),
        stack=text(content, "StackID"),
        kind=kind,
        keys=keys,
    )


def _kind(frame_type: Dataset) -> tuple[str, ...]:
    return tuple(value.upper() for value in texts(frame_type, "FrameType"))
