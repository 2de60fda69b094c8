"""What a phantom study is made of: stable bytes, true positions, valid objects."""

from __future__ import annotations

import hashlib
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

from node.phantom import mr
from node.phantom.grid import AXIAL, CORONAL, SAGITTAL, Orientation, axis_orders, rotated
from node.phantom.headers import HeaderStyle
from node.phantom.pixels import FORMATS, Cells, Syntax
from node.phantom.study import (
    SMALL_CHEST,
    Form,
    Numbering,
    Part,
    PhantomStudy,
    Profile,
    make_study,
    write_study,
)
from tests.phantom.cheap import TINY_CT, TINY_MR, cheap_study, datasets

OBLIQUE = rotated(AXIAL, degrees=(14, -8, 5))

WRITTEN = {
    "classic CT": TINY_CT,
    "Enhanced CT": replace(TINY_CT, form=Form.ENHANCED),
    "classic MR": TINY_MR,
    "Enhanced MR": replace(TINY_MR, form=Form.ENHANCED),
}


def digests(study: PhantomStudy) -> list[str]:
    return [hashlib.sha256(one.data).hexdigest() for one in study.instances]


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
    first, second, other = cheap_study(5, profile), cheap_study(5, profile), cheap_study(6, profile)

    assert digests(first) == digests(second)
    assert not set(digests(first)) & set(digests(other))
    assert first.study_uid != other.study_uid


def test_another_process_with_another_clock_and_hash_seed_makes_the_same_bytes() -> None:
    program = (
        "import hashlib\n"
        "from dataclasses import replace\n"
        "from tests.phantom.cheap import TINY_CT, cheap_study\n"
        "study = cheap_study(5, replace(TINY_CT, decoys=True))\n"
        "print(*(hashlib.sha256(one.data).hexdigest() for one in study.instances))\n"
    )
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "77"}

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    assert done.stdout.split() == digests(cheap_study(5, replace(TINY_CT, decoys=True)))


def test_labels_of_a_seed_stay_as_they_were() -> None:
    truth = cheap_study(7, TINY_MR).truth

    assert hashlib.sha256(truth.labels.tobytes()).hexdigest()[:16] == HEAD_LABELS


HEAD_LABELS = "e8bd43c8718e664c"


@pytest.mark.parametrize("style", HeaderStyle)
@pytest.mark.parametrize("profile", WRITTEN.values(), ids=WRITTEN)
def test_dciodvfy_finds_no_error_in_any_header_style(
    profile: Profile, style: HeaderStyle, tmp_path: Path
) -> None:
    # Slices differ in numbers alone, so two stand for all.
    study = cheap_study(3, replace(profile, header=style, shape=(2, 40, 48)))

    assert errors_of(write_study(tmp_path, study)) == []


@pytest.mark.parametrize("syntax", Syntax)
@pytest.mark.parametrize("cells", [Cells.SIGNED, Cells.PADDED, Cells.UNSIGNED_1024])
def test_every_cell_format_in_every_transfer_syntax_is_valid_and_reads_back_exactly(
    cells: Cells, syntax: Syntax, tmp_path: Path
) -> None:
    plain = cheap_study(3, replace(TINY_CT, cells=cells))
    study = cheap_study(3, replace(TINY_CT, cells=cells, syntax=syntax))

    assert errors_of(write_study(tmp_path, study)[:1]) == []
    assert {one.transfer_syntax_uid for one in study.images} == {str(syntax)}
    np.testing.assert_array_equal(read_values(study), read_values(plain))
    if syntax is Syntax.JPEG_2000:
        # The SIZ marker segment says for itself whether cells are signed; readers that believe
        # the header alone would hide a wrong one.
        stream = study.images[0].data
        precision = stream[stream.index(b"\xff\x4f\xff\x51") + 42]
        assert bool(precision & 0x80) == bool(FORMATS[cells].representation)


def test_decoys_come_as_series_of_their_own_and_are_valid(tmp_path: Path) -> None:
    for profile in (TINY_CT, TINY_MR):
        study = cheap_study(3, replace(profile, decoys=True))
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
        TINY_MR,
        orientation=orientation,
        form=form,
        numbering=Numbering.RANDOM,
    )
    study = cheap_study(4, profile)
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


def test_the_lesion_stays_at_its_place_in_the_patient_in_every_axis_order() -> None:
    patient = mr.HeadPatient.draw(4, lesion_mm=40.0)
    expected = np.mean([lobe.centre_mm for lobe in patient.lesion], axis=0)

    for orientation in axis_orders():
        profile = Profile(
            part=Part.HEAD,
            form=Form.ENHANCED,
            orientation=orientation,
            shape=(24, 30, 28),
            spacing_mm=(10.0, 10.0, 10.0),
            lesion_mm=40.0,
        )
        study = make_study(4, profile)
        values = read_values(study)

        inside = np.argwhere(study.truth.labels > 0)
        centre = study.truth.affine[:3] @ (*inside.mean(axis=0), 1.0)
        np.testing.assert_allclose(centre, expected, atol=8.0)
        assert np.median(values[study.truth.labels > 0]) > 2 * np.percentile(values, 90)


def test_a_drawn_chest_is_written_whole_with_marker_and_lungs_on_their_sides() -> None:
    profile = replace(SMALL_CHEST, shape=(32, 80, 80), healthy=True, nodules=((12.0, 20.0),))
    study = make_study(4, profile)
    truth = study.truth

    assert truth.marker_mm is not None
    x, y, z = truth.marker_mm
    index = np.linalg.solve(truth.affine, (x, y, z, 1.0))[:3]
    nearby = tuple(slice(max(0, int(k) - 3), int(k) + 4) for k in np.rint(index))
    assert x < 0 and y < 0
    assert read_values(study)[nearby].max() > 300
    assert _centre_x(truth.labels == 1, study) < 0 < _centre_x(truth.labels == 2, study)
    voxel_ml = float(np.prod(truth.spacing_mm)) / 1000
    for label, name in truth.names.items():
        counted = float((truth.labels == label).sum()) * voxel_ml
        assert counted == pytest.approx(truth.exact_ml[name], rel=0.1)
    assert any(lesion.diameter_mm == pytest.approx(12.0, rel=0.2) for lesion in truth.lesions)


def _centre_x(mask: np.ndarray, study: PhantomStudy) -> float:
    index = np.argwhere(mask).mean(axis=0)
    return float((study.truth.affine @ (*index, 1.0))[0])


def test_random_instance_numbers_are_a_permutation_that_is_not_the_order() -> None:
    study = cheap_study(4, replace(TINY_CT, numbering=Numbering.RANDOM, shape=(24, 40, 48)))

    numbers = [int(dataset.InstanceNumber) for dataset in datasets(study)]

    assert sorted(numbers) == list(range(1, 25))
    assert numbers != sorted(numbers)


def test_descending_numbers_run_from_the_head_down() -> None:
    study = cheap_study(4, replace(TINY_CT, numbering=Numbering.DESCENDING))

    by_number = sorted(datasets(study), key=lambda dataset: int(dataset.InstanceNumber))

    heights = [float(dataset.ImagePositionPatient[2]) for dataset in by_number]
    assert heights == sorted(heights, reverse=True)


def test_padding_lies_outside_the_circle_and_truth_asks_nothing_there() -> None:
    study = cheap_study(4, replace(TINY_CT, cells=Cells.PADDED))
    dataset = datasets(study)[3]

    outside = dataset.pixel_array == -2000

    assert dataset.PixelPaddingValue == -2000
    # All four corners, and nothing on the two middle lines.
    assert outside[0, 0] and outside[0, -1] and outside[-1, 0] and outside[-1, -1]
    assert not outside[20].any() and not outside[:, 24].any()
    assert not study.truth.labels[:, outside].any()


def test_unsigned_cells_with_intercept_1000_saturate_air() -> None:
    study = cheap_study(4, replace(TINY_CT, cells=Cells.UNSIGNED_1000))

    assert read_values(study).min() == -1000
    assert datasets(study)[0].BitsStored == 12


def test_every_object_says_that_it_is_a_phantom() -> None:
    for style in HeaderStyle:
        for profile in WRITTEN.values():
            study = cheap_study(9, replace(profile, header=style, shape=(2, 40, 48)))
            dataset = datasets(study)[0]

            assert dataset.QualityControlSubject == "YES"
            assert dataset.QualityControlImage == "YES"
            assert str(dataset.PatientName).startswith("PHANTOM^9")
            assert dataset.Manufacturer == "LIMNER PHANTOM"


def test_two_studies_of_one_seed_share_the_patient_and_no_uid() -> None:
    first = cheap_study(4, TINY_CT)
    second = cheap_study(4, replace(TINY_CT, study_key="follow-up"))

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
        dataset = datasets(cheap_study(9, replace(TINY_MR, header=style)))[0]
        dataset.decode()
        assert part in str(dataset.PatientName), style


def test_trailing_blanks_are_in_the_bytes() -> None:
    data = cheap_study(9, replace(TINY_MR, header=HeaderStyle.TRAILING_BLANKS)).images[0].data

    assert b"PHANTOM-9  " in data
    assert b"^BLANK ^  " in data
