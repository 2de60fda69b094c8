"""The lung model that ships: whole, honest, and as good on a real scan as its card says."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from node.models.card import load_card
from node.models.weights import sha256_of
from node.training.evaluate import open_model, score_phantoms, score_series
from node.training.lung_ct import LUNG_CT
from node.training.scores import StudyScore
from node.training.template import template_card

FOLDER = Path(__file__).resolve().parents[2] / "config" / "models" / "lung-ct"
LARGEST_WEIGHTS_BYTES = 3_000_000


@pytest.fixture(scope="module")
def real(
    shared_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> StudyScore:
    folder = tmp_path_factory.mktemp("ct-thorax")
    with tarfile.open(shared_data("ct-thorax/dicom.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    reference = shared_data("ct-thorax/lung-mask.nii.gz")
    return score_series(open_model(FOLDER), folder / "dicom", reference)


def test_its_weights_are_those_its_card_names_and_small() -> None:
    card = load_card(FOLDER)
    assert card.weights.sha256 == sha256_of(FOLDER / card.weights.file)
    assert (FOLDER / card.weights.file).stat().st_size < LARGEST_WEIGHTS_BYTES


def test_its_card_is_the_recipes_card() -> None:
    card, template = load_card(FOLDER), template_card("lung-ct")
    assert card.network == template.network
    assert card.voxels == template.voxels
    assert card.steps == template.steps
    assert card.postprocess == template.postprocess


def test_its_card_tells_the_scores_of_three_trainings_and_of_the_hard_set() -> None:
    scores = load_card(FOLDER).scores
    for seed in (1, 2, 3):
        real = scores[f"ct-thorax-seed-{seed}"]
        assert real["dice_raw"] >= 0.965
        assert real["dice"] >= 0.98
        assert real["false_ml_raw"] < 300
        assert real["crossed_voxels"] == 0
        assert min(real["base"], real["apex"]) >= 0.95
    assert scores["phantoms-1000-1019"]["studies"] == 20
    assert scores["hard-phantoms-2000-2019"]["false_ml_raw_mean"] > 0
    training = scores["training"]
    assert training["seed"] == 1
    assert training["steps"] == LUNG_CT.budget.steps
    assert training["slices"] == LUNG_CT.budget.patients * LUNG_CT.budget.slices


def test_it_finds_the_lungs_of_the_demos_patient() -> None:
    (score,) = score_phantoms(open_model(FOLDER), [7], slices=36, side=192)
    assert min(score.final.dice_by_label) >= 0.95
    assert score.final.crossed == 0


def test_it_finds_the_lungs_of_a_real_scan_before_post_processing(real: StudyScore) -> None:
    assert real.raw.dice >= 0.965
    assert real.raw.false_ml < 300


def test_it_finds_the_lungs_of_a_real_scan_from_base_to_apex(real: StudyScore) -> None:
    base, middle, apex = real.final.thirds
    assert real.final.dice >= 0.98
    assert min(base, middle, apex) >= 0.95


def test_it_gives_no_voxel_of_one_real_lung_to_the_other(real: StudyScore) -> None:
    assert real.final.crossed == 0


def test_its_card_tells_what_the_real_scan_gives_now(real: StudyScore) -> None:
    told = load_card(FOLDER).scores["ct-thorax-seed-1"]
    assert told["dice_raw"] == pytest.approx(real.raw.dice, abs=0.001)
    assert told["dice"] == pytest.approx(real.final.dice, abs=0.001)
