"""How many nodules a model finds, and how often it is wrong, on drawn chests nobody trained on.

A nodule counts as found if a candidate overlaps it; a candidate that overlaps nothing drawn is a
false positive. Nodules under 5 mm, masses and consolidations are neither wanted nor held against
a model. The model runs as in the node, behind its first stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy import ndimage

from node.errors import setup_error
from node.imaging.values import Labels, Refusal
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel
from node.models.region import Region
from node.models.stages import segment_in_stages
from node.phantom import chest
from node.phantom.planes import planes_of
from node.training.ct_nodule import SMALLEST_MM
from node.training.evaluate import open_model, volume_of
from node.training.figures import Interval, interval_of
from node.training.template import Score
from node.training.threshold import text_with_threshold, with_threshold

THRESHOLDS: Final = (0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.995, 0.999)
"""What is tried on the head, lowest first."""

TUNING_SEEDS: Final = range(3000, 3004)
"""Chests on which the threshold is chosen; no training and no test sees them."""

NODULE_TEST_SEEDS: Final = range(3100, 3112)
"""Chests that are only tested on."""

_NODULES: Final = ((6.0, 40.0), (8.0, -10.0), (12.0, 40.0), (18.0, -300.0))
"""Nodules that every tested chest has beside those of its disease: diameter in mm, HU."""

_TOUCHING: Final = np.ones((3, 3, 3), bool)


@dataclass(frozen=True, slots=True)
class ScanFigures:
    """What one chest gave.

    Attributes:
        seed: Which chest.
        wanted_mm: Diameters of the nodules that can be found.
        found: Which of them were.
        false: Candidates that overlap nothing drawn.
    """

    seed: int
    wanted_mm: tuple[float, ...]
    found: tuple[bool, ...]
    false: int


def score_nodules(
    model: LoadedModel,
    seeds: Iterable[int],
    *,
    progress: Callable[[ScanFigures], None] = lambda _: None,
) -> tuple[ScanFigures, ...]:
    """Return the figures of drawn chests, by the chain as the node runs it.

    Args:
        model: Loaded with its first stage.
        seeds: Patients.
        progress: Called with each figure.

    Raises:
        SetupError: The chain refused a chest: nothing was measured then.
    """
    found = []
    for seed in seeds:
        study = draw_tested(seed)
        said = segment_in_stages(volume_of(study), model)
        if isinstance(said, Refusal):
            raise setup_error(
                "evaluate-refused",
                f"The chain refused chest {seed}: {said.explanation}",
                where=model.card.name,
                remedy="Nothing was measured; look at the model of the first stage.",
            )
        found.append(figures_of_scan(study, said.labels))
        progress(found[-1])
    return tuple(found)


def try_thresholds(
    model: LoadedModel, seeds: Iterable[int], thresholds: Sequence[float] = THRESHOLDS
) -> list[tuple[float, list[ScanFigures]]]:
    """Return the figures of drawn chests for each threshold; the lungs are looked for once.

    Args:
        model: Loaded with its first stage.
        seeds: Patients.
        thresholds: Of the head.
    """
    first, stage = model.first, model.card.stage
    if first is None or stage is None:
        raise ValueError(f"{model.card.name} has no stage before it")
    tried: list[tuple[float, list[ScanFigures]]] = [(one, []) for one in thresholds]
    for seed in seeds:
        study = draw_tested(seed)
        volume = volume_of(study)
        mask = np.isin(segment_volume(volume, first).labels, stage.labels)
        region = Region(mask, stage)
        for threshold, figures in tried:
            said = segment_volume(volume, with_threshold(model, threshold), region=region)
            figures.append(figures_of_scan(study, said.labels))
    return tried


def tuned(
    folder: Path, text: str, *, progress: Callable[[float], None]
) -> tuple[str, dict[str, Score]]:
    """Choose the threshold of a trained model on some chests and score it on others.

    Args:
        folder: The model's folder.
        text: Its card without scores.
        progress: Called with the share that is done.

    Returns:
        The card with the threshold, and what it says of its figures.
    """
    model = open_model(folder)
    tried = try_thresholds(model, TUNING_SEEDS)
    progress(0.5)
    threshold = chosen_threshold(tried)
    test = score_nodules(with_threshold(model, threshold), NODULE_TEST_SEEDS)
    progress(1.0)
    over = sensitivity_of(test)
    scores: dict[str, Score] = {
        f"tuning-{one:g}": {
            "sensitivity": round(sensitivity_of(figures).mean, 3),
            "false_per_scan": round(false_per_scan(figures), 2),
        }
        for one, figures in tried
    }
    scores["test"] = {
        "phantoms": len(test),
        "nodules": sum(len(scan.found) for scan in test),
        "sensitivity": round(over.mean, 3),
        "sensitivity_low": round(over.low, 3),
        "sensitivity_high": round(over.high, 3),
        "false_per_scan": round(false_per_scan(test), 2),
    }
    return text_with_threshold(text, threshold), scores


def draw_tested(seed: int) -> chest.ChestStudy:
    """Draw a chest that is tuned or tested on: about 3 mm slices, nodules on order."""
    return chest.volume(seed, slices=90, rows=192, columns=192, marker=False, nodules=_NODULES)


def figures_of_scan(study: chest.ChestStudy, labels: Labels) -> ScanFigures:
    """Return what candidates on a drawn chest are worth.

    Args:
        study: With its truth.
        labels: Not 0 where there is a candidate; pieces are told apart here.
    """
    pieces, count = ndimage.label(labels > 0, structure=_TOUCHING)
    right = np.zeros(count + 1, bool)
    wanted, hit = [], []
    planes = planes_of(study.affine, study.hu.shape, study.thickness_mm)
    lung = study.labels > 0
    for lump in study.patient.disease.lumps:
        mask = np.zeros(study.hu.shape, bool)
        for k, plane in enumerate(planes):
            box = plane.box_round(lump.centre, lump.reach_mm)
            if box is not None:
                mask[k][box] = lump.distance(plane.points(*box)) < 0
        touched = np.unique(pieces[ndimage.binary_dilation(mask, _TOUCHING)])
        right[touched] = True
        visible = bool(mask.any()) and bool((mask & lung).any())
        if visible and not lump.is_mass and lump.diameter_mm >= SMALLEST_MM:
            wanted.append(round(lump.diameter_mm, 1))
            hit.append(bool(np.unique(pieces[mask]).any()))
    false = int((~right[1:]).sum())
    return ScanFigures(study.patient.seed, tuple(wanted), tuple(hit), false)


def sensitivity_of(figures: Sequence[ScanFigures]) -> Interval:
    """Return the share of nodules found, with its interval by patient."""
    hits = [float(one) for scan in figures for one in scan.found]
    return interval_of(hits, [scan.seed for scan in figures for _ in scan.found])


def false_per_scan(figures: Sequence[ScanFigures]) -> float:
    """Return the mean number of false positives."""
    return float(np.mean([scan.false for scan in figures]))


def chosen_threshold(tried: Sequence[tuple[float, Sequence[ScanFigures]]]) -> float:
    """Return the lowest threshold with at most one false positive per scan, else the highest."""
    fitting = [threshold for threshold, figures in tried if false_per_scan(figures) <= 1.0]
    return min(fitting, default=max((threshold for threshold, _ in tried), default=math.nan))
