"""Thresholds of probability heads are those that suit training cases best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from node.models.loaded import LoadedModel
from node.training.evaluate import open_model
from node.training.scoring import score_cases
from node.training.threshold import threshold_text
from node.training.train import RECIPES, train_model

from .small_cases import write_bright_discs


def _dice(model: LoadedModel, threshold: float, cases: object) -> float:
    card = replace(model.card, head=replace(model.card.head, threshold=threshold))
    figures = score_cases(replace(model, card=card), cases)  # type: ignore[arg-type]
    return float(np.mean([np.nan_to_num(one.mean_dice) for one in figures]))


def test_the_threshold_in_the_card_is_the_best_of_those_tried(tmp_path: Path) -> None:
    recipe = RECIPES["us-nerve"]
    assert recipe.data is not None
    folder = write_bright_discs(tmp_path / "cases", 8, frames=1)
    budget = replace(recipe.budget, steps=6, batch=2)
    model = open_model(train_model("us-nerve", tmp_path / "model", 1, budget, data=folder))
    cases = recipe.data.read(folder, progress=lambda _: None)[:3]
    before = "[results]\nthreshold = 7\n[head]\nkind = 'probability'\nthreshold = 0.5"
    text = threshold_text(before, model, cases)
    kept, _, chosen_text = text.rpartition(" = ")
    assert kept == before.rpartition(" = ")[0]
    chosen = float(chosen_text)
    dice = {step: _dice(model, step, cases) for step in (0.3, 0.4, 0.5, 0.6, 0.7)}
    assert max(dice.values()) > 0
    assert _dice(model, chosen, cases) >= max(dice.values())
