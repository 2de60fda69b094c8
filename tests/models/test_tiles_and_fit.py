"""3D patches cover the grid, and volumes that a card does not take are refused in a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.models.card import parse_card
from node.models.fit import refusal_of
from node.models.prepare import prepare
from node.models.tiles import tile_starts
from node.reasons import Reason
from tests.models.builders import documented_card, make_volume

CARD = parse_card(documented_card(), Path("models/lung-ct"))


@given(st.integers(1, 400), st.integers(8, 96), st.floats(0, 0.875))
def test_patches_cover_the_grid_and_overlap_as_asked(size: int, side: int, overlap: float) -> None:
    starts = tile_starts(size, side, overlap)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    if size > side:
        assert starts[-1] + side == size
        steps = np.diff(starts)
        assert steps.max() <= max(1, side * (1 - overlap)) + 1
        assert steps.max() - steps.min() <= 1


def test_planes_outside_a_resampled_image_are_background() -> None:
    card = replace(
        CARD,
        voxels=replace(CARD.voxels, spacing_mm=(0.4, 0.4, 0.4), size=None),
        inference=replace(CARD.inference, mode="window", patch=(64, 16, 16)),
        steps=(),
    )
    prepared = prepare(make_volume(np.full((4, 16, 16), 40, np.int16)), card)
    whole = prepared.planes(0, 64)
    alone = np.concatenate([prepared.planes(first, first + 8) for first in range(0, 64, 8)])
    np.testing.assert_array_equal(alone, whole)
    assert (alone[:8] == card.voxels.background).all()
    assert (alone[28:36].max(axis=(1, 2)) == 40).all()


@pytest.mark.parametrize(
    ("slices", "units", "reason", "said"),
    [
        (2, "HU", Reason.TOO_FEW_SLICES, "2 slices, lung-ct wants at least 3"),
        (5, "arbitrary", Reason.NOT_ACCEPTED, "in arbitrary, lung-ct wants HU"),
    ],
)
def test_a_volume_that_does_not_fit_is_refused(
    slices: int, units: str, reason: Reason, said: str
) -> None:
    volume = make_volume(np.zeros((slices, 8, 8), np.int16), units=units)
    refusal = refusal_of(volume, CARD)
    assert refusal is not None
    assert refusal.reason is reason
    assert said in refusal.explanation
    assert refusal.series_uid == volume.series_uid


def test_a_volume_that_fits_is_not_refused_and_one_in_other_units_never_runs() -> None:
    volume = make_volume(np.zeros((3, 8, 8), np.int16))
    assert refusal_of(volume, CARD) is None
    with pytest.raises(ValueError, match="the card wants HU"):
        prepare(make_volume(volume.array, units="BQML"), CARD)
