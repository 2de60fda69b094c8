"""What a phantom study is made of: stable bytes, true positions, valid objects."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.phantom.grid import AXIAL, CORONAL, SAGITTAL, Orientation, axis_orders, rotated
from node.phantom.headers import HeaderStyle
from node.phantom.pixels import Cells, Syntax
from node.phantom.study import (
    SMALL_CHEST,
    SMALL_HEAD,
    Form,
    Numbering,
    PhantomStudy,
    Profile,
    make_study,
    write_study,
)

TINY_CHEST = replace(SMALL_CHEST, shape=(6, 40, 48))
TINY_HEAD = replace(SMALL_HEAD, shape=(6, 40, 48))
OBLIQUE = rotated(AXIAL, degrees=(14, -8, 5))

WRITTEN = {
    "classic CT": TINY_CHEST,
    "Enhanced CT": replace(TINY_CHEST, form=Form.ENHANCED),
    "classic MR": TINY_HEAD,
    "Enhanced MR": replace(TINY_HEAD, form=Form.ENHANCED),
}


def digests(study: PhantomStudy) -> list[str]:
    return [hashlib.sha256(one.data).hexdigest() for one in study.instances]


def datasets(study: PhantomStudy) -> list[Dataset]:
    return [dcmread(io.BytesIO(one.data)) for one in study.images]


def errors_of(files: Iterable[Path]) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    found = []
    for file in files:
        done = subprocess.run(
            ["dciodvfy", "-new", str(file)], capture_output=True, check=False, timeout=60
        )
        lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
        found += [f"{file.name}: {line}" for line in lines if line.startswith("Error")]
    return found


def read_values(study: PhantomStudy) -> np.ndarray:
    """Read the image series with pydicom alone: rescaled, ascending along row x column."""
    frames = []
    for dataset in datasets(study):
        pixels = dataset.pixel_array
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
            position = np.array(dataset.ImagePositionPatient, float)
            frames.append((position, pixels * float(slope) + float(intercept)))
            continue
        shared = dataset.SharedFunctionalGroupsSequence[0]
        rescale = shared.PixelValueTransformationSequence[0]
        for groups, frame in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
            position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
            frames.append((position, frame + float(rescale.RescaleIntercept)))
    normal = study.profile.orientation.normal
    frames.sort(key=lambda one: float(one[0] @ normal))
    return np.stack([frame for _, frame in frames])


@pytest.mark.parametrize("profile", WRITTEN.values(), ids=WRITTEN)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(profile: Profile) -> None:
    first, second, other = make_study(5, profile), make_study(5, profile), make_study(6, profile)

    assert digests(first) == digests(second)
    assert not set(digests(first)) & set(digests(other))
    assert first.study_uid != other.study_uid


def test_another_process_with_another_clock_and_hash_seed_makes_the_same_bytes() -> None:
    program = (
        "import hashlib\n"
        "from dataclasses import replace\n"
        "from node.phantom.study import SMALL_CHEST, make_study\n"
        "study = make_study(5, replace(SMALL_CHEST, shape=(6, 40, 48), decoys=True))\n"
        "print(*(hashlib.sha256(one.data).hexdigest() for one in study.instances))\n"
    )
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "77"}

    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert done.stdout.split() == digests(make_study(5, replace(TINY_CHEST, decoys=True)))


def test_labels_of_a_seed_stay_as_they_were() -> None:
    truth = make_study(7, TINY_HEAD).truth

    assert hashlib.sha256(truth.labels.tobytes()).hexdigest()[:16] == HEAD_LABELS


HEAD_LABELS = "24c60d1de6eec065"


@pytest.mark.parametrize("style", HeaderStyle)
@pytest.mark.parametrize("profile", WRITTEN.values(), ids=WRITTEN)
def test_dciodvfy_finds_no_error_in_any_header_style(
    profile: Profile, style: HeaderStyle, tmp_path: Path
) -> None:
    study = make_study(3, replace(profile, header=style))

    # Slices differ in numbers alone, so the first and the last stand for all.
    files = write_study(tmp_path, study)

    assert errors_of({files[0], files[-1]}) == []


@pytest.mark.parametrize("syntax", Syntax)
@pytest.mark.parametrize("cells", [Cells.SIGNED, Cells.PADDED, Cells.UNSIGNED_1024])
def test_every_cell_format_in_every_transfer_syntax_is_valid_and_reads_back_exactly(
    cells: Cells, syntax: Syntax, tmp_path: Path
) -> None:
    plain = make_study(3, replace(TINY_CHEST, cells=cells))
    study = make_study(3, replace(TINY_CHEST, cells=cells, syntax=syntax))

    assert errors_of(write_study(tmp_path, study)[:1]) == []
    assert {one.transfer_syntax_uid for one in study.images} == {str(syntax)}
    np.testing.assert_array_equal(read_values(study), read_values(plain))


def test_decoys_come_as_series_of_their_own_and_are_valid(tmp_path: Path) -> None:
    for profile in (TINY_CHEST, TINY_HEAD):
        study = make_study(3, replace(profile, decoys=True))
        decoys = [one for one in study.instances if one.series_uid != study.series_uid]

        assert len({one.series_uid for one in decoys}) == len(decoys) >= 2
        assert len(study.images) == profile.shape[0]
        assert errors_of(write_study(tmp_path / profile.part, study)[profile.shape[0] :]) == []


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(
    "orientation",
    [AXIAL, CORONAL, SAGITTAL, OBLIQUE],
    ids=["axial", "coronal", "sagittal", "oblique"],
)
def test_highdicom_reads_the_affine_and_the_voxels_that_the_truth_claims(
    orientation: Orientation, form: Form
) -> None:
    profile = replace(
        TINY_HEAD,
        orientation=orientation,
        form=form,
        numbering=Numbering.RANDOM,
        spacing_mm=(20.0, 5.5, 4.25),
    )
    study = make_study(4, profile)
    images = datasets(study)

    if form is Form.CLASSIC:
        volume = highdicom.image.get_volume_from_series(images)
    else:
        volume = highdicom.image.Image.from_dataset(images[0]).get_volume()

    # highdicom puts the slice with the highest place along row x column first; ours the lowest.
    turned = volume.affine.copy()
    turned[:3, 3] += turned[:3, 0] * (profile.shape[0] - 1)
    turned[:3, 0] *= -1
    np.testing.assert_allclose(turned, study.truth.affine, atol=1e-5)
    np.testing.assert_array_equal(volume.array[::-1], read_values(study))
    np.testing.assert_allclose(volume.spacing, (20.0, 5.5, 4.25), atol=1e-6)


def test_there_are_24_orientations_along_the_axes_and_each_is_right_handed() -> None:
    orders = axis_orders()

    assert len(set(orders)) == 24
    for order in orders:
        axes = np.stack([order.row, order.column, order.normal])
        assert np.linalg.det(axes) == pytest.approx(1.0)


@pytest.mark.parametrize("orientation", axis_orders())
def test_the_brightest_spot_on_the_patients_right_stays_there_in_every_axis_order(
    orientation: Orientation,
) -> None:
    profile = replace(
        TINY_HEAD, orientation=orientation, shape=(48, 56, 52), spacing_mm=(5.5, 5.5, 5.5)
    )
    study = make_study(4, profile)
    values = read_values(study)

    index = np.linalg.solve(study.truth.affine, (*study.truth.marker_mm, 1.0))[:3]
    mirrored = np.linalg.solve(
        study.truth.affine, (-study.truth.marker_mm[0], *study.truth.marker_mm[1:], 1.0)
    )[:3]
    at_marker = values[tuple(np.rint(index).astype(int))]
    on_the_left = values[tuple(np.rint(mirrored).astype(int))]

    assert at_marker > 3 * on_the_left


def test_the_chest_marker_lies_on_the_right_in_front_and_above() -> None:
    study = make_study(4, replace(SMALL_CHEST, shape=(48, 128, 128), healthy=True))
    x, y, z = study.truth.marker_mm
    index = np.linalg.solve(study.truth.affine, (x, y, z, 1.0))[:3]
    nearby = tuple(slice(max(0, int(k) - 3), int(k) + 4) for k in np.rint(index))

    assert x < 0 and y < 0
    assert read_values(study)[nearby].max() > 500
    right, left = (study.truth.labels == 1), (study.truth.labels == 2)
    assert _centre_x(right, study) < 0 < _centre_x(left, study)


def _centre_x(mask: np.ndarray, study: PhantomStudy) -> float:
    index = np.argwhere(mask).mean(axis=0)
    return float((study.truth.affine @ (*index, 1.0))[0])


def test_random_instance_numbers_are_a_permutation_that_is_not_the_order() -> None:
    study = make_study(4, replace(TINY_CHEST, numbering=Numbering.RANDOM, shape=(24, 40, 48)))

    numbers = [int(dataset.InstanceNumber) for dataset in datasets(study)]

    assert sorted(numbers) == list(range(1, 25))
    assert numbers != sorted(numbers)


def test_descending_numbers_run_from_the_head_down() -> None:
    study = make_study(4, replace(TINY_CHEST, numbering=Numbering.DESCENDING))

    by_number = sorted(datasets(study), key=lambda dataset: int(dataset.InstanceNumber))

    heights = [float(dataset.ImagePositionPatient[2]) for dataset in by_number]
    assert heights == sorted(heights, reverse=True)


def test_padding_lies_outside_the_circle_and_truth_asks_nothing_there() -> None:
    study = make_study(4, replace(TINY_CHEST, cells=Cells.PADDED))
    dataset = datasets(study)[3]

    outside = dataset.pixel_array == -2000

    assert dataset.PixelPaddingValue == -2000
    assert outside[0, 0] and not outside[20, 24]
    assert not study.truth.labels[:, outside].any()


def test_unsigned_cells_with_intercept_1000_saturate_air() -> None:
    study = make_study(4, replace(TINY_CHEST, cells=Cells.UNSIGNED_1000))

    assert read_values(study).min() == -1000
    assert datasets(study)[0].BitsStored == 12


def test_every_object_says_that_it_is_a_phantom() -> None:
    for style in HeaderStyle:
        for profile in WRITTEN.values():
            dataset = datasets(make_study(9, replace(profile, header=style)))[0]

            assert dataset.QualityControlSubject == "YES"
            assert dataset.QualityControlImage == "YES"
            assert str(dataset.PatientName).startswith("PHANTOM^9")
            assert dataset.Manufacturer == "LIMNER PHANTOM"


def test_two_studies_of_one_seed_share_the_patient_and_no_uid() -> None:
    first = make_study(4, TINY_CHEST)
    second = make_study(4, replace(TINY_CHEST, study_key="follow-up"))

    assert first.header == second.header
    assert first.study_uid != second.study_uid
    assert not {one.sop_instance_uid for one in first.instances} & {
        one.sop_instance_uid for one in second.instances
    }


def test_names_survive_in_their_character_sets() -> None:
    expected = {
        HeaderStyle.LATIN_1: "Jürgen",
        HeaderStyle.UTF_8: "Жанна",
        HeaderStyle.JAPANESE: "山田",
        HeaderStyle.KOREAN: "길동",
        HeaderStyle.CHINESE: "小东",
    }
    for style, part in expected.items():
        dataset = datasets(make_study(9, replace(TINY_HEAD, header=style)))[0]
        dataset.decode()
        assert part in str(dataset.PatientName), style


def test_trailing_blanks_are_in_the_bytes() -> None:
    data = make_study(9, replace(TINY_HEAD, header=HeaderStyle.TRAILING_BLANKS)).images[0].data

    assert b"PHANTOM-9  " in data
    assert b"^BLANK ^  " in data
