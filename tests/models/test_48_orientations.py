"""From files and back into a SEG: every voxel where it was, however the patient was scanned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.transform import GridTransform
from node.imaging.values import Refusal, Segmentation, Volume
from node.imaging.volume import load_volume
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel, load_model
from node.results.gate import check_result
from node.results.write import NodeFacts, write_results
from tests.models.handing import write_handing
from tests.models.oriented import (
    ALL_48,
    Scan,
    marked,
    scan,
    seg_positions,
    write_classic,
    write_enhanced,
)

Write = Callable[[Path, Scan], Path]
FORMS: dict[str, tuple[Write, bool]] = {
    "classic": (write_classic, False),
    "oblique": (write_classic, True),
    "enhanced": (write_enhanced, False),
    "enhanced and oblique": (write_enhanced, True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """A model that labels what is over 500, by the unit of the volume (MR has stored values)."""
    folder = tmp_path_factory.mktemp("models")
    cards = {
        "HU": write_handing(folder, name="ct", scale=(0, 1000)),
        "arbitrary": write_handing(folder, name="mr", scale=(1024, 2024), units="arbitrary"),
    }
    return {unit: load_model(card, device="cpu", threads=1) for unit, card in cards.items()}


def read(folder: Path) -> Volume:
    (plan,) = find_volumes(read_folder(folder))
    assert not isinstance(plan, Refusal), plan
    volume = load_volume(plan)
    assert not isinstance(volume, Refusal), volume
    return volume


def there_and_back(volume: Volume, model: LoadedModel) -> tuple[Segmentation, bytes]:
    found = segment_volume(volume, model)
    made = write_results(volume, found, node=NodeFacts("n", "1"))
    assert not isinstance(made, Refusal), made
    assert check_result(made[0].data, volume, found) == ()
    return found, made[0].data


def in_order(points: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded = np.round(points, 3) + 0.0
    return rounded[np.lexsort(rounded.T)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", sorted({order for order, _ in ALL_48}))
def test_a_marked_voxel_lies_where_it_was_marked(
    tmp_path: Path, models: dict[str, LoadedModel], form: str, order: tuple[int, int, int]
) -> None:
    """Eight directions each; the truth comes from the attributes that were written alone."""
    write, tilted = FORMS[form]
    for signs in (signs for each, signs in ALL_48 if each == order):
        taken = scan(order, signs, tilted=tilted)
        volume = read(write(tmp_path / "".join(map(str, signs)), taken))
        _, data = there_and_back(volume, models[volume.units])
        found = in_order(seg_positions(pydicom.dcmread(BytesIO(data))))
        np.testing.assert_allclose(found, in_order(taken.positions[taken.truth]), atol=2e-3)


def test_the_marked_thing_looks_alike_under_no_mirror_or_swap() -> None:
    """A phantom that some wrong turn maps onto itself would prove nothing."""
    taken = scan((2, 1, 0), (1, 1, 1), tilted=False)
    points = taken.positions
    for order, signs in ALL_48:
        if (order, signs) == ((0, 1, 2), (1, 1, 1)):
            continue
        assert (marked(points[..., order] * signs) != taken.truth).any()


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["slice", "row", "column"])
def test_a_side_that_is_swapped_on_the_way_back_does_not_pass_the_gate(
    tmp_path: Path, models: dict[str, LoadedModel], axis: int
) -> None:
    """A SEG of mirrored labels is held against the labels that were computed."""
    taken = scan((2, 1, 0), (1, 1, 1), tilted=True)
    volume = read(write_classic(tmp_path, taken))
    found, _ = there_and_back(volume, models["HU"])
    swapped = replace(found, labels=np.flip(found.labels, axis).copy())
    made = write_results(volume, swapped, node=NodeFacts("n", "1"))
    assert not isinstance(made, Refusal)
    said = " ".join(check_result(made[0].data, volume, found))
    assert "voxels have another label" in said
    assert "lies" in said


def test_a_turn_with_a_wrong_side_moves_the_labels(
    tmp_path: Path, models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that the 48 orientations are there for: seen by position, not by the gate."""
    taken = scan((2, 1, 0), (1, 1, 1), tilted=False)
    volume = read(write_classic(tmp_path, taken))
    right = GridTransform.undo

    def wrong(turned: GridTransform, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.flip(right(turned, labels), 2)

    monkeypatch.setattr(GridTransform, "undo", wrong)
    _, data = there_and_back(volume, models["HU"])
    found = in_order(seg_positions(pydicom.dcmread(BytesIO(data))))
    assert np.abs(found - in_order(taken.positions[taken.truth])).max() > 1.0
