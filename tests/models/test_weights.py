"""Weights are believed only if their digest is the card's, and must fit the network exactly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from node.errors import SetupError
from node.models.architectures import build_network, network_mistakes
from node.models.check import check_model
from node.models.loaded import load_model
from node.models.parts import Network
from tests.models.builders import CARD, VOXELS, write_model

MIDDLE = (
    VOXELS.format(orientation="HPL", spacing="[0, 0, 0]", more="")
    + """
[network]
architecture = "unet2d"
outputs = 2
widths = [2, 4]
[inference]
mode = "slices"
[head]
kind = "classes"
"""
)


def card_text(middle: str = MIDDLE) -> str:
    return CARD.replace("{name}", "small").replace("{middle}", middle)


def test_a_good_model_has_no_faults_and_loads(tmp_path: Path) -> None:
    card = write_model(tmp_path / "small", card_text())
    assert check_model(card.folder) == ()
    model = load_model(card, device="cpu", threads=1)
    assert model.runtime["threads"] == "1"
    assert model.runtime["engine"] == f"torch {torch.__version__}"
    assert model.scores(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_weights_of_another_digest_are_refused_with_both_digests(tmp_path: Path) -> None:
    card = write_model(tmp_path / "small", card_text())
    data = bytearray(card.weights_path.read_bytes())
    data[-1] ^= 1
    card.weights_path.write_bytes(data)
    with pytest.raises(SetupError) as caught:
        load_model(card, device="cpu", threads=1)
    fault = caught.value.fault
    assert fault.code == "model-weights-digest"
    assert card.weights.sha256 in fault.what
    assert hashlib.sha256(data).hexdigest() in fault.what
    assert "weights.safetensors" in fault.what
    assert [one.code for one in check_model(card.folder)] == ["model-weights-digest"]


def test_absent_weights_are_explained(tmp_path: Path) -> None:
    card = write_model(tmp_path / "small", card_text())
    card.weights_path.unlink()
    assert [one.code for one in check_model(card.folder)] == ["model-weights-missing"]


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    card = write_model(tmp_path / "small", card_text())
    card.weights_path.write_bytes(b"PK\x03\x04 not tensors")
    digest = hashlib.sha256(card.weights_path.read_bytes()).hexdigest()
    card_file = card.folder / "card.toml"
    card_file.write_text(card_file.read_text().replace(card.weights.sha256, digest))
    assert [one.code for one in check_model(card.folder)] == ["model-weights-format"]


def test_weights_that_do_not_fit_are_named_key_by_key(tmp_path: Path) -> None:
    network = build_network(Network("unet2d", 1, 2, {"widths": (2, 4)}))
    state = network.state_dict()
    del state["last.bias"]
    state["extra"] = torch.zeros(1)
    state["last.weight"] = torch.zeros(3, 2, 1, 1)
    state["first.0.weight"][0] = float("nan")
    card = write_model(tmp_path / "small", card_text())
    save_file({key: value.contiguous() for key, value in state.items()}, card.weights_path)
    digest = hashlib.sha256(card.weights_path.read_bytes()).hexdigest()
    card_file = card.folder / "card.toml"
    card_file.write_text(card_file.read_text().replace(card.weights.sha256, digest))
    said = " ".join(fault.what for fault in check_model(card.folder))
    for part in ("does not have: last.bias", "does not know: extra", "3 x 2 x 1 x 1, wanted"):
        assert part in said
    assert "not finite: first.0.weight" in said


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Network("unet2", 1, 2, {"widths": (2, 4)}), "did you mean 'unet2d'?"),
        (Network("unet2d", 1, 2, {}), "network.widths"),
        (Network("unet2d", 1, 2, {"widths": (2,)}), "2 to 7 whole numbers"),
        (Network("unet2d", 1, 2, {"widths": (2, 4), "norm": "layer"}), "batch, instance"),
        (Network("unet2d", 1, 2, {"widths": (2, 4), "dropout": 1}), "no such parameter"),
    ],
)
def test_a_network_table_is_judged_by_its_architecture(network: Network, said: str) -> None:
    assert said in " ".join(network_mistakes(network))
    with pytest.raises(SetupError, match="network-invalid"):
        build_network(network)


@pytest.mark.parametrize("up", ["nearest", "transpose"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("name", ["unet2d", "unet3d"])
def test_every_variant_gives_scores_of_the_images_size(name: str, norm: str, up: str) -> None:
    network = build_network(
        Network(name, 1, 3, {"widths": (2, 3, 4), "norm": norm, "up": up})
    ).eval()
    sides = (8, 12) if name == "unet2d" else (4, 8, 12)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *sides)).shape == (1, 3, *sides)
    with pytest.raises(ValueError, match="multiples of 4"), torch.no_grad():
        network(torch.zeros(1, 1, *[side + 1 for side in sides]))


def test_a_window_that_the_network_cannot_take_is_a_fault(tmp_path: Path) -> None:
    text = card_text(MIDDLE.replace('units = "HU"', 'units = "HU"\nsize = [33, 32]'))
    card = write_model(tmp_path / "small", text)
    (fault,) = check_model(card.folder)
    assert "multiples of 2" in fault.what
    with pytest.raises(SetupError, match="multiples of 2"):
        load_model(card, device="cpu", threads=1)


def test_a_device_that_is_not_there_is_explained(tmp_path: Path) -> None:
    card = write_model(tmp_path / "small", card_text())
    if torch.cuda.is_available():
        assert load_model(card, device="cuda").device.type == "cuda"
        return
    with pytest.raises(SetupError, match="device-missing"):
        load_model(card, device="cuda")
