"""Whose study it is: copied to the byte from the source, or refused.

A result is filed by patient and study, so these elements are taken as raw bytes, with the
character set they are written in, from a source on which all instances agree. Nothing is
decoded on the way: a name in a damaged or unusual character set, or with trailing blanks, stays
as it is. Explanations name attributes and UIDs, never values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset

from node.imaging.values import FramesPlan, Refusal, Sourced
from node.reasons import Reason
from node.results.explicit import copied, element
from node.results.sources import open_header


def _tags(keywords: str) -> tuple[int, ...]:
    """Return the tags of keywords that this pydicom's dictionary knows."""
    found = (tag_for_keyword(keyword) for keyword in keywords.split())
    return tuple(tag for tag in found if tag is not None)


_CHARSET: Final = 0x00080005
_STUDY_UID: Final = 0x0020000D
_SERIES_UID: Final = 0x0020000E
_FRAME_OF_REFERENCE: Final = 0x00200052
_PATIENT_ID: Final = 0x00100020

_PATIENT: Final = _tags(
    "ReferencedPatientSequence PatientName PatientID IssuerOfPatientID TypeOfPatientID "
    "IssuerOfPatientIDQualifiersSequence SourcePatientGroupIdentificationSequence "
    "GroupOfPatientsIdentificationSequence PatientBirthDate PatientBirthTime "
    "PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar "
    "PatientAlternativeCalendar PatientSex QualityControlSubject StrainDescription "
    "StrainNomenclature StrainStockSequence StrainAdditionalInformation StrainCodeSequence "
    "GeneticModificationsSequence OtherPatientIDs OtherPatientNames OtherPatientIDsSequence "
    "ReferencedPatientPhotoSequence EthnicGroup EthnicGroupCodeSequence EthnicGroups "
    "PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription "
    "PatientBreedCodeSequence BreedRegistrationSequence ResponsiblePerson "
    "ResponsiblePersonRole ResponsibleOrganization PatientComments PatientIdentityRemoved "
    "DeidentificationMethod DeidentificationMethodCodeSequence"
)
"""Patient Module (PS3.3 C.7.1.1), with two retired elements that archives still match on."""

_TRIAL: Final = _tags(
    "ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName "
    "IssuerOfClinicalTrialProtocolID OtherClinicalTrialProtocolIDsSequence ClinicalTrialSiteID "
    "ClinicalTrialSiteName IssuerOfClinicalTrialSiteID ClinicalTrialSubjectID "
    "IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID "
    "IssuerOfClinicalTrialSubjectReadingID ClinicalTrialProtocolEthicsCommitteeName "
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber ClinicalTrialTimePointID "
    "ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent "
    "LongitudinalTemporalEventType ClinicalTrialTimePointTypeCodeSequence "
    "IssuerOfClinicalTrialTimePointID ConsentForClinicalTrialUseSequence"
)
"""Clinical Trial Subject and Study Modules (PS3.3 C.7.1.3, C.7.2.3)."""

_STUDY: Final = _tags(
    "StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence ReferringPhysicianName "
    "ReferringPhysicianIdentificationSequence ConsultingPhysicianName "
    "ConsultingPhysicianIdentificationSequence StudyDescription ProcedureCodeSequence "
    "PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy "
    "PhysiciansReadingStudyIdentificationSequence ReferencedStudySequence StudyInstanceUID "
    "StudyID RequestingService RequestingServiceCodeSequence "
    "ReasonForPerformedProcedureCodeSequence"
)
"""General Study Module (PS3.3 C.7.2.1)."""

_PATIENT_STUDY: Final = _tags(
    "AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize "
    "PatientSizeCodeSequence PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension "
    "PatientWeight MedicalAlerts Allergies Occupation SmokingStatus AdditionalPatientHistory "
    "PregnancyStatus LastMenstrualDate PatientSexNeutered ReasonForVisit "
    "ReasonForVisitCodeSequence AdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID "
    "ServiceEpisodeDescription IssuerOfServiceEpisodeIDSequence PatientState"
)
"""Patient Study Module (PS3.3 C.7.2.2)."""

_COMMON: Final = _tags(
    "SpecificCharacterSet TimezoneOffsetFromUTC LongitudinalTemporalInformationModified "
    "FrameOfReferenceUID PositionReferenceIndicator"
)
"""What the copied text and times are written in, and the frame of reference."""

IDENTITY_TAGS: Final = tuple(sorted({*_PATIENT, *_TRIAL, *_STUDY, *_PATIENT_STUDY, *_COMMON}))
"""Every element that a result has from its source and from nowhere else."""

_EMPTY_IF_ABSENT: Final = {
    tag_for_keyword(keyword): vr
    for keyword, vr in {
        "PatientName": "PN",
        "PatientID": "LO",
        "PatientBirthDate": "DA",
        "PatientSex": "CS",
        "StudyDate": "DA",
        "StudyTime": "TM",
        "AccessionNumber": "SH",
        "ReferringPhysicianName": "PN",
        "StudyID": "SH",
        "PositionReferenceIndicator": "LO",
    }.items()
}
"""Type 2: present and empty where the source has not even the element."""

_MUST_AGREE: Final = {
    "PatientName": "patient name",
    "PatientID": "patient ID",
    "IssuerOfPatientID": "issuer of the patient ID",
    "PatientBirthDate": "birth date",
    "PatientSex": "sex",
    "StudyInstanceUID": "study",
    "AccessionNumber": "accession number",
    "SeriesInstanceUID": "series",
    "FrameOfReferenceUID": "frame of reference",
}

_CARRIED: Final = _tags("BodyPartExamined Laterality PatientPosition")
"""Series-level facts that hold for the result as for its source, where all instances agree."""

_EQUIPMENT: Final = _tags(
    "Manufacturer InstitutionName InstitutionAddress StationName InstitutionalDepartmentName "
    "ManufacturerModelName DeviceSerialNumber SoftwareVersions"
)


_PLACE: Final = _tags("FrameOfReferenceUID PositionReferenceIndicator")
"""What says in whose coordinates pixels lie; frames of ultrasound have none, whatever they say."""


def identity_tags(source: Sourced) -> tuple[int, ...]:
    """Return every element that a result of this source has from it and from nowhere else."""
    if not isinstance(source, FramesPlan):
        return IDENTITY_TAGS
    return tuple(tag for tag in IDENTITY_TAGS if tag not in _PLACE)


@dataclass(frozen=True, slots=True)
class Identity:
    """Patient, study and frame of reference, as encoded elements.

    Attributes:
        elements: Tag to the whole element in explicit VR little endian.
        carried: The same for body part, laterality and patient position.
        equipment: The source's equipment, elements sorted by tag, one behind the other.
        digest: SHA-256 over `elements`, hex.
        study_uid: Study Instance UID.
        series_uid: Series Instance UID of the source.
    """

    elements: Mapping[int, bytes]
    carried: Mapping[int, bytes]
    equipment: bytes
    digest: str
    study_uid: str
    series_uid: str


def read_identity(source: Sourced, *, empty_patient_id_allowed: bool = False) -> Identity | Refusal:
    """Read the identity block from the files of a volume.

    Args:
        source: A volume, or frames; its instances' files are opened again.
        empty_patient_id_allowed: Take a source without patient ID if it has a name and a birth
            date.

    Returns:
        The identity of the first instance, or a refusal: the instances do not agree on patient,
        study, series and frame of reference, or nothing says who the patient is.
    """
    headers = [open_header(instance.file) for instance in source.instances]
    refusal = _disagreement(source, headers)
    if refusal is not None:
        return refusal
    for other in source.others:
        refusal = _other_patient(source, headers[0], other)
        if refusal is not None:
            return refusal
    first = headers[0]
    tags = identity_tags(source)
    reason, missing = _missing(first, tags, empty_patient_id_allowed=empty_patient_id_allowed)
    if reason is not None:
        uid = source.instances[0].sop_instance_uid
        return _refusal(source, reason, f"{missing} ({uid}).", (uid,))
    elements = {tag: copied(first, tag) for tag in tags if tag in first}
    for tag, vr in _EMPTY_IF_ABSENT.items():
        if tag in tags:
            elements.setdefault(tag, element(tag, vr, b""))
    return Identity(
        elements=elements,
        carried=_agreed(headers, _CARRIED),
        equipment=b"".join(copied(first, tag) for tag in sorted(_EQUIPMENT) if tag in first),
        digest=hashlib.sha256(b"".join(elements[tag] for tag in sorted(elements))).hexdigest(),
        study_uid=_raw(first, _STUDY_UID).decode("ascii", "replace"),
        series_uid=_raw(first, _SERIES_UID).decode("ascii", "replace"),
    )


def _disagreement(source: Sourced, headers: list[FileDataset]) -> Refusal | None:
    first_uid = source.instances[0].sop_instance_uid
    for instance, header in zip(source.instances, headers, strict=True):
        uid = instance.sop_instance_uid
        if _raw(header, 0x00080018).decode("ascii", "replace") != uid:
            return _refusal(
                source, Reason.MIXED_IDENTITY, f"The file of {uid} holds another instance.", (uid,)
            )
        differing = [
            words
            for keyword, words in _MUST_AGREE.items()
            if _meaning(header, keyword) != _meaning(headers[0], keyword)
        ]
        if differing:
            return _refusal(
                source,
                Reason.MIXED_IDENTITY,
                f"Instances {first_uid} and {uid} differ in {', '.join(differing)}, so the "
                "result would belong to one of two.",
                (first_uid, uid),
            )
    return None


def _other_patient(source: Sourced, first: FileDataset, other: Sourced) -> Refusal | None:
    """Return a refusal if a further channel is not of the same patient, study and frame."""
    for instance in other.instances:
        header = open_header(instance.file)
        differing = [
            words
            for keyword, words in _MUST_AGREE.items()
            if keyword != "SeriesInstanceUID"
            and _meaning(header, keyword) != _meaning(first, keyword)
        ]
        if differing:
            uids = (source.instances[0].sop_instance_uid, instance.sop_instance_uid)
            return _refusal(
                source,
                Reason.MIXED_IDENTITY,
                f"Instances {uids[0]} and {uids[1]} of two channels differ in "
                f"{', '.join(differing)}, so the result would belong to one of two.",
                uids,
            )
    return None


def _missing(
    header: Dataset, tags: Sequence[int], *, empty_patient_id_allowed: bool
) -> tuple[Reason | None, str]:
    """Return why a header does not say whose and where it is, if it does not."""
    if not _raw(header, _STUDY_UID):
        return Reason.MIXED_IDENTITY, "The instance carries no Study Instance UID"
    if _FRAME_OF_REFERENCE in tags and not _raw(header, _FRAME_OF_REFERENCE):
        return Reason.NO_FRAME_OF_REFERENCE, "The instance carries no Frame of Reference UID"
    if _raw(header, _PATIENT_ID):
        return None, ""
    if not empty_patient_id_allowed:
        return Reason.MIXED_IDENTITY, "The patient ID is empty, so nothing says whose result it is"
    if not (_raw(header, 0x00100010) and _raw(header, 0x00100030)):
        return (
            Reason.MIXED_IDENTITY,
            "The patient ID is empty and name and birth date do not both stand in for it",
        )
    return None, ""


def _meaning(header: Dataset, keyword: str) -> tuple[bytes, bytes]:
    """Return a value without padding, and its character set where that decides what it says."""
    tag = tag_for_keyword(keyword)
    value = _raw(header, tag) if tag is not None else b""
    plain = value.isascii() and b"\x1b" not in value
    return value, b"" if plain else _raw(header, _CHARSET)


def _raw(header: Dataset, tag: int) -> bytes:
    """Return an element's bytes without padding, empty if it is absent."""
    if tag not in header:
        return b""
    held = header.get_item(tag)
    value = held.value if isinstance(held, RawDataElement) else str(held.value).encode()
    return (value or b"").rstrip(b" \0")


def _agreed(headers: Iterable[Dataset], tags: Iterable[int]) -> dict[int, bytes]:
    """Return the elements that all headers hold with one value."""
    headers = list(headers)
    return {
        tag: copied(headers[0], tag)
        for tag in tags
        if _raw(headers[0], tag) and len({_raw(header, tag) for header in headers}) == 1
    }


def _refusal(
    source: Sourced, reason: Reason, explanation: str, instances: tuple[str, ...]
) -> Refusal:
    return Refusal(
        reason,
        explanation,
        series_uid=source.series_uid,
        modality=source.modality,
        part=source.part,
        instances=instances,
    )
