"""The node's own reader against phantoms: good ones become volumes, damaged ones are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.values import Refusal, Volume
from node.imaging.volume import load_volume
from node.phantom.damage import Damage, damaged
from node.phantom.grid import AXIAL, CORONAL, SAGITTAL, Orientation, rotated
from node.phantom.headers import HeaderStyle
from node.phantom.pixels import Cells, Syntax
from node.phantom.study import Form, Numbering, Part, PhantomStudy, Profile, study_of, write_study
from node.reasons import Reason
from tests.phantom.cheap import TINY_CT, TINY_MR, cheap_scan, cheap_study

REFUSED = {
    Damage.MISSING_SLICE: Reason.MISSING_SLICES,
    Damage.SAME_POSITION: Reason.DUPLICATE_POSITION,
    Damage.UNEVEN_SPACING: Reason.UNEVEN_SPACING,
    Damage.MOVED_IN_PLANE: Reason.MOVING_ORIGIN,
    Damage.GANTRY_TILT: Reason.GANTRY_TILT,
    Damage.MIXED_ORIENTATION: Reason.MIXED_ORIENTATION,
    Damage.OTHER_PATIENT: Reason.MIXED_IDENTITY,
    Damage.TRUNCATED: Reason.TRUNCATED_FRAME,
}


def read(study: PhantomStudy, folder: Path) -> list[Volume | Refusal]:
    write_study(folder, study)
    found = []
    for plan in find_volumes(read_folder(folder)):
        found.append(plan if isinstance(plan, Refusal) else load_volume(plan))
    return [one for one in found if one.series_uid == study.series_uid]


@pytest.mark.parametrize("damage", REFUSED)
def test_a_damaged_series_is_refused_for_what_is_wrong_with_it(
    damage: Damage, tmp_path: Path
) -> None:
    good = cheap_study(3, replace(TINY_CT, shape=(9, 40, 48)))

    found = read(damaged(good, damage), tmp_path)

    assert {one.reason for one in found if isinstance(one, Refusal)} == {REFUSED[damage]}
    assert not [one for one in found if isinstance(one, Volume)]


@pytest.mark.parametrize("damage", [Damage.DUPLICATE_SLICE, Damage.SENT_TWICE])
def test_a_copy_of_a_slice_changes_nothing(damage: Damage, tmp_path: Path) -> None:
    good = cheap_study(3, replace(TINY_CT, shape=(9, 40, 48)))

    (volume,) = read(damaged(good, damage), tmp_path / "damaged")
    (wanted,) = read(good, tmp_path / "good")

    assert isinstance(volume, Volume) and isinstance(wanted, Volume)
    np.testing.assert_array_equal(volume.array, wanted.array)


PROFILES = {
    "CT": replace(TINY_CT, decoys=True, numbering=Numbering.RANDOM),
    "CT feet first, padded, descending": replace(
        TINY_CT, cells=Cells.PADDED, numbering=Numbering.DESCENDING, patient_position="FFS"
    ),
    "CT unsigned in JPEG-LS": replace(TINY_CT, cells=Cells.UNSIGNED_1024, syntax=Syntax.JPEG_LS),
    "CT signed in JPEG 2000": replace(TINY_CT, cells=Cells.SIGNED, syntax=Syntax.JPEG_2000),
    "MR": replace(TINY_MR, decoys=True, header=HeaderStyle.JAPANESE),
    "Enhanced CT, frames in any order": replace(
        TINY_CT, form=Form.ENHANCED, numbering=Numbering.RANDOM
    ),
    "Enhanced MR in RLE": replace(TINY_MR, form=Form.ENHANCED, syntax=Syntax.RLE),
}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize(
    "orientation",
    [AXIAL, CORONAL, SAGITTAL, rotated(CORONAL, degrees=(9, 4, -12))],
    ids=["axial", "coronal", "sagittal", "oblique"],
)
def test_a_good_series_lies_where_the_truth_says(
    profile: Profile, orientation: Orientation, tmp_path: Path
) -> None:
    profile = replace(profile, orientation=orientation)
    scan = cheap_scan(5, profile)
    study = study_of(scan, 5, profile)

    (volume,) = read(study, tmp_path)

    assert isinstance(volume, Volume), volume
    np.testing.assert_allclose(volume.affine, study.truth.affine, atol=1e-4)
    np.testing.assert_array_equal(volume.array, scan.values)
    assert volume.units == ("HU" if profile.part is Part.CHEST else "arbitrary")
