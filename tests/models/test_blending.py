"""Blended scores and chosen labels are those of the plain way: whole arrays, divided, argmax."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval
from numpy.typing import NDArray

from node.models.architectures import build_network
from node.models.choice import Chooser
from node.models.loaded import LoadedModel, load_model
from node.models.native import labels_of
from node.models.parts import Head
from node.models.prepare import Prepared, prepare
from node.models.scores import Meter, Work, score_planes
from node.models.tiles import clipped_starts, lay_tiles, strips
from tests.models.builders import CARD, VOXELS, make_volume, write_model

CLASSES = Head("classes", 0.5)
SEGMENT = """
[[segments]]
number = {number}
label = "Thing {number}"
category = "91723000, SCT, Anatomical Structure"
type = "39607008, SCT, Lung"
"""
SHAPE = (19, 29, 33)


def window_model(
    folder: Path,
    *,
    spacing: str = "[0, 0, 0]",
    outputs: int = 2,
    more: str = "",
    head: str = "",
    patch: tuple[int, int, int] = (8, 16, 12),
    batch: int = 2,
) -> LoadedModel:
    """Return a 3D model with random weights whose classes all win somewhere."""
    middle = (
        VOXELS.format(orientation="HPL", spacing=spacing, more="")
        + (
            '[[steps]]\nstep = "scale"\nfrom = [0, 1000]\nto = [0, 1]\n'
            f'[network]\narchitecture = "unet3d"\noutputs = {outputs}\nwidths = [3, 4]\n'
            f'norm = "instance"\n[inference]\nmode = "window"\npatch = {list(patch)}\n'
            f"batch = {batch}\n{more}[head]\n"
        )
        + (head or 'kind = "classes"\n')
    )
    text = CARD.replace("{name}", "window").replace("{middle}", middle)
    text += "".join(SEGMENT.format(number=number) for number in range(2, outputs))
    network = build_network(write_model(folder, text).network).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        scores = network(torch.rand(1, 1, *patch))[0].flatten(1).mean(dim=1)
        network.get_submodule("last").bias -= scores
    return load_model(write_model(folder, text, network), device="cpu", threads=1)


def prepared_volume(model: LoadedModel) -> Prepared:
    values = np.random.default_rng(5).integers(0, 1000, SHAPE).astype(np.int16)
    return prepare(make_volume(values, spacing_mm=(2.0, 1.0, 1.5)), model.card)


def silent() -> Meter:
    return Meter(lambda _share: None)


def plain_scores(model: LoadedModel, prepared: Prepared) -> NDArray[np.float64]:
    """Return (outputs, slices, rows, columns): every patch into whole arrays, then divided."""
    tiles = lay_tiles(prepared.shape, model.card.inference)
    weight = tiles.weight().astype(np.float64)
    image = torch.from_numpy(prepared.planes(0, prepared.shape[0]))
    total = np.zeros((model.card.network.outputs, *prepared.shape))
    count = np.zeros(prepared.shape)
    for z in tiles.starts[0]:
        for y in tiles.starts[1]:
            for x in tiles.starts[2]:
                box = tuple(
                    slice(at, at + side) for at, side in zip((z, y, x), tiles.patch, strict=True)
                )
                with torch.no_grad():
                    found = model.network(image[box][None, None])[0].numpy()
                total[(slice(None), *box)] += found * weight
                count[box] += weight
    return total / count


@pytest.mark.parametrize(
    "more",
    ["", 'tiling = "clipped"\n', 'blending = "constant"\noverlap = 0.25\n', "overlap = 0.7\n"],
    ids=["even", "clipped", "constant", "dense"],
)
def test_labels_and_scores_of_a_window_are_those_of_whole_arrays(tmp_path: Path, more: str) -> None:
    model = window_model(tmp_path, more=more, outputs=2)
    prepared = prepared_volume(model)
    wanted = plain_scores(model, prepared)
    planes = torch.stack(list(score_planes(prepared, model, silent())), dim=1).numpy()
    assert np.abs(planes - wanted).max() < 1e-4
    labels = labels_of(prepared, model, silent(), Work(2))
    rows, columns = (axis.inside for axis in prepared.axes[1:])
    near_tie = np.abs(wanted[1] - wanted[0]) < 1e-5
    inner = tuple(
        slice(axis.inside.start - int(axis.start), axis.inside.stop - int(axis.start))
        for axis in prepared.axes
    )
    agrees = (labels[:, rows, columns] == wanted.argmax(axis=0)[inner]) | near_tie[inner]
    assert agrees.all()
    assert len(np.unique(labels)) == 2


@pytest.mark.parametrize("spacing", ["[3.0, 1.0, 1.5]", "[0, 1.7, 1.3]", "[1.4, 1.6, 1.3]"])
def test_scores_that_are_interpolated_are_divided_by_their_weights_first(
    tmp_path: Path, spacing: str
) -> None:
    """Neighbours in the grid have different sums of weights: mixing them undivided is wrong."""
    model = window_model(tmp_path, spacing=spacing)
    prepared = prepared_volume(model)
    slices, rows, columns = prepared.axes
    scores = plain_scores(model, prepared)
    ways = [axis.backward("linear").astype(np.float64) for axis in (slices, rows, columns)]
    native = np.einsum("kzyx,az,by,cx->kabc", scores, *ways, optimize=True)
    wanted = native[1] > native[0]
    labels = labels_of(prepared, model, silent(), Work(2))
    found = labels[slices.inside, rows.inside, columns.inside] == 1
    near_tie = np.abs(native[1] - native[0]) < 1e-5
    assert ((found == wanted) | near_tie).all()
    assert 0.05 < found.mean() < 0.95


@pytest.mark.parametrize("spacing", ["[0, 0, 0]", "[0, 1.7, 1.3]", "[3.0, 1.0, 1.5]"])
def test_a_threshold_is_held_against_divided_scores(tmp_path: Path, spacing: str) -> None:
    head = 'kind = "probability"\nthreshold = 0.52\n'
    model = window_model(tmp_path, spacing=spacing, outputs=1, head=head)
    prepared = prepared_volume(model)
    ways = [axis.backward("linear").astype(np.float64) for axis in prepared.axes]
    scores = plain_scores(model, prepared)
    native = np.einsum("kzyx,az,by,cx->kabc", scores, *ways, optimize=True)[0]
    limit = math.log(0.52 / 0.48)
    labels = labels_of(prepared, model, silent(), Work(2))
    found = labels[tuple(axis.inside for axis in prepared.axes)] == 1
    assert ((found == (native > limit)) | (np.abs(native - limit) < 1e-5)).all()
    assert 0.001 < found.mean() < 0.999


@pytest.mark.parametrize("spacing", ["[0, 0, 0]", "[1.4, 1.6, 1.3]"])
def test_strips_of_any_number_give_the_same_label_bytes(tmp_path: Path, spacing: str) -> None:
    model = window_model(tmp_path, spacing=spacing)
    prepared = prepared_volume(model)
    shares: list[float] = []
    whole = labels_of(prepared, model, Meter(shares.append), Work(2))
    assert shares[-1] == 1.0
    for count in (2, 9):
        parts = labels_of(prepared, model, silent(), Work(2, strips=count))
        assert parts.tobytes() == whole.tobytes(), count
    assert labels_of(prepared, model, silent(), Work(2, on_host=True)).tobytes() == whole.tobytes()


@pytest.mark.parametrize("count", [2, 3, 25, 60])
def test_the_highest_class_wins_and_the_first_among_equals(count: int) -> None:
    made = np.random.default_rng(count)
    scores = made.integers(-4, 4, (count, 70, 900)).astype(np.float32)  # ties everywhere
    scores[:, 3] = 0.0
    labels = np.full((70, 900), 255, np.uint8)
    Chooser(CLASSES).write(torch.from_numpy(scores), labels)
    np.testing.assert_array_equal(labels, scores.argmax(axis=0))
    spread = torch.from_numpy(scores).contiguous(memory_format=torch.contiguous_format)
    lying = spread.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # classes beside each other
    again = np.full((70, 900), 255, np.uint8)
    Chooser(CLASSES).write(lying, again)
    np.testing.assert_array_equal(again, labels)


@given(st.integers(8, 300), st.integers(8, 96), st.sampled_from([0.0, 0.25, 0.5, 0.7]))
def test_clipped_patches_lie_where_monai_puts_them(size: int, side: int, overlap: float) -> None:
    side = min(side, size)
    interval = _get_scan_interval((size,), (side,), 1, (overlap,))
    theirs = [one[0].start for one in dense_patch_slices((size,), (side,), interval)]
    assert clipped_starts(size, side, overlap) == theirs


@given(st.integers(1, 600), st.integers(1, 40))
def test_strips_cover_all_rows_once(rows: int, count: int) -> None:
    parts = strips(rows, count)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    assert len(parts) == min(rows, count)
