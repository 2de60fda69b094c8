"""A label lies on the voxel it was computed for, in every orientation and at every spacing.

The network hands its input through, so the labels must be the native threshold.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from node.imaging.values import Outcome, Segmentation, Volume
from node.models.architectures import build_network
from node.models.card import Card
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel, load_model
from node.models.prepare import prepare
from tests.models.builders import AXIAL, CARD, VOXELS, make_volume, write_model
from tests.models.identity import identity_network

SPACING = (2.0, 0.9, 1.1)
SHAPE = (30, 52, 44)  # the three sides differ, as do the spacings
CENTRE_MM = np.array([10.0, 5.0, -38.0])
RADII_MM = np.array([14.0, 17.0, 20.0])
OBLIQUE = tuple(
    tuple(row)
    for row in np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float)
    @ np.array(
        [
            [np.cos(0.2), -np.sin(0.2), 0],
            [np.sin(0.2) * np.cos(0.1), np.cos(0.2) * np.cos(0.1), -np.sin(0.1)],
            [np.sin(0.2) * np.sin(0.1), np.cos(0.2) * np.sin(0.1), np.cos(0.1)],
        ]
    ).T
)


def directions(order: tuple[int, int, int], signs: tuple[int, int, int]) -> NDArray[np.float64]:
    result = np.zeros((3, 3))
    for axis in range(3):
        result[axis, order[axis]] = signs[axis]
    return result


ORIENTATIONS = {
    "axial": AXIAL,
    "axial, head first": directions((2, 1, 0), (-1, 1, 1)),
    "coronal": directions((1, 2, 0), (1, -1, 1)),
    "sagittal": directions((0, 2, 1), (1, -1, 1)),
    "prone, mirrored": directions((2, 1, 0), (1, -1, -1)),
    "oblique": OBLIQUE,
}


def ellipsoid(axes: object = AXIAL, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """Return a volume that falls off smoothly around an ellipsoid fixed in the patient."""
    volume = make_volume(np.zeros(shape, np.int16), spacing_mm=SPACING, directions=axes)  # type: ignore[arg-type]
    middle = volume.affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    origin = CENTRE_MM + np.array([1.3, -2.1, 0.7]) - middle
    grid = np.indices(shape).reshape(3, -1)
    points = (volume.affine[:3, :3] @ grid).T + origin
    distance = 1 - np.linalg.norm((points - CENTRE_MM) / RADII_MM, axis=1)
    values = np.clip(500 + 1000 * distance, 0, 1000).reshape(shape).astype(np.int16)
    return make_volume(values, spacing_mm=SPACING, directions=axes, origin_mm=origin)  # type: ignore[arg-type]


MODE_2D = 'architecture = "unet2d"\noutputs = 2\nwidths = [2, 2, 2]\n[inference]\nmode = "slices"\n'
MODE_3D = (
    'architecture = "unet3d"\noutputs = 2\nwidths = [2, 2]\n'
    '[inference]\nmode = "window"\npatch = [16, 24, 24]\nbatch = 2\n'
)
SCALE = """
[[steps]]
step = "scale"
from = [0, 1000]
to = [0, 1]
[[steps]]
step = "clip"
low = 0
high = 1
"""


def identity_model(
    folder: Path,
    *,
    orientation: str = "HPL",
    spacing: str = "[0, 0, 0]",
    more: str = "",
    mode: str = MODE_2D,
) -> LoadedModel:
    voxels = VOXELS.format(orientation=orientation, spacing=spacing, more=more)
    middle = f'{voxels}{SCALE}[network]\n{mode}[head]\nkind = "classes"\n'
    text = CARD.replace("{name}", "identity").replace("{middle}", middle)
    card = write_model(folder, text)
    card = write_model(folder, text, identity_network(card.network))
    return load_model(card, device="cpu", threads=1)


def agree(found: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> tuple[float, float]:
    """Return Dice and the distance of the centroids in voxels."""
    both = np.count_nonzero((found == 1) & wanted)
    dice = 2 * both / (np.count_nonzero(found) + np.count_nonzero(wanted))
    shift = np.argwhere(found == 1).mean(axis=0) - np.argwhere(wanted).mean(axis=0)
    return dice, float(np.abs(shift).max())


@pytest.mark.parametrize("axes", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
@pytest.mark.parametrize("spacing", ["[0, 0, 0]", "[0, 1.5, 1.5]", "[1.4, 0.8, 0.8]"])
def test_labels_come_back_to_their_voxels(tmp_path: Path, spacing: str, axes: object) -> None:
    volume = ellipsoid(axes)
    model = identity_model(tmp_path, spacing=spacing)
    found = segment_volume(volume, model).labels
    wanted = volume.array > 500
    assert found.shape == volume.array.shape
    assert found.dtype == np.uint8
    dice, shift = agree(found, wanted)
    assert shift < 0.05
    if spacing == "[0, 0, 0]":
        np.testing.assert_array_equal(found == 1, wanted)
    assert dice >= 0.995


@pytest.mark.parametrize("spacing", ["[0, 0, 0]", "[1.7, 1.3, 1.3]"])
@pytest.mark.parametrize("axes", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_a_3d_window_comes_back_to_its_voxels(tmp_path: Path, spacing: str, axes: object) -> None:
    volume = ellipsoid(axes)
    model = identity_model(tmp_path, spacing=spacing, mode=MODE_3D)
    dice, shift = agree(segment_volume(volume, model).labels, volume.array > 500)
    assert dice >= 0.995
    assert shift < 0.05


def test_all_48_axis_orders_give_the_network_one_and_the_same_patient(tmp_path: Path) -> None:
    """A marker at the patient's left, back and head lands at the end of each axis."""
    card = identity_model(tmp_path).card
    array = np.zeros((8, 9, 10), np.int16)
    array[-1, -2, -3] = 1000  # head, posterior, left in an axial volume
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = array.transpose(order)[tuple(slice(None, None, step) for step in flips)]
            axes = [np.array(AXIAL[axis]) * flip for axis, flip in zip(order, flips, strict=True)]
            volume = make_volume(
                np.ascontiguousarray(turned), spacing_mm=(1.0, 1.0, 1.0), directions=axes
            )
            prepared = prepare(volume, card)
            np.testing.assert_array_equal(prepared.array, array)
            np.testing.assert_array_equal(prepared.turn.undo(prepared.array), volume.array)


@pytest.mark.parametrize("size", ["[48, 48]", "[24, 24]", "[96, 96]"])
def test_a_window_is_pasted_back_where_it_was_cut(tmp_path: Path, size: str) -> None:
    volume = ellipsoid(shape=(12, 60, 50))
    model = identity_model(tmp_path, more=f"size = {size}")
    found = segment_volume(volume, model)
    rows, columns = prepare(volume, model.card).axes[1:]
    wanted = np.zeros_like(found.labels)
    wanted[:, rows.inside, columns.inside] = (volume.array > 500)[:, rows.inside, columns.inside]
    np.testing.assert_array_equal(found.labels, wanted)
    assert wanted.any()


def test_labels_at_the_edge_of_a_cut_window_ask_a_person(tmp_path: Path) -> None:
    volume = ellipsoid(shape=(12, 60, 50))
    narrow = segment_volume(volume, identity_model(tmp_path / "narrow", more="size = [24, 24]"))
    wide = segment_volume(volume, identity_model(tmp_path / "wide", more="size = [64, 64]"))
    assert narrow.verdict.outcome is Outcome.REVIEW
    assert "border of the window" in narrow.verdict.reasons[0]
    assert wide.verdict.outcome is Outcome.ACCEPT


def test_the_window_follows_the_body_and_not_the_table(tmp_path: Path) -> None:
    array = np.full((10, 120, 120), -1000, np.int16)
    array[:, 70:110, 60:110] = 40  # a body that lies off-centre
    array[:, 10:12, :] = 200  # a table plate, thin
    volume = make_volume(array, spacing_mm=(2.0, 2.0, 2.0))
    model = identity_model(tmp_path, more='size = [64, 64]\ncentre = "body"')
    rows, columns = prepare(volume, model.card).axes[1:]
    assert rows.inside.start <= 70
    assert rows.inside.stop >= 110
    assert columns.inside.start <= 60
    assert columns.inside.stop >= 110


def test_the_volume_of_a_segment_is_its_voxels_in_millilitres(tmp_path: Path) -> None:
    volume = ellipsoid()
    found = segment_volume(volume, identity_model(tmp_path))
    (measured,) = found.measurements
    exact = 4 / 3 * np.pi * np.prod(RADII_MM) / 1000
    assert measured.name.value == "118565006"
    assert measured.unit.value == "mL"
    assert measured.value == pytest.approx(np.count_nonzero(volume.array > 500) * 1.98e-3)
    assert measured.value == pytest.approx(exact, rel=0.02)


def test_the_same_input_gives_the_same_labels_and_progress_reaches_the_end(
    tmp_path: Path,
) -> None:
    volume = ellipsoid(OBLIQUE)
    shares: list[float] = []
    found: list[Segmentation] = []
    for mode in (MODE_2D, MODE_3D):
        card = random_model(tmp_path, mode)
        for _ in range(2):
            model = load_model(card, device="cpu", threads=1)
            found.append(segment_volume(volume, model, progress=shares.append))
        assert found[-1].labels.tobytes() == found[-2].labels.tobytes()
        assert found[-1].labels.any()
        assert shares[-1] == 1.0
    assert found[0].seconds.keys() >= {"prepare", "network", "back", "postprocess", "total"}
    assert found[0].seconds["back"] >= 0
    assert found[0].runtime["precision"] == "fp32"


def random_model(folder: Path, mode: str) -> Card:
    """Return a model with random weights that gives both classes."""
    voxels = VOXELS.format(orientation="HPL", spacing="[1.7, 1.3, 1.3]", more="")
    mode = 'norm = "instance"\n' + mode  # scores spread whatever the weights are
    middle = f'{voxels}{SCALE}[network]\n{mode}[head]\nkind = "classes"\n'
    text = CARD.replace("{name}", "random").replace("{middle}", middle)
    network = build_network(write_model(folder, text).network).eval()
    torch.manual_seed(3)
    sides = (16, 32, 32) if "unet3d" in mode else (32, 32)
    with torch.no_grad():
        scores = network(torch.rand(1, 1, *sides))[0].flatten(1).mean(dim=1)
        network.get_submodule("last").bias -= scores
    return write_model(folder, text, network)


def test_mirrored_passes_are_turned_back_before_they_are_added(tmp_path: Path) -> None:
    volume = ellipsoid()
    mode = MODE_2D + 'mirrors = ["row", "column"]\n'
    found = segment_volume(volume, identity_model(tmp_path, mode=mode)).labels
    np.testing.assert_array_equal(found == 1, volume.array > 500)


def test_neighbouring_planes_are_channels_and_ends_are_repeated(tmp_path: Path) -> None:
    mode = MODE_2D.replace("outputs", "channels = 3\noutputs") + "neighbours = 1\nbatch = 4\n"
    model = identity_model(tmp_path, mode=mode)
    volume = ellipsoid()
    found = segment_volume(volume, model).labels
    above = np.concatenate([volume.array[:1], volume.array[:-1]])  # channel 0 is the plane before
    np.testing.assert_array_equal(found == 1, above > 500)


def test_nearest_labels_stay_on_their_voxels(tmp_path: Path) -> None:
    volume = ellipsoid()
    model = identity_model(tmp_path, spacing="[1.0, 0.5, 0.5]", more='back = "nearest"')
    dice, shift = agree(segment_volume(volume, model).labels, volume.array > 500)
    assert dice >= 0.97
    assert shift < 0.1
