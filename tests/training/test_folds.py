"""Folds are calibrated by each other's held-out cases and scored again."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import save_file

from node.models.architectures import build_network
from node.models.card import load_card
from node.models.weights import sha256_of
from node.training.calibration import calibrated_text, logits_of
from node.training.evaluate import open_model
from node.training.folds import calibrate_folds
from node.training.recipe import Recipe
from node.training.splits import split_cases
from node.training.template import write_card
from node.training.train import RECIPES

from .small_cases import write_hot_balls


def _model(folder: Path, recipe: Recipe, seed: int) -> Path:
    """Write a small network of the recipe's kind that has learnt nothing."""
    text = recipe.card_text.replace("widths = [8, 16, 48, 96]", "widths = [4, 4]")
    text = text.replace('mirrors = ["row", "column"]', "mirrors = []")
    folder.mkdir()
    write_card(folder, text, sha256="0" * 64, scores={})
    torch.manual_seed(seed)
    network = build_network(load_card(folder).network)
    save_file(network.state_dict(), folder / "weights.safetensors")
    scores = {"training": {"seed": seed}, "data": {"credit": "drawn"}, "test": {"dice": 2.0}}
    write_card(folder, text, sha256=sha256_of(folder / "weights.safetensors"), scores=scores)
    return folder


def test_a_fold_is_calibrated_by_what_the_others_held_out_and_never_by_its_own(
    tmp_path: Path,
) -> None:
    recipe = RECIPES["pet-tumour"]
    assert recipe.data is not None
    data = write_hot_balls(tmp_path / "cases", 9)
    folders = [_model(tmp_path / f"fold-{k}", recipe, k) for k in range(3)]
    before = [load_card(folder) for folder in folders]
    calibrate_folds(recipe, folders, data)
    cases = recipe.data.read(data, progress=lambda _: None)
    splits = [split_cases(cases, recipe.data.splitting, fold) for fold in range(3)]
    held = [
        [logits_of(open_model(folder), case) for case in split.test]
        for folder, split in zip(folders, splits, strict=True)
    ]
    for k, folder in enumerate(folders):
        card = load_card(folder)
        text = before[k].text.partition("\n[scores]\n")[0]
        others = list(chain(*held[:k], *held[k + 1 :]))
        reach = card.head.support_voxels
        wanted = calibrated_text(text, others, support_voxels=reach)
        with_own = calibrated_text(text, list(chain(*held)), support_voxels=reach)
        assert card.text.partition("\n[scores]\n")[0] == wanted != with_own
        assert card.weights == before[k].weights
        assert card.scores["training"] == {"seed": k}
        assert card.scores["test"]["cases"] == len(splits[k].test)
