"""Make a model again: draw, train, write weights and card."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save

from node.training.lung_ct import LUNG_CT
from node.training.mr import MR_PHANTOM
from node.training.recipe import Budget, Recipe, recipe_named
from node.training.template import Score, template_card, write_card
from node.training.trainer import Progress, Report, fit_network

RECIPES: Final[Mapping[str, Recipe]] = {LUNG_CT.name: LUNG_CT, MR_PHANTOM.name: MR_PHANTOM}
"""Every model that can be made again, by name."""

WEIGHTS_FILE: Final = "weights.safetensors"


def train_model(
    recipe_name: str,
    out: Path,
    seed: int,
    budget: Budget | None = None,
    progress: Report = lambda _: None,
) -> Path:
    """Train a model and write its folder.

    Args:
        recipe_name: A name in `RECIPES`.
        out: The model's folder; made if it is not there.
        seed: Seed of patients, weights and order.
        budget: How much work; the recipe's own when None.
        progress: Called as the work goes on.

    Returns:
        The folder, with card.toml and weights.safetensors.

    Raises:
        KeyError: No such recipe.
    """
    recipe = recipe_named(recipe_name, RECIPES)
    work = budget or recipe.budget
    card = template_card(recipe.name)
    examples = recipe.examples(seed, work, progress=_as_stage(progress, "draw"))
    model = fit_network(card.network, recipe, examples, seed=seed, budget=work, report=progress)
    out.mkdir(parents=True, exist_ok=True)
    weights = {
        key: value.detach().clone().contiguous()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    # One key only: safetensors writes several in no fixed order, and the digest would not repeat.
    data = save(weights, metadata={"made_by": f"recipe {recipe.name}, seed {seed}"})
    (out / WEIGHTS_FILE).write_bytes(data)
    made: dict[str, Score] = {
        "training": {
            "seed": seed,
            "patients": work.patients,
            "slices": work.patients * work.slices,
            "steps": work.steps,
            "batch": work.batch,
            "torch": torch.__version__,
        }
    }
    write_card(out, recipe.card_text, sha256=hashlib.sha256(data).hexdigest(), scores=made)
    progress(Progress("write", 1.0))
    return out


def _as_stage(progress: Report, stage: str) -> Callable[[float], None]:
    return lambda share: progress(Progress(stage, share))
