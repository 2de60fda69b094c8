"""PET for a model that wants activity, and for one that wants SUV: the same series serves both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.values import Refusal, Segmentation, VolumePlan
from node.imaging.volume import load_volume
from node.models.loaded import LoadedModel, load_model
from node.reasons import Reason
from node.results.write import NodeFacts
from node.worker.segmenting import Part, Progress, Segmented, segment_files
from tests.imaging.build import phantom, save
from tests.imaging.test_suv import PLAIN
from tests.imaging.test_suv_objects import GROWTH, enhanced_pet, pet
from tests.models.builders import write_model
from tests.models.handing import write_handing

STORED = phantom() * np.arange(1, 13)[:, None, None]
"""What the series holds in Bq/ml: the slope of each slice is another one."""


def model_in(folder: Path, units: str, *, above: float) -> LoadedModel:
    """Return a model of PET that labels what is above a value in its units."""
    card = write_handing(folder, name="uptake", units=units, scale=(0, 2 * above))
    text = card.text.replace(card.weights.sha256, "{sha256}")
    text = text.replace('Modality = "CT"', 'Modality = "PT"\nUnits = "BQML"')
    network = load_model(card, device="cpu", threads=1).network
    return load_model(write_model(folder / "uptake", text, network), device="cpu", threads=1)


def run(folder: Path, model: LoadedModel) -> Part:
    files = read_folder(folder)
    (part,) = segment_files(files, model, NodeFacts("n", "1"), Progress(lambda *_: None))
    return part


def labels_of(part: Part) -> Segmentation:
    assert isinstance(part, Segmented), part
    assert isinstance(part.answer, Segmentation)
    return part.answer


def test_a_card_that_wants_bqml_meets_pet_whose_suv_is_known(tmp_path: Path) -> None:
    above = float(np.median(STORED)) + 0.25
    series = pet(tmp_path / "series")
    answer = labels_of(run(series, model_in(tmp_path / "activity", "BQML", above=above)))
    assert np.array_equal(answer.labels > 0, above < STORED)
    assert [one.name.meaning for one in answer.measurements] == ["Volume"]  # no SUV of activity


def test_the_same_series_comes_in_suv_to_a_card_that_wants_suv(tmp_path: Path) -> None:
    above = float(np.median(STORED)) + 0.25
    series = pet(tmp_path / "series")
    model = model_in(tmp_path / "suv", "SUVbw", above=above * PLAIN * GROWTH)
    answer = labels_of(run(series, model))
    assert np.array_equal(answer.labels > 0, above < STORED)
    assert len(answer.measurements) > 1


def test_both_models_keep_results_of_their_own(tmp_path: Path) -> None:
    series = pet(tmp_path / "series")
    keys = set()
    for units in ("BQML", "SUVbw"):
        part = run(series, model_in(tmp_path / units, units, above=1.0))
        assert isinstance(part, Segmented)
        keys.add(part.results[0].key)
    assert len(keys) == 2


def test_pet_without_suv_still_serves_the_card_that_wants_bqml(tmp_path: Path) -> None:
    series = pet(tmp_path / "series", PatientWeight=0)
    above = float(np.median(STORED)) + 0.25
    answer = labels_of(run(series, model_in(tmp_path / "activity", "BQML", above=above)))
    assert np.array_equal(answer.labels > 0, above < STORED)
    refused = run(series, model_in(tmp_path / "suv", "SUVbw", above=1.0))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.SUV_WEIGHT


def test_an_enhanced_image_without_suv_says_in_what_it_was_stored(tmp_path: Path) -> None:
    (plan,) = find_volumes(read_folder(save(tmp_path, [enhanced_pet(PatientWeight=0)])))
    assert isinstance(plan, VolumePlan)
    assert plan.suv is not None
    assert plan.units == "BQML"


def test_what_was_not_stored_is_not_made_up(tmp_path: Path) -> None:
    series = pet(tmp_path / "series", Units="GML")
    model = model_in(tmp_path / "activity", "BQML", above=1.0)
    text = model.card.text.replace('Units = "BQML"', "")
    text = text.replace(model.card.weights.sha256, "{sha256}")
    any_units = load_model(
        write_model(tmp_path / "any", text, model.network), device="cpu", threads=1
    )
    refused = run(series, any_units)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.NOT_ACCEPTED
    assert "in SUVbw, uptake wants BQML" in refused.explanation


@pytest.mark.parametrize("form", ["classic", "enhanced"])
def test_a_plan_remembers_what_was_stored(tmp_path: Path, form: str) -> None:
    folder = pet(tmp_path) if form == "classic" else save(tmp_path, [enhanced_pet()])
    (plan,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan)
    assert (plan.units, plan.stored_units) == ("SUVbw", "BQML")
    volume = load_volume(plan)
    assert not isinstance(volume, Refusal)
    assert volume.units == "SUVbw"
