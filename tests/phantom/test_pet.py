"""The PET phantom: true fractions, and one SUV in every way that vendors write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.values import Volume, VolumePlan
from node.imaging.volume import load_volume
from node.phantom import pet
from node.phantom.grid import AXIAL, CORONAL, rotated
from node.phantom.study import (
    SMALL_TRUNK,
    Form,
    Numbering,
    PhantomStudy,
    Profile,
    Writing,
    make_study,
    write_study,
)
from tests.phantom.test_study_objects import errors_of

OBLIQUE = rotated(AXIAL, degrees=(10, -7, 5))
TINY = replace(SMALL_TRUNK, shape=(20, 36, 36), spacing_mm=(8.0, 9.0, 9.0))


def read_back(study: PhantomStudy, folder: Path) -> tuple[VolumePlan, Volume]:
    write_study(folder, study)
    (plan,) = [
        one for one in find_volumes(read_folder(folder)) if one.series_uid == study.series_uid
    ]
    assert isinstance(plan, VolumePlan), plan
    volume = load_volume(plan)
    assert isinstance(volume, Volume), volume
    return plan, volume


@pytest.mark.parametrize("writing", Writing)
def test_every_vendors_way_gives_the_suv_that_was_built_in(
    writing: Writing, tmp_path: Path
) -> None:
    study = make_study(11, replace(TINY, writing=writing, numbering=Numbering.RANDOM, decoys=True))
    plan, volume = read_back(study, tmp_path)
    assert plan.suv is None, plan.suv
    assert volume.units == "SUVbw"
    truth = study.truth.suv
    assert truth is not None
    np.testing.assert_allclose(volume.array, truth, rtol=1e-5)
    np.testing.assert_allclose(volume.affine, study.truth.affine, atol=1e-6)
    assert 3 < volume.array.max() < 14


def test_the_slope_differs_between_slices_and_the_picture_between_writings_does_not(
    tmp_path: Path,
) -> None:
    found = {}
    for writing in Writing:
        study = make_study(12, replace(TINY, writing=writing))
        found[writing] = study.truth.suv
        slopes = {
            float(str(one.header.RescaleSlope))
            for one in read_back(study, tmp_path / writing)[0].instances
        }
        assert len(slopes) > 10
    first = found[Writing.START]
    assert first is not None
    for other in found.values():
        assert other is not None
        # Each is rounded to its own cells, 32,000 of which make the largest value of a slice.
        np.testing.assert_allclose(other, first, atol=first.max() / 30_000)


@pytest.mark.parametrize("writing", Writing)
def test_dciodvfy_finds_no_error_in_a_pet_image(writing: Writing, tmp_path: Path) -> None:
    study = make_study(3, replace(TINY, writing=writing, shape=(2, 40, 48)))
    assert errors_of(write_study(tmp_path, study)) == []


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, OBLIQUE])
@pytest.mark.parametrize("seed", [1, 3])
def test_the_fractions_hold_the_volume_of_the_shapes(seed: int, orientation: object) -> None:
    scan = pet.volume(seed, shape=(56, 80, 80), orientation=orientation, blur_mm=0, noise=0)
    found_ml = scan.fraction.sum(dtype=np.float64) * np.prod(scan.spacing_mm) / 1000
    assert found_ml == pytest.approx(scan.patient.lesion_ml, rel=1e-3)
    assert (scan.fraction.min(), scan.fraction.max()) == (0.0, 1.0)
    assert ((scan.fraction > 0) & (scan.fraction < 1)).any()
    weights = np.array([one.volume_ml for one in scan.patient.lesions])
    centre = weights @ [one.centre_mm for one in scan.patient.lesions] / weights.sum()
    indices = np.indices(scan.fraction.shape).reshape(3, -1)
    middle = indices @ scan.fraction.ravel().astype(np.float64) / scan.fraction.sum(dtype=float)
    np.testing.assert_allclose(scan.affine[:3] @ (*middle, 1), centre, atol=0.02)


def test_a_mixed_voxel_holds_the_mean_of_what_is_in_it() -> None:
    patient = replace(pet.TrunkPatient.draw(5, lesion_mm=40), organs=())
    (lesion,) = patient.lesions
    affine = np.diag([4.0, 4.0, 4.0, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = np.array(lesion.centre_mm) - 38
    suv, fraction = pet.sample(patient, affine, (20, 20, 20))
    wanted = patient.body.suv + fraction * (lesion.suv - patient.body.suv)
    np.testing.assert_allclose(suv, wanted, rtol=1e-6)


def test_blur_keeps_the_activity_and_noise_the_mean() -> None:
    plain = pet.volume(8, blur_mm=0, noise=0)
    blurred = pet.volume(8, blur_mm=7, noise=0)
    noisy = pet.volume(8, blur_mm=7, noise=0.1)
    np.testing.assert_array_equal(plain.fraction, noisy.fraction)
    assert blurred.suv.sum() == pytest.approx(plain.suv.sum(), rel=0.02)
    assert noisy.suv.mean() == pytest.approx(blurred.suv.mean(), rel=0.01)
    hot = plain.fraction > 0.5
    assert blurred.suv[hot].max() < plain.suv[hot].max() * 1.001
    assert 0.03 < (noisy.suv - blurred.suv).std() < 0.3


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, second = (make_study(4, TINY).instances[3].data for _ in range(2))
    assert first == second
    assert make_study(5, TINY).instances[3].data != first


def test_the_capsule_lies_on_the_right_of_the_patient() -> None:
    scan = pet.volume(6, shape=(40, 72, 92), noise=0)
    index = np.linalg.inv(scan.affine) @ (*pet.MARKER_MM, 1)
    at = tuple(round(one) for one in index[:3])
    mirrored = (*at[:2], scan.suv.shape[2] - 1 - at[2])
    assert scan.suv[at] > scan.suv[mirrored] + 0.5


def test_a_multi_frame_pet_phantom_is_not_made() -> None:
    with pytest.raises(ValueError, match="one object per slice"):
        make_study(1, Profile(part=TINY.part, shape=TINY.shape, form=Form.ENHANCED))
