"""The beginning of a data set says what the whole says, or asks for more; wherever it is cut."""

from __future__ import annotations

import struct

import pytest
from made_objects import BIG, EXPLICIT, IMPLICIT, encoded, made_ct
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.dicom.identity import read_identity
from node.dicom.values import read_values
from node.dicom.walk import CUT_SHORT, HeaderError


def made_with_sequences(*, undefined: bool) -> Dataset:
    """A data set with sequences before, between and behind the elements that are wanted."""
    measures = Dataset()
    measures.SliceThickness = "5"
    measures.is_undefined_length_sequence_item = undefined
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.is_undefined_length_sequence_item = undefined
    dataset = made_ct(size=2)
    dataset.ReferencedStudySequence = Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    for element in (*shared, *dataset):
        if element.VR == "SQ":
            element.is_undefined_length = undefined
    return dataset


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
def test_a_beginning_cut_at_any_byte_asks_for_more_until_the_pixel_data_begins(
    syntax: str, *, undefined: bool
) -> None:
    whole = encoded(made_with_sequences(undefined=undefined), syntax)
    values = read_values(whole, syntax)
    header = len(whole) - 16 - 4  # 8 bytes of pixels, behind an element header of 12 or 8 bytes

    for end in range(len(whole)):
        try:
            assert read_values(whole[:end], syntax, whole=False) == values
            assert end > header
        except HeaderError as error:
            assert error.fault.code == CUT_SHORT, f"cut at {end}"
            assert end < header + 12


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_a_data_set_that_ends_within_an_element_is_cut_short(syntax: str) -> None:
    dataset = made_ct()
    del dataset.PixelData
    whole = encoded(dataset, syntax)

    for rest in range(1, 8):
        with pytest.raises(HeaderError) as caught:
            read_values(whole + b"\1" * rest, syntax)
        assert caught.value.fault.code == CUT_SHORT
        assert read_values(whole + bytes(rest), syntax) == read_values(whole, syntax)


@pytest.mark.parametrize("length", [8224, 16_708, 20_048, 20_300, 21_580, 65_536 + 20_300])
@pytest.mark.parametrize("view", [bytes, memoryview])
def test_an_item_is_stepped_over_even_if_its_length_spells_a_vr(length: int, view: type) -> None:
    filler = struct.pack("<HH2sxxI", 0x0009, 0x1002, b"UN", length - 12) + bytes(length - 12)
    sequence = (
        struct.pack("<HH2sxxI", 0x0008, 0x1110, b"SQ", 0xFFFFFFFF)
        + struct.pack("<HHI", 0xFFFE, 0xE000, length)
        + filler
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    plain = encoded(made_ct())
    at = plain.index(struct.pack("<HH", 0x0010, 0x0010))

    for read in (read_values, read_identity):
        assert read(view(plain[:at] + sequence + plain[at:]), EXPLICIT) == read(plain, EXPLICIT)
