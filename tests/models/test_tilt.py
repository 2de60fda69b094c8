"""A stack sheared by a tilted gantry: straightened for the network, and back on its own slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.tilt import mirrored_affine, shear_of, straightened
from node.imaging.values import Refusal, Segmentation, Volume, VolumePlan
from node.models.fit import refusal_of
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel, load_model
from node.reasons import Reason
from node.results.write import NodeFacts
from node.worker.segmenting import Progress, Segmented, segment_files
from tests.imaging.build import save, slice_dataset
from tests.models.builders import CARD, VOXELS, write_model
from tests.models.identity import identity_network
from tests.models.test_there_and_back import MODE_2D, SCALE

SHAPE, GAP_MM, DY, DX = (30, 96, 88), 2.5, 0.9, 1.1
TILT = np.radians(15)
CENTRE_MM = np.array([3.0, 14.0, 36.0])
RADIUS_MM = 26.0


def affine_of(tilt: float = TILT, across: float = 0.0) -> NDArray[np.float64]:
    """Axial slices whose places wander to the back, and to the left by `across` mm each."""
    affine = np.eye(4)
    affine[:3, 0] = (across, GAP_MM * np.tan(tilt), GAP_MM)
    affine[:3, 1], affine[:3, 2] = (0, DY, 0), (DX, 0, 0)
    # The ball lies in the middle of the slice on which its centre is.
    affine[:3, 3] = (-45.0 - 14.4 * across, -28.5 - 14.4 * affine[1, 0], 0.0)
    return affine


def ball(affine: NDArray[np.float64]) -> NDArray[np.int16]:
    """Values that fall off smoothly around a ball and are 500 on its surface."""
    points = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    distance = np.linalg.norm(points - CENTRE_MM, axis=-1)
    return np.clip(500 + 40 * (RADIUS_MM - distance), 0, 1000).astype(np.int16)


def series(folder: Path, affine: NDArray[np.float64]) -> Path:
    slices = []
    for index, plane in enumerate(ball(affine).astype(np.uint16)):
        data = slice_dataset(index, plane)
        data.ImagePositionPatient = [round(float(v), 6) for v in affine[:3] @ (index, 0, 0, 1)]
        data.PixelSpacing = [DY, DX]
        data.RescaleIntercept = 0
        data.GantryDetectorTilt = 0  # as many scanners write, tilted or not
        for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"):
            setattr(data, keyword, "")
        for keyword in ("StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName"):
            setattr(data, keyword, "")
        slices.append(data)
    return save(folder, slices)


def model_of(folder: Path, tilt: str, spacing: str = "[0, 0, 0]") -> LoadedModel:
    voxels = VOXELS.format(
        orientation="HPL", spacing=spacing, more=f'downsample = "linear"\ntilt = "{tilt}"'
    ).replace("-1000", "0")
    text = CARD.format(
        name="tilted",
        sha256="{sha256}",
        middle=voxels + SCALE + "[network]\n" + MODE_2D + '[head]\nkind = "classes"\n',
    )
    card = write_model(folder, text)
    card = write_model(folder, text, identity_network(card.network))
    return load_model(card, device="cpu", threads=1)


def volume_of(folder: Path) -> Volume:
    (plan,) = find_volumes(read_folder(folder), tilted=True)
    assert isinstance(plan, VolumePlan), plan
    volume = load_volume(plan)
    assert isinstance(volume, Volume), volume
    return volume


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(a & b) / (a.sum() + b.sum()))


def test_a_tilted_stack_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", affine_of())
    (refused,) = find_volumes(read_folder(folder))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.GANTRY_TILT
    volume = volume_of(folder)
    np.testing.assert_allclose(volume.affine, affine_of(), atol=1e-5)
    assert volume.spacing_mm == pytest.approx((GAP_MM, DY, DX), abs=1e-5)
    np.testing.assert_array_equal(volume.array, ball(affine_of()))
    strict = model_of(tmp_path / "strict", "refuse")
    said = refusal_of(volume, strict.card)
    assert said is not None
    assert said.reason is Reason.GANTRY_TILT


@pytest.mark.parametrize("across", [0.0, -0.37])
@pytest.mark.parametrize("tilt", [15.0, -15.0, 3.0])
def test_a_straightened_stack_shows_the_ball_round(tilt: float, across: float) -> None:
    affine = affine_of(np.radians(tilt), across)
    volume = Volume(ball(affine), affine, (GAP_MM, DY, DX), "HU", "CT", "2.25.2", 1, (), ())
    shear = shear_of(affine, SHAPE)
    assert shear is not None
    straight = straightened(volume, shear, 0)
    assert shear_of(straight.affine, shear.box) is None
    points = np.moveaxis(np.indices(shear.box), 0, -1) @ straight.affine[:3, :3].T
    inside = np.linalg.norm(points + straight.affine[:3, 3] - CENTRE_MM, axis=-1) < RADIUS_MM
    assert dice(straight.array > 500, inside) > 0.994
    assert straight.padding is not None
    assert straight.padding[0, 0 if tilt < 0 else -1].all()
    assert not straight.padding[inside].any()


@pytest.mark.parametrize("spacing", ["[0, 0, 0]", "[0, 1.3, 1.3]"])
@pytest.mark.parametrize("tilt", [15.0, -15.0])
def test_a_label_comes_back_to_its_own_slice_exactly_enough(
    tmp_path: Path, tilt: float, spacing: str
) -> None:
    volume = volume_of(series(tmp_path / "series", affine_of(np.radians(tilt), 0.21)))
    model = model_of(tmp_path / "model", "resample", spacing)
    assert refusal_of(volume, model.card) is None
    found = segment_volume(volume, model).labels > 0
    truth = volume.array > 500
    assert dice(found, truth) >= 0.99
    shift = np.argwhere(found).mean(axis=0) - np.argwhere(truth).mean(axis=0)
    assert np.abs(shift).max() < 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_stack_is_straightened_just_as_well(axis: int) -> None:
    affine = affine_of(across=0.4)
    mirrored = mirrored_affine(affine, axis)
    shear = shear_of(mirrored, SHAPE)
    assert shear is not None
    flipped = np.flip(ball(affine), axis)
    inside = shear.straighten(flipped, 0) > 500
    # A straight ball has the same middle on every slice, a sheared one wanders.
    middles = [np.argwhere(plane).mean(axis=0) for plane in inside if plane.sum() > 50]
    assert np.ptp(middles, axis=0).max() < 0.5


def test_values_come_back_interpolated_and_labels_as_labels() -> None:
    affine = affine_of(across=0.4)
    shear = shear_of(affine, SHAPE)
    assert shear is not None
    values = ball(affine)
    back = shear.to_native(shear.straighten(values, 0))
    inner = (slice(None), slice(2, -2), slice(2, -2))
    assert np.abs(back - values)[inner].max() < 40  # twice interpolated, 40 per mm
    labels = (values > 500).astype(np.uint8)
    there_and_back = shear.to_native(shear.from_native(labels))
    assert dice(there_and_back > 0, labels > 0) > 0.985
    two = np.where(labels == 1, 2, 5).astype(np.uint8)
    assert set(np.unique(shear.to_native(shear.from_native(two))[inner])) == {2, 5}


def test_a_tilted_series_goes_through_the_line_and_its_gate(tmp_path: Path) -> None:
    folder = series(tmp_path / "series", affine_of())
    model = model_of(tmp_path / "model", "resample")
    (part,) = segment_files(
        read_folder(folder), model, NodeFacts("node", "1"), Progress(lambda *_: None)
    )
    assert isinstance(part, Segmented), part
    assert isinstance(part.answer, Segmentation)
    assert dice(part.answer.labels > 0, ball(affine_of()) > 500) >= 0.99
    assert part.results
