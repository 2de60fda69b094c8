"""Fraction heads of all folds, each calibrated by what the other folds held out.

A network's logits on cases that it was trained on are surer than on new ones, and two numbers
fitted there leave the volumes of new cases off (measured on PET: 26 % in one fold). What a fold
held out is new to its network; a fold's own held-out cases are never used for its own two numbers,
so that its figures stay those of unseen patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from node.models.card import load_card
from node.training.calibration import CaseLogits, calibrated_text, logits_of
from node.training.evaluate import open_model
from node.training.recipe import Recipe
from node.training.result import write_held_out
from node.training.splits import split_cases
from node.training.template import text_of, write_card


def calibrate_folds(
    recipe: Recipe,
    folders: Sequence[Path],
    data: Path,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Calibrate each fold by the others' held-out cases, and score it again.

    Nothing is done for heads without a calibration.

    Args:
        recipe: One that learns from cases.
        folders: Model folders, in the order of the folds.
        data: The folder of cases.
        progress: Called with the share that is done.
    """
    head = load_card(folders[0]).head
    if head.kind != "occupancy" or recipe.data is None:
        return
    cases = recipe.data.read(data, progress=lambda _: None)
    splits = [split_cases(cases, recipe.data.splitting, fold) for fold in range(len(folders))]
    held: list[list[CaseLogits]] = []
    for fold, (folder, split) in enumerate(zip(folders, splits, strict=True)):
        model = open_model(folder)
        held.append([logits_of(model, case) for case in split.test])
        progress(0.4 * (fold + 1) / len(folders))
    for fold, (folder, split) in enumerate(zip(folders, splits, strict=True)):
        others = [case for other, each in enumerate(held) if other != fold for case in each]
        card = load_card(folder)
        text = calibrated_text(text_of(card), others, support_voxels=head.support_voxels)
        write_card(folder, text, sha256=card.weights.sha256, scores=card.scores)
        write_held_out(folder, recipe, split)
        progress(0.4 + 0.6 * (fold + 1) / len(folders))
