"""The last check of a report against its source and against what the model said.

The finished bytes are read again by pydicom alone; nothing of the writer is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage

from node.imaging.attributes import tolerated
from node.imaging.values import Classification, Volume, every_source
from node.results.gate import identity_faults, name_faults, said
from node.results.sources import open_header

_NOT_CARRIED = (0x00200052, 0x00201040)
"""Frame of Reference UID and Position Reference Indicator: a report lies nowhere."""

_SAME_PERCENT = 0.005 + 1e-9
"""Half of the last digit that a report shows."""


def check_report(data: bytes, volume: Volume, answer: Classification) -> tuple[str, ...]:
    """Return what is wrong with a finished SR, a sentence each; empty if it may go out.

    Args:
        data: The PS3.10 file as it will be stored.
        volume: The source, with its files.
        answer: The findings that were meant.
    """
    headers = [open_header(instance.file) for instance in volume.instances]
    with tolerated():
        try:
            report = dcmread(BytesIO(data))
        except InvalidDicomError:
            return ("The file is not DICOM.",)
        if report.get("SOPClassUID") != Comprehensive3DSRStorage:
            return ("The object is not a Comprehensive 3D SR.",)
        checks = (
            name_faults(data, report, volume),
            identity_faults(report, volume, headers, without=_NOT_CARRIED),
            _state(report),
            _references(report, volume),
            _findings(report, answer),
        )
        return tuple(sentence for check in checks for sentence in said(check))


def _state(report: Dataset) -> Iterator[str]:
    wanted = ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    if (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) != wanted:
        yield "The report does not say that it is complete, unverified and preliminary."


def _references(report: Dataset, volume: Volume) -> Iterator[str]:
    named = {
        (study.StudyInstanceUID, series.SeriesInstanceUID, one.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    study_uid = volume.instances[0].header.StudyInstanceUID
    wanted = {
        (study_uid, each.series_uid, one.sop_instance_uid)
        for each in every_source(volume)
        for one in each.instances
    }
    if named != wanted:
        yield (
            f"The evidence lacks {len(wanted - named)} of {len(wanted)} source instances and "
            f"names {len(named - wanted)} others."
        )


def _findings(report: Dataset, answer: Classification) -> Iterator[str]:
    """Compare each group: the finding's code, present or absent, and its probability."""
    groups = [
        group
        for container in report.ContentSequence
        if _named(container) == "126010"  # Imaging Measurements
        for group in container.ContentSequence
    ]
    if len(groups) != len(answer.findings):
        yield f"The report has {len(groups)} findings, the model gave {len(answer.findings)}."
        return
    for group, found in zip(groups, answer.findings, strict=True):
        label, code = found.finding.label, found.finding.code.value
        items = {_named(item): item for item in group.ContentSequence}
        kind = items["121071"].ConceptCodeSequence[0]  # Finding
        if _value(kind) != code:
            yield f"The code of {label} is not the card's."
        number = items["111012"].MeasuredValueSequence[0]  # Certainty of Finding
        unit = number.MeasurementUnitsCodeSequence[0].CodeValue
        if unit != "%" or abs(float(number.NumericValue) - 100 * found.probability) > _SAME_PERCENT:
            yield f"The probability of {label} is not what was computed."
        stated = _value(items[code].ConceptCodeSequence[0])
        if stated != ("52101004" if found.present else "272519000"):  # Present, Absent
            yield f"The report says the opposite of what was computed for {label}."


def _named(item: Dataset) -> str:
    return _value(item.ConceptNameCodeSequence[0]) if item.get("ConceptNameCodeSequence") else ""


def _value(code: Dataset) -> str:
    return str(code.get("CodeValue") or code.get("LongCodeValue"))
