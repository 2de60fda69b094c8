"""When a person should look: place, agreement of mirrored passes, distance to the training set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from node.errors import SetupError
from node.imaging.values import Outcome, Segmentation, Volume
from node.models.agreement import disagreement, pairwise_dice
from node.models.card import Card, load_card
from node.models.check import check_model
from node.models.features import (
    case_features,
    fit_features,
    held_out_limit,
    write_features,
)
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel, load_model
from node.models.parts import Quality, SegmentLimits
from node.models.plausible import implausible
from tests.models.builders import make_volume, write_model
from tests.models.handing import write_handing

NAMES = {1: "Thing"}


def body() -> Volume:
    """Return a body of 0 in air of -1000, with the feet at slice 0 and the left at column 59."""
    array = np.full((40, 60, 60), -1000, np.float32)
    array[:, 10:50, 10:50] = 0
    return make_volume(array, spacing_mm=(4.0, 4.0, 4.0))


def marked(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    labels = np.zeros((40, 60, 60), np.uint8)
    for box in boxes:
        labels[box] = 1
    return labels


HIGH_LEFT = (slice(30, 34), slice(20, 24), slice(40, 44))
LOW_RIGHT = (slice(4, 8), slice(20, 24), slice(16, 20))
IN_AIR = (slice(30, 34), slice(0, 4), slice(54, 58))


@pytest.mark.parametrize(
    ("labels", "limits", "said"),
    [
        (marked(HIGH_LEFT), {"side": "left", "height": (0.6, 1.0), "max_pieces": 1}, None),
        (marked(HIGH_LEFT, LOW_RIGHT), {"max_pieces": 1}, "Thing has 2 pieces"),
        (marked(LOW_RIGHT), {"side": "left"}, "lies on the patient's right"),
        (marked(HIGH_LEFT), {"side": "right"}, "lies on the patient's left"),
        (marked(LOW_RIGHT), {"height": (0.6, 1.0)}, "lies at 0.14 of the image's height"),
        (marked(), {"side": "left", "height": (0.6, 1.0), "max_pieces": 1}, None),
    ],
)
def test_a_segment_has_its_place(
    labels: np.ndarray, limits: dict[str, object], said: str | None
) -> None:
    quality = Quality(0.1, 0, (replace(SegmentLimits(1, 0, 1e6, "accept"), **limits),), ())
    for volume, turned in ((body(), labels), feet_last(body(), labels)):
        found = implausible(turned, volume, quality, NAMES, body_above=-500)
        assert [outcome for outcome, _ in found] == ([Outcome.REVIEW] if said else [])
        assert said is None or said in found[0][1]


def feet_last(volume: Volume, labels: np.ndarray) -> tuple[Volume, np.ndarray]:
    """Return the same patient with slices and columns that run backwards."""
    affine = volume.affine.copy()
    for axis, count in ((0, 40), (2, 60)):
        affine[:3, 3] += affine[:3, axis] * (count - 1)
        affine[:3, axis] *= -1
    turned = replace(volume, array=volume.array[::-1, :, ::-1].copy(), affine=affine)
    return turned, labels[::-1, :, ::-1].copy()


def test_labels_outside_the_body_reject_the_result() -> None:
    quality = Quality(0.1, 0, (), (), outside_body=0.3)
    inside = implausible(marked(HIGH_LEFT, LOW_RIGHT), body(), quality, NAMES, body_above=-500)
    outside = implausible(marked(HIGH_LEFT, IN_AIR), body(), quality, NAMES, body_above=-500)
    assert inside == []
    assert outside == [(Outcome.REJECT, "50% of the labels lie outside the body.")]


def test_air_inside_the_body_is_inside() -> None:
    volume = body()
    volume.array[10:30, 20:40, 15:45] = -900  # lungs
    quality = Quality(0.1, 0, (), (), outside_body=0.01)
    lungs = marked((slice(10, 30), slice(20, 40), slice(15, 45)))
    assert implausible(lungs, volume, quality, NAMES, body_above=-500) == []


def test_agreement_is_the_mean_dice_of_all_pairs_per_label() -> None:
    one = np.array([[[1, 1, 1, 0, 2]]], np.uint8)
    two = np.array([[[1, 1, 0, 0, 2]]], np.uint8)
    three = np.array([[[1, 0, 0, 0, 0]]], np.uint8)
    found = pairwise_dice([one, two, three])
    assert found[1] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert found[2] == pytest.approx(1 / 3)
    assert set(found) == {1, 2}
    ((outcome, said),) = disagreement([one, two], review_below=0.9, names=NAMES)
    assert outcome is Outcome.REVIEW
    assert said.startswith("2 passes over the mirrored image agree on Thing only to 0.80")


AGREEMENT = '[quality.agreement]\nmirrors = ["column"]\nreview_below = 0.9\n'


def lopsided(card: Card, folder: Path) -> Card:
    """Give the network a first kernel that looks to one side: it shifts what it sees by a voxel."""
    network = load_model(card, device="cpu", threads=1).network
    weight = network.get_parameter("first.0.weight")
    moved = torch.zeros_like(weight)
    moved[0, 0, 1, 0] = 1.0  # left of the middle
    weight.data.copy_(moved)
    return write_model(folder, card.text.replace(card.weights.sha256, "{sha256}"), network)


def cube() -> Volume:
    array = np.zeros((6, 32, 32), np.float32)
    array[:, 10:18, 12:20] = 1000
    return make_volume(array)


def test_a_network_that_sees_the_mirror_image_otherwise_asks_a_person(tmp_path: Path) -> None:
    shares: list[float] = []
    card = write_handing(tmp_path, more=AGREEMENT)
    fair = segment_volume(cube(), load_model(card, device="cpu", threads=1), progress=shares.append)
    assert fair.verdict.outcome is Outcome.ACCEPT
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    model = load_model(lopsided(card, tmp_path / "lopsided"), device="cpu", threads=1)
    found = segment_volume(cube(), model)
    assert found.verdict.outcome is Outcome.REVIEW
    assert "agree on Thing only to 0.75" in found.verdict.reasons[0]


def test_passes_that_are_averaged_cannot_be_compared(tmp_path: Path) -> None:
    card = write_handing(tmp_path, more=AGREEMENT)
    text = card.text.replace("batch = 8", 'batch = 8\nmirrors = ["column"]')
    with pytest.raises(SetupError, match="always agree"):
        write_model(tmp_path / "other", text)


def some_features(count: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3)) @ rng.normal(size=(3, 12)) + 0.05 * rng.normal(
        size=(count, 12)
    )


def test_a_case_of_the_training_set_is_near_and_another_is_far() -> None:
    cases = some_features(60)
    known = fit_features(cases[:40])
    limit = held_out_limit(cases[:40])
    near = [known.distance(case) for case in cases[40:]]
    assert np.mean(np.array(near) < limit) >= 0.9
    along = cases[0] + 10 * known.components[0] * np.sqrt(known.variances[0])
    assert known.distance(along) > limit
    beside = np.linalg.svd(known.components)[2][-1]  # a direction in which no case differs
    assert known.distance(cases[0] + beside) > limit


def test_too_few_or_equal_cases_are_no_division_by_zero() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        fit_features(some_features(3))
    assert np.isfinite(fit_features(np.ones((6, 12))).distance(np.ones(12)))


def seeing(card: Card) -> Card:
    """Give the deeper levels, which do not reach the output, random kernels that see something."""
    network = load_model(card, device="cpu", threads=1).network
    drawn = torch.Generator().manual_seed(5)
    for name, weight in network.named_parameters():
        if name.startswith("down.") and weight.dim() == 4:
            weight.data.normal_(generator=drawn)
        elif name.startswith("down.") and name.endswith("weight"):
            weight.data.fill_(1.0)
    for name, seen in network.named_buffers():
        if name.startswith("down.") and name.endswith("running_var"):
            seen.fill_(1.0)
    return write_model(card.folder, card.text.replace(card.weights.sha256, "{sha256}"), network)


def featured(folder: Path, *, above: float = 50.0) -> tuple[Card, LoadedModel]:
    """Return a model that knows what cubes of 300 to 1000 look like."""
    card = seeing(write_handing(folder))
    model = load_model(card, device="cpu", threads=1)
    rows = []
    for place in range(12):
        volume = cube()
        volume.array[:] *= 1.0 - 0.03 * place
        row = case_features(volume, model, (volume.array > 100).astype(np.uint8))
        assert row is not None
        rows.append(row)
    sha256 = write_features(card.folder / "features.safetensors", fit_features(np.array(rows)))
    text = card.text + f'[quality.features]\nsha256 = "{sha256}"\nreview_above = {above}\n'
    (card.folder / "card.toml").write_text(text, encoding="utf-8")
    return load_card(card.folder), load_model(load_card(card.folder), device="cpu", threads=1)


def test_an_image_unlike_the_training_set_asks_a_person(tmp_path: Path) -> None:
    card, model = featured(tmp_path, above=8.0)
    assert check_model(card.folder) == ()

    def run(volume: Volume) -> Segmentation:
        return segment_volume(volume, model)

    usual, strange = cube(), cube()
    strange.array[:, ::2] += 800
    assert run(usual).verdict.outcome is Outcome.ACCEPT
    found = run(strange)
    assert found.verdict.outcome is Outcome.REVIEW
    assert "unlike those the model was trained on" in found.verdict.reasons[-1]
    nothing = make_volume(np.zeros((6, 32, 32), np.float32))
    assert run(nothing).verdict.outcome is Outcome.ACCEPT


def test_features_that_are_not_the_card_s_are_refused(tmp_path: Path) -> None:
    card, _ = featured(tmp_path)
    path = card.folder / "features.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SetupError, match="SHA-256"):
        load_model(card, device="cpu", threads=1)
    (fault,) = check_model(card.folder)
    assert fault.code == "model-weights-digest"


def test_a_file_without_features_is_refused(tmp_path: Path) -> None:
    import hashlib

    card, _ = featured(tmp_path)
    path = card.folder / "features.safetensors"
    save_file({"mean": torch.zeros(3)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.quality.features is not None
    text = card.text.replace(card.quality.features.sha256, digest)
    (card.folder / "card.toml").write_text(text, encoding="utf-8")
    (fault,) = check_model(card.folder)
    assert fault.code == "model-features"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("[quality.input]\nslices = [9, 3]\n", "quality.input.slices"),
        ("[quality.input.reject]\nModalty = 'CT'\n", "not a DICOM keyword"),
        ("[quality.agreement]\nmirrors = []\n", "at least one axis"),
        ("[[quality.segments]]\nnumber = 1\nside = 'up'\n", "quality.segments.side"),
        ("[quality.features]\nsha256 = 'ab'\nreview_above = 3\n", "64 hexadecimal"),
    ],
)
def test_a_limit_that_cannot_be_is_a_mistake(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        write_handing(tmp_path, more=more)
