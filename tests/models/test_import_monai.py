"""A MONAI bundle is read as data: its network and transforms are ours, and nothing of it runs."""

from __future__ import annotations

import json
import shutil
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from safetensors.torch import load_file

from node.errors import SetupError
from node.models.check import check_model
from node.models.imports.bring import import_model
from node.models.imports.monai_bundle import draft_of_bundle
from node.models.loaded import load_model
from node.models.prepare import prepare
from node.models.scores import Meter, score_planes
from tests.models.builders import make_volume
from tests.models.filling import fill_in

INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "bundle_root": "/nowhere",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "patch": [16, 16, 8],
    "classes": 3,
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": "@classes",
        "channels": [4, 8, 16],
        "strides": [2, 2],
        "num_res_units": 2,
        "norm": "batch",
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {
                "_target_": "ScaleIntensityRanged",
                "keys": "image",
                "a_min": -100,
                "a_max": 300,
                "b_min": -1.0,
                "b_max": 1.0,
                "clip": True,
            },
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    },
    "datalist": "$list(sorted(glob.glob('/nowhere/*.nii.gz')))",
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": "@patch",
        "sw_batch_size": 4,
        "overlap": 0.5,
        "mode": "gaussian",
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing"},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [2]},
        ],
    },
    "evaluator": {"_target_": "os.system", "command": "true"},
}
METADATA: dict[str, Any] = {
    "version": "0.1.0",
    "name": "Spleen and liver",
    "network_data_format": {
        "inputs": {"image": {"type": "hounsfield", "modality": "CT", "num_channels": 1}},
        "outputs": {
            "pred": {"channel_def": {"0": "background", "1": "spleen", "2": "liver"}},
        },
    },
}


def write_bundle(folder: Path, **changes: Any) -> Path:
    """Write a bundle around a network that MONAI builds from the configuration."""
    config = json.loads(json.dumps(INFERENCE))
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    torch.manual_seed(2)
    network = ConfigParser(config).get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    (folder / "configs" / "inference.json").write_text(json.dumps(config | changes))
    (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA))
    (folder / "LICENSE").write_text("Apache License 2.0\n")
    return folder


# MONAI warns of a default of Orientationd that is about to change.
@pytest.mark.filterwarnings("ignore:.*Orientationd:FutureWarning")
def test_a_bundle_becomes_a_card_whose_network_and_voxels_are_monais(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "theirs")
    made = import_model(bundle, tmp_path / "ours")
    card = tomllib.loads((made.folder / "card.toml").read_text(encoding="utf-8"))
    assert card["about"]["title"] == "Spleen and liver"
    assert card["about"]["licence"] == "Apache License 2.0 (text in LICENSE)"
    assert card["accepts"] == {"Modality": "CT"}
    assert card["voxels"]["orientation"] == "RAH"
    assert card["steps"] == [
        {"step": "clip", "low": -100.0, "high": 300.0},
        {"step": "scale", "from": [-100.0, 300.0], "to": [-1.0, 1.0]},
    ]
    assert card["inference"] == {
        "mode": "window",
        "patch": [16, 16, 8],
        "overlap": 0.5,
        "tiling": "clipped",
    }
    assert card["postprocess"] == [{"step": "keep_largest", "labels": [2], "count": 1}]
    assert [one["label"] for one in card["segments"]] == ["spleen", "liver"]
    filled = fill_in(made.folder)
    assert check_model(made.folder) == ()

    # The same voxels through MONAI's own transforms and network, and through ours.
    array = np.random.default_rng(3).integers(-300, 500, (8, 16, 16)).astype(np.int16)
    volume = make_volume(array, spacing_mm=(2.0, 1.0, 1.0))
    xyz = volume.affine[:, [2, 1, 0, 3]]  # from [slice, row, column] to [column, row, slice]
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ xyz
    theirs = MetaTensor(array.transpose(2, 1, 0)[None].astype(np.float32), affine=to_ras)
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    del config["preprocessing"]["transforms"][:2]  # reading, and a channel in front
    parser = ConfigParser(config)
    seen = parser.get_parsed_content("preprocessing")({"image": theirs})
    prepared = prepare(volume, filled)
    planes = prepared.planes(0, prepared.shape[0])
    np.testing.assert_allclose(planes, np.asarray(seen["image"][0]), atol=1e-5)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    batch = torch.from_numpy(planes)[None, None]
    with torch.no_grad():
        wanted = sliding_window_inference(batch, (16, 16, 8), 1, network.eval())
    found = load_model(filled, device="cpu", threads=1).scores(batch)
    assert float((found - wanted).abs().max()) <= 1e-5


def test_patches_are_weighed_evenly_where_the_bundle_does_and_scores_are_monais(
    tmp_path: Path,
) -> None:
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 8], "overlap": 0.3}
    made = import_model(write_bundle(tmp_path / "theirs", inferer=inferer), tmp_path / "ours")
    model = load_model(fill_in(made.folder), device="cpu", threads=1)
    assert (model.card.inference.blending, model.card.inference.tiling) == ("constant", "clipped")
    assert not any(each.startswith("inference") for each in made.todo)
    array = np.random.default_rng(5).integers(-300, 500, (21, 27, 30)).astype(np.int16)
    prepared = prepare(make_volume(array, spacing_mm=(2.0, 1.0, 1.0)), model.card)
    batch = torch.from_numpy(prepared.planes(0, prepared.shape[0]))[None, None]
    with torch.no_grad():
        wanted = sliding_window_inference(batch, (16, 16, 8), 1, model.network, overlap=0.3)
    found = torch.stack(list(score_planes(prepared, model, Meter(lambda _share: None))), dim=1)
    assert found.shape == wanted.shape[1:]
    assert float((found - wanted[0]).abs().max()) <= 1e-4


def test_a_zip_of_a_bundle_with_a_configuration_in_yaml_is_read(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "theirs" / "spleen")
    config = bundle / "configs" / "inference.json"
    (bundle / "configs" / "inference.yaml").write_text(yaml.safe_dump(INFERENCE))
    config.unlink()
    packed = shutil.make_archive(str(tmp_path / "theirs"), "zip", tmp_path / "theirs")
    made = import_model(Path(packed), tmp_path / "ours")
    assert made.architecture == "monai_unet"
    assert load_file(made.folder / "weights.safetensors")["model.0.residual.weight"].shape[0] == 4


def changed(**keys: Any) -> dict[str, Any]:
    return {"network_def": INFERENCE["network_def"] | keys}


def transforms(*more: Mapping[str, Any]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": list(more)}


WITNESS = "$__import__('os').system('touch {witness}')"

REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "a class from elsewhere": (
        {"network_def": {"_target_": "os.system", "command": "touch {witness}"}},
        "network_def is os.system",
    ),
    "a network of MONAI that is not built here": (
        {"network_def": {"_target_": "monai.networks.nets.SwinUNETR"}},
        "SwinUNETR, which is not built here",
    ),
    "an expression in the network": (
        changed(channels=WITNESS),
        "network_def#channels is an expression, which is not evaluated",
    ),
    "an expression behind a reference": (
        changed(out_channels="@classes") | {"classes": WITNESS},
        "is an expression",
    ),
    "a network that an expression makes": ({"network_def": WITNESS}, "is an expression"),
    "another file": (changed(channels="%/etc/passwd"), "includes another file"),
    "a reference to nothing": (changed(channels="@nothing"), "refers to nothing, which is not"),
    "a reference to itself": ({"network_def": "@network_def"}, "refers to itself"),
    "an argument nobody knows": (changed(hook="x"), "network_def#hook is an argument"),
    "another activation": (changed(act="swish"), "activation 'swish' is not built here"),
    "a transform from elsewhere": (
        {"preprocessing": transforms({"_target_": "scripts.mine.Secretd"})},
        "preprocessing has scripts.mine.Secretd",
    ),
    "a function among the transforms": (
        {"preprocessing": transforms({"_target_": "Lambdad", "func": WITNESS})},
        "is an expression",
    ),
    "an unknown step behind": (
        {"postprocessing": transforms({"_target_": "FillHolesd", "keys": "pred"})},
        "postprocessing has FillHolesd",
    ),
    "another inferer": (
        {"inferer": {"_target_": "SaliencyInferer"}},
        "inferer is SaliencyInferer",
    ),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_read_is_refused_by_name_and_nothing_runs(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    witness = tmp_path / "ran"
    bundle = write_bundle(tmp_path / "theirs")
    text = json.dumps(INFERENCE | changes).replace("{witness}", str(witness))
    (bundle / "configs" / "inference.json").write_text(text)
    with pytest.raises(SetupError, match="import-monai") as caught:
        draft_of_bundle(bundle, tmp_path, "ours", wall_s=60)
    assert said in caught.value.fault.what
    assert not witness.exists()


def test_weights_of_another_network_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "theirs", **changed(channels=[4, 8, 12]))
    with pytest.raises(SetupError, match="describes another network"):
        import_model(bundle, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "c:x"])
def test_a_zip_member_that_leads_outside_is_refused_before_anything_is_unpacked(
    tmp_path: Path, name: str
) -> None:
    packed = tmp_path / "inner" / "theirs.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("configs/inference.json", json.dumps(INFERENCE))
        archive.writestr(name, "x")
    with pytest.raises(SetupError, match="import-archive") as caught:
        import_model(packed, tmp_path / "ours")
    assert name in caught.value.fault.what
    assert not list(tmp_path.rglob("outside.txt"))
    assert not (tmp_path / "ours").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("configs/inference.json")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SetupError, match="is a link or a device"):
        import_model(tmp_path / "theirs.zip", tmp_path / "ours")
