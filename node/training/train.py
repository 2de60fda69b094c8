"""Make a model: read or draw examples, train, score what was held out, write weights and card."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save

from node.errors import setup_error
from node.models.card import Card
from node.training.alarms import refuse_worthless
from node.training.calibration import calibrated_text, logits_of
from node.training.cases import Case
from node.training.ct_nodule import CT_NODULE
from node.training.evaluate import open_model
from node.training.examples import examples_of
from node.training.hippocampus import HIPPOCAMPUS
from node.training.lung_ct import LUNG_CT
from node.training.mr import MR_PHANTOM
from node.training.nodules import tuned
from node.training.pet_tumour import PET_TUMOUR
from node.training.recipe import Budget, Examples, Recipe, recipe_named
from node.training.result import spread, write_held_out
from node.training.splits import Split, set_digest, split_cases
from node.training.template import Score, template_card, write_card
from node.training.threshold import threshold_text
from node.training.trainer import Fitted, Means, Progress, Report, fit_network
from node.training.us_nerve import US_NERVE

RECIPES: Final[Mapping[str, Recipe]] = {
    one.name: one for one in (LUNG_CT, MR_PHANTOM, HIPPOCAMPUS, US_NERVE, PET_TUMOUR, CT_NODULE)
}
"""Every model that can be made again, by name."""

WEIGHTS_FILE: Final = "weights.safetensors"
_THRESHOLD_CASES: Final = 100
_STATES: Final = "states"
"""Folder of stored states inside the model's folder; gone when all is done."""


def train_model(
    recipe_name: str,
    out: Path,
    seed: int,
    budget: Budget | None = None,
    progress: Report = lambda _: None,
    *,
    data: Path | None = None,
    fold: int = 0,
    means: Means | None = None,
    keep_states: bool = False,
) -> Path:
    """Train a model and write its folder.

    Args:
        recipe_name: A name in `RECIPES`.
        out: The model's folder; made if it is not there.
        seed: Seed of patients, weights and order.
        budget: How much work; the recipe's own when None.
        progress: Called as the work goes on.
        data: Folder of cases, for a recipe that reads them.
        fold: Which set of patients is held out.
        means: Clock, threads, states.
        keep_states: Leave the states when the model is whole, so that the same call only scores.

    Returns:
        The folder, with card.toml, weights.safetensors and, where cases were read, report.json.

    Raises:
        KeyError: No such recipe.
        SetupError: The cases cannot be trained on; nothing is written then.
    """
    recipe = recipe_named(recipe_name, RECIPES)
    work = budget or recipe.budget
    chosen = means or Means(clock=time.monotonic)
    card = template_card(recipe.name)
    draw = _as_stage(progress, "draw")
    split: Split | None = None
    if recipe.examples is not None:
        examples = recipe.examples(seed, work, progress=draw)
    else:
        split, examples = _from_cases(recipe, card, data, fold=fold, progress=draw)
    out.mkdir(parents=True, exist_ok=True)
    fitted = fit_network(
        card.network,
        recipe,
        examples,
        seed=seed,
        budget=work,
        means=chosen,
        made_from=_made_from(recipe, seed, work, examples),
        report=progress,
    )
    sha256 = _write_weights(out, recipe, seed, fitted)
    made: dict[str, Score] = {"training": _training_facts(recipe, seed, fold, work, fitted)}
    write_card(out, recipe.card_text, sha256=sha256, scores=made)
    if split is not None and recipe.data is not None:
        text = recipe.card_text
        if card.head.kind == "occupancy":
            model = open_model(out)
            seen = [logits_of(model, case) for case in split.train]
            text = calibrated_text(text, seen, support_voxels=card.head.support_voxels)
        elif card.head.kind == "probability":
            some = spread(split.train, _THRESHOLD_CASES)
            text = threshold_text(text, open_model(out), some)
        made["data"] = _data_facts(recipe, split)
        write_card(out, text, sha256=sha256, scores=made)
        write_held_out(out, recipe, split, progress=_as_stage(progress, "score"))
    if card.stage is not None:
        text, figures = tuned(out, recipe.card_text, progress=_as_stage(progress, "score"))
        write_card(out, text, sha256=sha256, scores={**made, **figures})
    if chosen.states and not keep_states:
        forget_states(chosen.states)
    progress(Progress("write", 1.0))
    return out


def states_of(out: Path) -> Path:
    """Return where the states of a training that writes to `out` are stored."""
    return out / _STATES


def forget_states(states: Path) -> None:
    """Remove the states of a training: the same one will begin anew."""
    for left in states.glob("*"):
        left.unlink()
    states.rmdir()


def _from_cases(
    recipe: Recipe,
    card: Card,
    folder: Path | None,
    *,
    fold: int,
    progress: Callable[[float], None],
) -> tuple[Split, Examples]:
    """Read cases, hold some back, and return what is learnt from."""
    data = recipe.data
    if data is None:
        raise AssertionError("a recipe draws its examples or reads cases")
    if folder is None:
        raise setup_error(
            "no-cases",
            f"The recipe '{recipe.name}' learns from cases and was given none.",
            where="--data",
            remedy=f"Give their folder; the recipe was made for: {data.credit}.",
        )
    cases = data.read(folder, progress=lambda share: progress(0.5 * share))
    split = split_cases(cases, data.splitting, fold)
    refuse_worthless(split.train, split.test, len(card.segments))
    examples = examples_of(
        split.train,
        card,
        data,
        background=recipe.background,
        progress=lambda share: progress(0.5 + 0.5 * share),
    )
    return split, examples


def _write_weights(out: Path, recipe: Recipe, seed: int, fitted: Fitted) -> str:
    weights = {
        key: value.detach().clone().contiguous()
        for key, value in fitted.network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    # One key only: safetensors writes several in no fixed order, and the digest would not repeat.
    written = save(weights, metadata={"made_by": f"recipe {recipe.name}, seed {seed}"})
    (out / WEIGHTS_FILE).write_bytes(written)
    return hashlib.sha256(written).hexdigest()


def _training_facts(
    recipe: Recipe, seed: int, fold: int, work: Budget, fitted: Fitted
) -> dict[str, int | float | str | bool]:
    facts: dict[str, int | float | str | bool] = {"seed": seed}
    if recipe.data is None:
        facts |= {"patients": work.patients, "slices": work.patients * work.slices}
    else:
        facts |= {"fold": fold, "folds": recipe.data.splitting.folds}
    facts |= {"steps": fitted.steps, "batch": work.batch, "torch": torch.__version__}
    if recipe.data is not None:
        facts |= {"minutes": round(fitted.seconds / 60, 1), "loss": round(fitted.loss, 4)}
    return facts


def _data_facts(recipe: Recipe, split: Split) -> dict[str, int | float | str | bool]:
    if recipe.data is None:
        raise AssertionError("there is a split where cases were read")
    return {
        "credit": recipe.data.credit,
        "train_cases": len(split.train),
        "train_patients": _patients(split.train),
        "train_digest": set_digest(split.train),
        "test_cases": len(split.test),
        "test_patients": _patients(split.test),
        "test_digest": set_digest(split.test),
    }


def _patients(cases: tuple[Case, ...]) -> int:
    return len({case.patient for case in cases})


def _made_from(recipe: Recipe, seed: int, work: Budget, examples: Examples) -> str:
    """Return a digest of all that a training's weights depend on."""
    digest = hashlib.sha256(recipe.card_text.encode())
    digest.update(json.dumps([recipe.name, seed, asdict(work), repr(recipe.augmentation)]).encode())
    for array in (examples.images, examples.labels):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _as_stage(progress: Report, stage: str) -> Callable[[float], None]:
    return lambda share: progress(Progress(stage, share))
