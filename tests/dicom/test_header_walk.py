"""The header walk reads what routing needs, believes no length, and always ends."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_objects import BIG, DEFLATED, EXPLICIT, IMPLICIT, encoded, made_ct
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from node.dicom.filemeta import read_file_meta
from node.dicom.header import HeaderError, HeaderFacts, facts_of, routing_of, walk_header
from node.dicom.values import read_values
from node.dicom.walk import MAX_DEPTH, MAX_ELEMENTS, MAX_NESTED

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it reads damaged files too

SYNTAXES = (EXPLICIT, IMPLICIT, BIG, DEFLATED)


def deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


def in_syntax(dataset: Dataset, syntax: str) -> bytes:
    if syntax == DEFLATED:
        return deflate(encoded(dataset, EXPLICIT))
    return encoded(dataset, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_same_object_gives_the_same_facts_in_every_transfer_syntax(syntax: str) -> None:
    values = read_values(in_syntax(made_ct(), syntax), syntax)
    facts, routing = facts_of(values), routing_of(values)

    assert facts == walk_header(encoded(made_ct()), EXPLICIT)
    assert routing == routing_of(read_values(encoded(made_ct()), EXPLICIT))
    assert facts.patient_name == "Prüfung^Anna"
    assert (facts.patient_id, facts.issuer, facts.accession) == ("P1", "HOSPITAL", "A1")
    assert (facts.study_uid, facts.series_uid) == ("1.2.3.4", "1.2.3.4.1")
    assert routing["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert routing["Rows"] == "16"
    assert routing["PixelSpacing"] == ["0.7", "0.7"]
    assert values.in_order


def test_an_absent_or_empty_element_has_no_key_in_the_routing_header() -> None:
    dataset = made_ct()
    dataset.BodyPartExamined = ""

    routing = routing_of(read_values(encoded(dataset), EXPLICIT))

    assert "BodyPartExamined" not in routing
    assert "ProtocolName" not in routing


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_before_the_uids_are_stepped_over(syntax: str, *, undefined: bool) -> None:
    inner = Dataset()
    inner.PatientID = "NOT THIS ONE"
    outer = Dataset()
    outer.OtherPatientIDsSequence = Sequence([inner, inner])
    outer["OtherPatientIDsSequence"].is_undefined_length = undefined
    outer.is_undefined_length_sequence_item = undefined
    dataset = made_ct()
    dataset.ReferencedStudySequence = Sequence([outer])
    dataset["ReferencedStudySequence"].is_undefined_length = undefined

    facts = walk_header(encoded(dataset, syntax), syntax)

    assert facts.patient_id == "P1"
    assert facts.series_uid == "1.2.3.4.1"


def test_tags_out_of_order_are_read_and_reported() -> None:
    whole = encoded(made_ct())
    description = struct.pack("<HH2sH", 0x0008, 0x103E, b"LO", 4) + b"LATE"
    dataset = made_ct()
    del dataset.SeriesDescription
    without = encoded(dataset)
    pixels = without.index(struct.pack("<HH", 0x7FE0, 0x0010))

    values = read_values(without[:pixels] + description + without[pixels:], EXPLICIT)

    assert routing_of(values)["SeriesDescription"] == "LATE"
    assert not values.in_order
    assert read_values(whole, EXPLICIT).in_order


@pytest.mark.parametrize(
    "keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.parametrize("value", [None, "", "1.2.x", "1" * 65, "../../etc"])
def test_an_instance_without_its_four_uids_is_refused_by_name(
    keyword: str, value: str | None
) -> None:
    data = encoded(made_ct())
    dataset = made_ct()
    if value is None:
        delattr(dataset, keyword)
    else:
        dataset[keyword]._value = value
    data = encoded(dataset)

    with pytest.raises(HeaderError) as refused:
        walk_header(data, EXPLICIT)

    assert keyword in refused.value.fault.what


def test_more_elements_than_the_limit_are_refused() -> None:
    one = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0)

    with pytest.raises(HeaderError, match="elements"):
        walk_header(one * (MAX_ELEMENTS + 1), EXPLICIT)


def test_sequences_deeper_than_the_limit_are_refused() -> None:
    opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )

    with pytest.raises(HeaderError, match="deeper"):
        walk_header(opened * (MAX_DEPTH + 5), EXPLICIT)


def test_a_header_of_nothing_but_tiny_nested_elements_is_refused() -> None:
    opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    tiny = struct.pack("<HH2sH", 0x0040, 0xA040, b"CS", 0)

    with pytest.raises(HeaderError, match="nested"):
        walk_header(opened + tiny * (MAX_NESTED + 1), EXPLICIT)


def test_a_deflate_bomb_costs_no_more_than_its_beginning() -> None:
    bomb = deflate(encoded(made_ct()) + bytes(20_000_000))
    assert len(bomb) < 100_000

    facts = walk_header(bomb, DEFLATED)

    assert facts.patient_id == "P1"


def test_a_header_cut_at_any_byte_is_refused_or_read() -> None:
    whole = encoded(made_ct())
    outcomes = set()
    for end in range(len(whole)):
        try:
            outcomes.add(type(walk_header(whole[:end], EXPLICIT)))
        except HeaderError:
            outcomes.add(HeaderError)
    assert outcomes == {HeaderFacts, HeaderError}


@settings(max_examples=300, deadline=2000)
@given(data=st.binary(max_size=400), syntax=st.sampled_from(SYNTAXES))
def test_any_bytes_are_read_or_refused_with_our_own_error(data: bytes, syntax: str) -> None:
    try:
        walk_header(data, syntax)
    except HeaderError as error:
        assert error.fault.remedy


@settings(max_examples=400, deadline=2000)
@given(
    damage=st.lists(st.tuples(st.integers(0, 599), st.binary(min_size=1, max_size=6)), max_size=6),
    syntax=st.sampled_from((EXPLICIT, IMPLICIT, BIG)),
)
def test_any_damage_to_a_header_is_read_or_refused(
    damage: list[tuple[int, bytes]], syntax: str
) -> None:
    data = bytearray(_HEADERS[syntax])
    for at, patch in damage:
        data[at : at + len(patch)] = patch
    try:
        facts = walk_header(bytes(data), syntax)
    except HeaderError:
        return
    for text in (facts.patient_id, facts.patient_name, facts.study_description):
        assert "\0" not in text
        text.encode("utf-8")


_HEADERS = {syntax: encoded(made_ct(), syntax) for syntax in (EXPLICIT, IMPLICIT, BIG)}


def test_real_files_give_what_pydicom_reads(shared_data: Callable[[str], Path]) -> None:
    compared = 0
    for path in sorted(shared_data("interop").rglob("*.dcm")):
        data = path.read_bytes()
        try:
            meta, start = read_file_meta(data)
            values = read_values(data[start:], meta.transfer_syntax)
        except HeaderError:
            continue
        facts = facts_of(values)
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert facts.study_uid == dataset.StudyInstanceUID
        assert facts.sop_uid == dataset.SOPInstanceUID
        assert facts.patient_id == str(dataset.get("PatientID") or "").strip(), path.name
        assert facts.patient_name == str(dataset.get("PatientName") or "").strip(), path.name
        for keyword, found in routing_of(values).items():
            value = dataset.get(keyword)
            if value is None:  # of a multi-frame object: in its shared functional groups
                (groups,) = dataset.SharedFunctionalGroupsSequence
                value = groups.PixelMeasuresSequence[0].get(keyword)
            values = value if isinstance(value, MultiValue) else [value]
            assert _same(found, [str(one).strip() for one in values]), (path.name, keyword)
        compared += 1
    assert compared > 40


def _same(found: str | list[str], wanted: list[str]) -> bool:
    ours = found if isinstance(found, list) else [found]
    return len(ours) == len(wanted) and all(
        a == b or (_number(a) is not None and _number(a) == _number(b))
        for a, b in zip(ours, wanted, strict=True)
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_thickness_and_spacing_of_a_multi_frame_object_are_found_in_its_shared_groups(
    syntax: str, undefined: bool
) -> None:
    measures = Dataset()
    measures.SliceThickness = "3.5"
    measures.PixelSpacing = ["0.5", "0.75"]
    groups = Dataset()
    groups.PixelMeasuresSequence = [measures]
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.SOPInstanceUID = "1.2.3.1"
    dataset.StudyInstanceUID = "1.2.3.2"
    dataset.SeriesInstanceUID = "1.2.3.3"
    dataset.SharedFunctionalGroupsSequence = [groups]
    for item in (dataset["SharedFunctionalGroupsSequence"], groups["PixelMeasuresSequence"]):
        item.is_undefined_length = undefined
        item.value[0].is_undefined_length_sequence_item = undefined
    stream = DicomBytesIO()
    stream.is_little_endian = True
    stream.is_implicit_VR = syntax == "1.2.840.10008.1.2"
    write_dataset(stream, dataset)
    routing = routing_of(read_values(stream.getvalue(), syntax))
    assert routing["SliceThickness"] == "3.5"
    assert routing["PixelSpacing"] == ["0.5", "0.75"]
