"""What SUV needs of a PET image, per frame, as one flat header with the names of a classic one.

A classic image is its own flat header. A legacy converted one keeps what the classic headers held
in its unassigned converted attributes. An Enhanced PET Image says it in other attributes: the
unit in a real world value mapping, which must be the rescale of its frame, and the time of decay
correction outright. What its functional groups do not carry stays absent, and the rules of
`suv` name it. Source: PS3.3 C.8.22, C.7.6.16.2.11, C.7.6.16.2.25.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.imaging.attributes import DAMAGE, items, number, text
from node.imaging.enhanced import Groups, frame_groups
from node.imaging.suv import ENHANCED_PET
from node.imaging.values import SourceInstance

_UNITS: Final = {"Bq/ml": "BQML", "Bq/mL": "BQML", "g/ml{SUVbw}": "GML", "{SUVbw}g/ml": "GML"}
"""UCUM codes of PS3.16 CID 84 and 85 and the Units that mean the same."""

_LARGE: Final = frozenset({Tag(0x5200, 0x9229), Tag(0x5200, 0x9230)})
"""The functional groups themselves."""
_CORRECTIONS: Final = (
    ("AttenuationCorrected", "ATTN"),
    ("DecayCorrected", "DECY"),
    ("ScatterCorrected", "SCAT"),
    ("RandomsCorrected", "RAN"),
)


def suv_headers(instances: Sequence[SourceInstance]) -> dict[tuple[str, int | None], Dataset]:
    """Return a flat header for each frame, by SOP Instance UID and frame number."""
    found: dict[tuple[str, int | None], Dataset] = {}
    for instance in instances:
        groups = frame_groups(instance.header)
        if not groups:
            found[instance.sop_instance_uid, None] = instance.header
        for frame, group in enumerate(groups, start=1):
            found[instance.sop_instance_uid, frame] = _flat(instance, group)
    return found


def _flat(instance: SourceInstance, groups: Groups) -> Dataset:
    flat = Dataset()
    _copy(instance.header, flat)
    for sequence in (
        "UnassignedSharedConvertedAttributesSequence",
        "UnassignedPerFrameConvertedAttributesSequence",
        "PixelValueTransformationSequence",
    ):
        _copy(groups.macro(sequence), flat)
    content = groups.macro("FrameContentSequence")
    began = text(content, "FrameAcquisitionDateTime")
    if began and not text(flat, "AcquisitionTime"):
        flat.AcquisitionDateTime = began
    duration_ms = number(content, "FrameAcquisitionDuration")
    if duration_ms is not None and number(flat, "ActualFrameDuration") is None:
        flat.ActualFrameDuration = round(duration_ms)
    if instance.sop_class_uid == ENHANCED_PET:
        _put_enhanced(flat, groups)
    return flat


def _copy(source: Dataset, target: Dataset) -> None:
    """Copy elements as they stand; one that cannot be parsed is as good as absent."""
    for tag in source.keys() - _LARGE:
        with suppress(*DAMAGE):
            target[tag] = source.get_item(tag)


def _put_enhanced(flat: Dataset, groups: Groups) -> None:
    """Write what an Enhanced PET Image says in attributes of its own."""
    flat.Units = _units(groups)
    flat.CorrectedImage = [name for keyword, name in _CORRECTIONS if text(flat, keyword) == "YES"]
    corrected = {"YES": "START", "NO": "NONE"}
    flat.DecayCorrection = corrected.get(text(flat, "DecayCorrected"), "")
    if flat.DecayCorrection == "START" and not text(flat, "DecayCorrectionDateTime"):
        flat.DecayCorrection = ""


def _units(groups: Groups) -> str:
    """Return the unit of a real world value mapping that is the rescale itself, or nothing."""
    mapping = groups.macro("RealWorldValueMappingSequence")
    rescale = groups.transformation()
    pairs = (
        ("RealWorldValueSlope", "RescaleSlope", 1.0),
        ("RealWorldValueIntercept", "RescaleIntercept", 0.0),
    )
    for real, stored, default in pairs:
        value = number(mapping, real)
        scaled = number(rescale, stored)
        scaled = default if scaled is None else scaled
        if value is None or abs(value - scaled) > 1e-6 * abs(scaled):
            return ""
    codes = items(mapping, "MeasurementUnitsCodeSequence")
    return _UNITS.get(text(codes[0], "CodeValue"), "") if codes else ""
