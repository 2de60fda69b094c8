"""Real and shared series against what is known of them."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.inspect import inspect_folder
from node.imaging.read import list_folder
from node.imaging.values import Refusal, Volume, VolumePlan
from node.reasons import Reason

Shared = Callable[[str], Path]

REASONS = {
    "ct_gantry_tilt": Reason.GANTRY_TILT,
    "ct_missing_slice": Reason.MISSING_SLICES,
    "mr_mixed_orientation": Reason.MIXED_ORIENTATION,
    "ct_not_a_volume": Reason.DUPLICATE_POSITION,
    "missing_slice": Reason.MISSING_SLICES,
    "uneven_spacing": Reason.UNEVEN_SPACING,
    "same_position_other_pixels": Reason.DUPLICATE_POSITION,
    "mixed_orientation": Reason.MIXED_ORIENTATION,
    "mixed_matrix": Reason.MIXED_MATRIX,
    "mixed_pixel_spacing": Reason.MIXED_SPACING,
    "no_position": Reason.NO_GEOMETRY,
    "gantry_tilt": Reason.GANTRY_TILT,
    "single_slice": Reason.TOO_FEW_SLICES,
    "mr_rgb_secondary_capture": Reason.NOT_GREYSCALE,
    "mr_ge_single_slice": Reason.TOO_FEW_SLICES,
}
VOLUMES = [
    "mr_ge_sagittal_oblique", "mr_hitachi_double_oblique_implicit", "mr_pmod_non_isotropic",
    "mr_philips_coronal_implicit", "mr_generic_j2k", "mr_generic_rle", "mr_siemens_enhanced",
    "mr_hyperfine_enhanced", "mr_prone", "reversed_instance_numbers", "shuffled_filenames",
    "rounding_jitter", "double_oblique", "sagittal_mr", "descending_normal",
    "thickness_not_spacing", "slope_per_slice", "duplicate_instances", "localizer_in_series",
    "enhanced_ct_shuffled_frames",
]  # fmt: skip


def unpack(shared_data: Shared, archive: str, folder: Path) -> Path:
    with tarfile.open(shared_data(archive)) as packed:
        packed.extractall(folder, filter="data")
    return folder


def geometry(shared_data: Shared, name: str, folder: Path) -> tuple[dict[str, Any], Path]:
    for place in ("real", "synthetic", "failing/real", "failing/synthetic"):
        listed = json.loads(shared_data(f"geometry/{place}/expected.json").read_text())
        if name in listed:
            return listed[name], unpack(shared_data, f"geometry/{place}/{name}.tar.xz", folder)
    raise LookupError(name)


def crc32(volume: Volume) -> int:
    whole = np.rint(volume.array.astype(np.float64)).astype("<i4")
    return zlib.crc32(np.ascontiguousarray(whole).tobytes())


def assert_is(volume: Volume, expected: dict[str, Any]) -> None:
    assert list(volume.array.shape) == expected["shape_zyx"]
    assert crc32(volume) == expected["crc32_int32_zyx"]
    within = expected.get("tolerance_mm", 1e-3)
    assert volume.spacing_mm[::-1] == pytest.approx(expected["spacing_mm_xyz"], abs=within)
    np.testing.assert_allclose(volume.affine[:3, 3], expected["origin_lps"], atol=0.01)
    for column, direction in enumerate(("slice_dir", "col_dir", "row_dir")):
        unit = volume.affine[:3, column] / volume.spacing_mm[column]
        np.testing.assert_allclose(unit, expected[direction], atol=1e-4)


def test_every_shared_series_is_tried(shared_data: Shared) -> None:
    listed: set[str] = set()
    for place in ("real", "synthetic", "failing/real", "failing/synthetic"):
        listed |= set(json.loads(shared_data(f"geometry/{place}/expected.json").read_text()))
    apart = {"two_timepoints", "mr_ge_fmri_two_volumes", "mr_philips_enhanced_fmri"}
    assert listed == {*VOLUMES, *REASONS, *apart}


@pytest.mark.parametrize("name", VOLUMES)
def test_a_shared_series_gives_exactly_the_known_volume(
    shared_data: Shared, tmp_path: Path, name: str
) -> None:
    expected, folder = geometry(shared_data, name, tmp_path)
    found = find_volumes(read_folder(folder))
    plans = [part for part in found if isinstance(part, VolumePlan)]
    assert len(plans) == 1
    left_out = [part for part in found if isinstance(part, Refusal)]
    assert sum(len(part.instances) for part in left_out) == expected.get("dropped", 0)
    volume = load_volume(plans[0])
    assert isinstance(volume, Volume), volume
    assert_is(volume, expected)


@pytest.mark.parametrize("name", REASONS)
def test_a_shared_series_that_is_no_volume_is_refused_with_the_right_reason(
    shared_data: Shared, tmp_path: Path, name: str
) -> None:
    _, folder = geometry(shared_data, name, tmp_path)
    found = find_volumes(read_folder(folder))
    assert [type(part) for part in found] == [Refusal]
    assert [part.reason for part in found if isinstance(part, Refusal)] == [REASONS[name]]


def test_two_time_points_are_two_known_volumes(shared_data: Shared, tmp_path: Path) -> None:
    expected, folder = geometry(shared_data, "two_timepoints", tmp_path)
    found = find_volumes(read_folder(folder))
    assert len(found) == 2
    for plan, known in zip(found, expected["volumes"], strict=True):
        assert isinstance(plan, VolumePlan)
        volume = load_volume(plan)
        assert isinstance(volume, Volume)
        assert_is(volume, known)


@pytest.mark.parametrize("name", ["mr_ge_fmri_two_volumes", "mr_philips_enhanced_fmri"])
def test_a_time_series_is_split_whole_or_refused(
    shared_data: Shared, tmp_path: Path, name: str
) -> None:
    expected, folder = geometry(shared_data, name, tmp_path)
    for part in find_volumes(read_folder(folder)):
        if isinstance(part, VolumePlan):
            assert part.shape[0] == expected["positions"]
            assert part.spacing_mm[0] == pytest.approx(expected["spacing_mm"], abs=0.01)
        else:
            assert part.reason is Reason.DUPLICATE_POSITION


def test_the_chest_ct_lies_as_its_mask_does(shared_data: Shared, tmp_path: Path) -> None:
    folder = unpack(shared_data, "ct-thorax/dicom.tar.xz", tmp_path / "dicom")
    mask = shared_data("ct-thorax/lung-mask.nii.gz")
    said = inspect_folder(folder, mask=mask)
    (volume,) = said["volumes"]
    assert volume["shape"] == [99, 512, 512]
    assert volume["spacing_mm"] == pytest.approx([3.0, 0.564453125, 0.564453125])
    affine = np.array(volume["affine"])
    np.testing.assert_allclose(affine[:3, 3], [-143.2177734375, -287.2177734375, -288.0])
    np.testing.assert_allclose(affine[:3, 0], [0, 0, 3.0])
    # The mask was made on the series as another reader placed it.
    assert volume["mask"]["voxels"] == int((np.asanyarray(nib.load(mask).dataobj) > 0).sum())
    assert (volume["units"], volume["minimum"]) == ("HU", -1024)
    assert -900 < volume["median"] < -800  # lung, not tissue


@pytest.mark.parametrize("study", ["Study1", "Study3"])
def test_the_hippocampus_crops_are_known_volumes(
    shared_data: Shared, tmp_path: Path, study: str
) -> None:
    known = json.loads(shared_data("mr-hippocampus/dicom/expected.json").read_text())[study]
    folder = unpack(shared_data, f"mr-hippocampus/dicom/{study}.tar.xz", tmp_path)
    found = find_volumes(read_folder(folder))
    assert len(found) == known["series"]
    (plan,) = [part for part in found if isinstance(part, VolumePlan)]
    volume = load_volume(plan)
    assert isinstance(volume, Volume)
    assert_is(volume, known["volume"] | {"crc32_int32_zyx": known["crc32_int32_zyx"]})
    others = [part for part in found if isinstance(part, Refusal)]
    assert {part.reason for part in others} <= {Reason.TOO_FEW_SLICES}


@pytest.mark.parametrize("folder", ["interop", "us-dicom", "seg-examples"])
def test_odd_files_are_read_or_refused_one_by_one_and_together(
    shared_data: Shared, folder: str
) -> None:
    files = list_folder(shared_data(folder)).instances
    assert len(files) > 10
    find_volumes(files)
    for file in files:
        for found in find_volumes([file], min_slices=1):
            read = load_volume(found) if isinstance(found, VolumePlan) else found
            assert isinstance(read, Volume | Refusal)


def test_ultrasound_is_refused_by_name(shared_data: Shared) -> None:
    found = find_volumes(list_folder(shared_data("us-dicom")).instances)
    named = [part for part in found if isinstance(part, Refusal) and part.modality == "US"]
    assert named
    assert {part.reason for part in named} == {Reason.NO_GEOMETRY}
    assert all("ultrasound" in part.explanation for part in named)
