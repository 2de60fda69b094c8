"""The models that ship and were trained on cases of others: whole, small, credited, honest."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.models.card import load_card
from node.models.weights import sha256_of
from node.training.template import template_card
from node.training.train import RECIPES

MODELS = Path(__file__).resolve().parents[2] / "config" / "models"
SHIPPED = ("hippocampus", "pet-tumour")
LARGEST_WEIGHTS_BYTES = 3_000_000


def test_no_model_ships_whose_data_may_not_be_passed_on() -> None:
    names = {folder.name for folder in MODELS.iterdir()}
    assert names == {"lung-ct", *SHIPPED}
    for name in SHIPPED:
        data = RECIPES[name].data
        assert data is not None
        assert data.ships


@pytest.mark.parametrize("name", SHIPPED)
def test_its_weights_are_those_its_card_names_and_small(name: str) -> None:
    card = load_card(MODELS / name)
    assert card.weights.sha256 == sha256_of(MODELS / name / card.weights.file)
    assert (MODELS / name / card.weights.file).stat().st_size < LARGEST_WEIGHTS_BYTES


@pytest.mark.parametrize("name", SHIPPED)
def test_its_card_is_the_recipes_card_and_credits_its_data(name: str) -> None:
    card, template = load_card(MODELS / name), template_card(name)
    assert (card.network, card.voxels, card.steps) == (
        template.network,
        template.voxels,
        template.steps,
    )
    assert (card.inference, card.postprocess) == (template.inference, template.postprocess)
    data = RECIPES[name].data
    assert data is not None
    assert card.scores["data"]["credit"] == data.credit
    assert "CC" in card.licence
    assert "research use" in card.results.series_description


def test_the_hippocampus_card_tells_three_trainings_on_patients_they_never_saw() -> None:
    scores = load_card(MODELS / "hippocampus").scores
    dice = sorted(scores[key]["dice"] for key in ("test", "test-seed-2", "test-seed-3"))
    assert dice[1] >= 0.86
    assert scores["test"]["cases"] == 41
    assert scores["training"]["seed"] == 1


def test_the_tumour_card_tells_figures_out_of_fold() -> None:
    scores = load_card(MODELS / "pet-tumour").scores
    pooled = scores["out-of-fold"]
    assert (pooled["patients"], pooled["folds"]) == (30, 3)
    assert pooled["dice"] >= 0.74
    assert 0.95 <= pooled["volume_ratio_median"] <= 1.05
    for name in ("threshold", "above_2.5"):
        assert scores[f"out-of-fold-over-{name}"]["gain_low"] > 0
