"""Every fold of a recipe: each patient is held out once, and the figures of all are pooled.

With few patients one split says little: folds of the same data differ by a tenth in Dice. What a
recipe is worth is told out of fold; each fold's own model keeps its own held-out figures beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from node.training.alarms import fold_alarms, paired
from node.training.figures import CaseFigures, summary_of
from node.training.report import add_scores
from node.training.template import Score


def pool_folds(folders: Sequence[Path]) -> Mapping[str, Score]:
    """Write into the cards of all folds what they say together, and return it.

    Args:
        folders: Model folders of a recipe, one for each fold, with their report.json.

    Raises:
        ValueError: A case is held out in two of them.
    """
    reports = [json.loads((one / "report.json").read_text(encoding="utf-8")) for one in folders]
    pooled = out_of_fold(reports)
    for folder in folders:
        add_scores(folder, pooled)
    return pooled


def out_of_fold(reports: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Return the figures of all held-out cases of several folds.

    Args:
        reports: As `report.json` holds them.

    Raises:
        ValueError: A case is held out in two of them.
    """
    folds = [report["test_cases"] for report in reports]
    test = _joined(folds)
    names = [one.case for one in test]
    if len(set(names)) != len(names):
        raise ValueError("a case is held out in two folds")
    pooled: dict[str, Score] = {"out-of-fold": {"folds": len(reports), **summary_of(test)}}
    for name in reports[0]["baseline_cases"]:
        others = _joined([report["baseline_cases"][name] for report in reports])
        gain, low, high = paired(test, others)
        pooled[f"out-of-fold-over-{name}"] = {
            "dice": summary_of(others)["dice"],
            "gain": round(gain, 4),
            "gain_low": round(low, 4),
            "gain_high": round(high, 4),
        }
    means = [float(np.nanmean([one.mean_dice for one in _joined([fold])])) for fold in folds]
    if alarms := fold_alarms(means):
        pooled["out-of-fold-alarms"] = {one.code: one.sentence for one in alarms}
    return pooled


def _joined(folds: Sequence[Sequence[Mapping[str, Any]]]) -> list[CaseFigures]:
    """Return the figures of all folds; patients of different folds get different numbers."""
    found: list[CaseFigures] = []
    for fold in folds:
        first = len(found)
        each = [
            CaseFigures(
                case=one["case"],
                patient=one["patient"],
                dice=tuple(one["dice"]),
                volume_ml=tuple(one["volume_ml"]),
                reference_ml=tuple(one["reference_ml"]),
            )
            for one in fold
        ]
        found += [replace(one, patient=first + one.patient) for one in each]
    return found
