"""An nnU-Net results folder becomes a model folder that gives nnU-Net's scores."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from node.errors import SetupError
from node.models.check import check_model
from node.models.choice import best_class
from node.models.imports.bring import import_model
from node.models.inference import segment_volume
from node.models.loaded import load_model
from node.models.prepare import prepare
from tests.models.builders import make_volume
from tests.models.filling import fill_in
from tests.models.nnunet_folder import make_network, write_results


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_plans_become_a_card_and_what_is_left_is_listed(tmp_path: Path) -> None:
    trained = write_results(tmp_path, folds=2, plans={"transpose_forward": [1, 0, 2]})
    (trained / "LICENSE").write_text("Creative Commons Attribution 4.0\n\nThe whole text.")
    made = import_model(trained, tmp_path / "Our Model")
    card = tomllib.loads((made.folder / "card.toml").read_text(encoding="utf-8"))
    assert card["name"] == "our-model"
    assert card["about"]["licence"] == "Creative Commons Attribution 4.0 (text in LICENSE)"
    assert [one["file"] for one in card["weights"]["files"]] == [
        "fold-0.safetensors",
        "fold-1.safetensors",
    ]
    assert card["voxels"] == {
        "orientation": "native",
        "spacing_mm": [3.0, 1.0, 1.0],
        "background": -1024,
        "units": "HU",
        "downsample": "spline",
        "crop": "nonzero",
        "transpose": [1, 0, 2],
    }
    assert card["steps"] == [
        {"step": "clip", "low": -100.0, "high": 240.0},
        {"step": "normalise", "mean": 60.0, "sd": 40.0},
    ]
    assert card["network"]["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    assert card["inference"]["patch"] == [8, 16, 16]
    assert card["inference"]["mirrors"] == ["slice", "row", "column"]
    assert [one["label"] for one in card["segments"]] == ["ball", "block"]
    said = " ".join(made.todo)
    for left in ("about.intended_use", "segments", "voxels.orientation", "results"):
        assert left in said
    assert "about.licence" not in said
    (fault,) = check_model(made.folder)
    assert "about.intended_use" in fault.what
    fill_in(made.folder)
    assert check_model(made.folder) == ()


def test_old_plans_are_read(tmp_path: Path) -> None:
    made = import_model(write_results(tmp_path, old=True), tmp_path / "ours")
    assert made.architecture == "plain_unet"
    assert "about.licence" in " ".join(made.todo)
    fill_in(made.folder)
    assert check_model(made.folder) == ()


def test_a_zip_of_a_renamed_results_folder_is_read(tmp_path: Path) -> None:
    write_results(tmp_path / "theirs").rename(tmp_path / "theirs" / "our network")
    packed = shutil.make_archive(str(tmp_path / "theirs"), "zip", tmp_path / "theirs")
    made = import_model(Path(packed), tmp_path / "ours")
    assert made.architecture == "plain_unet"


def test_an_ensemble_gives_the_mean_of_nnunets_networks(tmp_path: Path) -> None:
    made = import_model(write_results(tmp_path, folds=2), tmp_path / "ours")
    card = fill_in(made.folder, mirrors="[]")
    model = load_model(card, device="cpu", threads=1)
    image = torch.randn(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(3))
    theirs = []
    for fold in range(2):
        torch.manual_seed(fold)
        with torch.no_grad():
            theirs.append(make_network(3).eval()(image)[0])
    assert float((theirs[0] - theirs[1]).abs().max()) > 1e-2
    wanted = (theirs[0] + theirs[1]) / 2
    assert float((model.scores(image) - wanted).abs().max()) <= 1e-5


def test_a_volume_is_prepared_in_nnunets_order_and_comes_back_to_its_box(tmp_path: Path) -> None:
    """Cropped to what is not zero, z-score within it, thick slices resampled in two steps."""
    trained = write_results(
        tmp_path,
        configuration={
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [True],
            "spacing": [4.0, 1.0, 1.0],
            "patch_size": [8, 32, 32],
        },
        dataset={"channel_names": {"0": "T2"}},
    )
    card = fill_in(import_model(trained, tmp_path / "ours").folder, mirrors="[]")
    rng = np.random.default_rng(4)
    array = np.zeros((9, 24, 30), np.float32)
    array[1:8, 2:20, 5:29] = rng.normal(100, 20, (7, 18, 24))
    array[3, 6, 8] = 0.0  # a hole, which counts as image
    volume = make_volume(array, spacing_mm=(5.0, 1.25, 1.25))
    prepared = prepare(volume, card)
    inner = array[1:8, 2:20, 5:29].astype(np.float64)
    inner = (inner - inner.mean()) / inner.std()
    # 7 x 5 / 4 = 8.75 slices, 18 x 1.25 = 22.5 rows, 24 x 1.25 = 30 columns.
    in_plane = np.stack(
        [
            np.clip(
                ndimage.zoom(plane, (22 / 18, 30 / 24), order=3, mode="nearest", grid_mode=True),
                plane.min(),
                plane.max(),
            )
            for plane in inner
        ]
    )
    nearest = np.clip(np.floor((np.arange(9) + 0.5) * 7 / 9).astype(int), 0, 6)
    grid = prepared.planes(0, prepared.shape[0])
    assert prepared.shape == (9, 32, 32)
    np.testing.assert_allclose(grid[:, 5:27, 1:31], in_plane[nearest], atol=1e-4)
    assert not grid[:, :5].any()
    assert not grid[:, 27:].any()
    labels = segment_volume(volume, load_model(card, device="cpu", threads=1)).labels
    outside = np.ones(array.shape, bool)
    outside[1:8, 2:20, 5:29] = False
    assert labels.any()
    assert not labels[outside].any()


def test_regions_are_painted_one_over_the_other_in_their_order(tmp_path: Path) -> None:
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    trained = write_results(
        tmp_path, dataset={"labels": regions, "regions_class_order": [2, 1]}, outputs=2
    )
    card = fill_in(import_model(trained, tmp_path / "ours").folder)
    assert card.head.order == (2, 1)
    assert [segment.label for segment in card.segments] == ["core", "whole"]
    scores = torch.tensor([[[3.0, 1.0, -1.0, -1.0]], [[-1.0, 0.5, 0.5, -2.0]]])
    assert best_class(scores, card.head).tolist() == [[2, 1, 1, 0]]


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "a class of another kind": (
        {
            "configuration": {
                "architecture": {"network_class_name": "os.system", "arch_kwargs": {}},
            }
        },
        "network_class_name = os.system",
    ),
    "a convolution from elsewhere": (
        {
            "configuration": {
                "architecture": {
                    "network_class_name": "x.PlainConvUNet",
                    "arch_kwargs": {"conv_op": "subprocess.Popen"},
                },
            }
        },
        "conv_op = subprocess.Popen",
    ),
    "another network than the weights'": (
        {"configuration": {"patch_size": [8, 16, 16]}, "outputs": 4},
        "not of the network in plans.json",
    ),
    "several series at once": (
        {"dataset": {"channel_names": {"0": "CT", "1": "PET"}}},
        "it sees 2 series at once (CT, PET)",
    ),
    "the second stage of a cascade": (
        {"configuration": {"previous_stage": "3d_lowres"}},
        "second stage of a cascade",
    ),
    "an unknown normalisation": (
        {"configuration": {"normalization_schemes": ["MyNormalization"]}},
        "MyNormalization",
    ),
    "inheritance in a circle": (
        {"configuration": {"inherits_from": "3d_fullres"}},
        "no configuration 3d_fullres that ends",
    ),
}


@pytest.mark.parametrize(("differs", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_run_is_refused_by_name_and_nothing_is_left(
    tmp_path: Path, differs: dict[str, Any], said: str
) -> None:
    trained = write_results(tmp_path, **differs)
    with pytest.raises(SetupError, match="import-nnunet") as caught:
        import_model(trained, tmp_path / "ours")
    assert said in caught.value.fault.what
    assert not (tmp_path / "ours").exists()


def test_plans_that_lack_a_key_are_refused(tmp_path: Path) -> None:
    trained = write_results(tmp_path)
    plans = json.loads((trained / "plans.json").read_text())
    del plans["configurations"]["base"]["spacing"]
    (trained / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SetupError, match="lacks or misstates 'spacing'"):
        import_model(trained, tmp_path / "ours")


def test_a_checkpoint_that_would_run_a_command_is_refused_by_its_name(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    trained = write_results(tmp_path, extra={"logging": Payload(f"touch {witness}")})
    with pytest.raises(SetupError, match="import-refused") as caught:
        import_model(trained, tmp_path / "ours")
    assert "posix.system" in caught.value.fault.what
    assert not witness.exists()
    assert not (tmp_path / "ours").exists()
