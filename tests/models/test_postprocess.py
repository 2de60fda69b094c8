"""Steps on labels mean the same on every grid, and what they remove is counted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from node.models.parts import (
    Close,
    DropSmall,
    DropWrongSide,
    FillHoles,
    KeepLargest,
    PostStep,
    SplitSides,
)
from node.models.postprocess import Cleaned, postprocess

SPACING = (3.0, 1.0, 2.0)
AFFINE = np.array([[0, 0, 2.0, -40], [0, 1.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1.0]])


def clean(labels: NDArray[np.uint8], *steps: PostStep) -> Cleaned:
    return postprocess(labels, steps, affine=AFFINE, spacing_mm=SPACING)


def empty() -> NDArray[np.uint8]:
    return np.zeros((8, 40, 41), np.uint8)


def test_the_largest_piece_of_each_label_stays() -> None:
    labels = empty()
    labels[1:5, 5:15, 5:15] = 1
    labels[1:5, 30:33, 30:33] = 1
    labels[1:5, 25:35, 5:10] = 2
    done = clean(labels, KeepLargest((1, 2), joint=False, count=1, also_over=1.0))
    assert not done.labels[:, 30:33, 30:33].any()
    assert (done.labels == 2).sum() == 4 * 10 * 5
    assert done.removed_ml == pytest.approx(4 * 9 * 6 / 1000)
    assert labels[1, 30, 30] == 1  # the input is not changed


def test_a_further_piece_stays_if_it_is_large_enough() -> None:
    labels = empty()
    labels[1:5, 5:15, 5:15] = 1
    labels[1:5, 30:33, 30:33] = 1  # 9 %
    step = KeepLargest((1,), joint=False, count=1, also_over=0.05)
    assert clean(labels, step).removed_ml == 0
    step = KeepLargest((1,), joint=False, count=1, also_over=0.10)
    assert clean(labels, step).removed_ml > 0


def test_labels_that_touch_are_one_piece_if_taken_together() -> None:
    labels = empty()
    labels[1:5, 5:15, 5:10] = 1
    labels[1:5, 5:15, 10:12] = 2
    labels[1:5, 30:33, 30:33] = 2
    together = clean(labels, KeepLargest((1, 2), joint=True, count=1, also_over=1.0)).labels
    assert (together == 2).sum() == 4 * 10 * 2
    assert not together[:, 30:33].any()


def test_small_pieces_go_by_millilitres() -> None:
    labels = empty()
    labels[1:3, 5:10, 5:10] = 1  # 0.3 ml
    labels[5:7, 20:30, 20:30] = 1  # 1.2 ml
    assert (clean(labels, DropSmall((1,), 0.5)).labels > 0).sum() == 200
    assert (clean(labels, DropSmall((1,), 0.2)).labels > 0).sum() == 250


def test_holes_are_filled_in_their_plane_and_take_no_other_label() -> None:
    labels = empty()
    labels[2, 5:20, 5:20] = 1
    labels[2, 8:12, 8:12] = 0
    labels[2, 14:16, 14:16] = 2
    done = clean(labels, FillHoles((1,))).labels
    assert (done[2] == 1).sum() == 15 * 15 - 4
    assert (done[2] == 2).sum() == 4


def test_closing_is_round_in_millimetres() -> None:
    """A gap of 4 mm closes with a radius of 3 mm along rows and along columns, 8 mm does not."""
    for gap_rows, gap_columns, closes in ((4, 0, True), (0, 2, True), (8, 0, False), (0, 4, False)):
        labels = empty()
        labels[2, 5:35, 5:35] = 1
        labels[2, 18 : 18 + gap_rows, 5:35] = 0
        labels[2, 5:35, 18 : 18 + gap_columns] = 0
        done = clean(labels, Close((1,), 3.0)).labels
        assert bool(done[2, 19, 19]) is closes
        assert not done[2, 3, 20]
        assert not done[3].any()


def test_the_larger_x_is_the_patients_left() -> None:
    labels = empty()
    labels[1:5, 5:15, 3:15] = 1  # low columns: low x, the patient's right
    labels[1:5, 5:15, 25:38] = 1
    done = clean(labels, SplitSides(1, 1, 2))
    assert set(np.unique(done.labels[:, :, :16])) == {0, 1}
    assert set(np.unique(done.labels[:, :, 24:])) == {0, 2}
    assert done.notes == ()


def test_one_piece_is_cut_in_the_middle_and_a_person_is_asked() -> None:
    labels = empty()
    labels[1:5, 5:15, 5:36] = 1
    done = clean(labels, SplitSides(1, 1, 2))
    assert (done.labels == 1).sum() > 500
    assert (done.labels == 2).sum() > 500
    assert "one piece" in done.notes[0]


def test_a_piece_on_the_wrong_side_goes() -> None:
    labels = empty()
    labels[1:5, 5:15, 3:15] = 1
    labels[1:5, 5:15, 25:38] = 2
    labels[1:5, 20:22, 35:37] = 1
    done = clean(labels, DropWrongSide(1, 2))
    assert not done.labels[:, 20:22, 35:37].any()
    assert (done.labels == 1).sum() == 4 * 10 * 12
    swapped = np.choose(labels, [0, 2, 1]).astype(np.uint8)
    assert "opposite sides" in clean(swapped, DropWrongSide(1, 2)).notes[0]


def test_nothing_in_gives_nothing_out() -> None:
    steps = [KeepLargest((1,), joint=False, count=1, also_over=1.0), Close((1,), 5.0)]
    assert not clean(empty(), *steps, SplitSides(1, 1, 2), DropWrongSide(1, 2)).labels.any()
