"""From stored cells to physical values, each rule with the case that breaks others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.values import Refusal, Volume, VolumePlan
from node.reasons import Reason

from .build import edited, phantom, save, series, set_pixels

N = 4


def loaded(folder: Path) -> Volume:
    (plan,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan), plan
    volume = load_volume(plan)
    assert isinstance(volume, Volume), volume
    return volume


def with_cells(
    cells: NDArray[np.generic], change: Callable[[int, Dataset], None] = lambda _i, _d: None
) -> list[Dataset]:
    return edited(series(pixels=cells), change)


def mr(_: int, data: Dataset) -> None:
    data.SOPClassUID, data.Modality = MRImageStorage, "MR"
    del data.RescaleSlope, data.RescaleIntercept


HU = phantom(N).astype(np.int16) - 1024


def test_bits_above_bits_stored_are_overlays_and_vanish(tmp_path: Path) -> None:
    cells = phantom(N) | 0xA000
    np.testing.assert_array_equal(loaded(save(tmp_path, with_cells(cells))).array, HU)


def test_twelve_bits_at_the_top_of_the_cell_are_shifted_down(tmp_path: Path) -> None:
    def change(_: int, data: Dataset) -> None:
        data.HighBit = 15

    cells = phantom(N) << 4 | 0x5  # the bits below are not the value's
    np.testing.assert_array_equal(loaded(save(tmp_path, with_cells(cells, change))).array, HU)


@pytest.mark.parametrize("high_bit", [11, 15])
def test_twelve_bit_signed_values_keep_their_sign(tmp_path: Path, high_bit: int) -> None:
    def change(_: int, data: Dataset) -> None:
        data.PixelRepresentation, data.HighBit = 1, high_bit
        data.RescaleIntercept = 0

    values = phantom(N).astype(np.int16) - 1000
    cells = ((values & 0x0FFF) << (high_bit - 11)).astype(np.uint16)
    np.testing.assert_array_equal(loaded(save(tmp_path, with_cells(cells, change))).array, values)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_uncompressed_syntax_gives_the_same_values(tmp_path: Path, syntax: str) -> None:
    def change(_: int, data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            cells = np.frombuffer(data.PixelData, np.uint16).byteswap()
            data.PixelData = cells.tobytes()

    np.testing.assert_array_equal(loaded(save(tmp_path, with_cells(phantom(N), change))).array, HU)


def test_eight_bit_cells_in_big_endian_words_are_put_in_order(tmp_path: Path) -> None:
    cells = (phantom(N) % 251).astype(np.uint8)

    def change(index: int, data: Dataset) -> None:
        mr(index, data)
        data.BitsStored, data.HighBit = 8, 7
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        data.PixelData = cells[index].reshape(-1).view(np.uint16).byteswap().tobytes()
        data["PixelData"].VR = "OW"

    np.testing.assert_array_equal(loaded(save(tmp_path, with_cells(cells, change))).array, cells)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint32, np.int32])
def test_cells_of_eight_and_thirty_two_bits_become_exact_int16(tmp_path: Path, kind: type) -> None:
    cells = (phantom(N).astype(np.int64) % 200 - 90 * (np.dtype(kind).kind == "i")).astype(kind)

    def change(index: int, data: Dataset) -> None:
        mr(index, data)
        data.BitsStored = data.BitsAllocated
        data.HighBit = data.BitsAllocated - 1

    volume = loaded(save(tmp_path, with_cells(cells, change)))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, cells.astype(np.int64))


def test_values_that_int16_cannot_hold_become_float32(tmp_path: Path) -> None:
    cells = phantom(N)
    cells[2, 3, 4] = 65535

    def change(index: int, data: Dataset) -> None:
        mr(index, data)
        data.BitsStored, data.HighBit = 16, 15

    volume = loaded(save(tmp_path, with_cells(cells, change)))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, cells)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    def change(index: int, data: Dataset) -> None:
        data.Modality, data.Units = "PT", "BQML"
        data.RescaleSlope, data.RescaleIntercept = 0.5 + 0.25 * index, 0

    volume = loaded(save(tmp_path, with_cells(phantom(N), change)))
    assert (volume.array.dtype, volume.units) == (np.float32, "BQML")
    slopes = 0.5 + 0.25 * np.arange(N)[:, None, None]
    np.testing.assert_array_equal(volume.array, (phantom(N) * slopes).astype(np.float32))


def test_monochrome1_is_not_inverted(tmp_path: Path) -> None:
    def change(_: int, data: Dataset) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"

    np.testing.assert_array_equal(loaded(save(tmp_path, with_cells(phantom(N), change))).array, HU)


@pytest.mark.parametrize(
    ("padding", "limit", "cell"),
    [
        (0, None, 0),
        (-2000, None, -2000),
        (63536, None, -2000),  # written as US into a signed image
        (-2000, -1990, -1995),
        (-1990, -2000, -1995),  # the range may stand either way round
        (-32768, None, -32768),
    ],
)
def test_padding_becomes_air_and_is_marked(
    tmp_path: Path, padding: int, limit: int | None, cell: int
) -> None:
    cells = phantom(N).astype(np.int16)
    cells[:, :, 0] = cell

    def change(_: int, data: Dataset) -> None:
        data.BitsStored, data.HighBit = 16, 15
        data.RescaleIntercept = -24
        data.add_new("PixelPaddingValue", "US" if padding > 32767 else "SS", padding)
        if limit is not None:
            data.add_new("PixelPaddingRangeLimit", "SS", limit)

    volume = loaded(save(tmp_path, with_cells(cells, change)))
    assert volume.array.dtype == np.int16
    assert volume.padding is not None
    assert (volume.array[:, :, 0] == -1024).all()
    assert volume.padding[:, :, 0].all()
    assert not volume.padding[:, :, 1:].any()
    np.testing.assert_array_equal(volume.array[:, :, 1:], cells[:, :, 1:] - 24)


def test_padding_that_does_not_fit_the_stored_bits_is_found_before_the_mask(
    tmp_path: Path,
) -> None:
    cells = phantom(N)
    cells[:, 0, :] = 63536

    def change(_: int, data: Dataset) -> None:
        data.add_new("PixelPaddingValue", "US", 63536)

    volume = loaded(save(tmp_path, with_cells(cells, change)))
    assert volume.padding is not None
    assert volume.padding[:, 0].all()
    assert (volume.array[:, 0] == -1024).all()
    np.testing.assert_array_equal(volume.array[:, 1:], HU[:, 1:])


def test_undeclared_ct_padding_is_air_and_marked(tmp_path: Path) -> None:
    cells = phantom(N).astype(np.int16)
    cells[1, 2, 3] = -3024

    def change(_: int, data: Dataset) -> None:
        data.BitsStored, data.HighBit, data.RescaleIntercept = 16, 15, 0

    volume = loaded(save(tmp_path, with_cells(cells, change)))
    assert volume.array[1, 2, 3] == -1024
    assert volume.padding is not None
    assert volume.padding.sum() == 1


def test_negative_values_of_mr_are_kept(tmp_path: Path) -> None:
    cells = phantom(N).astype(np.int16) - 3000

    def change(index: int, data: Dataset) -> None:
        mr(index, data)
        data.BitsStored, data.HighBit = 16, 15

    volume = loaded(save(tmp_path, with_cells(cells, change)))
    assert volume.padding is None
    np.testing.assert_array_equal(volume.array, cells)


def test_a_modality_table_comes_before_slope_and_intercept(tmp_path: Path) -> None:
    def change(_: int, data: Dataset) -> None:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [16, 1000, 16])
        item.ModalityLUTType = "HU"
        item.add_new("LUTData", "US", [value**2 for value in range(16)])
        data.ModalityLUTSequence = Items([item])

    volume = loaded(save(tmp_path, with_cells(phantom(N), change)))
    expected = np.clip(phantom(N).astype(int) - 1000, 0, 15) ** 2
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.units == "HU"


def test_floating_point_pixels_are_taken_as_they_are(tmp_path: Path) -> None:
    values = phantom(N).astype(np.float32) / 8

    def change(index: int, data: Dataset) -> None:
        mr(index, data)
        del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
        data.BitsAllocated = 32
        data.add_new("FloatPixelData", "OF", values[index].tobytes())

    np.testing.assert_array_equal(
        loaded(save(tmp_path, with_cells(phantom(N), change))).array, values
    )


@pytest.mark.parametrize("limit", [None, -2.5])
def test_floating_point_padding_and_what_is_no_number_is_marked(
    tmp_path: Path, limit: float | None
) -> None:
    values = phantom(N).astype(np.float32) / 8
    values[:, 2, 3], values[:, 4, 5], values[:, 6, 7] = -3.5, np.nan, -3.0

    def change(index: int, data: Dataset) -> None:
        mr(index, data)
        del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
        data.BitsAllocated = 32
        data.FloatPixelPaddingValue = -3.5
        if limit is not None:
            data.FloatPixelPaddingRangeLimit = limit
        data.add_new("FloatPixelData", "OF", values[index].tobytes())

    volume = loaded(save(tmp_path, with_cells(phantom(N), change)))
    expected = np.zeros(values.shape, bool)
    expected[:, 2, 3] = expected[:, 4, 5] = True
    expected[:, 6, 7] = limit is not None
    assert volume.padding is not None
    np.testing.assert_array_equal(volume.padding, expected)
    np.testing.assert_array_equal(volume.array, np.where(expected, 0, values))


@pytest.mark.parametrize(
    ("rescale_type", "units"),
    [("HU", "HU"), ("US", "unknown"), ("ED", "unknown"), ("Z_EFF", "unknown")],
)
def test_ct_is_in_hounsfield_units_only_if_nothing_says_otherwise(
    tmp_path: Path, rescale_type: str, units: str
) -> None:
    def change(_: int, data: Dataset) -> None:
        data.RescaleType = rescale_type

    assert loaded(save(tmp_path, with_cells(phantom(N), change))).units == units


def test_private_scaling_of_philips_mr_is_left_alone(tmp_path: Path) -> None:
    def change(index: int, data: Dataset) -> None:
        mr(index, data)
        data.RescaleSlope, data.RescaleIntercept = 2, 0
        data.add_new((0x2005, 0x0010), "LO", "Philips MR Imaging DD 001")
        data.add_new((0x2005, 0x100E), "FL", 0.004)
        data.add_new((0x2005, 0x100D), "FL", 7.0)

    volume = loaded(save(tmp_path, with_cells(phantom(N), change)))
    np.testing.assert_array_equal(volume.array, phantom(N) * 2.0)
    assert volume.units == "arbitrary"


def test_pixels_that_got_shorter_after_the_plan_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, series())
    (plan,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan)
    path = plan.instances[5].file.path
    path.write_bytes(path.read_bytes()[:-2])
    refusal = load_volume(plan)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.TRUNCATED_FRAME
    assert refusal.instances == (plan.instances[5].sop_instance_uid,)


def test_a_header_that_promises_more_than_memory_is_refused_before_any_is_reserved(
    tmp_path: Path,
) -> None:
    def change(_: int, data: Dataset) -> None:
        data.Rows = data.Columns = 65535

    data = with_cells(phantom(N), change)
    for each in data:
        set_pixels(each, phantom(1)[0])
    (refusal,) = find_volumes(read_folder(save(tmp_path, data)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.BAD_HEADER
