"""A published lung network on a real chest CT gives what its description promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from node.imaging.values import Outcome, Volume
from node.models.card import Card
from node.models.check import check_model
from node.models.inference import segment_volume
from node.models.loaded import load_model
from node.models.prepare import in_channels, prepare
from tests.models.builders import make_volume

SLICES = (31, 55, 80)
LUNG_PIXELS = (86523, 96274, 52752)


@pytest.fixture(scope="module")
def reference(shared_data: Callable[[str], Path]) -> NDArray[np.uint8]:
    """Return the reference mask: 1 right, 2 left, [slice, row, column]."""
    image = nibabel.load(shared_data("ct-thorax/lung-mask.nii.gz"))  # type: ignore[attr-defined]
    return np.asarray(image.dataobj).astype(np.uint8).transpose(2, 1, 0)  # type: ignore[attr-defined]


def dice(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    return 2 * float((found & wanted).sum()) / float(found.sum() + wanted.sum())


def some_slices(volume: Volume, first: int, last: int) -> Volume:
    origin = volume.affine[:3, 3] + first * volume.affine[:3, 0]
    return make_volume(
        volume.array[first:last], spacing_mm=volume.spacing_mm, origin_mm=list(origin)
    )


def test_its_probabilities_are_those_of_its_description(
    thorax: Volume,
    lung_model: Callable[..., Card],
    shared_data: Callable[[str], Path],
) -> None:
    expected = np.load(shared_data("weights/lung-ct-unet/expected-ct-thorax.npz"))
    assert tuple(expected["slice_index"]) == SLICES
    card = lung_model()
    assert check_model(card.folder) == ()
    model = load_model(card, device="cpu", threads=1)
    prepared = prepare(thorax, card)
    for place, (index, pixels) in enumerate(zip(SLICES, LUNG_PIXELS, strict=True)):
        scores = model.scores(in_channels(prepared.planes(index, index + 1), 0))[0, 0]
        found = torch.round(torch.sigmoid(scores) * 255).numpy()
        wanted = expected["probability_x255"][place].astype(float)
        assert np.abs(found - wanted).max() <= 2
        assert abs(int((scores > 0).sum()) - pixels) <= 5


@pytest.mark.parametrize(("add", "low"), [(0, -1024), (1024, 1023)], ids=["HU", "flat"])
def test_wrong_intensities_give_an_empty_result_and_a_rejection(
    thorax: Volume, lung_model: Callable[..., Card], add: float, low: float
) -> None:
    """HU without the offset is the mistake that the description warns of."""
    model = load_model(lung_model(add=add, low=low), device="cpu", threads=1)
    found = segment_volume(some_slices(thorax, 55, 56), model)
    share = float((found.labels > 0).mean())
    assert share < 0.01
    assert found.verdict.outcome in (Outcome.REJECT, Outcome.REVIEW)


def test_right_and_left_lie_on_the_patients_sides(
    thorax: Volume, lung_model: Callable[..., Card], reference: NDArray[np.uint8]
) -> None:
    """Five slices of the middle, as they are and with the columns running the other way."""
    part = some_slices(thorax, 52, 55)
    model = load_model(lung_model(), device="cpu", threads=1)
    found = segment_volume(part, model).labels
    wanted = reference[52:55]
    assert dice(found == 1, wanted == 1) > 0.95
    assert dice(found == 2, wanted == 2) > 0.95

    mirrored = make_volume(
        np.ascontiguousarray(part.array[:, :, ::-1]),
        spacing_mm=part.spacing_mm,
        directions=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)),
        origin_mm=list(part.affine[:3, 3] + (part.array.shape[2] - 1) * part.affine[:3, 2]),
    )
    again = segment_volume(mirrored, model).labels
    np.testing.assert_array_equal(again[:, :, ::-1], found)


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(3, marks=pytest.mark.flow, id="every third slice"),
        pytest.param(1, marks=pytest.mark.accept, id="whole series"),
    ],
)
@pytest.mark.timeout(1200)
def test_the_series_reaches_the_published_agreement(
    thorax: Volume, lung_model: Callable[..., Card], reference: NDArray[np.uint8], every: int
) -> None:
    """The whole series takes 50 s of one core, so a third of it stands for it by default."""
    height, rows, columns = thorax.spacing_mm
    volume = make_volume(
        np.ascontiguousarray(thorax.array[::every]),
        spacing_mm=(height * every, rows, columns),
        origin_mm=list(thorax.affine[:3, 3]),
    )
    wanted = reference[::every]
    found = segment_volume(volume, load_model(lung_model(), device="cpu"))
    assert dice(found.labels > 0, wanted > 0) >= 0.97
    assert dice(found.labels == 1, wanted == 1) >= 0.97
    assert dice(found.labels == 2, wanted == 2) >= 0.97
    volumes = [one.value for one in found.measurements]
    assert volumes == pytest.approx([2655, 1889], rel=0.06)
    assert found.removed_ml > 600  # table and outside air, which the network calls lung
