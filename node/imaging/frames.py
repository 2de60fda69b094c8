"""One image plane as its header describes it: the unit from which volumes are put together.

A single-frame instance is one frame; an enhanced instance is one per item of its per-frame
functional groups. Nothing behind this module asks which of the two it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from node.imaging.attributes import decimals, integer, number, numbers, text, texts
from node.imaging.kinds import image_type
from node.imaging.values import SourceInstance

SPLITTING_KEYWORDS: Final = (
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "EchoNumbers",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "ComplexImageComponent",
    "FrameReferenceTime",
    "ContrastBolusAgent",
    "AcquisitionDateTime",
    "AcquisitionTime",
)
"""Attributes that may tell two volumes of one series apart, the plainest first."""

MEASURED_KEYWORDS: Final = frozenset(
    {
        "ComplexImageComponent",
        "DiffusionBValue",
        "DiffusionGradientOrientation",
        "EchoNumbers",
        "EchoTime",
        "EffectiveEchoTime",
        "FlipAngle",
        "FrameType",
        "ImageType",
        "InversionTime",
        "NominalCardiacTriggerDelayTime",
        "TemporalPositionIdentifier",
        "TemporalPositionIndex",
        "TriggerTime",
    }
)
"""Those that name what was measured, so that several of them may split a series together."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image plane.

    Attributes:
        instance: Where it lies.
        number: Frame number from 1 in a multi-frame instance, None for a single-frame one.
        rows: Rows (0028,0010), 0 if malformed.
        columns: Columns (0028,0011), 0 if malformed.
        position: ImagePositionPatient in mm, empty if absent or malformed.
        orientation: ImageOrientationPatient, empty if absent or malformed.
        spacing: PixelSpacing in mm, empty if absent or malformed.
        decimals: Digits after the point of the most precise position text.
        depths_mm: SpacingBetweenSlices and SliceThickness where present, without sign.
        frame_of_reference: Frame of Reference UID, empty if absent.
        rescale_type: RescaleType (0028,1054) or ModalityLUTType (0028,3004), empty if absent.
        stack: StackID (0020,9056), empty if absent.
        kind: ImageType or FrameType in capitals.
        keys: What may tell it from another frame at its position.
    """

    instance: SourceInstance
    number: int | None
    rows: int
    columns: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    decimals: int
    depths_mm: tuple[float, ...]
    frame_of_reference: str
    rescale_type: str
    stack: str
    kind: tuple[str, ...]
    keys: Mapping[str, str]

    @property
    def placed(self) -> bool:
        """Return whether it says where in the patient its pixels lie."""
        return bool(self.position and self.orientation and self.spacing)


def classic_frame(instance: SourceInstance) -> Frame:
    """Return the only frame of a single-frame instance."""
    header = instance.header
    kind = image_type(instance)
    keys = {keyword: "\\".join(texts(header, keyword)) for keyword in SPLITTING_KEYWORDS}
    keys["ImageType"] = "\\".join(kind[2:])
    return Frame(
        instance=instance,
        number=None,
        rows=integer(header, "Rows") or 0,
        columns=integer(header, "Columns") or 0,
        position=numbers(header, "ImagePositionPatient", 3),
        orientation=numbers(header, "ImageOrientationPatient", 6),
        spacing=numbers(header, "PixelSpacing", 2),
        decimals=decimals(header, "ImagePositionPatient"),
        depths_mm=depths_mm(header),
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        rescale_type=rescale_type(header),
        stack="",
        kind=kind,
        keys=keys,
    )


def depths_mm(dataset: Dataset) -> tuple[float, ...]:
    """Return SpacingBetweenSlices and SliceThickness where present, without their sign."""
    found = (number(dataset, name) for name in ("SpacingBetweenSlices", "SliceThickness"))
    return tuple(abs(value) for value in found if value)


def rescale_type(dataset: Dataset) -> str:
    """Return what stored values become: the type of the modality LUT, else of the rescale."""
    lut = dataset.get("ModalityLUTSequence")
    if lut:
        return text(lut[0], "ModalityLUTType").upper() or "US"
    return text(dataset, "RescaleType").upper()
