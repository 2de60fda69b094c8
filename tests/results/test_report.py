"""A classification as an SR: valid, of the right patient, and held against what was meant."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.imaging.values import (
    Classification,
    Code,
    Finding,
    Outcome,
    Refusal,
    ScoredFinding,
    Verdict,
    Volume,
)
from node.results.report_gate import check_report
from node.results.write import NodeFacts, ResultObject, write_results

from .build import MODEL, build_enhanced, build_volume

NODE = NodeFacts("limner-test", "0.1.0")
NODULE = Finding("Nodule", Code("27925004", "SCT", "Nodule"), threshold=0.5)
EFFUSION = Finding("Effusion", Code("60046008", "SCT", "Pleural effusion"), threshold=0.2)
ANSWER = Classification(
    findings=(ScoredFinding(NODULE, 0.87312), ScoredFinding(EFFUSION, 0.1)),
    verdict=Verdict(Outcome.ACCEPT),
    model=MODEL,
    runtime={},
)


def written(
    volume: Volume, answer: Classification = ANSWER, marks: tuple[str, ...] = ()
) -> ResultObject:
    made = write_results(volume, answer, node=NODE, kinds=("SR",), marks=marks)
    assert not isinstance(made, Refusal)
    return made[0]


def groups_of(report: Dataset) -> list[Dataset]:
    (found,) = (
        item
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    return list(found.ContentSequence)


def test_each_finding_stands_with_its_code_its_probability_and_its_algorithm(
    tmp_path: Path,
) -> None:
    volume = build_volume(tmp_path)
    result = written(volume)
    assert check_report(result.data, volume, ANSWER) == ()
    report = dcmread(BytesIO(result.data))
    first, second = groups_of(report)
    said = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in first.ContentSequence}
    assert said["Finding"].ConceptCodeSequence[0].CodeValue == "27925004"
    number = said["Certainty of Finding"].MeasuredValueSequence[0]
    assert number.NumericValue == 87.31
    assert number.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    assert said["Nodule"].ConceptCodeSequence[0].CodeMeaning == "Present"
    assert said["Algorithm Name"].TextValue == "lung-ct"
    texts = [item.get("TextValue", "") for item in first.ContentSequence]
    assert any("Research use only" in text for text in texts)
    absent = [item for item in second.ContentSequence if item.ValueType == "CODE"]
    assert absent[-1].ConceptCodeSequence[0].CodeMeaning == "Absent"


def test_the_report_is_the_patient_s_and_says_that_nobody_looked_at_it(tmp_path: Path) -> None:
    volume = build_volume(tmp_path)
    report = dcmread(BytesIO(written(volume).data))
    source = volume.instances[0].header
    for keyword in ("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID"):
        assert report[keyword].value == source[keyword].value
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.SeriesDescription == "AI lung-ct 1.2 - research use"
    assert report.Modality == "SR"
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == len(volume.instances)
    assert "Classification model lung-ct" in str(report.ContributingEquipmentSequence)


@pytest.mark.parametrize("build", [build_volume, build_enhanced])
def test_dciodvfy_finds_no_error(tmp_path: Path, build: object) -> None:
    volume = build(tmp_path / "source")  # type: ignore[operator]
    path = tmp_path / "report.dcm"
    path.write_bytes(written(volume).data)
    said = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (said.stdout + said.stderr).splitlines()
    assert any("Comprehensive3DSR" in line for line in lines), lines
    assert [line for line in lines if line.startswith("Error")] == []


def test_the_same_answer_gives_the_same_bytes_and_another_one_another_uid(tmp_path: Path) -> None:
    volume = build_volume(tmp_path)
    one, again = written(volume), written(volume)
    assert one.data == again.data
    other = replace(ANSWER, findings=(ScoredFinding(NODULE, 0.2), ANSWER.findings[1]))
    assert written(volume, other).sop_uid != one.sop_uid
    assert one.sop_uid in str(dcmread(BytesIO(one.data)).file_meta.MediaStorageSOPInstanceUID)


def test_a_mark_shows_the_verdict_and_gives_another_key(tmp_path: Path) -> None:
    volume = build_volume(tmp_path)
    doubted = replace(ANSWER, verdict=Verdict(Outcome.REVIEW, ("Look.",)))
    marked = written(volume, doubted, ("review",))
    plain = written(volume, doubted)
    assert marked.key != plain.key
    assert marked.series_uid != plain.series_uid
    said = dcmread(BytesIO(marked.data)).SeriesDescription
    assert said == "REVIEW: AI lung-ct 1.2 - research use"
    long = replace(doubted, model=replace(MODEL, series_description="x" * 64))
    cut = dcmread(BytesIO(written(volume, long, ("review",)).data)).SeriesDescription
    assert len(cut) == 64
    assert cut.endswith(" - research use")


def test_the_gate_sees_a_report_that_says_something_else(tmp_path: Path) -> None:
    volume = build_volume(tmp_path)
    data = written(volume).data
    swapped = replace(ANSWER, findings=ANSWER.findings[::-1])
    assert any("is not the card's" in said for said in check_report(data, volume, swapped))
    lower = replace(ANSWER, findings=(ScoredFinding(NODULE, 0.4), ANSWER.findings[1]))
    said = " ".join(check_report(data, volume, lower))
    assert "The probability of Nodule is not what was computed." in said
    assert "says the opposite of what was computed for Nodule" in said
    fewer = replace(ANSWER, findings=ANSWER.findings[:1])
    assert any("has 2 findings" in said for said in check_report(data, volume, fewer))
    changed = data.replace(b"Smith^Jane", b"Smith^June")
    said = " ".join(check_report(changed, volume, ANSWER))
    assert "PatientName is not what the source says" in said
    assert "does not follow from the content" in said
    half = replace(volume, instances=volume.instances[:3], slices=volume.slices[:3])
    assert any("names 3 others" in said for said in check_report(data, half, ANSWER))
    assert check_report(b"no DICOM at all", volume, ANSWER) == ("The file is not DICOM.",)
