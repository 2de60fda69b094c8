"""The recipe of the MR phantom model: repeatable, and true to the grid of inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from node.models.card import load_card
from node.training.mr import MR_PHANTOM, draw_head_examples, scan_head
from node.training.recipe import Budget
from node.training.train import train_model

TINY = Budget(patients=2, slices=4, steps=2, batch=4)


def test_the_same_seed_trains_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    folders = [
        train_model(MR_PHANTOM.name, tmp_path / name, seed, TINY)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]

    first, second, other = ((folder / "weights.safetensors").read_bytes() for folder in folders)

    assert first == second != other
    assert load_card(folders[0]).name == "mr-phantom"


def test_half_of_the_slices_show_a_lesion_and_labels_lie_on_it() -> None:
    examples = draw_head_examples(
        3, Budget(patients=3, slices=8, steps=1, batch=1), progress=lambda _: None
    )

    with_lesion = examples.labels.any(axis=(1, 2))
    assert examples.images.shape == (24, 128, 128)
    assert 6 <= with_lesion.sum() <= 12


def test_labels_lie_on_the_lesion_to_within_half_a_voxel() -> None:
    examples = draw_head_examples(
        4, Budget(patients=4, slices=8, steps=1, batch=1), progress=lambda _: None
    )
    large = examples.labels.sum(axis=(1, 2)) > 60
    images, labels = examples.images[large].astype(np.float32), examples.labels[large] > 0

    def brightness(rows: int, columns: int) -> float:
        """Mean signal under labels that are moved by so many voxels."""
        moved = np.roll(labels, (rows, columns), axis=(1, 2))
        return float(np.mean([i[m].mean() for i, m in zip(images, moved, strict=True)]))

    at_home = brightness(0, 0)
    for step in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        assert brightness(*step) < at_home


def test_scans_go_round_the_three_planes() -> None:
    normals = [np.abs(scan_head(seed).grid.orientation.normal).argmax() for seed in (3, 4, 5)]

    assert normals == [2, 1, 0]
