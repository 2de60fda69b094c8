"""Folds are pooled case by case, with every patient counted once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from node.models.card import load_card
from node.training.figures import CaseFigures
from node.training.pooled import out_of_fold
from node.training.report import add_scores
from node.training.template import write_card

CARDS = Path(__file__).resolve().parents[2] / "node" / "training" / "cards"


def _report(first: int, dice: list[float]) -> dict[str, object]:
    def figures(value: float, number: int) -> dict[str, object]:
        return asdict(CaseFigures(f"{first + number:012}", number, (value,), (1.0,), (1.0,)))

    return {
        "test_cases": [figures(value, k) for k, value in enumerate(dice)],
        "baseline_cases": {"threshold": [figures(value - 0.2, k) for k, value in enumerate(dice)]},
    }


def test_out_of_fold_figures_are_of_all_patients() -> None:
    pooled = out_of_fold([_report(0, [0.9, 0.7]), _report(10, [0.5, 0.8, 0.6])])
    said = pooled["out-of-fold"]
    assert (said["folds"], said["cases"], said["patients"]) == (2, 5, 5)
    assert said["dice"] == pytest.approx(0.7)
    over = pooled["out-of-fold-over-threshold"]
    assert (over["dice"], over["gain_low"]) == pytest.approx((0.5, 0.2))


def test_folds_that_differ_by_more_than_a_tenth_are_told() -> None:
    near = out_of_fold([_report(0, [0.8, 0.8]), _report(10, [0.71, 0.71])])
    far = out_of_fold([_report(0, [0.8, 0.8]), _report(10, [0.69, 0.69])])
    assert "out-of-fold-alarms" not in near
    assert "0.800, 0.690" in far["out-of-fold-alarms"]["fold-spread"]


def test_a_case_that_two_folds_hold_out_is_refused() -> None:
    with pytest.raises(ValueError, match="two folds"):
        out_of_fold([_report(0, [0.9]), _report(0, [0.8])])


def test_added_scores_leave_what_calibration_wrote(tmp_path: Path) -> None:
    text = (CARDS / "pet-tumour.toml").read_text().replace("logit_scale = 1.0", "logit_scale = 0.7")
    write_card(tmp_path, text, sha256="2" * 64, scores={"training": {"seed": 1}})
    add_scores(tmp_path, {"out-of-fold": {"dice": 0.75}})
    card = load_card(tmp_path)
    assert card.head.logit_scale == 0.7
    assert (card.scores["training"]["seed"], card.scores["out-of-fold"]["dice"]) == (1, 0.75)
