"""Scores say what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from node.training.scores import dice_of, overlap_of


def test_the_same_labels_score_one_everywhere() -> None:
    labels = np.zeros((6, 4, 4), np.uint8)
    labels[1:5, 1:3, 1], labels[1:5, 1:3, 2] = 1, 2
    score = overlap_of(labels, labels, voxel_ml=1.0, count=2)
    assert score.dice == 1
    assert score.dice_by_label == (1, 1)
    assert score.thirds == (1, 1, 1)
    assert (score.false_ml, score.missed_ml, score.crossed) == (0, 0, 0)


def test_false_missed_and_crossed_voxels_are_counted_apart() -> None:
    reference = np.zeros((3, 4, 4), np.uint8)
    reference[:, 0, 0], reference[:, 0, 1] = 1, 2
    labels = reference.copy()
    labels[0, 0, 0] = 2  # crossed
    labels[1, 0, 0] = 0  # missed
    labels[2, 3, 2:] = 1  # false
    score = overlap_of(labels, reference, voxel_ml=0.5, count=2)
    assert (score.false_ml, score.missed_ml, score.crossed) == (1.0, 0.5, 1)
    assert score.dice == pytest.approx(10 / 13)


def test_the_first_third_is_the_base() -> None:
    reference = np.zeros((9, 2, 2), np.uint8)
    reference[:] = 1
    labels = reference.copy()
    labels[:3] = 0
    assert overlap_of(labels, reference, voxel_ml=1.0, count=1).thirds == (0, 1, 1)


def test_nothing_found_where_nothing_is_counts_as_right() -> None:
    nothing = np.zeros((2, 2, 2), bool)
    assert dice_of(nothing, nothing) == 1
