"""The small MR model on studies that it has never seen, from DICOM files to labels."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.values import Outcome, Volume
from node.imaging.volume import load_volume
from node.models.card import load_card
from node.models.fit import refusal_of
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel, load_model
from node.phantom.grid import AXIAL, CORONAL, SAGITTAL, rotated
from node.phantom.study import Form, Numbering, Part, Profile, make_study, write_study
from node.training.lung_ct import FIRST_TRAINING_SEED

MODEL = Path(__file__).parents[1] / "data" / "models" / "mr-phantom"
HEAD = Profile(part=Part.HEAD, shape=(30, 120, 112), numbering=Numbering.RANDOM, decoys=True)

CASES = {
    "classic axial": (301, HEAD),
    "classic coronal": (302, replace(HEAD, orientation=CORONAL)),
    "classic sagittal": (303, replace(HEAD, orientation=SAGITTAL)),
    "classic oblique": (304, replace(HEAD, orientation=rotated(AXIAL, degrees=(12, -9, 6)))),
    "enhanced axial": (305, replace(HEAD, form=Form.ENHANCED)),
    "enhanced sagittal": (306, replace(HEAD, form=Form.ENHANCED, orientation=SAGITTAL)),
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(load_card(MODEL), device="cpu", threads=1)


@pytest.mark.parametrize(("seed", "profile"), CASES.values(), ids=CASES)
def test_the_lesion_is_found_on_its_side_in_every_orientation_and_form(
    seed: int, profile: Profile, model: LoadedModel, tmp_path: Path
) -> None:
    study = make_study(seed, profile)
    write_study(tmp_path, study)
    plans = [
        one for one in find_volumes(read_folder(tmp_path)) if one.series_uid == study.series_uid
    ]
    (volume,) = (load_volume(plan) for plan in plans)
    assert isinstance(volume, Volume), volume
    assert refusal_of(volume, model.card) is None

    found = segment_volume(volume, model)

    labels, truth = found.labels > 0, study.truth.labels > 0
    dice = 2 * np.count_nonzero(labels & truth) / (labels.sum() + truth.sum())
    assert dice >= 0.9
    x = (volume.affine @ (*np.argwhere(labels).mean(axis=0), 1.0))[0]
    assert ("right" if x < 0 else "left") == study.truth.lesion_side
    assert found.measurements[0].value == pytest.approx(study.truth.exact_ml["lesion"], rel=0.2)
    assert found.verdict.outcome is not Outcome.REJECT


def test_the_card_is_honest_about_what_the_model_is() -> None:
    card = load_card(MODEL)

    assert card.research
    assert "phantoms only" in card.intended_use.lower()
    assert hashlib.sha256(card.weights_path.read_bytes()).hexdigest() == card.weights.sha256
    assert card.weights_path.stat().st_size < 500_000
    assert card.scores["phantoms"]["final_worst"] >= 0.9


def test_no_test_seed_is_a_training_seed() -> None:
    assert max(seed for seed, _ in CASES.values()) < FIRST_TRAINING_SEED
