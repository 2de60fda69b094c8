"""The part of a SEG that does not depend on its frames, made by highdicom.

highdicom is given a stand-in source of one small plane instead of the real headers: those carry
what it rejects (sex `U`, missing type 2 elements, jittering orientation, measures per frame) or
copies although it is wrong (Spacing Between Slices). What belongs to the real source (identity,
references, geometry, frames) is put in afterwards by `seg`, from the source itself. Clocks and
random UIDs of the library are taken out, so the same input gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import highdicom
import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from node.errors import setup_error
from node.imaging.attributes import integer
from node.imaging.values import Answer, Code, Segment, Segmentation, Sourced
from node.results.explicit import element, sequence, written
from node.results.uids import ENCODER_VERSION, IMPLEMENTATION_CLASS_UID, derived_uid

MANUFACTURER: Final = "Limner"

_STAND_IN: Final = 16
"""Rows and columns of the stand-in; 16 x 16 has a pixel for each of 255 segments."""

EMPTY_IN_STAND_IN: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)

_FILED_LATER: Final = (
    *EMPTY_IN_STAND_IN,
    "StudyInstanceUID",
    "SOPInstanceUID",
    "SpecificCharacterSet",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "PixelData",
    "SourceImageSequence",
    "ReferencedSeriesSequence",
    "DimensionOrganizationType",
    "LossyImageCompression",
    "ContributingEquipmentSequence",
)
"""Elements of the stand-in, of the clock, or of its one frame; none of them may remain."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What an object says of the installation that made it.

    Attributes:
        name: The node's name; part of the bytes and so of the SOP Instance UID.
        version: Version of this package; likewise.
    """

    name: str
    version: str


def seg_template(
    source: Sourced,
    segmentation: Segmentation,
    *,
    node: NodeFacts,
    key: str,
    series_uid: str,
    content_date: str,
    content_time: str,
    marked: bool = False,
) -> dict[int, bytes]:
    """Return every element of a BINARY SEG that is not the source's and not a frame's.

    Args:
        source: The source; only modality, part and series number are looked at.
        segmentation: Segments and model.
        node: Who makes the object.
        key: The result's key, from which tracking and dimension UIDs follow.
        series_uid: Series Instance UID of the result.
        content_date: Content Date (0008,0023), DA.
        content_time: Content Time (0008,0033), TM.
        marked: Whether the series description begins with the verdict.

    Returns:
        Tag to encoded element.

    Raises:
        SetupError: The segments are not numbered 1, 2, ... as a BINARY SEG needs.
    """
    segments = _numbered(segmentation)
    model = segmentation.model
    mask = np.zeros((1, _STAND_IN, _STAND_IN), np.uint8)
    mask.flat[: len(segments)] = [segment.number for segment in segments]
    purpose = "Research use only" if model.research else "Made"
    made = highdicom.seg.Segmentation(
        source_images=[_stand_in()],
        pixel_array=mask,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(segment, segmentation, key) for segment in segments],
        series_instance_uid=series_uid,
        series_number=series_number(source, model.series_number),
        sop_instance_uid=derived_uid("placeholder"),
        instance_number=source.part,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=[  # type: ignore[arg-type]  # typed as one, several are allowed
            ascii_text(node.version, 64) or "0",
            f"encoder {ENCODER_VERSION}",
        ],
        device_serial_number=ascii_text(node.name, 64) or "none",
        content_label=f"{_code_string(source.modality)}_SEG",
        content_description=ascii_text(f"{purpose}, by AI model {model.name}", 64),
        content_qualification="RESEARCH" if model.research else "PRODUCT",
        content_date=content_date,
        content_time=content_time,
        series_description=series_description(segmentation, marked=marked),
        specific_character_set="ISO_IR 100",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    _replace_chance(made, key)
    use_long_code_values(made)
    made.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    for keyword in _FILED_LATER:
        if keyword in made:
            delattr(made, keyword)
    return {int(tag): written(made[tag]) for tag in sorted(made.keys())}


def series_description(segmentation: Answer, *, marked: bool = False) -> str:
    """Return what a reader sees first: that a machine made it, which one, and for what use.

    A marked one begins with the verdict; 64 characters hold it whole, the name is cut.
    """
    mark = f"{segmentation.verdict.outcome.upper()}: " if marked else ""
    model = segmentation.model
    named = model.series_description or f"{model.name} {model.version}"
    said = "research use" in named.lower()
    ending = " - research use" if model.research and not said else ""
    return ascii_text(f"{mark}AI {named}", 64 - len(ending)) + ending


def equipment_sequence(source: bytes, segmentation: Answer, node: NodeFacts) -> bytes:
    """Return Contributing Equipment Sequence (0018,A001).

    Args:
        source: The source's equipment as encoded elements, copied as they are; may be empty.
        segmentation: Names the model.
        node: Names the node.
    """
    model = segmentation.model
    about = (
        f"{type(segmentation).__name__} model {model.name} {model.version}, "
        f"weights {model.digest[:16]}, "
        f"settings {model.settings_digest[:16]}. {model.intended_use}"
    )
    if model.first is not None:
        about += (
            f" Limited to what {model.first.name} {model.first.version} found, weights "
            f"{model.first.digest[:16]}, settings {model.first.settings_digest[:16]}."
        )
    items = []
    if source:
        items.append(
            source
            + element(0x0018A003, "ST", b"Acquisition equipment of the source images")
            + _purpose(b"109101", b"Acquisition Equipment")
        )
    for maker, product, version, station, text in (
        (MANUFACTURER, model.name, model.version, node.name, about),
        (
            "Highdicom open-source contributors",
            "highdicom",
            highdicom.__version__,
            "",
            "Software library",
        ),
    ):
        items.append(
            element(0x00080070, "LO", ascii_text(maker, 64).encode())
            + (element(0x00081010, "SH", ascii_text(station, 16).encode()) if station else b"")
            + element(0x00081090, "LO", ascii_text(product, 64).encode())
            + element(0x00181020, "LO", ascii_text(version, 64).encode())
            + element(0x0018A003, "ST", ascii_text(text, 1024).encode())
            + _purpose(b"109102", b"Processing Equipment")
        )
    return sequence(0x0018A001, items)


def ascii_text(text: str, longest: int) -> str:
    """Return text that fits a string VR under any character set of the source's.

    Our words stand beside copied text in the source's character set, so they are ASCII.
    """
    plain = text.encode("ascii", "replace").decode().replace("\\", "/")
    return "".join(sign if sign.isprintable() else " " for sign in plain)[:longest].strip()


def _purpose(value: bytes, meaning: bytes) -> bytes:
    return sequence(
        0x0040A170,
        [
            element(0x00080100, "SH", value)
            + element(0x00080102, "SH", b"DCM")
            + element(0x00080104, "LO", meaning)
        ],
    )


def _numbered(segmentation: Segmentation) -> list[Segment]:
    segments = sorted(segmentation.segments, key=lambda segment: segment.number)
    numbers = [segment.number for segment in segments]
    if not segments or numbers != list(range(1, len(segments) + 1)):
        raise setup_error(
            "segment-numbers",
            f"Segments are numbered {numbers}; a BINARY SEG needs 1, 2, 3 and so on.",
            where=f"model {segmentation.model.name}",
            remedy="Number the segments of the card from 1 without gaps.",
        )
    return segments


def _described(
    segment: Segment, segmentation: Segmentation, key: str
) -> highdicom.seg.SegmentDescription:
    model = segmentation.model
    label = ascii_text(segment.label, 64)
    described = highdicom.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=label,
        segmented_property_category=dicom_code(segment.category),
        segmented_property_type=dicom_code(segment.type),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=ascii_text(model.name, 64),
            family=codes.DCM.ArtificialIntelligence,
            version=ascii_text(model.version, 64),
            source=MANUFACTURER,
            parameters={
                "weights_sha256": model.digest,
                "settings_sha256": model.settings_digest,
            },
        ),
        tracking_uid=derived_uid("tracking", key, str(segment.number)),
        tracking_id=f"{ascii_text(model.name, 64)} {label}",
        anatomic_regions=[dicom_code(segment.region)] if segment.region else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
    )
    if segment.modifiers:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [
            highdicom.sr.CodedConcept.from_code(dicom_code(modifier))
            for modifier in segment.modifiers
        ]
    return described


def dicom_code(code: Code) -> DicomCode:
    """Return a code as highdicom takes it, its meaning in ASCII."""
    return DicomCode(code.value, code.scheme, ascii_text(code.meaning, 64))


def _stand_in() -> Dataset:
    """Return a clean one-slice source; nothing of it reaches the object."""
    source = Dataset()
    for keyword in EMPTY_IN_STAND_IN:
        setattr(source, keyword, "")
    source.SOPClassUID = CTImageStorage
    source.SOPInstanceUID = derived_uid("stand-in")
    source.StudyInstanceUID = derived_uid("stand-in study")
    source.SeriesInstanceUID = derived_uid("stand-in series")
    source.FrameOfReferenceUID = derived_uid("stand-in frame of reference")
    source.Modality = "CT"
    source.ImagePositionPatient = [0, 0, 0]
    source.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    source.PixelSpacing = [1, 1]
    source.SliceThickness = 1
    source.Rows = source.Columns = _STAND_IN
    return source


def _replace_chance(made: Dataset, key: str) -> None:
    """Replace the library's random Dimension Organization UID by one that follows from the key."""
    uid = derived_uid("dimensions", key)
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for index in made.DimensionIndexSequence:
        index.DimensionOrganizationUID = uid


def use_long_code_values(made: Dataset) -> None:
    """Move code values that SH cannot hold to Long Code Value (0008,0119), PS3.3 8.1."""

    def move(item: Dataset, given: DataElement) -> None:
        if given.keyword == "CodeValue" and len(given.value) > 16:
            item.LongCodeValue = given.value
            del item.CodeValue

    made.walk(move)


def series_number(source: Sourced, first: int) -> int:
    """Return a number of the model's range that lets people see which series it belongs to."""
    return first + (integer(source.instances[0].header, "SeriesNumber") or 0) % 1000


def _code_string(text: str) -> str:
    """Return at most 12 characters that CS allows."""
    return "".join(sign for sign in text.upper() if sign.isascii() and sign.isalnum())[:12]
