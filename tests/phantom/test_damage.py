"""Each damage does the one thing that its name says, and nothing else."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from node.phantom.damage import Damage, damaged
from node.phantom.grid import CORONAL
from node.phantom.study import Form, PhantomStudy
from tests.phantom.cheap import TINY_CT, TINY_MR, cheap_study, datasets

GOOD = cheap_study(3, replace(TINY_CT, shape=(8, 40, 48), decoys=True))


def heights(study: PhantomStudy) -> np.ndarray:
    normal = study.profile.orientation.normal
    return np.array([np.array(one.ImagePositionPatient, float) @ normal for one in datasets(study)])


def in_plane_mm(study: PhantomStudy) -> np.ndarray:
    """How far each slice lies off the line through the first one along the normal."""
    positions = np.array([np.array(one.ImagePositionPatient, float) for one in datasets(study)])
    offsets = positions - positions[0]
    normal = study.profile.orientation.normal
    return np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)


def uids(study: PhantomStudy) -> list[str]:
    return [one.sop_instance_uid for one in study.images]


@pytest.mark.parametrize("damage", Damage)
def test_the_good_study_decoys_and_truth_are_left_as_they_were(damage: Damage) -> None:
    before = tuple(GOOD.instances)

    wrong = damaged(GOOD, damage)

    assert GOOD.instances == before
    assert wrong.instances != GOOD.instances
    assert wrong.truth is GOOD.truth
    decoys = [one for one in GOOD.instances if one.series_uid != GOOD.series_uid]
    assert [one for one in wrong.instances if one.series_uid != GOOD.series_uid] == decoys


@pytest.mark.parametrize("damage", Damage)
def test_the_same_damage_gives_the_same_bytes(damage: Damage) -> None:
    assert damaged(GOOD, damage).instances == damaged(GOOD, damage).instances


def test_a_missing_slice_leaves_a_gap_of_two() -> None:
    gaps = np.diff(heights(damaged(GOOD, Damage.MISSING_SLICE)))

    step = GOOD.truth.spacing_mm[0]
    np.testing.assert_allclose(np.sort(gaps), [step] * 5 + [2 * step], atol=1e-5)


def test_a_duplicate_has_the_pixels_and_the_place_of_another_and_a_uid_of_its_own() -> None:
    images = datasets(damaged(GOOD, Damage.DUPLICATE_SLICE))

    assert images[-1].PixelData == images[4].PixelData
    assert images[-1].ImagePositionPatient == images[4].ImagePositionPatient
    assert len({one.SOPInstanceUID for one in images}) == 9


def test_same_position_means_other_pixels_at_one_place() -> None:
    images = datasets(damaged(GOOD, Damage.SAME_POSITION))

    assert images[-1].ImagePositionPatient == images[4].ImagePositionPatient
    assert images[-1].PixelData != images[4].PixelData
    assert images[-1].SOPInstanceUID != images[4].SOPInstanceUID


def test_sent_twice_is_byte_for_byte_the_same() -> None:
    images = damaged(GOOD, Damage.SENT_TWICE).images

    assert images[-1] == images[4]


def test_a_conflict_is_one_uid_with_other_pixels_and_the_same_header() -> None:
    images = datasets(damaged(GOOD, Damage.CONFLICT))
    first, second = images[4], images[-1]

    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert first.PixelData != second.PixelData
    del first.PixelData, second.PixelData
    assert first == second


def test_one_slice_is_moved_along_the_normal_and_not_in_its_plane() -> None:
    wrong = damaged(GOOD, Damage.UNEVEN_SPACING)

    moved = heights(wrong) - heights(GOOD)

    assert np.flatnonzero(np.abs(moved) > 1e-6).tolist() == [4]
    assert moved[4] == pytest.approx(0.3 * GOOD.truth.spacing_mm[0], abs=1e-5)
    assert in_plane_mm(wrong).max() < 1e-5


def test_one_slice_is_shifted_in_its_plane_and_not_along_the_normal() -> None:
    wrong = damaged(GOOD, Damage.MOVED_IN_PLANE, at=2)

    shifts = in_plane_mm(wrong)

    assert np.flatnonzero(shifts > 1e-6).tolist() == [2]
    assert shifts[2] == pytest.approx(5.0, abs=1e-5)
    np.testing.assert_allclose(heights(wrong), heights(GOOD), atol=1e-5)


@pytest.mark.parametrize("coronal", [False, True], ids=["CT axial", "MR coronal"])
def test_a_tilt_of_15_degrees_shears_the_stack_evenly(coronal: bool) -> None:
    head = replace(TINY_MR, shape=(8, 40, 48), orientation=CORONAL)
    good = cheap_study(3, head) if coronal else GOOD

    shifts = in_plane_mm(damaged(good, Damage.GANTRY_TILT))

    step = good.truth.spacing_mm[0] * np.tan(np.deg2rad(15))
    np.testing.assert_allclose(shifts, step * np.arange(8), atol=1e-4)


def test_mixed_orientation_turns_the_upper_half() -> None:
    images = datasets(damaged(GOOD, Damage.MIXED_ORIENTATION))

    turned = [one.ImageOrientationPatient != images[0].ImageOrientationPatient for one in images]

    assert turned == [False] * 4 + [True] * 4
    row, column = np.split(np.array(images[-1].ImageOrientationPatient, float), 2)
    assert np.linalg.norm(row) == pytest.approx(1.0)
    assert row @ column == pytest.approx(0.0, abs=1e-9)


def test_one_slice_of_another_patient_lies_in_the_same_series() -> None:
    images = datasets(damaged(GOOD, Damage.OTHER_PATIENT))

    names = [str(one.PatientID) for one in images]

    assert names.count("PHANTOM-OTHER") == 1
    assert len({one.SeriesInstanceUID for one in images}) == 1
    assert str(images[4].PatientName).startswith("PHANTOM^")


def test_a_truncated_file_ends_within_its_pixels() -> None:
    whole, short = GOOD.images[4].data, damaged(GOOD, Damage.TRUNCATED).images[4].data

    assert whole.startswith(short)
    assert short.find(b"\xe0\x7f\x10\x00") > 0
    with pytest.raises(ValueError, match="less than expected"):
        _ = dcmread(io.BytesIO(short)).pixel_array


def test_a_multi_frame_study_is_not_damaged() -> None:
    enhanced = cheap_study(3, replace(TINY_MR, shape=(4, 40, 48), form=Form.ENHANCED))

    with pytest.raises(ValueError, match="classic series"):
        damaged(enhanced, Damage.MISSING_SLICE)
