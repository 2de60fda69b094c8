"""Examples for `mr-phantom`: slices of the drawn head in any orientation, and the recipe.

A second, tiny model, so that nothing in the line is CT-only: tests and trials use it, no route of
a hospital. Images go through the very preparation that inference has (volume, z-score, window);
labels are sampled from the phantom on the network's grid, so that no resampling blurs the truth.

    python -m node.training.mr --out tests/data/models/mr-phantom

makes the model again, weights and scores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from node.imaging.values import Volume
from node.models.card import Card, load_card
from node.models.prepare import Prepared, prepare
from node.phantom import mr
from node.phantom.grid import AXIAL, CORONAL, SAGITTAL, Floats, Grid, centred_grid, rotated
from node.training.evaluate import open_model, score_volume
from node.training.lung_ct import patient_seeds
from node.training.recipe import Augmentation, Budget, Examples, Recipe
from node.training.scores import StudyScore, median_dice
from node.training.template import Score, template_card, write_card
from node.training.trainer import Progress

NAME: Final = "mr-phantom"

TEST_SEEDS: Final = range(1000, 1024)
"""Seeds of the heads that no training sees: eight of each orientation."""

_PLANES: Final = (AXIAL, CORONAL, SAGITTAL)
_FIELD_MM: Final = 230.0
_COVER_MM: Final = 180.0
_CENTRE_MM: Final = (0.0, 0.0, -60.0)


@dataclass(frozen=True, slots=True, eq=False)
class HeadScan:
    """A drawn head on the grid of a drawn protocol.

    Attributes:
        patient: Who.
        grid: Orientation, spacing and place.
        volume: As the node would read it.
        labels: The truth on the same grid.
    """

    patient: mr.HeadPatient
    grid: Grid
    volume: Volume
    labels: mr.Labels


def scan_head(seed: int) -> HeadScan:
    """Scan the head of `seed`: the plane follows from the seed, the rest is drawn."""
    rng = np.random.Generator(np.random.PCG64([seed, 99]))
    patient = mr.HeadPatient.draw(seed)
    plane = rotated(_PLANES[seed % 3], degrees=_three(rng, 15.0))
    between, within = float(rng.uniform(3, 6)), float(rng.uniform(0.9, 2.2))
    side = int(_FIELD_MM / within)
    spacing = (between, within, within * float(rng.uniform(0.9, 1.1)))
    moved = np.array(_CENTRE_MM) + np.array(_three(rng, 12.0))
    grid = centred_grid(
        (int(_COVER_MM / between), side, side),
        spacing,
        orientation=plane,
        centre_mm=(float(moved[0]), float(moved[1]), float(moved[2])),
    )
    values, labels = mr.sample(patient, grid.affine, grid.shape)
    volume = Volume(
        array=values,
        affine=grid.affine,
        spacing_mm=grid.spacing_mm,
        units="arbitrary",
        modality="MR",
        series_uid="",
        part=1,
        instances=(),
        slices=(),
    )
    return HeadScan(patient, grid, volume, labels)


def draw_head_examples(seed: int, budget: Budget, *, progress: Callable[[float], None]) -> Examples:
    """Draw slices of many heads, half of them with a piece of the lesion.

    Args:
        seed: Seed of the training.
        budget: How many patients and slices.
        progress: Called with the share that is done.
    """
    card = template_card(NAME)
    images, labels = [], []
    for done, patient_seed in enumerate(patient_seeds(seed, budget.patients)):
        scan = scan_head(patient_seed)
        prepared = prepare(scan.volume, card)
        truth = mr.label(scan.patient, _network_affine(scan.grid, prepared), prepared.shape)
        chosen = _chosen(truth, budget.slices, patient_seed)
        images.append(prepared.planes(0, prepared.shape[0])[chosen].astype(np.float16))
        labels.append(truth[chosen])
        progress((done + 1) / budget.patients)
    return Examples(np.concatenate(images), np.concatenate(labels))


def _network_affine(grid: Grid, prepared: Prepared) -> Floats:
    """Return the affine of the network's grid; the card keeps the native axes."""
    step = np.eye(4)
    for axis, place in enumerate(prepared.axes):
        step[axis, axis] = place.ratio
        step[axis, 3] = place.start + 0.5 * place.ratio - 0.5
    return grid.affine @ step


def _chosen(truth: mr.Labels, count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return which slices become examples: half with the lesion, as far as there are so many."""
    rng = np.random.Generator(np.random.PCG64([seed, 7]))
    order = rng.permutation(len(truth))
    has = truth[order].any(axis=(1, 2))
    with_lesion = order[has][: count // 2]
    return np.concatenate([with_lesion, order[~has][: count - len(with_lesion)]])


def _three(rng: np.random.Generator, most: float) -> tuple[float, float, float]:
    """Draw three numbers between -most and most."""
    drawn = rng.uniform(-most, most, 3)
    return float(drawn[0]), float(drawn[1]), float(drawn[2])


MR_PHANTOM: Final = Recipe(
    name=NAME,
    examples=draw_head_examples,
    augmentation=Augmentation(rotation_deg=20.0, upside_down=0.5, contrast=0.15, noise=0.2),
    budget=Budget(patients=160, slices=10, steps=300, batch=16),
    # Of a signal of 0 after the z-score: between -0.6 and -1 in these volumes.
    background=-0.8,
)


def score_heads(
    card: Card, seeds: Iterable[int], *, progress: Callable[[StudyScore], None] = lambda _: None
) -> tuple[StudyScore, ...]:
    """Score a model on drawn heads.

    Args:
        card: The model.
        seeds: Patients.
        progress: Called with each score.
    """
    model, found = open_model(card.folder), []
    for seed in seeds:
        scan = scan_head(seed)
        score = score_volume(model, f"head {seed}", scan.volume, scan.labels)
        progress(score)
        found.append(score)
    return tuple(found)


def figures_of(scores: Sequence[StudyScore]) -> Score:
    """Return what the card says of these scores."""
    raw, final = median_dice(scores)
    return {
        "n": len(scores),
        "raw_median": round(raw, 3),
        "final_median": round(final, 3),
        "final_worst": round(min(score.final.dice for score in scores), 3),
        "raw_false_ml_worst": round(max(score.raw.false_ml for score in scores), 1),
        "missed_ml_worst": round(max(score.final.missed_ml for score in scores), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the model, score it on unseen heads, write its folder."""
    from node.training.train import train_model  # its table of recipes names ours

    parser = argparse.ArgumentParser(prog="python -m node.training.mr", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)

    def say(text: str) -> None:
        sys.stderr.write(text + "\n")

    def report(progress: Progress) -> None:
        if round(progress.share * 1000) % 100 == 0:
            say(f"{progress.stage} {progress.share:.0%} loss {progress.loss:.3f}")

    folder = train_model(NAME, chosen.out, chosen.seed, progress=report)
    card = load_card(folder)
    scores = score_heads(
        card, TEST_SEEDS, progress=lambda one: say(f"{one.name}: {one.final.dice:.3f}")
    )
    by_plane: dict[str, Score] = {
        f"phantoms-{name}": figures_of(
            [one for seed, one in zip(TEST_SEEDS, scores, strict=True) if seed % 3 == k]
        )
        for k, name in enumerate(("axial", "coronal", "sagittal"))
    }
    write_card(
        folder,
        MR_PHANTOM.card_text,
        sha256=card.weights.sha256,
        scores={**card.scores, "phantoms": figures_of(scores), **by_plane},
    )
    say(f"final median {median_dice(scores)[1]:.3f}; written to {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
