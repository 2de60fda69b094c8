"""A classification as a Comprehensive 3D SR by template TID 1500 (PS3.16), made by highdicom.

One group of measurements and qualitative evaluations per finding: its code, whether it is present,
its probability, and the algorithm. highdicom sees stand-ins of the source that hold UIDs alone, so
that identity, clocks and its own random UIDs never get in: identity is copied from the source's
bytes, as in a SEG. The document is complete, preliminary and unverified: nobody has looked at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import Comprehensive3DSRStorage

from node.imaging.values import (
    Classification,
    Refusal,
    ScoredFinding,
    SourceInstance,
    Volume,
    every_source,
)
from node.results.explicit import element, written
from node.results.identity import Identity, read_identity
from node.results.part10 import object_file
from node.results.seg import content_time
from node.results.template import (
    EMPTY_IN_STAND_IN,
    MANUFACTURER,
    NodeFacts,
    ascii_text,
    dicom_code,
    equipment_sequence,
    series_description,
    series_number,
    use_long_code_values,
)
from node.results.uids import ENCODER_VERSION, IMPLEMENTATION_CLASS_UID, derived_uid

CERTAINTY: Final = DicomCode("111012", "DCM", "Certainty of Finding")
NOT_IN_A_REPORT: Final = (0x00200052, 0x00201040)
"""Frame of Reference UID and Position Reference Indicator: a report lies nowhere."""

_FILED_LATER: Final = (
    *EMPTY_IN_STAND_IN,
    "StudyInstanceUID",
    "SOPInstanceUID",
    "SpecificCharacterSet",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContributingEquipmentSequence",
)


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """An SR as bytes, with what a row says of it.

    Attributes:
        data: The PS3.10 file.
        sop_uid: SOP Instance UID.
        series_uid: Series Instance UID.
    """

    data: bytes
    sop_uid: str
    series_uid: str


def probability_percent(found: ScoredFinding) -> float:
    """Return a probability in percent as it stands in the report."""
    return round(100 * found.probability, 2)


def classification_report(
    volume: Volume,
    answer: Classification,
    *,
    key: str,
    node: NodeFacts,
    marked: bool = False,
    empty_patient_id_allowed: bool = False,
) -> WrittenReport | Refusal:
    """Write a classification as an SR in explicit VR little endian.

    Args:
        volume: The source, with the files it was read from.
        answer: The findings.
        key: The result's key.
        node: Who makes the object.
        marked: Whether the series description begins with the verdict.
        empty_patient_id_allowed: See `identity.read_identity`.

    Returns:
        The object, or a refusal where the identity of the source is in doubt.
    """
    identity = read_identity(volume, empty_patient_id_allowed=empty_patient_id_allowed)
    if isinstance(identity, Refusal):
        return identity
    series_uid = derived_uid("series", key, identity.digest, node.name, node.version)
    made = sr.Comprehensive3DSR(
        evidence=[
            _stand_in(instance, each.series_uid, identity)
            for each in every_source(volume)
            for instance in each.instances
        ],
        content=_content(volume, answer, key, node)[0],
        series_instance_uid=series_uid,
        series_number=series_number(volume, answer.model.series_number),
        sop_instance_uid=derived_uid("placeholder"),
        instance_number=volume.part,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=series_description(answer, marked=marked),
        specific_character_set="ISO_IR 100",
    )
    day, hour = content_time([one.header for one in volume.instances])
    made["ContentDate"].value, made["ContentTime"].value = day, hour
    made.ManufacturerModelName = MANUFACTURER
    versions = [ascii_text(node.version, 64) or "0", f"encoder {ENCODER_VERSION}"]
    made.add_new("SoftwareVersions", "LO", versions)
    made.DeviceSerialNumber = ascii_text(node.name, 64) or "none"
    made.InstanceCreatorUID = IMPLEMENTATION_CLASS_UID
    use_long_code_values(made)
    for keyword in _FILED_LATER:
        if keyword in made:
            del made[keyword]
    elements = {int(one.tag): written(one) for one in made}
    elements |= {tag: data for tag, data in identity.elements.items() if tag not in NOT_IN_A_REPORT}
    elements[0x0018A001] = equipment_sequence(identity.equipment, answer, node)
    elements.setdefault(0x00080090, element(0x00080090, "PN", b""))
    data, sop_uid = object_file(elements, Comprehensive3DSRStorage)
    return WrittenReport(data, sop_uid, series_uid)


def _content(
    volume: Volume, answer: Classification, key: str, node: NodeFacts
) -> sr.MeasurementReport:
    model = answer.model
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", node.name),
            name=ascii_text(node.name, 64) or "limner",
            manufacturer_name=MANUFACTURER,
            model_name=ascii_text(model.name, 64),
        ),
    )
    first = volume.instances[volume.slices[0].instance]
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            _group(one, answer, key, first.sop_class_uid, first.sop_instance_uid)
            for one in answer.findings
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )


def _group(
    found: ScoredFinding, answer: Classification, key: str, sop_class: str, sop_uid: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    model = answer.model
    code = dicom_code(found.finding.code)
    label = ascii_text(found.finding.label, 64)
    percent = probability_percent(found)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derived_uid("tracking", key, label), identifier=f"{model.name} {label}"[:64]
        ),
        finding_type=code,
        algorithm_id=sr.AlgorithmIdentification(
            name=ascii_text(model.name, 64),
            version=ascii_text(model.version, 64),
            parameters=[
                f"weights_sha256 {model.digest}",
                f"settings_sha256 {model.settings_digest}",
                f"present from {100 * found.finding.threshold:g} %",
                ascii_text(model.intended_use, 512),
            ],
        ),
        measurements=[sr.Measurement(name=CERTAINTY, value=percent, unit=codes.UCUM.Percent)],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=code, value=codes.SCT.Present if found.present else codes.SCT.Absent
            )
        ],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                referenced_sop_class_uid=sop_class, referenced_sop_instance_uid=sop_uid
            )
        ],
    )


def _stand_in(instance: SourceInstance, series_uid: str, identity: Identity) -> Dataset:
    """Return what highdicom must know of one source: its UIDs, and nothing of the patient."""
    source = Dataset()
    for keyword in EMPTY_IN_STAND_IN:
        setattr(source, keyword, "")
    source.SOPClassUID = instance.sop_class_uid
    source.SOPInstanceUID = instance.sop_instance_uid
    source.StudyInstanceUID = identity.study_uid
    source.SeriesInstanceUID = series_uid
    return source
