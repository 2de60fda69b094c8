"""What a training's held-out cases say: figures, baselines, alarms; for the card and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from node.models.card import load_card
from node.training.alarms import alarms_of, paired
from node.training.cases import Case
from node.training.evaluate import open_model
from node.training.figures import CaseFigures, summary_of
from node.training.recipe import Data, Recipe
from node.training.scoring import baselines, score_cases
from node.training.splits import Split
from node.training.template import Score, text_of, write_card

_SEEN_CASES: Final = 10
"""Training cases that are scored beside the held-out ones, to tell how much was learnt by heart."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What was found.

    Attributes:
        card: For [scores]: sums, no case by name.
        report: Each case by digest.
    """

    card: Mapping[str, Score]
    report: Mapping[str, Any]


def held_out_scores(
    folder: Path, data: Data, split: Split, *, progress: Callable[[float], None]
) -> Scored:
    """Score a trained model on what was held out, and on some of what was not.

    Args:
        folder: The model's folder.
        data: The recipe's data.
        split: The two sets.
        progress: Called with the share that is done.
    """
    model = open_model(folder)
    test = score_cases(model, split.test, progress=lambda share: progress(0.7 * share))
    some = spread(split.train, _SEEN_CASES)
    seen = score_cases(model, some, progress=lambda share: progress(0.7 + 0.2 * share))
    others = baselines(split.train, split.test, model.card, fixed=data.thresholds)
    alarms = alarms_of(
        train=seen,
        train_patients=len({case.patient for case in split.train}),
        test=test,
        others=others,
        negatives=not all(case.reference.any() for case in (*split.train, *split.test)),
        fractions=data.soft and model.card.head.kind == "occupancy",
    )
    progress(1.0)
    card: dict[str, Score] = {"test": summary_of(test), "train": _short(seen)}
    for name, figures in others.items():
        gain, low, high = paired(test, figures)
        beaten = {"gain": round(gain, 4), "gain_low": round(low, 4), "gain_high": round(high, 4)}
        card[f"baseline-{name}"] = {"dice": summary_of(figures)["dice"], **beaten}
    said: dict[str, str] = {}
    for alarm in alarms:
        said[alarm.code] = (
            f"{said[alarm.code]} {alarm.sentence}" if alarm.code in said else alarm.sentence
        )
    card["alarms"] = said
    report = {
        "test_cases": [asdict(one) for one in test],
        "seen_cases": [asdict(one) for one in seen],
        "baseline_cases": {name: [asdict(o) for o in each] for name, each in others.items()},
    }
    return Scored(card, report)


def write_held_out(
    folder: Path,
    recipe: Recipe,
    split: Split,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Score a model on what was held out, and write that into its card and its report.json.

    Args:
        folder: The model's folder; of its card's scores, those of the training and its data stay.
        recipe: One that learns from cases.
        split: The two sets.
        progress: Called with the share that is done.
    """
    if recipe.data is None:
        raise AssertionError("there is a split where cases were read")
    scored = held_out_scores(folder, recipe.data, split, progress=progress)
    card = load_card(folder)
    made = {key: card.scores[key] for key in ("training", "data")} | dict(scored.card)
    write_card(folder, text_of(card), sha256=card.weights.sha256, scores=made)
    report = {"schema": 1, "recipe": recipe.name, **made, **scored.report}
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def spread(cases: Sequence[Case], count: int) -> tuple[Case, ...]:
    """Return up to `count` cases, evenly spread over all of them."""
    every = max(1, -(-len(cases) // count))
    return tuple(cases[::every])


def _short(figures: Sequence[CaseFigures]) -> Score:
    said = summary_of(figures)
    return {key: said[key] for key in ("cases", "dice", "dice_worst")}
