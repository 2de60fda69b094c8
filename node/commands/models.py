"""`limner models`, `train`, `evaluate`: models as folders, their making and their scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from node.commands.cards import find_card
from node.commands.context import json_option, print_json, print_table
from node.settings import bundled_config


@click.group()
def models() -> None:
    """List, show and check models; convert weights.

    \b
    Example:
      limner models list
      limner models check models/our-model
    """


@models.command(name="list")
@click.option(
    "--folder", "folders", multiple=True, type=click.Path(path_type=Path, exists=True),
    help="Another folder of model folders; may be given several times.",
)  # fmt: skip
@json_option
def list_models(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the models that are known.

    \b
    Example:
      limner models list --folder node1/models
    """
    from node.models.card import find_cards

    cards = find_cards((*folders, bundled_config() / "models"))
    if as_json:
        rows = [
            {
                "name": card.name,
                "version": card.version,
                "title": card.title,
                "folder": card.folder,
                "sha256": card.weights.sha256,
                "intended_use": card.intended_use,
            }
            for card in cards.values()
        ]
        print_json({"models": rows})
        return
    print_table(
        ("name", "version", "title", "folder"),
        [(c.name, c.version, c.title, c.folder) for c in cards.values()],
        empty="No models.",
    )


@models.command()
@click.argument("model")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show MODEL's card: what it accepts, what it gives, its scores and limits.

    \b
    Example:
      limner models show lung-ct
    """
    card = find_card(model)
    if not as_json:
        click.echo(card.text)
        return
    print_json(
        {
            "name": card.name,
            "version": card.version,
            "title": card.title,
            "intended_use": card.intended_use,
            "limits": card.limits,
            "licence": card.licence,
            "accepts": card.accepts,
            "segments": card.segments,
            "sha256": card.weights.sha256,
            "settings_digest": card.settings_digest,
            "scores": json.loads(json.dumps(card.scores, default=str)),
        }
    )


@models.command(name="check")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
def check_folder(folder: Path, as_json: bool) -> None:
    """Explain every fault of the model in FOLDER. Exit code 1 if there is one.

    \b
    Example:
      limner models check models/our-model
    """
    from node.models.check import check_model

    faults = list(check_model(folder))
    if as_json:
        print_json({"good": not faults, "faults": faults})
    else:
        for fault in faults:
            click.echo(f"fault: {fault}")
        click.echo(f"{folder}: " + (f"{len(faults)} faults." if faults else "all good."))
    sys.exit(1 if faults else 0)


@models.command()
@click.argument("weights", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def convert(weights: Path, folder: Path) -> None:
    """Convert a bare state dict WEIGHTS (.pt, .pth) to safetensors in FOLDER, with a card to fill.

    Nothing in the file is executed: only tensors are read, in a child process with limits.

    \b
    Example:
      limner models convert UNet.pt models/our-model
    """
    from node.models.convert import convert_state_dict

    made = convert_state_dict(weights, folder)
    click.echo(f"{made.tensors} tensors, SHA-256 {made.sha256}")
    click.echo(f"Architecture: {made.architecture or 'not recognised; name it in the card'}")
    click.echo(f"Next: fill in {folder / 'card.toml'}, then limner models check {folder}")


@click.command()
@click.argument("recipe")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=None, help="Fewer steps, for a try.")
def train(recipe: str, out: Path, seed: int, steps: int | None) -> None:
    """Train the model of RECIPE again from phantoms: the same seed gives the same weights.

    \b
    Example:
      limner train lung-ct --out scratch/lung-ct --seed 1
    """
    from dataclasses import replace

    from node.training.train import RECIPES, train_model
    from node.training.trainer import Progress

    if recipe not in RECIPES:
        raise click.UsageError(f"there is no recipe '{recipe}'; recipes: {', '.join(RECIPES)}")
    budget = RECIPES[recipe].budget
    said = [0.0]

    def tell(progress: Progress) -> None:
        if progress.share == 1.0 or progress.share - said[0] >= 0.02 or progress.share < said[0]:
            said[0] = progress.share
            loss = f", loss {progress.loss:.3f}" if progress.loss else ""
            click.echo(f"{progress.stage} {progress.share:.0%}{loss}", err=True)

    train_model(recipe, out, seed, replace(budget, steps=steps) if steps else budget, tell)
    click.echo(f"Written: {out}. Next: limner evaluate {out}")


@click.command()
@click.argument("model")
@click.option("--seeds", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--hard", is_flag=True, help="The hard phantom set.")
@click.option("--study", type=click.Path(path_type=Path, exists=True), help="A DICOM folder.")
@click.option("--reference", type=click.Path(path_type=Path, exists=True), help="Its NIfTI labels.")
@json_option
def evaluate(
    model: str, seeds: int, hard: bool, study: Path | None, reference: Path | None, as_json: bool
) -> None:
    """Score a lung MODEL on unseen phantoms, or any MODEL on a study with a reference.

    \b
    Example:
      limner evaluate lung-ct --seeds 20
      limner evaluate lung-ct --study study/ --reference labels.nii.gz --json
    """
    from node.training.evaluate import (
        HARD_SEEDS,
        TEST_SEEDS,
        open_model,
        score_phantoms,
        score_series,
    )

    if (study is None) != (reference is None):
        raise click.UsageError("--study and --reference belong together")
    card = find_card(model)
    loaded = open_model(card.folder)
    if study is not None and reference is not None:
        scores = [score_series(loaded, study, reference)]
    else:
        chosen = (HARD_SEEDS if hard else TEST_SEEDS)[:seeds]
        scores = list(score_phantoms(loaded, chosen, hard=hard))
    if as_json:
        print_json({"model": card.name, "version": card.version, "scores": scores})
        return
    rows = [
        (
            s.name,
            f"{s.raw.dice:.4f}",
            f"{s.final.dice:.4f}",
            " ".join(f"{third:.3f}" for third in s.final.thirds),
            f"{s.raw.false_ml:.0f}",
            f"{s.final.false_ml:.0f}",
            s.final.crossed,
        )
        for s in scores
    ]
    headings = ("study", "raw", "final", "thirds", "false ml raw", "final", "crossed")
    print_table(headings, rows, empty="No scores.")
