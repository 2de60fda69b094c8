"""Training: small budgets give models that load and know something; seeds keep their distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from node.models.card import load_card
from node.models.weights import sha256_of
from node.training.augment import augment
from node.training.evaluate import HARD_SEEDS, TEST_SEEDS, open_model, score_phantoms
from node.training.lung_ct import FIRST_TRAINING_SEED, draw_lung_examples, patient_seeds
from node.training.recipe import Augmentation, Budget
from node.training.template import template_card, write_card
from node.training.train import RECIPES, WEIGHTS_FILE, train_model
from node.training.trainer import Progress, loss_of

STILL = Augmentation(
    rotation_deg=0,
    scale=0,
    stretch=0,
    shift=0,
    elastic=0,
    flip=0,
    upside_down=0,
    contrast=0,
    offset=0,
    noise=0,
)


def test_a_small_training_gives_a_model_that_loads_and_knows_lungs(tmp_path: Path) -> None:
    stages: list[Progress] = []
    budget = Budget(patients=4, slices=8, steps=24, batch=4)
    folder = train_model("lung-ct", tmp_path / "lung-ct", 9, budget, stages.append)
    card = load_card(folder)
    assert card.weights.sha256 == sha256_of(folder / WEIGHTS_FILE)
    (score,) = score_phantoms(open_model(folder), [1001], slices=6, side=128)
    assert score.raw.dice > 0.5
    assert {stage.stage for stage in stages} == {"draw", "train", "write"}
    assert [s.share for s in stages if s.stage == "train"][-1] == 1.0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    budget = Budget(patients=1, slices=4, steps=2, batch=2)
    digests = [
        sha256_of(train_model("lung-ct", tmp_path / name, seed, budget) / WEIGHTS_FILE)
        for name, seed in (("first", 4), ("again", 4), ("other", 5))
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_no_training_sees_a_patient_of_the_demo_the_tests_or_the_hard_set() -> None:
    kept_apart = {7, *TEST_SEEDS, *HARD_SEEDS}
    budget = RECIPES["lung-ct"].budget
    drawn = [set(patient_seeds(seed, budget.patients)) for seed in (1, 2, 3)]
    for seeds in drawn:
        assert min(seeds) >= FIRST_TRAINING_SEED
        assert not seeds & kept_apart
    assert not drawn[0] & drawn[1]
    assert not drawn[1] & drawn[2]


def test_a_recipe_that_there_is_not_is_refused_with_the_names_that_there_are(
    tmp_path: Path,
) -> None:
    with pytest.raises(KeyError, match="lung-ct"):
        train_model("lungs", tmp_path, 1)


def test_examples_are_on_the_networks_scale_and_hold_both_lungs() -> None:
    budget = Budget(patients=2, slices=6, steps=1, batch=1)
    shares: list[float] = []
    examples = draw_lung_examples(3, budget, progress=shares.append)
    assert examples.images.shape == examples.labels.shape == (12, 128, 128)
    assert examples.images.min() >= -1
    assert examples.images.max() <= 1
    assert set(np.unique(examples.labels)) == {0, 1, 2}
    assert shares == [0.5, 1.0]


def test_a_left_right_flip_swaps_the_sides() -> None:
    labels = torch.zeros((1, 8, 8), dtype=torch.int64)
    labels[:, :, 1], labels[:, :, 6] = 1, 2
    how = Augmentation(
        **{name: getattr(STILL, name) for name in STILL.__slots__ if name not in ("flip", "swaps")},
        flip=1.0,
        swaps=((1, 2),),
    )
    rng = np.random.Generator(np.random.PCG64(1))
    _, changed = augment(torch.zeros((1, 1, 8, 8)), labels, how, background=-1.0, rng=rng)
    assert torch.equal(changed, labels)  # mirrored and swapped: the right lung is still at the left


def test_without_variation_a_slice_stays_as_it_is() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    image = torch.rand((2, 1, 16, 16)) - 0.5
    labels = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    moved, changed = augment(image, labels, STILL, background=-1.0, rng=rng)
    assert torch.allclose(moved, image, atol=1e-5)
    assert torch.equal(changed, labels)


def test_the_loss_is_smallest_for_the_right_answer() -> None:
    labels = torch.zeros((1, 16, 16), dtype=torch.int64)
    labels[:, 4:8, 4:8] = 1
    right = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float() * 12
    wrong = right.roll(1, dims=1)
    assert loss_of(right, labels, smooth=5) < 0.01
    assert loss_of(wrong, labels, smooth=5) > 1


def test_a_card_with_scores_is_read_back(tmp_path: Path) -> None:
    text = RECIPES["lung-ct"].card_text
    scores = {"ct-thorax": {"dice_raw": 0.98, "note": 'one "real" study'}, "n": 3}
    write_card(tmp_path, text, sha256="1" * 64, scores=scores)
    card = load_card(tmp_path)
    assert card.weights.sha256 == "1" * 64
    assert card.voxels == template_card("lung-ct").voxels
