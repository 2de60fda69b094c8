"""Accept, review or reject, with a sentence for each rule that spoke."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from node.imaging.values import Code, Outcome, Segment
from node.models.parts import Quality, RatioLimits, SegmentLimits
from node.models.verdict import Figures, figures_of, judge

STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
LUNG = Code("39607008", "SCT", "Lung")
SEGMENTS = (
    Segment(1, "Right lung", STRUCTURE, LUNG, (Code("24028007", "SCT", "Right"),)),
    Segment(2, "Left lung", STRUCTURE, LUNG, (Code("7771000", "SCT", "Left"),)),
)
QUALITY = Quality(
    removed_fraction=0.1,
    end_slice_cm2=20.0,
    segments=(SegmentLimits(1, 300, 6000, "reject"), SegmentLimits(2, 300, 6000, "review")),
    ratios=(RatioLimits(1, 2, 0.5, 2.5),),
)
GOOD = Figures(
    volume_ml={1: 2500.0, 2: 2000.0},
    centre_x_mm={1: -70.0, 2: 70.0},
    end_slice_cm2=(0.0, 5.0),
    removed_ml=10.0,
    window_cut=False,
    notes=(),
)

CASES = {
    "as it should be": ({}, Outcome.ACCEPT, ""),
    "too small": ({"volume_ml": {1: 280.0, 2: 200.0}}, Outcome.REVIEW, "Right lung has 280 ml"),
    "too large": (
        {"volume_ml": {1: 6500.0, 2: 5000.0}},
        Outcome.REVIEW,
        "expected are 300 to 6000",
    ),
    "uneven": ({"volume_ml": {1: 3000.0, 2: 1000.0}}, Outcome.REVIEW, "3.00 times"),
    "impossible": ({"volume_ml": {1: 0.0, 2: 2000.0}}, Outcome.REJECT, "Right lung is empty"),
    "odd": ({"volume_ml": {1: 2000.0, 2: 0.0}}, Outcome.REVIEW, "Left lung is empty"),
    "swapped": ({"centre_x_mm": {1: 70.0, 2: -70.0}}, Outcome.REJECT, "sides are swapped"),
    "cut scan": ({"end_slice_cm2": (0.0, 30.0)}, Outcome.REVIEW, "30 cm2 of the last slice"),
    "much removed": ({"removed_ml": 900.0}, Outcome.REVIEW, "removed 900 ml"),
    "cut window": ({"window_cut": True}, Outcome.REVIEW, "border of the window"),
    "a note": ({"notes": ("Look here.",)}, Outcome.REVIEW, "Look here."),
}


@pytest.mark.parametrize(("change", "outcome", "said"), CASES.values(), ids=CASES.keys())
def test_each_rule_speaks_in_a_sentence(
    change: dict[str, object], outcome: Outcome, said: str
) -> None:
    verdict = judge(replace(GOOD, **change), QUALITY, SEGMENTS)  # type: ignore[arg-type]
    assert verdict.outcome is outcome
    assert said in " ".join(verdict.reasons)
    assert bool(verdict.reasons) is (outcome is not Outcome.ACCEPT)


def test_figures_are_in_the_patients_measures_on_an_oblique_grid() -> None:
    turn = np.array([[0, -0.6, 0.8], [0, 0.8, 0.6], [1, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [3.0, 0.5, 2.0]
    affine[:3, 3] = (5, 6, 7)
    labels = np.zeros((4, 20, 30), np.uint8)
    labels[0, 2:6, 3:9] = 1
    labels[1, 10, 10] = 2
    figures = figures_of(
        labels, SEGMENTS, affine=affine, removed_ml=0.0, window_cut=False, notes=()
    )
    assert figures.volume_ml == {1: pytest.approx(24 * 3e-3), 2: pytest.approx(3e-3)}
    assert figures.end_slice_cm2 == (pytest.approx(24 * 0.01), 0.0)
    at = [(affine @ [0, row, column, 1])[0] for row in range(2, 6) for column in range(3, 9)]
    assert figures.centre_x_mm[1] == pytest.approx(np.mean(at))
