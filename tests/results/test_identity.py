"""A result carries the identity of its source to the byte, or there is no result."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.imaging.values import InstanceFile, Refusal, Volume
from node.reasons import Reason
from node.results.gate import check_result
from node.results.identity import IDENTITY_TAGS
from node.results.write import NodeFacts, write_results

from .build import Change, asymmetric_labels, build_volume, segmentation_of
from .judges import dcentvfy, dciodvfy

NODE = NodeFacts(name="limner-test", version="0.1.0")

CHARSET, NAME, REFERRER, DESCRIPTION = 0x00080005, 0x00100010, 0x00080090, 0x00081030

VRS = {CHARSET: b"CS", NAME: b"PN", REFERRER: b"PN", DESCRIPTION: b"LO"}

CHARACTER_SETS: dict[str, dict[int, bytes]] = {
    # The names of PS3.5 annexes H to K, as bytes, and one word of text.
    "japanese": {
        CHARSET: rb"\ISO 2022 IR 87",
        NAME: b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B="
        b"\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    },
    "japanese with katakana": {
        CHARSET: rb"ISO 2022 IR 13\ISO 2022 IR 87",
        NAME: b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J="
        b"\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    },
    "korean": {
        CHARSET: rb"\ISO 2022 IR 149",
        NAME: b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7="
        b"\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    },
    "cyrillic": {CHARSET: b"ISO_IR 144", NAME: b"\xbb\xee\xda\x63\xd5\xdc\xd1\xe3\xe0\xd3"},
    "gb18030": {CHARSET: b"GB18030", NAME: b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab="},
    "utf-8": {CHARSET: b"ISO_IR 192", NAME: "Wang^XiaoDong=王^小東=".encode()},
    "latin-1": {CHARSET: b"ISO_IR 100", NAME: b"Buc^J\xe9r\xf4me", DESCRIPTION: b"Th\xf4rax"},
    "trailing blanks": {CHARSET: b"ISO_IR 100", NAME: b"Smith ^J  ", DESCRIPTION: b"CT chest   "},
    "not a known set": {CHARSET: b"ISO_IR 6", NAME: b"Smith^J"},
    "a wrong declaration": {CHARSET: b"ISO_IR 192", NAME: b"Buc^J\xe9r\xf4me"},
    "no letters of any set": {CHARSET: b"", NAME: b"\xff\xfe\x80^\x81 "},
}


def written(volume: Volume) -> bytes:
    segmentation = segmentation_of(asymmetric_labels(volume.array.shape))
    results = write_results(volume, segmentation, node=NODE)
    assert not isinstance(results, Refusal), results
    assert check_result(results[0].data, volume, segmentation) == ()
    return results[0].data


def refused(volume: Volume, *, empty_patient_id_allowed: bool = False) -> Refusal:
    answer = write_results(
        volume,
        segmentation_of(asymmetric_labels(volume.array.shape)),
        node=NODE,
        empty_patient_id_allowed=empty_patient_id_allowed,
    )
    assert isinstance(answer, Refusal)
    assert "Smith" not in answer.explanation
    assert "4711" not in answer.explanation
    return answer


def value_bytes(path_or_data: Path | bytes, tag: int) -> bytes | None:
    """Return a value's bytes, found without decoding anything."""
    source = BytesIO(path_or_data) if isinstance(path_or_data, bytes) else path_or_data
    dataset = dcmread(source, stop_before_pixels=True)
    if tag not in dataset:
        return None
    if tag == CHARSET:  # the one element that pydicom decodes while it reads
        return repr(dataset.SpecificCharacterSet).encode()
    return dataset.get_item(tag).value or b""


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it says what is wrong with the name
@pytest.mark.parametrize("name", CHARACTER_SETS)
def test_text_in_every_character_set_keeps_its_bytes(name: str, tmp_path: Path) -> None:
    raw = {REFERRER: CHARACTER_SETS[name][NAME], **CHARACTER_SETS[name]}
    volume = build_volume(tmp_path / "source", raw=raw)
    source = volume.instances[0].file.path
    data = written(volume)
    for tag, value in raw.items():
        padded = value + b" " * (len(value) % 2)
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + VRS[tag]
        assert head + struct.pack("<H", len(padded)) + padded in data, hex(tag)
    for tag in IDENTITY_TAGS:
        if tag in dcmread(source, stop_before_pixels=True):
            assert value_bytes(data, tag) == value_bytes(source, tag), hex(tag)
    path = tmp_path / "result.dcm"
    path.write_bytes(data)
    assert dcentvfy([source, path]) == []


def _without_type_2(header: Dataset, index: int) -> None:
    del index
    del header.PatientName, header.PatientBirthDate, header.PatientSex, header.AccessionNumber
    del header.StudyID, header.StudyDate, header.StudyTime, header.ReferringPhysicianName
    del header.PositionReferenceIndicator, header.SpecificCharacterSet


def _dirty(header: Dataset, index: int) -> None:
    del index
    header.add_new(0x00100040, "CS", "U")
    header.PatientComments = "kept"
    header.EthnicGroup = "8"
    header.PregnancyStatus = 4
    other = Dataset()
    other.PatientID = "OLD-1"
    other.TypeOfPatientID = "TEXT"
    other.private_block(0x0011, "PRIVATE", create=True).add_new(1, "LO", "secret")
    header.OtherPatientIDsSequence = [other]
    block = header.private_block(0x0011, "PRIVATE", create=True)
    block.add_new(1, "LO", "secret")


def test_missing_type_2_elements_become_empty_ones(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source", change=_without_type_2)
    data = written(volume)
    seg = dcmread(BytesIO(data))
    assert seg.PatientName == ""
    assert seg["StudyDate"].value == ""
    assert "SpecificCharacterSet" not in seg
    path = tmp_path / "result.dcm"
    path.write_bytes(data)
    assert dciodvfy(path) == []


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_what_a_library_rejects_is_carried_and_private_elements_are_not(tmp_path: Path) -> None:
    def worse(header: Dataset, index: int) -> None:
        _dirty(header, index)
        header.add_new(0x00100030, "DA", "1960")
        header.add_new(0x00080020, "DA", "2020.01.02")

    volume = build_volume(tmp_path / "source", change=worse)
    seg = dcmread(BytesIO(written(volume)))
    assert seg.get_item("PatientSex").value == b"U "
    assert seg.get_item("PatientBirthDate").value == b"1960"
    assert seg.get_item("StudyDate").value == b"2020.01.02"
    assert seg.PatientComments == "kept"
    assert seg.PregnancyStatus == 4
    assert seg.OtherPatientIDsSequence[0].PatientID == "OLD-1"
    assert not any(one.tag.is_private for one in seg.iterall())


def test_nothing_of_the_scanner_stands_as_maker_of_the_result(tmp_path: Path) -> None:
    seg = dcmread(BytesIO(written(build_volume(tmp_path / "source"))))
    assert (seg.Manufacturer, seg.DeviceSerialNumber) == ("Limner", "limner-test")
    assert seg.ContributingEquipmentSequence[0].Manufacturer == "Scanner Works"
    assert seg.ContributingEquipmentSequence[1].StationName == "limner-test"
    assert (seg.BodyPartExamined, seg.PatientPosition) == ("CHEST", "HFS")
    assert seg.SeriesNumber == 9003
    assert seg.SeriesDescription == "AI lung-ct 1.2 - research use"
    assert seg.ContentQualification == "RESEARCH"


def _on(slices: set[int], keyword: str, value: str | None) -> Change:
    def change(header: Dataset, index: int) -> None:
        if index in slices:
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value)

    return change


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("PatientID", "P-4712", "patient ID"),
        ("PatientName", "Smith^Jan", "patient name"),
        ("PatientBirthDate", "19600103", "birth date"),
        ("PatientSex", "M", "sex"),
        ("IssuerOfPatientID", None, "issuer of the patient ID"),
        ("IssuerOfPatientID", "OTHER", "issuer of the patient ID"),
        ("StudyInstanceUID", "1.2.3", "study"),
        ("SeriesInstanceUID", "1.2.3", "series"),
        ("AccessionNumber", "A-101", "accession number"),
        ("FrameOfReferenceUID", "1.2.3", "frame of reference"),
    ],
)
def test_one_slice_of_another_stops_the_result(
    keyword: str, value: str | None, words: str, tmp_path: Path
) -> None:
    volume = build_volume(tmp_path / "source", change=_on({3}, keyword, value))
    refusal = refused(volume)
    assert refusal.reason is Reason.MIXED_IDENTITY
    assert f"differ in {words}," in refusal.explanation
    assert volume.instances[3].sop_instance_uid in refusal.explanation


def test_padding_and_an_unneeded_character_set_are_no_difference(tmp_path: Path) -> None:
    change = _on({2}, "SpecificCharacterSet", "ISO_IR 101")
    written(build_volume(tmp_path / "source", change=change))


def test_one_name_in_two_character_sets_is_two_names(tmp_path: Path) -> None:
    def change(header: Dataset, index: int) -> None:
        header.SpecificCharacterSet = "ISO_IR 144" if index == 1 else "ISO_IR 101"
        header.add_new(NAME, "PN", b"\xe0\xe1\xe2")

    assert refused(build_volume(tmp_path / "s", change=change)).reason is Reason.MIXED_IDENTITY


def test_an_empty_patient_id_needs_leave_and_a_name_with_a_birth_date(tmp_path: Path) -> None:
    every = set(range(6))
    volume = build_volume(tmp_path / "id", change=_on(every, "PatientID", ""))
    assert refused(volume).reason is Reason.MIXED_IDENTITY
    segmentation = segmentation_of(asymmetric_labels(volume.array.shape))
    allowed = write_results(volume, segmentation, node=NODE, empty_patient_id_allowed=True)
    assert not isinstance(allowed, Refusal)

    def neither(header: Dataset, index: int) -> None:
        del index
        header.PatientID = header.PatientBirthDate = ""

    volume = build_volume(tmp_path / "neither", change=neither)
    assert refused(volume, empty_patient_id_allowed=True).reason is Reason.MIXED_IDENTITY


def test_no_frame_of_reference_is_refused_by_its_own_reason(tmp_path: Path) -> None:
    change = _on(set(range(6)), "FrameOfReferenceUID", None)
    refusal = refused(build_volume(tmp_path / "source", change=change))
    assert refusal.reason is Reason.NO_FRAME_OF_REFERENCE


def test_a_file_that_holds_another_instance_is_refused(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    first, second = (volume.instances[index].file.path for index in (0, 1))
    first.write_bytes(second.read_bytes())
    assert "holds another instance" in refused(volume).explanation


def test_instances_inside_a_longer_file_are_read_at_their_place(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    pieces = [instance.file.path.read_bytes() for instance in volume.instances]
    journal = tmp_path / "journal"
    journal.write_bytes(b"head".join([b"", *pieces]) + b"tail")
    at, moved = 0, []
    for instance, piece in zip(volume.instances, pieces, strict=True):
        at += 4
        moved.append(replace(instance, file=InstanceFile(journal, at, len(piece))))
        at += len(piece)
    assert written(replace(volume, instances=tuple(moved))) == written(volume)


def test_lossy_compression_of_any_slice_is_told(tmp_path: Path) -> None:
    def lossy(header: Dataset, index: int) -> None:
        header.LossyImageCompression = "00"
        if index in (2, 4):
            header.LossyImageCompression = "01"
            header.LossyImageCompressionRatio = 8 + index
            header.LossyImageCompressionMethod = "ISO_15444_1"

    data = written(build_volume(tmp_path / "source", change=lossy))
    seg = dcmread(BytesIO(data))
    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionRatio == 12
    assert seg.LossyImageCompressionMethod == "ISO_15444_1"
    path = tmp_path / "result.dcm"
    path.write_bytes(data)
    assert dciodvfy(path) == []


def test_content_time_is_the_latest_of_the_source_and_no_clock(tmp_path: Path) -> None:
    seg = dcmread(BytesIO(written(build_volume(tmp_path / "content"))))
    assert (seg.ContentDate, seg.ContentTime) == ("20260102", "101205")

    def only_acquired(header: Dataset, index: int) -> None:
        del header.ContentDate, header.ContentTime
        header.AcquisitionDate = "20260101"
        header.AcquisitionTime = f"2359{index:02d}.5"

    seg = dcmread(BytesIO(written(build_volume(tmp_path / "acquired", change=only_acquired))))
    assert (seg.ContentDate, seg.ContentTime) == ("20260101", "235905.5")

    def unreadable(header: Dataset, index: int) -> None:
        header.add_new(0x00080023, "DA", "20260230" if index else "20251231")
        header.add_new(0x00080033, "TM", "10:11:12")
        header.add_new(0x00200011, "IS", "")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydicom names each odd value
        odd = dcmread(BytesIO(written(build_volume(tmp_path / "odd", change=unreadable))))
    assert (odd.ContentDate, odd.ContentTime, odd.SeriesNumber) == ("20251231", "000000", 9000)
    stamped = [one.keyword for one in seg.iterall() if one.VR in ("DA", "TM", "DT") and one.value]
    assert set(stamped) <= {
        "StudyDate",
        "StudyTime",
        "ContentDate",
        "ContentTime",
        "PatientBirthDate",
    }


def test_words_of_a_card_are_cut_to_what_the_elements_hold(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    segmentation = segmentation_of(np.zeros(volume.array.shape, np.uint8))
    long = replace(segmentation.model, name="modèle\\" * 20, version="9" * 80)
    segmentation = replace(
        segmentation,
        model=long,
        segments=tuple(
            replace(one, type=replace(one.type, value="C" * 20, meaning="m" * 80))
            for one in segmentation.segments
        ),
    )
    results = write_results(volume, segmentation, node=NodeFacts("näme" * 20, "1" * 80))
    assert not isinstance(results, Refusal)
    path = tmp_path / "result.dcm"
    path.write_bytes(results[0].data)
    assert dciodvfy(path) == []
    description = dcmread(path).SeriesDescription
    assert len(description) <= 64
    assert description.startswith("AI mod?le/")
    assert description.endswith("research use")
    assert check_result(results[0].data, volume, segmentation) == ()
