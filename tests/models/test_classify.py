"""A model that says yes or no to findings, by the same card, grid and loop as any other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from node.errors import SetupError
from node.imaging.values import Classification, Outcome
from node.models.check import check_model
from node.models.classify import classify_volume, pooled, probabilities
from node.models.loaded import load_model
from node.models.parts import Head
from node.models.stages import run_in_stages, segment_in_stages
from tests.models.builders import make_volume
from tests.models.handing import write_classifier, write_handing


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


@pytest.mark.parametrize(("pool", "score"), [("mean", 0.25 - 0.5), ("max", 1.0 - 0.5)])
def test_the_outputs_over_the_image_become_a_probability(
    tmp_path: Path, pool: str, score: float
) -> None:
    """A quarter of the image has the value 1; rows padded to a multiple of 4 do not count."""
    array = np.zeros((6, 30, 32), np.float32)
    array[:, :15, :16] = 1000
    card = write_classifier(tmp_path, head=f'kind = "probability"\npool = "{pool}"')
    found = classify_volume(make_volume(array), load_model(card, device="cpu", threads=1))
    (one,) = found.findings
    assert one.probability == pytest.approx(sigmoid(score), abs=1e-5)
    assert one.present is (score > 0)
    assert one.finding.code.value == "27925004"
    assert found.verdict.outcome is Outcome.ACCEPT
    assert found.runtime["device"]


def test_a_network_that_pools_by_itself_is_averaged_over_its_planes() -> None:
    planes = [torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[2.0]], [[5.0]]])]
    assert pooled(iter(planes), "mean").tolist() == [1.5, 4.0]
    assert pooled(iter(planes), "max").tolist() == [2.0, 5.0]


def test_classes_exclude_each_other_and_probabilities_do_not() -> None:
    scores = torch.tensor([0.0, 0.0], dtype=torch.float64)
    assert probabilities(scores, Head("classes", 0.5)) == (0.5, 0.5)
    assert probabilities(scores + 2, Head("classes", 0.5)) == (0.5, 0.5)
    assert probabilities(scores + 2, Head("probability", 0.5)) == pytest.approx([sigmoid(2)] * 2)


def test_a_probability_close_to_its_threshold_asks_a_person(tmp_path: Path) -> None:
    card = write_classifier(tmp_path, within=0.2)
    array = np.full((4, 32, 32), 600, np.float32)
    found = classify_volume(make_volume(array), load_model(card, device="cpu", threads=1))
    assert found.verdict.outcome is Outcome.REVIEW
    assert "close to its threshold of 0.5" in found.verdict.reasons[0]


def test_a_classification_can_be_limited_by_a_model_before_it(tmp_path: Path) -> None:
    """The mean is over the box of the organ; what is bright elsewhere does not count."""
    write_handing(tmp_path, name="organ", scale=(0, 300))
    stage = '[stage]\nmodel = "organ"\nlabels = [1]\nmargin_mm = 0\noutside_mm = 0\n'
    model = load_model(write_classifier(tmp_path, more=stage), device="cpu", threads=1)
    array = np.zeros((8, 40, 40), np.float32)
    array[2:6, 8:24, 8:24] = 400
    found = run_in_stages(make_volume(array), model)
    assert isinstance(found, Classification)
    assert found.findings[0].probability == pytest.approx(sigmoid(0.4 - 0.5), abs=1e-5)
    assert found.runtime["stage model"] == "organ 1"
    with pytest.raises(TypeError, match="no segmentation"):
        segment_in_stages(make_volume(array), model)


def test_the_same_card_as_a_segmentation_has_another_key(tmp_path: Path) -> None:
    one = write_classifier(tmp_path / "one")
    other = write_classifier(tmp_path / "other", within=0.1)
    assert one.settings_digest != other.settings_digest
    assert check_model(one.folder) == ()


@pytest.mark.parametrize(
    ("given", "put", "said"),
    [
        ("[[findings]]", "[[segments]]", "segments"),
        ("outputs = 1", "outputs = 2", "one output per finding"),
        ('kind = "probability"', 'kind = "occupancy"', "head.kind"),
        ("[results]", '[results]\nkinds = ["SEG"]', "a classification is written as SR"),
        ("[results]", "[quality.agreement]\nmirrors = ['row']\n[results]", "on its input alone"),
        ('kind = "classification"', 'kind = "regression"', "one of segmentation"),
    ],
)
def test_a_classification_that_cannot_be_is_a_mistake(
    tmp_path: Path, given: str, put: str, said: str
) -> None:
    card = write_classifier(tmp_path)
    assert given in card.text
    (card.folder / "card.toml").write_text(card.text.replace(given, put), encoding="utf-8")
    (fault,) = check_model(card.folder)
    with pytest.raises(SetupError, match=said):
        load_model(write_bad(card.folder), device="cpu")
    assert said in str(fault)


def write_bad(folder: Path):  # type: ignore[no-untyped-def]
    from node.models.card import load_card

    return load_card(folder)
