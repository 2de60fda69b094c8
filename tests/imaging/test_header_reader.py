"""The quick reader of many headers against pydicom's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag
from pydicom.uid import ImplicitVRLittleEndian

from imaging.build import enhanced, save, series
from node.imaging.attributes import DAMAGE, tolerated
from node.imaging.header_reader import HeaderReader
from node.imaging.read import list_folder, read_header
from node.imaging.values import InstanceFile, SourceInstance


def item(depth: int, value: str) -> Dataset:
    """An item with a text, holding a sequence of undefined length of its own."""
    data = Dataset()
    data.CodeMeaning = value
    data.is_undefined_length_sequence_item = bool(depth % 2)
    if depth:
        data.ConceptCodeSequence = Items([item(depth - 1, value + "+")])
        data["ConceptCodeSequence"].is_undefined_length = True
    return data


def rich_series() -> list[Dataset]:
    """Headers that differ in lengths, in presence, in character set and inside sequences."""
    found = series(8)
    for index, data in enumerate(found):
        data.SpecificCharacterSet = "ISO_IR 100" if index < 5 else "ISO_IR 192"
        data.PatientName = "Müller^Jürg"
        data.SliceLocation = 10.0**index
        data.ImageComments = "x" * (index % 3)
        if index % 2:
            data.AcquisitionNumber = 7
        data.ProcedureCodeSequence = Items([item(3, "same" if index % 4 else "ü")])
        data["ProcedureCodeSequence"].is_undefined_length = True
        data.RequestAttributesSequence = Items([item(1, f"{index // 3}")])
        data.add_new(0x00091001, "UN", bytes(range(index + 4)))
        data.add_new(0x00091002, "OB", b"")
    return found


def shown(header: Dataset, tag: BaseTag) -> str:
    """What a value is, or what pydicom says of it."""
    try:
        return repr(header[tag].value)
    except DAMAGE as error:
        return repr(error)


def assert_same(quick: SourceInstance, plain: SourceInstance) -> None:
    assert quick.pixels == plain.pixels
    assert list(quick.header.keys()) == list(plain.header.keys())
    assert quick.header.original_encoding == plain.header.original_encoding
    assert quick.header.original_character_set == plain.header.original_character_set
    with tolerated():
        for tag in list(plain.header.keys()):
            assert quick.header[tag] == plain.header[tag], tag
        for element in plain.header.file_meta:
            assert quick.header.file_meta[element.tag] == element


def test_headers_of_a_series_are_those_that_pydicom_reads(tmp_path: Path) -> None:
    reader = HeaderReader()
    files = list_folder(save(tmp_path, rich_series())).instances
    for file in files:
        quick, plain = reader.read(file), read_header(file)
        assert quick is not None
        assert isinstance(plain, SourceInstance)
        assert_same(quick, plain)
    assert len(files) == 8


def test_the_order_of_files_makes_no_difference_to_their_headers(tmp_path: Path) -> None:
    files = list_folder(save(tmp_path, rich_series())).instances
    there, back = HeaderReader(), HeaderReader()
    ascending = {file.path: there.read(file) for file in files}
    for file in reversed(files):
        one, other = ascending[file.path], back.read(file)
        assert one is not None
        assert other is not None
        assert_same(one, other)


def test_a_header_inside_a_larger_file_is_found_at_its_offset(tmp_path: Path) -> None:
    (file,) = list_folder(save(tmp_path / "one", series(1))).instances
    data = file.path.read_bytes()
    (tmp_path / "segment").write_bytes(bytes(999) + data + bytes(77))
    inside = InstanceFile(tmp_path / "segment", offset=999, length=len(data))
    quick, plain = HeaderReader().read(inside), HeaderReader().read(file)
    assert quick is not None
    assert plain is not None
    assert_same(quick, plain)


def test_a_header_longer_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    (data,) = series(1)
    data.add_new(0x00091001, "OB", b"p" * 300_000)
    (file,) = list_folder(save(tmp_path, [data])).instances
    quick, plain = HeaderReader().read(file), read_header(file)
    assert quick is not None
    assert isinstance(plain, SourceInstance)
    assert_same(quick, plain)


def test_what_the_walk_does_not_know_is_left_to_pydicom(tmp_path: Path) -> None:
    (implicit,) = series(1)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    (file,) = list_folder(save(tmp_path / "implicit", [implicit])).instances
    assert HeaderReader().read(file) is None
    assert isinstance(read_header(file, HeaderReader()), SourceInstance)


@given(
    position=st.integers(132, 2500),
    bytes_in=st.binary(min_size=1, max_size=12),
    keep=st.integers(100, 6000),
    many=st.booleans(),
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_header_is_read_as_pydicom_reads_it_or_left_to_pydicom(
    tmp_path: Path, position: int, bytes_in: bytes, keep: int, many: bool
) -> None:
    whole = tmp_path / f"whole-{many}"
    if not whole.exists():
        data = [enhanced([0, 1, 2]) if many else rich_series()[3]]
        save(tmp_path, data, names=[whole.name])
    reader = HeaderReader()
    assert reader.read(InstanceFile(whole)) is not None
    data_bytes = bytearray(whole.read_bytes())
    data_bytes[position : position + len(bytes_in)] = bytes_in
    damaged = InstanceFile(tmp_path / "damaged")
    damaged.path.write_bytes(data_bytes[:keep])
    with tolerated():
        quick = reader.read(damaged)
        if quick is None:
            return
        plain = pydicom.dcmread(damaged.path, stop_before_pixels=True, force=True)
        tags = list(plain.keys())
        assert list(quick.header.keys()) == tags
        for tag in tags:
            assert shown(quick.header, tag) == shown(plain, tag)


def test_every_real_file_is_read_as_pydicom_reads_it(shared_data: Callable[[str], Path]) -> None:
    files = list_folder(shared_data("interop")).instances
    reader = HeaderReader()
    quickly = 0
    for file in files:
        plain = read_header(file)
        quick = reader.read(file)
        if quick is not None and isinstance(plain, SourceInstance):
            quickly += 1
            assert_same(quick, plain)
    assert quickly > len(files) // 2
