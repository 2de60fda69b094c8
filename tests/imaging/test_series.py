"""What a series becomes: one volume, several, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import SecondaryCaptureImageStorage, SegmentationStorage

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.values import Refusal, Volume, VolumePlan
from node.reasons import Reason

from .build import (
    AXIAL,
    DX,
    DY,
    GAP,
    OBLIQUE,
    ORIGIN,
    SLICES,
    edited,
    enhanced,
    phantom,
    place,
    save,
    series,
    set_pixels,
    slice_dataset,
)


def found_in(folder: Path, **options: int) -> tuple[VolumePlan | Refusal, ...]:
    return find_volumes(read_folder(folder), **options)


def only_volume(folder: Path) -> Volume:
    (plan,) = found_in(folder)
    assert isinstance(plan, VolumePlan), plan
    volume = load_volume(plan)
    assert isinstance(volume, Volume), volume
    return volume


HU = phantom().astype(np.int16) - 1024


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)])
def test_a_series_ascends_along_its_normal_whatever_numbers_and_names_say(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    volume = only_volume(save(tmp_path, series(orientation=orientation)))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, HU)
    assert volume.spacing_mm == pytest.approx((GAP, DY, DX), abs=1e-5)
    assert volume.units == "HU"
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    corner = volume.affine @ [SLICES - 1, 3, 5, 1]
    expected = np.array(place(SLICES - 1, orientation)) + 3 * DY * column + 5 * DX * row
    np.testing.assert_allclose(corner[:3], expected, atol=1e-4)
    assert [volume.instances[s.instance].sop_instance_uid for s in volume.slices] == [
        f"2.25.1000{k}" for k in range(SLICES)
    ]


@given(order=st.permutations(range(SLICES)))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_order_of_files_gives_the_same_volume(tmp_path: Path, order: list[int]) -> None:
    folder = tmp_path / "series"
    if not folder.exists():
        save(folder, series())
    files = read_folder(folder)
    (plan,) = find_volumes([files[index] for index in order])
    assert isinstance(plan, VolumePlan)
    volume = load_volume(plan)
    assert isinstance(volume, Volume)
    np.testing.assert_array_equal(volume.array, HU)


def _move(data: list[Dataset], index: int, millimetres: float, axis: int = 2) -> list[Dataset]:
    position = list(data[index].ImagePositionPatient)
    position[axis] = round(float(position[axis]) + millimetres, 6)
    data[index].ImagePositionPatient = position
    return data


def _duplicate(data: list[Dataset]) -> list[Dataset]:
    other = slice_dataset(4, phantom()[5])
    other.SOPInstanceUID = "2.25.999"
    return [*data, other]


def _two_spacings(data: list[Dataset]) -> list[Dataset]:
    for index in range(6, SLICES):
        _move(data, index, GAP * (index - 5))
    return data


def _tilted(data: list[Dataset]) -> list[Dataset]:
    for index in range(SLICES):
        _move(data, index, index * GAP * np.tan(np.radians(15)), axis=1)
    return data


def _one_other(keyword: str, value: object) -> Callable[[list[Dataset]], list[Dataset]]:
    def change(data: list[Dataset]) -> list[Dataset]:
        setattr(data[3], keyword, value)
        return data

    return change


def _other_matrix(data: list[Dataset]) -> list[Dataset]:
    data[3].Rows, data[3].Columns = 18, 20
    set_pixels(data[3], phantom()[3, :18, :20])
    return data


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:5] + data[6:], Reason.MISSING_SLICES),
        (_duplicate, Reason.DUPLICATE_POSITION),
        (lambda data: _move(data, 5, 0.3), Reason.UNEVEN_SPACING),
        (_two_spacings, Reason.UNEVEN_SPACING),
        (_tilted, Reason.GANTRY_TILT),
        (lambda data: _move(data, 5, 1.0, axis=0), Reason.MOVING_ORIGIN),
        (_one_other("ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), Reason.MIXED_ORIENTATION),
        (_one_other("PixelSpacing", [DX, DY]), Reason.MIXED_SPACING),
        (_other_matrix, Reason.MIXED_MATRIX),
        (_one_other("ImagePositionPatient", None), Reason.NO_GEOMETRY),
        (_one_other("FrameOfReferenceUID", ""), Reason.NO_FRAME_OF_REFERENCE),
        (_one_other("StudyInstanceUID", "2.25.77"), Reason.MIXED_IDENTITY),
        (_one_other("PatientID", "SOMEONE ELSE"), Reason.MIXED_IDENTITY),
        (_one_other("BitsStored", 17), Reason.BAD_HEADER),
        (_one_other("RescaleSlope", 0), Reason.BAD_HEADER),
        (lambda data: data[:2], Reason.TOO_FEW_SLICES),
        (lambda data: data[:1], Reason.TOO_FEW_SLICES),
    ],
)
def test_a_series_that_is_no_grid_is_refused_whole(
    tmp_path: Path, change: Callable[[list[Dataset]], list[Dataset]], reason: Reason
) -> None:
    found = found_in(save(tmp_path, change(series())))
    assert [type(part) for part in found] == [Refusal]
    (refusal,) = found
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert refusal.series_uid == "2.25.2"
    assert refusal.instances
    assert "PHANTOM" not in refusal.explanation


@pytest.mark.parametrize("wrong", [-1, 5, 0])
def test_spacing_between_slices_is_never_geometry(tmp_path: Path, wrong: float) -> None:
    def change(_: int, data: Dataset) -> None:
        data.SpacingBetweenSlices = wrong

    volume = only_volume(save(tmp_path, edited(series(), change)))
    assert volume.spacing_mm[0] == pytest.approx(GAP)
    np.testing.assert_array_equal(volume.array, HU)


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("TemporalPositionIdentifier", (1, 2)),
        ("EchoTime", (4.6, 12.25)),
        ("DiffusionBValue", (0, 1000)),
        ("AcquisitionNumber", (9, 10)),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
    ],
)
def test_two_stacks_in_one_series_split_by_the_attribute_that_tells_them_apart(
    tmp_path: Path, keyword: str, values: tuple[object, object]
) -> None:
    first, second = series(), series(pixels=phantom() + 500)
    for index in range(SLICES):
        setattr(first[index], keyword, values[0])
        setattr(second[index], keyword, values[1])
        second[index].SOPInstanceUID = f"2.25.2000{index}"
    found = found_in(save(tmp_path, first + second))
    assert [part.part for part in found] == [1, 2]
    for part, expected in zip(found, (HU, HU + 500), strict=True):
        assert isinstance(part, VolumePlan)
        assert keyword in part.notes[0]
        volume = load_volume(part)
        assert isinstance(volume, Volume)
        np.testing.assert_array_equal(volume.array, expected)


def several(*stacks: dict[str, object]) -> list[Dataset]:
    """One complete stack for each set of attributes, told apart by its values."""
    data = []
    for number, attributes in enumerate(stacks):
        for index, each in enumerate(series(pixels=phantom() + 100 * number)):
            each.SOPInstanceUID = f"2.25.3{number}{index:03d}"
            for keyword, value in attributes.items():
                setattr(each, keyword, value)
            data.append(each)
    return data


ECHOES_AND_TIMES = [
    {"EchoTime": echo, "TemporalPositionIdentifier": time}
    for echo in (4.6, 12.25)
    for time in (1, 2, 3)
]
DIRECTIONS = [
    {"DiffusionBValue": 0.0},
    {"DiffusionBValue": 800.0, "DiffusionGradientOrientation": [1.0, 0.0, 0.0]},
    {"DiffusionBValue": 800.0, "DiffusionGradientOrientation": [0.0, 1.0, 0.0]},
    {"DiffusionBValue": 1500.0, "DiffusionGradientOrientation": [1.0, 0.0, 0.0]},
    {"DiffusionBValue": 1500.0, "DiffusionGradientOrientation": [0.0, 1.0, 0.0]},
]


@pytest.mark.parametrize(
    ("stacks", "named"),
    [
        (ECHOES_AND_TIMES, "TemporalPositionIdentifier and EchoTime"),
        (DIRECTIONS, "DiffusionBValue and DiffusionGradientOrientation"),
    ],
)
def test_stacks_that_two_attributes_tell_apart_together_are_split_whole(
    tmp_path: Path, stacks: list[dict[str, object]], named: str
) -> None:
    found = found_in(save(tmp_path, several(*stacks)))
    assert len(found) == len(stacks)
    seen = set()
    for part in found:
        assert isinstance(part, VolumePlan)
        assert part.notes == (f"Split by {named} into {len(stacks)} complete stacks.",)
        volume = load_volume(part)
        assert isinstance(volume, Volume)
        shift = int(volume.array[0, 0, 1]) - int(HU[0, 0, 1])
        np.testing.assert_array_equal(volume.array, HU + shift)
        seen.add(shift)
    assert seen == {100 * number for number in range(len(stacks))}


def test_one_slice_less_in_one_of_several_stacks_refuses_them_all(tmp_path: Path) -> None:
    data = several(*ECHOES_AND_TIMES)
    del data[17]
    (refusal,) = found_in(save(tmp_path, data))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.DUPLICATE_POSITION


def test_clock_times_and_numbers_do_not_split_a_series_together(tmp_path: Path) -> None:
    # They order a scan and name nothing that was measured.
    stacks = [
        {"AcquisitionNumber": number, "AcquisitionTime": time}
        for number in (1, 2)
        for time in ("100000", "100500")
    ]
    (refusal,) = found_in(save(tmp_path, several(*stacks)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.DUPLICATE_POSITION


def test_an_incomplete_second_stack_is_refused_with_the_first(tmp_path: Path) -> None:
    first, second = series(), series(pixels=phantom() + 500)
    for index in range(SLICES):
        first[index].TemporalPositionIdentifier = 1
        second[index].TemporalPositionIdentifier = 2
        second[index].SOPInstanceUID = f"2.25.2000{index}"
    (refusal,) = found_in(save(tmp_path, first + second[:-1]))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.DUPLICATE_POSITION


def test_a_slice_that_arrived_twice_counts_once(tmp_path: Path) -> None:
    save(tmp_path / "a", series())
    save(tmp_path / "b", series()[3:6])
    np.testing.assert_array_equal(only_volume(tmp_path).array, HU)


def test_copies_under_other_uids_count_once_and_are_noted(tmp_path: Path) -> None:
    copies = series()[3:6]
    for index, copy in enumerate(copies):
        copy.SOPInstanceUID = f"2.25.5000{index}"
    (plan,) = found_in(save(tmp_path, series() + copies))
    assert isinstance(plan, VolumePlan)
    assert plan.shape[0] == SLICES
    assert "3 image(s) are copies" in plan.notes[0]


def test_one_uid_on_two_different_images_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", series())
    save(tmp_path / "b", [slice_dataset(3, phantom()[4])])
    (refusal,) = found_in(tmp_path)
    assert isinstance(refusal, Refusal)
    assert refusal.instances == ("2.25.10003",)


def _kind(data: Dataset, kind: str) -> Dataset:
    data.SOPInstanceUID = "2.25.444"
    if kind == "localizer":
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    elif kind == "projection":
        data.ImageType = ["DERIVED", "PRIMARY", "AXIAL", "MIP"]
    elif kind == "derived and secondary":
        data.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    elif kind == "secondary capture":
        data.SOPClassUID = SecondaryCaptureImageStorage
    elif kind == "segmentation":
        data.SOPClassUID = SegmentationStorage
    elif kind == "colour":
        data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"
    elif kind == "ultrasound":
        data.Modality = "US"
    elif kind == "report":
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
        del data.PixelData, data.Rows
    return data


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("localizer", Reason.LOCALIZER),
        ("projection", Reason.DERIVED),
        ("derived and secondary", Reason.DERIVED),
        ("secondary capture", Reason.DERIVED),
        ("segmentation", Reason.DERIVED),
        ("colour", Reason.NOT_GREYSCALE),
        ("ultrasound", Reason.NO_GEOMETRY),
        ("report", Reason.NOT_AN_IMAGE),
    ],
)
def test_what_is_no_slice_becomes_a_refused_part_beside_the_volume(
    tmp_path: Path, kind: str, reason: Reason
) -> None:
    other = _kind(slice_dataset(30, phantom()[0]), kind)
    plan, refusal = found_in(save(tmp_path, [*series(), other]))
    assert isinstance(plan, VolumePlan)
    assert plan.shape[0] == SLICES
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.part) == (reason, 2)
    assert refusal.instances == ("2.25.444",)


@pytest.mark.parametrize(
    "kind",
    [
        ["DERIVED", "PRIMARY", "AXIAL"],
        ["DERIVED", "PRIMARY", "MPR"],
        ["DERIVED", "SECONDARY", "AXIAL"],
        ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"],
        ["ORIGINAL", "SECONDARY", "AXIAL"],
        None,
    ],
)
def test_derived_alone_refuses_nothing(tmp_path: Path, kind: list[str] | None) -> None:
    def change(_: int, data: Dataset) -> None:
        data.ImageType = kind

    np.testing.assert_array_equal(only_volume(save(tmp_path, edited(series(), change))).array, HU)


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (-100, Reason.TRUNCATED_FRAME),
        (-1100, Reason.BAD_HEADER),  # cut in group 0028, before the pixels
    ],
)
def test_a_damaged_slice_refuses_the_series_even_at_its_end(
    tmp_path: Path, keep: int, reason: Reason
) -> None:
    folder = save(tmp_path, series(), names=[f"{k:02d}" for k in range(SLICES)])
    last = folder / f"{SLICES - 1:02d}"
    last.write_bytes(last.read_bytes()[:keep])
    (refusal,) = found_in(folder)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert refusal.instances == (f"2.25.1000{SLICES - 1}",)


def test_two_frames_of_reference_are_two_volumes(tmp_path: Path) -> None:
    second = series(pixels=phantom() + 500)
    for index, data in enumerate(second):
        data.FrameOfReferenceUID, data.SOPInstanceUID = "2.25.33", f"2.25.2000{index}"
    found = found_in(save(tmp_path, series() + second))
    assert [type(part) for part in found] == [VolumePlan, VolumePlan]


def test_a_card_for_single_images_may_ask_for_one_slice(tmp_path: Path) -> None:
    (plan,) = found_in(save(tmp_path, series()[:1]), min_slices=1)
    assert isinstance(plan, VolumePlan)
    assert plan.shape == (1, 20, 24)
    assert plan.spacing_mm[0] == 5.0  # SliceThickness: a single slice has nothing better


@pytest.mark.parametrize("order", [list(range(6)), [3, 0, 5, 1, 4, 2]])
def test_frames_of_an_enhanced_instance_are_placed_by_position(
    tmp_path: Path, order: list[int]
) -> None:
    volume = only_volume(save(tmp_path, [enhanced(order)]))
    np.testing.assert_array_equal(volume.array, phantom(6))
    assert volume.units == "arbitrary"
    assert [part.frame for part in volume.slices] == [order.index(k) + 1 for k in range(6)]
    np.testing.assert_allclose(volume.affine[:3, 3], ORIGIN)


def test_an_enhanced_instance_with_two_times_splits_by_the_time_index(tmp_path: Path) -> None:
    order = [0, 0, 1, 1, 2, 2]
    found = found_in(save(tmp_path, [enhanced(order, times=2)]))
    assert [type(part) for part in found] == [VolumePlan, VolumePlan]
    first, second = found
    assert isinstance(first, VolumePlan)
    assert isinstance(second, VolumePlan)
    assert [part.frame for part in first.slices] == [1, 3, 5]
    assert [part.frame for part in second.slices] == [2, 4, 6]


def test_rescale_of_each_frame_is_its_own(tmp_path: Path) -> None:
    data = enhanced(list(range(4)))
    for index, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = index + 1, 10, "US"
        frame.PixelValueTransformationSequence = Items([item])
    volume = only_volume(save(tmp_path, [data]))
    expected = phantom(4) * np.arange(1, 5)[:, None, None] + 10.0
    np.testing.assert_array_equal(volume.array, expected)


def test_an_enhanced_instance_without_its_functional_groups_has_no_geometry(
    tmp_path: Path,
) -> None:
    data = enhanced(list(range(4)))
    del data.PerFrameFunctionalGroupsSequence
    (refusal,) = found_in(save(tmp_path, [data]))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NO_GEOMETRY


def test_fewer_functional_groups_than_frames_are_a_bad_header(tmp_path: Path) -> None:
    data = enhanced(list(range(4)))
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:3]
    (refusal,) = found_in(save(tmp_path, [data]))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.BAD_HEADER


def _in_stacks(data: Dataset, stacks: list[str]) -> Dataset:
    frames = data.PerFrameFunctionalGroupsSequence
    for frame, stack in zip(frames, stacks, strict=True):
        frame.FrameContentSequence[0].StackID = stack
    return data


def test_stacks_whose_union_is_regular_are_one_volume(tmp_path: Path) -> None:
    data = _in_stacks(enhanced([0, 2, 4, 1, 3, 5]), ["1"] * 3 + ["2"] * 3)
    np.testing.assert_array_equal(only_volume(save(tmp_path, [data])).array, phantom(6))


def test_stacks_of_different_orientation_are_a_volume_each(tmp_path: Path) -> None:
    data = _in_stacks(enhanced(list(range(6))), ["1"] * 3 + ["2"] * 3)
    for index, frame in enumerate(data.PerFrameFunctionalGroupsSequence[3:]):
        item = Dataset()
        item.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        frame.PlaneOrientationSequence = Items([item])
        position = frame.PlanePositionSequence[0]
        position.ImagePositionPatient = [float(-4 * index), 0.5, 7.25]
    first, second = found_in(save(tmp_path, [data]))
    assert isinstance(first, VolumePlan)
    assert isinstance(second, VolumePlan)
    assert (first.part, second.part) == (1, 2)
    assert first.spacing_mm[0] == pytest.approx(GAP)
    assert second.spacing_mm[0] == pytest.approx(4.0)
