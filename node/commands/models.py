"""`limner models`, `train`, `evaluate`: models as folders, their making and their scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.commands.cards import find_card
from node.commands.context import json_option, print_json, print_table
from node.commands.progress import Training
from node.settings import RUNTIMES, bundled_config

if TYPE_CHECKING:
    from node.models.card import Card


@click.group()
def models() -> None:
    """List, show, import and check models.

    \b
    Example:
      limner models list
      limner models check models/our-model
      limner models runtime lung-ct
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
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        click.echo(f"{folder}: " + (f"{count}." if faults else "all good."))
    sys.exit(1 if faults else 0)


@models.command(name="test-case")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--from", "source", required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A DICOM folder with one volume that the model takes.",
)  # fmt: skip
@click.option("--slices", default="", help="FIRST:LAST, counted from 0; all of them if left out.")
def make_test_case(folder: Path, source: Path, slices: str) -> None:
    """Give the model in FOLDER a test case, which faster runtimes are tried on at start.

    The voxels and their geometry go into a file beside the card, and its digest into the card.
    Nothing else of the DICOM files is kept; take a phantom, or a case that may be passed on.

    \b
    Example:
      limner models test-case models/our-model --from study/ --slices 40:52
    """
    from node.commands.testcase import add_test_case

    for sentence in add_test_case(folder, source, slices):
        click.echo(sentence)


@models.command(name="runtime")
@click.argument("model")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--runtime", type=click.Choice(RUNTIMES), default="auto")
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="0: all cores.")
@json_option
def show_runtime(model: str, device: str, runtime: str, threads: int, as_json: bool) -> None:
    """Load MODEL and say what runs it here, and how that was chosen.

    \b
    Example:
      limner models runtime lung-ct --json
    """
    from node.models.memory import tune_allocator

    tune_allocator()
    from node.models.loaded import load_model

    card = find_card(model)
    loaded = load_model(card, device=device, threads=threads, runtime=runtime)
    if as_json:
        print_json({"model": card.name, "version": card.version, "runtime": dict(loaded.runtime)})
        return
    click.echo(f"{card.name} {card.version}: {loaded.runner.facts}")
    if loaded.chosen:
        click.echo(loaded.chosen)


@models.command(name="import")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", default="", help="The model's name; the folder's by default.")
@json_option
def import_source(source: Path, folder: Path, name: str, as_json: bool) -> None:
    """Make a model FOLDER of SOURCE: weights, and a card with what SOURCE tells.

    SOURCE is an nnU-Net v2 results folder, a MONAI bundle (either may be a zip file), an ONNX or
    .pt2 file, or a state dict (.pt, .pth). Nothing in it is executed: it is read as data, in a
    process with limits. What a person must fill in is listed, here and in the card.

    \b
    Example:
      limner models import nnUNetTrainer__nnUNetPlans__3d_fullres models/our-model
      limner models import UNet.pt models/our-lungs --name our-lungs --json
    """
    from node.models.imports.bring import import_model

    made = import_model(source, folder, name=name)
    if as_json:
        print_json(
            {
                "folder": made.folder,
                "kind": made.kind,
                "architecture": made.architecture,
                "sha256": made.sha256,
                "todo": made.todo,
            }
        )
        return
    click.echo(f"Imported {made.kind}: {made.folder}")
    click.echo(f"Architecture: {made.architecture or 'not recognised; name it in the card'}")
    click.echo(f"To do in {made.folder / 'card.toml'}:")
    for sentence in made.todo:
        click.echo(f"  {sentence}")
    click.echo(f"Then: limner models check {made.folder}")
    click.echo("docs/models.md goes through the rest with an example and a table of codes.")


@click.command()
@click.argument("recipe")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of cases with references, for a recipe that learns from them.",
)  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0.01), help="Stop after so much training.")
@click.option("--steps", type=click.IntRange(1), help="Stop after so many steps; repeats exactly.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--fold", type=click.IntRange(0), default=0, show_default=True,
              help="Which set of patients is held out.")  # fmt: skip
@click.option("--every-fold", is_flag=True,
              help="Train each fold into OUT/fold-N and pool what was held out.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
              help="Threads; more than one may change the last bits.")  # fmt: skip
@click.option("--bf16", is_flag=True, help="Compute in bf16 where the processor can.")
@json_option
def train(
    recipe: str,
    out: Path,
    data: Path | None,
    minutes: float | None,
    steps: int | None,
    seed: int,
    fold: int,
    every_fold: bool,
    threads: int,
    bf16: bool,
    as_json: bool,
) -> None:
    """Train the model of RECIPE, score it on patients it did not see, and write its folder.

    With a number of steps the same seed gives the same weights. A training that was killed goes
    on where it stood when the same command is given again.

    \b
    Example:
      limner train lung-ct --out scratch/lung-ct --seed 1
      limner train hippocampus --data mr-hippocampus/ --out scratch/hippocampus --minutes 10
      limner train pet-tumour --data pet-sarcoma/ --out scratch/pet --every-fold
    """
    import time
    from dataclasses import replace

    from node.models.memory import tune_allocator

    tune_allocator()
    from node.training.train import RECIPES, forget_states, states_of, train_model
    from node.training.trainer import Means

    if recipe not in RECIPES:
        raise click.UsageError(f"there is no recipe '{recipe}'; recipes: {', '.join(RECIPES)}")
    if minutes is not None and steps is not None:
        raise click.UsageError("--minutes and --steps exclude each other")
    source = RECIPES[recipe].data
    if source is not None and data is None:
        raise click.UsageError(f"'{recipe}' learns from cases: give --data ({source.credit})")
    if source is not None and fold >= source.splitting.folds:
        raise click.UsageError(f"'{recipe}' has the folds 0 to {source.splitting.folds - 1}")
    budget = replace(RECIPES[recipe].budget, minutes=minutes)
    folds = source.splitting.folds if source is not None and every_fold else 0
    folders = [out / f"fold-{k}" for k in range(folds)] or [out]
    for place, folder in enumerate(folders):
        with Training() as shown:
            train_model(
                recipe,
                folder,
                seed,
                replace(budget, steps=steps) if steps else budget,
                shown.tell,
                data=data,
                fold=place if folds else fold,
                means=Means(
                    clock=time.monotonic, threads=threads, bf16=bf16, states=states_of(folder)
                ),
                keep_states=bool(folds),  # killed in a later fold, it goes on there
            )
    if folds and data is not None:
        from node.training.folds import calibrate_folds

        with Training() as shown:
            calibrate_folds(RECIPES[recipe], folders, data, progress=shown.stage("calibrate"))
        for folder in folders:
            forget_states(states_of(folder))
        _say_pooled(recipe, folders, as_json=as_json)
    else:
        _say_trained(out, as_json=as_json)


def _say_pooled(recipe: str, folders: Sequence[Path], *, as_json: bool) -> None:
    from node.training.pooled import pool_folds

    pooled = pool_folds(folders)
    if as_json:
        print_json({"model": recipe, "folders": folders, "scores": pooled})
    else:
        print_table(("figures", "values"), list(pooled.items()), empty="No folds.")


def _say_trained(folder: Path, *, as_json: bool) -> None:
    from node.models.card import load_card

    card = load_card(folder)
    if as_json:
        print_json({"model": card.name, "folder": folder, "scores": card.scores})
        return
    for code, sentence in card.scores.get("alarms", {}).items():
        click.echo(f"alarm {code}: {sentence}")
    said = card.scores.get("test", {})
    if "dice" in said:
        click.echo(f"Held out: Dice {said['dice']} ({said['dice_low']} to {said['dice_high']})")
    click.echo(f"Written: {folder}. Next: limner evaluate {folder}")


@click.command()
@click.argument("model")
@click.option("--seeds", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--hard", is_flag=True, help="The hard phantom set.")
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="The folder of cases that its recipe reads.")  # fmt: skip
@click.option("--fold", type=click.IntRange(0), default=0, show_default=True,
              help="With --data: which set of patients is scored.")  # fmt: skip
@click.option("--study", type=click.Path(path_type=Path, exists=True), help="A DICOM folder.")
@click.option("--reference", type=click.Path(path_type=Path, exists=True), help="Its NIfTI labels.")
@json_option
def evaluate(
    model: str,
    seeds: int,
    hard: bool,
    data: Path | None,
    fold: int,
    study: Path | None,
    reference: Path | None,
    as_json: bool,
) -> None:
    """Score MODEL on unseen phantoms (lungs), on held-out cases, or on a study with a reference.

    \b
    Example:
      limner evaluate lung-ct --seeds 20
      limner evaluate scratch/hippocampus --data mr-hippocampus/
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
    if data is not None:
        _evaluate_cases(card, data, fold, as_json=as_json)
        return
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


def _evaluate_cases(card: Card, data: Path, fold: int, *, as_json: bool) -> None:
    """Score the patients that the recipe of a card holds out in a fold."""
    from node.training.evaluate import open_model
    from node.training.figures import summary_of
    from node.training.scoring import score_cases
    from node.training.splits import split_cases
    from node.training.train import RECIPES

    source = RECIPES[card.name].data if card.name in RECIPES else None
    if source is None:
        raise click.UsageError(f"no recipe that reads cases makes '{card.name}'")
    if fold >= source.splitting.folds:
        raise click.UsageError(f"'{card.name}' has the folds 0 to {source.splitting.folds - 1}")
    with Training() as shown:
        cases = source.read(data, progress=shown.stage("read"))
        held = split_cases(cases, source.splitting, fold).test
        figures = score_cases(open_model(card.folder), held, progress=shown.stage("score"))
    summary = summary_of(figures)
    if as_json:
        print_json(
            {"model": card.name, "version": card.version, "summary": summary, "cases": figures}
        )
        return
    print_table(("figure", "value"), list(summary.items()), empty="No scores.")
