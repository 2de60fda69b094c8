"""Scores as figures for people: for a card's [scores], a table, or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from node.models.card import load_card
from node.training.scores import StudyScore, median_dice
from node.training.template import Score, text_of, write_card

Figures = Mapping[str, "int | float | str | bool"]


def study_figures(score: StudyScore) -> Figures:
    """Return the figures of one study: Dice raw and final, per side and third, false volume."""
    raw, final = score.raw, score.final
    sides = {f"dice_label_{k}": round(d, 4) for k, d in enumerate(final.dice_by_label, start=1)}
    return {
        "dice_raw": round(raw.dice, 4),
        "dice": round(final.dice, 4),
        **sides,
        "base_raw": round(raw.thirds[0], 4),
        "base": round(final.thirds[0], 4),
        "middle": round(final.thirds[1], 4),
        "apex_raw": round(raw.thirds[2], 4),
        "apex": round(final.thirds[2], 4),
        "false_ml_raw": round(raw.false_ml),
        "false_ml": round(final.false_ml),
        "missed_ml": round(final.missed_ml),
        "crossed_voxels_raw": raw.crossed,
        "crossed_voxels": final.crossed,
    }


def set_figures(scores: Sequence[StudyScore]) -> Figures:
    """Return the figures of several studies: medians and the worst, mean false volume."""
    raw, final = median_dice(scores)
    return {
        "studies": len(scores),
        "dice_raw_median": round(raw, 4),
        "dice_median": round(final, 4),
        "dice_worst": round(min(s.final.dice for s in scores), 4),
        "base_median": round(float(np.median([s.final.thirds[0] for s in scores])), 4),
        "apex_median": round(float(np.median([s.final.thirds[2] for s in scores])), 4),
        "false_ml_raw_mean": round(float(np.mean([s.raw.false_ml for s in scores]))),
        "false_ml_mean": round(float(np.mean([s.final.false_ml for s in scores]))),
        "crossed_voxels": sum(s.final.crossed for s in scores),
    }


def add_scores(folder: Path, more: Mapping[str, Score]) -> None:
    """Write further scores into the card of a model that a recipe made.

    Args:
        folder: The model's folder; what its card says before [scores] stays.
        more: Scores; one of the same name is replaced.
    """
    card = load_card(folder)
    known: dict[str, Score] = dict(card.scores)
    write_card(folder, text_of(card), sha256=card.weights.sha256, scores={**known, **more})
