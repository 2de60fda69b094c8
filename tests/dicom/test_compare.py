"""What differs between two objects under one UID: nothing but the encoding, pixels, or more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_objects import BIG, EXPLICIT, IMPLICIT, encoded, made_ct
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from node.dicom.compare import find_difference
from storage.instances import Difference


def with_sequence(*, undefined: bool) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    item.ReferencedSOPInstanceUID = "1.2.3"
    dataset = made_ct()
    dataset.ReferencedStudySequence = Sequence([item])
    dataset["ReferencedStudySequence"].is_undefined_length = undefined
    return dataset


def test_another_transfer_syntax_with_equal_elements_is_only_another_encoding() -> None:
    first = encoded(with_sequence(undefined=True), EXPLICIT)
    second = encoded(with_sequence(undefined=False), IMPLICIT)

    assert find_difference(first, EXPLICIT, second, IMPLICIT) is Difference.ENCODING


def test_other_lengths_of_a_sequence_are_only_another_encoding() -> None:
    first = encoded(with_sequence(undefined=True))
    second = encoded(with_sequence(undefined=False))

    assert find_difference(first, EXPLICIT, second, EXPLICIT) is Difference.ENCODING


def test_other_pixels_under_an_equal_header_are_told_apart() -> None:
    other = made_ct()
    other.PixelData = bytes(len(other.PixelData))

    found = find_difference(encoded(made_ct()), EXPLICIT, encoded(other), EXPLICIT)

    assert found is Difference.PIXELS


@pytest.mark.parametrize("nested", [False, True])
def test_another_element_is_another_header_in_any_encoding(*, nested: bool) -> None:
    other = with_sequence(undefined=True)
    if nested:
        other.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2.4"
    else:
        other.SliceThickness = "5"
    first = encoded(with_sequence(undefined=True))

    for syntax in (EXPLICIT, IMPLICIT):
        found = find_difference(first, EXPLICIT, encoded(other, syntax), syntax)
        assert found is Difference.HEADER


def test_big_endian_is_in_doubt() -> None:
    found = find_difference(encoded(made_ct()), EXPLICIT, encoded(made_ct(), BIG), BIG)

    assert found is Difference.HEADER


@settings(max_examples=200, deadline=2000)
@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from((EXPLICIT, IMPLICIT)))
def test_any_bytes_are_compared(first: bytes, second: bytes, syntax: str) -> None:
    assert isinstance(find_difference(first, EXPLICIT, second, syntax), Difference)


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        pytest.param(b"aa\0", b"aa ", Difference.ENCODING, id="padding"),
        pytest.param(b"aa\0", b"ab\0", Difference.HEADER, id="content"),
    ],
)
def test_long_values_are_compared_without_their_padding(
    ours: bytes, theirs: bytes, found: Difference
) -> None:
    datasets = []
    for value in (ours, theirs):
        dataset = made_ct()
        dataset.add_new(0x00091001, "OB", b"a" * 99_997 + value)
        datasets.append(encoded(dataset))

    assert find_difference(datasets[0], EXPLICIT, datasets[1], EXPLICIT) is found
