"""Trainings on cases: they learn, are scored on others, go on after a kill, and refuse nonsense."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from node.errors import SetupError
from node.models.card import load_card
from node.models.weights import sha256_of
from node.training.augment import augment
from node.training.checkpoint import taken_up
from node.training.hippocampus import HIPPOCAMPUS, read_hippocampi
from node.training.losses import loss_of, share_loss_of
from node.training.recipe import Augmentation, Budget, Examples
from node.training.template import template_card
from node.training.train import WEIGHTS_FILE, states_of, train_model
from node.training.trainer import Means, blurred, fit_network

from .small_cases import write_balls

ROOT = Path(__file__).resolve().parents[2]
STILL = Augmentation(
    rotation_deg=0, scale=0, stretch=0, shift=0, elastic=0, flip=0, upside_down=0, contrast=0,
    offset=0, noise=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_balls(tmp_path_factory.mktemp("balls"), 10)


def _steps(steps: int) -> Budget:
    return replace(HIPPOCAMPUS.budget, steps=steps)


def test_a_card_tells_data_figures_baselines_and_alarms(balls: Path, tmp_path: Path) -> None:
    folder = train_model("hippocampus", tmp_path / "m", 1, _steps(2), data=balls)
    scores = load_card(folder).scores
    assert scores["training"]["steps"] == 2
    assert (scores["data"]["train_patients"], scores["data"]["test_patients"]) == (8, 2)
    assert {"dice", "dice_low", "dice_high", "dice_label_2"} <= set(scores["test"])
    assert {"baseline-position", "baseline-threshold", "alarms"} <= set(scores)
    assert "few-patients" in scores["alarms"]
    report = json.loads((folder / "report.json").read_text())
    assert len(report["test_cases"]) == 2
    assert not states_of(folder).exists()
    written = (folder / "card.toml").read_text() + (folder / "report.json").read_text()
    assert "ball_0" not in written
    assert str(balls) not in written


def test_a_training_whose_states_are_kept_is_only_scored_again(balls: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    seen: list[str] = []
    for _ in range(2):
        seen.clear()
        means = Means(clock=time.monotonic, states=states_of(out))
        train_model(
            "hippocampus",
            out,
            1,
            _steps(2),
            lambda progress: seen.append(progress.stage),
            data=balls,
            means=means,
            keep_states=True,
        )
    assert "train" not in seen
    assert "score" in seen


def test_negatives_count_wherever_they_are_in_the_split(tmp_path: Path) -> None:
    """More training cases than are scored: that a few are empty is not missed."""
    folder = write_balls(tmp_path / "many", 26, empty=(4,))
    scores = load_card(train_model("hippocampus", tmp_path / "m", 1, _steps(1), data=folder)).scores
    assert "no-negatives" not in scores["alarms"]


_CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from node.training import trainer
trainer._STORE_EVERY_S = 0.0
from node.training.train import RECIPES, states_of, train_model
from node.training.trainer import Means
out = Path(sys.argv[1])
train_model("hippocampus", out, 3, replace(RECIPES["hippocampus"].budget, steps=6),
            lambda p: print(p.stage, p.step, flush=True), data=Path(sys.argv[2]),
            means=Means(clock=time.monotonic, states=states_of(out)))
"""


@pytest.mark.flow
def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    balls: Path, tmp_path: Path
) -> None:
    whole = train_model("hippocampus", tmp_path / "whole", 3, _steps(6), data=balls)
    out = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _CHILD, str(out), str(balls)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("train") and int(line.split()[1]) >= 3:
                child.send_signal(signal.SIGKILL)
                break
    assert child.wait() == -signal.SIGKILL
    assert not (out / WEIGHTS_FILE).exists()
    state = json.loads((states_of(out) / "state.json").read_text())
    assert 1 <= state["step"] < 6
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    steps = [int(line.split()[1]) for line in again.stdout.splitlines() if "train" in line]
    assert steps[0] == state["step"] + 1
    assert sha256_of(out / WEIGHTS_FILE) == sha256_of(whole / WEIGHTS_FILE)


def test_a_stored_state_of_another_training_is_refused(tmp_path: Path) -> None:
    examples = Examples(np.zeros((4, 8, 8), np.float16), np.zeros((4, 8, 8), np.uint8))
    recipe = replace(HIPPOCAMPUS, data=None, supervised=0)
    card = load_card(ROOT / "config" / "models" / "lung-ct")
    network = replace(card.network, parameters={"widths": (4, 4)})
    means = Means(clock=time.monotonic, states=tmp_path)
    budget = replace(recipe.budget, steps=2, batch=2)
    fit_network(network, recipe, examples, seed=1, budget=budget, means=means, made_from="one")
    assert taken_up(tmp_path, "one") is not None
    with pytest.raises(SetupError, match="training-other"):
        taken_up(tmp_path, "two")
    tensors = next(tmp_path.glob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(SetupError, match="training-damaged"):
        taken_up(tmp_path, "one")


def test_minutes_end_a_training_and_bring_the_rate_down() -> None:
    examples = Examples(
        np.random.default_rng(1).normal(size=(4, 8, 8)).astype(np.float16),
        np.zeros((4, 8, 8), np.uint8),
    )
    recipe = replace(HIPPOCAMPUS, data=None, supervised=0)
    card = load_card(ROOT / "config" / "models" / "lung-ct")
    network = replace(card.network, parameters={"widths": (4, 4)})
    seconds = itertools.count()  # every look at the clock takes a second
    means = Means(clock=lambda: float(next(seconds)))
    budget = replace(recipe.budget, minutes=1.0, batch=2)
    fitted = fit_network(network, recipe, examples, seed=1, budget=budget, means=means)
    assert 5 < fitted.steps < 60


def test_a_loss_that_is_no_number_twice_stops_the_training() -> None:
    images = np.full((2, 8, 8), np.nan, np.float16)
    examples = Examples(images, np.zeros((2, 8, 8), np.uint8))
    recipe = replace(HIPPOCAMPUS, data=None, supervised=0)
    card = load_card(ROOT / "config" / "models" / "lung-ct")
    network = replace(card.network, parameters={"widths": (4, 4)})
    with pytest.raises(SetupError, match="non-finite"):
        fit_network(
            network, recipe, examples, seed=1, budget=replace(recipe.budget, steps=4),
            means=Means(clock=time.monotonic),
        )  # fmt: skip


def test_a_recipe_that_learns_from_cases_asks_for_them(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no-cases"):
        train_model("hippocampus", tmp_path / "m", 1)
    with pytest.raises(SetupError, match="no-cases"):
        read_hippocampi(tmp_path)
    assert not (tmp_path / "m").exists()


def test_labels_on_another_grid_are_refused(tmp_path: Path) -> None:
    folder = write_balls(tmp_path, 1)
    labels = folder / "labels" / "ball_000.nii.gz"
    moved = nib.Nifti1Image(np.asarray(nib.load(labels).dataobj), np.diag([1, 1, 1.5, 1]))
    nib.save(moved, labels)
    with pytest.raises(SetupError, match="label-grid"):
        read_hippocampi(folder)


def test_mirrored_axes_of_a_card_are_those_of_its_recipe() -> None:
    card = template_card("hippocampus")
    assert card.inference.mirrored == HIPPOCAMPUS.augmentation.mirrored
    assert set(card.inference.mirrors) <= set(HIPPOCAMPUS.augmentation.mirrored)


def test_without_variation_a_volume_and_its_shares_stay_as_they_are() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    image = torch.rand((2, 1, 8, 12, 10))
    shares = torch.rand((2, 8, 12, 10))
    moved, changed = augment(image, shares, STILL, background=0.0, rng=rng)
    assert torch.allclose(moved, image, atol=1e-5)
    assert torch.allclose(changed, shares, atol=1e-5)


def test_a_turn_keeps_shapes_where_sides_differ() -> None:
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(64), indexing="ij")
    disc = ((rows - 15.5) ** 2 + (columns - 31.5) ** 2 < 100).float()
    rng = np.random.Generator(np.random.PCG64(1))
    turned = Augmentation(**{
        **{name: getattr(STILL, name) for name in STILL.__slots__}, "spin": 1.0
    })  # fmt: skip
    moved, _ = augment(disc[None, None], disc[None], turned, background=0.0, rng=rng)
    assert (moved[0, 0] - disc).abs().sum() < 0.1 * disc.sum()  # a disc, not an ellipse


def test_each_axis_is_mirrored_with_its_labels() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    labels = torch.zeros((1, 4, 4, 4))
    labels[0, 0, 1, 2] = 1
    for name, axis in (("over", 0), ("upside_down", 1), ("flip", 2)):
        how = Augmentation(**{
            **{field: getattr(STILL, field) for field in STILL.__slots__}, name: 1.0
        })  # fmt: skip
        moved, changed = augment(labels[:, None].clone(), labels, how, background=0.0, rng=rng)
        assert torch.allclose(changed[0], labels[0].flip(axis), atol=1e-5)
        assert torch.allclose(moved[0, 0], labels[0].flip(axis), atol=1e-5)


def test_the_loss_of_shares_is_smallest_at_the_share_itself() -> None:
    shares = torch.full((1, 8, 8), 0.3)
    losses = {
        p: float(
            share_loss_of(torch.full((1, 1, 8, 8), float(np.log(p / (1 - p)))), shares, smooth=0)
        )
        for p in (0.1, 0.2, 0.3, 0.4, 0.6)
    }
    assert min(losses, key=losses.__getitem__) == 0.3


def test_the_dice_of_a_batch_is_not_moved_by_an_empty_example() -> None:
    labels = torch.zeros((2, 8, 8), dtype=torch.int64)
    labels[0, 2:4, 2:4] = 1
    right = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float() * 20
    assert loss_of(right, labels, smooth=1e-5, of_batch=True) < 0.01
    faint = right.clone()
    faint[1, 1] = 17.0  # 5 % of a label all over the empty example
    of_each = loss_of(faint, labels, smooth=1e-5)
    assert of_each > loss_of(faint, labels, smooth=1e-5, of_batch=True)


def test_a_blur_keeps_the_sum_of_shares() -> None:
    shares = torch.zeros((1, 21, 21))
    shares[0, 10, 10] = 1.0
    soft = blurred(shares, 1.5)
    assert float(soft.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(soft.max()) < 0.2
