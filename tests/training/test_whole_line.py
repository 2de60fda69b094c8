"""Held-out cases through the whole line: what the PACS gets is what the evaluator scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.training.cases import Case
from node.training.evaluate import open_model
from node.training.recipe import Recipe
from node.training.scoring import figures_of, score_cases
from node.training.splits import split_cases
from node.training.train import RECIPES, train_model

from .as_dicom import mr_series, pet_series, us_cine
from .small_cases import write_balls, write_bright_discs, write_hot_balls
from .whole_line import frames_of_the_line, labels_of_the_line

Writer = Callable[[Case, Path, int], Case]
SMALL: dict[str, tuple[Writer, Callable[[Path, int], Path], int]] = {
    "hippocampus": (mr_series, write_balls, 6),
    "pet-tumour": (pet_series, write_hot_balls, 8),
}
REAL: dict[str, tuple[Writer, str]] = {
    "hippocampus": (mr_series, "mr-hippocampus"),
    "pet-tumour": (pet_series, "pet-sarcoma"),
}


def _held_out(recipe: Recipe, folder: Path) -> tuple[Case, ...]:
    assert recipe.data is not None
    return split_cases(
        recipe.data.read(folder, progress=lambda _: None), recipe.data.splitting
    ).test


def _same_both_ways(name: str, writer: Writer, case: Case, model: Path, scratch: Path) -> float:
    """Return the Dice of a case, after seeing that line and evaluator agree to the voxel."""
    scratch.mkdir()
    count = len(open_model(model).card.segments)
    stored = writer(case, scratch / "dicom", count)
    labels = labels_of_the_line(scratch / "dicom", stored, model, scratch)
    by_line = figures_of(stored, labels, count, 0)
    (by_evaluator,) = score_cases(open_model(model), [stored])
    assert labels.any(), "nothing was found, so that nothing was compared"
    assert by_line.dice == by_evaluator.dice, name
    return by_line.mean_dice


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_line_gives_the_labels_that_the_evaluator_scored(name: str, tmp_path: Path) -> None:
    writer, write, steps = SMALL[name]
    cases = write(tmp_path / "cases", 10)
    recipe = RECIPES[name]
    model = train_model(
        name, tmp_path / "model", 1, replace(recipe.budget, steps=steps), data=cases
    )
    case = _held_out(recipe, cases)[0]
    _same_both_ways(name, writer, case, model, tmp_path / "line")


@pytest.mark.accept
@pytest.mark.parametrize("name", sorted(REAL))
def test_a_shipped_model_finds_held_out_patients_through_the_whole_line(
    name: str, tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    writer, data = REAL[name]
    model = Path(__file__).resolve().parents[2] / "config" / "models" / name
    if not model.is_dir():
        pytest.skip(f"no {name} is shipped; `limner train {name}` makes one")
    held = _held_out(RECIPES[name], shared_data(data))
    dice = [_same_both_ways(name, writer, case, model, tmp_path / case.name) for case in held[:5]]
    told = open_model(model).card.scores["test"]
    assert np.mean(dice) > told["dice_worst"]


def _frames_both_ways(cases: Sequence[Case], model: Path, scratch: Path) -> list[float]:
    """Return the Dice of a subject's frames, after seeing that line and evaluator agree."""
    scratch.mkdir()
    study = us_cine(cases, scratch / "dicom")
    shape = (len(cases), *cases[0].reference.shape[1:])
    labels = frames_of_the_line(study, shape, model, scratch)
    by_line = [figures_of(case, labels[k : k + 1], 1, 0) for k, case in enumerate(cases)]
    by_evaluator = score_cases(open_model(model), cases)
    assert labels.any(), "nothing was found, so that nothing was compared"
    for one, other in zip(by_line, by_evaluator, strict=True):
        assert one.dice == other.dice
    return [one.mean_dice for one in by_line]


def _one_subject(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if case.patient == cases[0].patient]


def test_the_line_gives_the_frames_that_the_evaluator_scored(tmp_path: Path) -> None:
    folder = write_bright_discs(tmp_path / "cases", 8)
    recipe = RECIPES["us-nerve"]
    budget = replace(recipe.budget, steps=12, batch=4)
    model = train_model("us-nerve", tmp_path / "model", 1, budget, data=folder)
    _frames_both_ways(_one_subject(_held_out(recipe, folder)), model, tmp_path / "line")


@pytest.mark.accept
def test_the_recipe_of_the_nerve_finds_it_in_subjects_it_never_saw(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    folder, recipe = shared_data("us-nerve"), RECIPES["us-nerve"]
    model = train_model("us-nerve", tmp_path / "model", 1, data=folder)
    dice = _frames_both_ways(_one_subject(_held_out(recipe, folder)), model, tmp_path / "line")
    assert np.nanmean(dice) > 0.5
    assert open_model(model).card.scores["test"]["dice"] >= 0.68
