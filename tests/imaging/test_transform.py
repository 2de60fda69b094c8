"""Index operations on arrays and affines: exact, and exact on the way back."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from node.imaging.transform import turn, turn_to

SHAPE = (3, 4, 5)
ARRAY = np.arange(60, dtype=np.int16).reshape(SHAPE)
AFFINE = np.array(
    [[0.3, 0.1, 0.79, -12.5], [0.2, 0.68, -0.1, 40.25], [2.9, -0.12, 0.05, -7.0], [0, 0, 0, 1]]
)
"""An oblique affine whose axes are 2.9, 0.7 and 0.8 mm and nearest to H, P, L."""

ALL_48 = [
    (order, mirrored)
    for order in permutations(range(3))
    for mirrored in product((False, True), repeat=3)
]


@pytest.mark.parametrize(("order", "mirrored"), ALL_48)
def test_each_of_the_48_turns_keeps_every_voxel_in_its_place(
    order: tuple[int, int, int], mirrored: tuple[bool, bool, bool]
) -> None:
    axes = turn(SHAPE, order, mirrored)
    turned, affine = axes.apply(ARRAY), axes.affine(AFFINE)
    places = {int(ARRAY[index]): AFFINE @ [*index, 1] for index in np.ndindex(SHAPE)}
    for index in np.ndindex(turned.shape):
        np.testing.assert_allclose(affine @ [*index, 1], places[int(turned[index])], atol=1e-9)
    np.testing.assert_array_equal(axes.undo(turned), ARRAY)


@pytest.mark.parametrize(
    "letters",
    ["".join(letters) for pairs in permutations(("LR", "PA", "HF")) for letters in product(*pairs)],
)
def test_letters_name_where_each_index_grows(letters: str) -> None:
    axes = turn_to(letters, SHAPE, AFFINE)
    directions = axes.affine(AFFINE)[:3, :3]
    axis_of = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "H": (2, 1), "F": (2, -1)}
    for column, letter in enumerate(letters):
        axis, sign = axis_of[letter]
        assert directions[axis, column] * sign > 0
        assert np.abs(directions[:, column]).argmax() == axis


@pytest.mark.parametrize(("order", "mirrored"), ALL_48[::5])
def test_crop_and_pad_after_a_turn_go_back_to_the_source_grid(
    order: tuple[int, int, int], mirrored: tuple[bool, bool, bool]
) -> None:
    axes = turn(SHAPE, order, mirrored).cropped((-1, 1, -2), (7, 2, 9))
    window, affine = axes.apply(ARRAY, fill=-5), axes.affine(AFFINE)
    assert window.shape == (7, 2, 9)
    inside = 0
    for index in np.ndindex(window.shape):
        source = np.linalg.solve(AFFINE, affine @ [*index, 1])[:3].round().astype(int)
        if all(0 <= value < length for value, length in zip(source, SHAPE, strict=True)):
            inside += 1
            assert window[index] == ARRAY[tuple(source)]
        else:
            assert window[index] == -5
    back = axes.undo(window, fill=-9)
    assert back.shape == SHAPE
    assert (back == ARRAY).sum() == inside
    assert (back == -9).sum() == ARRAY.size - inside


def test_a_turn_without_padding_shares_memory() -> None:
    assert np.shares_memory(turn(SHAPE, (2, 0, 1), (True, False, True)).apply(ARRAY), ARRAY)
