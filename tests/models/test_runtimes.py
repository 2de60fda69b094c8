"""A faster runtime is used where the model's own test case shows that it keeps the labels."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from node.commands.models import models
from node.errors import SetupError
from node.imaging.values import Labels
from node.models.architectures import build_network
from node.models.card import Card, load_card
from node.models.inference import labels_of_volume, segment_volume
from node.models.loaded import LoadedModel, load_model
from node.models.openvino_runtime import OpenVinoRuntime
from node.models.runtime import Facts, Runtime
from node.models.selfcheck import Agreement, Candidate, agreement, first_that_keeps
from node.models.testcase import card_text_with, read_test_case, some_slices, write_test_case
from node.models.torch_runtime import TorchRuntime
from node.phantom import chest
from node.settings import bundled_config
from node.training.evaluate import volume_of
from tests.models.builders import CARD, VOXELS, make_volume, write_model

SHIPPED = bundled_config() / "models" / "lung-ct"


def small_model(folder: Path, *, mode: str = "slices", more: str = "") -> Card:
    """Return a model with random weights whose scores lie on both sides, and no test case."""
    flat = mode == "slices"
    middle = VOXELS.format(orientation="HPL", spacing="[0, 0, 0]", more="") + (
        '[[steps]]\nstep = "scale"\nfrom = [0, 1000]\nto = [0, 1]\n'
        f'[network]\narchitecture = "unet{2 if flat else 3}d"\noutputs = 2\nwidths = [4, 6]\n'
        f'norm = "instance"\n[inference]\nmode = "{mode}"\nbatch = 3\n'
        f"{'' if flat else 'patch = [8, 16, 16]'}\n{more}"
        '[head]\nkind = "classes"\n'
    )
    text = CARD.replace("{name}", "small").replace("{middle}", middle)
    network = build_network(write_model(folder, text).network).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        sides = (32, 32) if flat else (8, 16, 16)
        scores = network(torch.rand(1, 1, *sides))[0].flatten(1).mean(dim=1)
        network.get_submodule("last").bias -= scores
    return write_model(folder, text, network)


def noise() -> Labels:
    return np.random.default_rng(2).integers(0, 1000, (10, 40, 36)).astype(np.int16)


def with_case(card: Card) -> Card:
    case = write_test_case(card.folder, make_volume(noise()))
    path = card.folder / "card.toml"
    path.write_text(card_text_with(card.text, case), encoding="utf-8")
    return load_card(card.folder)


class Wrong:
    """A runtime of somebody else's making that changes a few labels."""

    facts = Facts("wrong", "1", "cpu", "fp32", 1)
    device = torch.device("cpu")

    def __init__(self, network: nn.Module, *, changed: int) -> None:
        self.network = network
        self.changed = changed

    def scores(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.network(image)
        found[0].flatten(1)[:, : self.changed] *= -1
        return found


@pytest.mark.parametrize("mode", ["slices", "window"])
def test_openvino_gives_the_scores_of_torch_in_both_modes(tmp_path: Path, mode: str) -> None:
    card = small_model(tmp_path, mode=mode)
    network = load_model(card, device="cpu", threads=1).network
    one = TorchRuntime(network, device=torch.device("cpu"), precision="fp32", threads=1)
    other = OpenVinoRuntime(network, threads=1, precision="fp32")
    for batch, sides in ((1, (8, 16, 16)), (3, (8, 16, 16)), (2, (16, 16, 24))):
        shape = sides if mode == "window" else sides[1:]
        image = torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(batch))
        wanted = one.scores(image).clone()
        assert float((other.scores(image) - wanted).abs().max()) < 1e-4
    assert "openvino 2" in str(other.facts)
    assert "1 thread" in str(other.facts)


def test_a_model_without_a_test_case_runs_on_torch_in_float32(tmp_path: Path) -> None:
    model = load_model(small_model(tmp_path), device="cpu", threads=1)
    assert model.runner.facts.engine == "torch"
    assert model.runtime["precision"] == "fp32"
    assert "chosen" not in model.runtime
    asked = load_model(model.card, device="cpu", threads=1, runtime="openvino")
    assert asked.runner.facts.engine == "openvino"
    assert "no test case" in asked.runtime["chosen"]


@pytest.mark.parametrize("mode", ["slices", "window"])
def test_a_model_with_a_test_case_gets_the_runtime_that_keeps_its_labels(
    tmp_path: Path, mode: str
) -> None:
    card = with_case(small_model(tmp_path, mode=mode))
    model = load_model(card, device="cpu", threads=1)
    assert model.runner.facts.engine == "openvino"
    assert "OpenVINO in fp32 keeps labels: Dice" in model.chosen
    volume = make_volume(noise())
    found = [segment_volume(volume, model) for _ in range(2)]
    again = segment_volume(volume, load_model(card, device="cpu", threads=1))
    assert found[0].labels.tobytes() == found[1].labels.tobytes() == again.labels.tobytes()
    assert found[0].runtime["engine"].startswith("openvino 20")
    assert found[0].runtime["ladder"] == "none"
    plain = load_model(card, device="cpu", threads=1, runtime="torch")
    assert plain.runner.facts.engine == "torch"
    assert float(np.mean(labels_of_volume(volume, plain) != found[0].labels)) <= 0.0005


def test_the_test_case_is_not_part_of_the_key_of_a_result(tmp_path: Path) -> None:
    bare = small_model(tmp_path)
    assert with_case(bare).settings_digest == bare.settings_digest


@pytest.mark.parametrize(("changed", "kept"), [(0, True), (9, False)])
def test_a_runtime_that_changes_too_many_labels_is_not_used_and_it_is_said(
    tmp_path: Path, changed: int, kept: bool
) -> None:
    """10 x 40 x 36 voxels: of every third plane, 9 voxels are 0.25 %."""
    plain = load_model(small_model(tmp_path), device="cpu", threads=1)
    volume = make_volume(noise())

    def labels(runner: Runtime | None) -> Labels:
        return labels_of_volume(volume, dataclasses.replace(plain, runner=runner or plain.runner))

    choice = first_that_keeps(
        (Candidate("Wrong", lambda: Wrong(plain.network, changed=changed)),), labels
    )
    assert (choice.runtime is not None) is kept
    assert ("Wrong keeps labels" if kept else "Wrong changes labels: Dice 0.99") in choice.said
    if not kept:
        assert choice.said.endswith("torch runs.")


def test_a_runtime_that_cannot_run_the_network_is_passed_over_with_its_words(
    tmp_path: Path,
) -> None:
    plain = load_model(small_model(tmp_path), device="cpu", threads=1)

    def broken() -> Runtime:
        raise RuntimeError("no such layer here\nand more")

    def labels(_runner: Runtime | None) -> Labels:
        return np.ones((2, 2, 2), np.uint8)

    candidates = (Candidate("Broken", broken), Candidate("Torch", lambda: plain.runner))
    choice = first_that_keeps(candidates, labels)
    assert choice.runtime is plain.runner
    assert choice.said.startswith("Broken does not run it (no such layer here). Torch keeps")


def test_agreement_is_the_worst_class_and_the_share_of_changed_voxels() -> None:
    wanted = np.zeros((10, 10, 10), np.uint8)
    wanted[:5] = 1
    wanted[5, 0, :4] = 2
    found = wanted.copy()
    found[5, 0, 0] = 0
    near = agreement(found, wanted)
    assert (near.label, near.changed) == (2, pytest.approx(0.001))
    assert near.dice == pytest.approx(6 / 7)
    assert not near.kept
    assert agreement(wanted, wanted).kept
    assert agreement(np.zeros_like(wanted), wanted).dice == 0.0


@pytest.mark.parametrize(
    ("dice", "changed", "kept"),
    [(0.999, 0.0005, True), (0.9989, 0.0, False), (1.0, 0.00051, False)],
)
def test_each_of_the_two_limits_alone_refuses_a_runtime(
    dice: float, changed: float, *, kept: bool
) -> None:
    assert Agreement(dice, 1, changed).kept is kept


def test_openvino_that_was_asked_for_and_cannot_be_had_is_a_sentence(tmp_path: Path) -> None:
    card = small_model(tmp_path)
    with pytest.raises(SetupError, match="must be one of auto, torch, openvino") as raised:
        load_model(card, device="cpu", runtime="onnx")
    assert raised.value.fault.code == "runtime-unknown"


def test_torch_alone_is_enough_and_a_missing_openvino_is_a_sentence(tmp_path: Path) -> None:
    """In a process that cannot find the package, as on an installation without the extra."""
    with_case(small_model(tmp_path))
    script = (
        "import sys, importlib.util as u; from pathlib import Path\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'openvino' else real(name, *a)\n"
        "sys.modules['openvino'] = None\n"
        "from node.models.card import load_card; from node.models.loaded import load_model\n"
        "from node.errors import SetupError\n"
        f"card = load_card(Path({str(tmp_path)!r}))\n"
        "model = load_model(card, device='cpu', threads=1)\n"
        "print(model.runner.facts.engine, model.chosen)\n"
        "try: load_model(card, device='cpu', runtime='openvino')\n"
        "except SetupError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("torch There is no faster runtime here than torch.")
    assert "OpenVINO was asked for, and it is not installed." in done.stdout
    assert "limner[cpu]" in done.stdout


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes() + b" "), "the card wants"),
    ],
    ids=["absent", "other bytes"],
)
def test_a_test_case_that_is_not_the_cards_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    card = with_case(small_model(tmp_path))
    spoil(tmp_path / "test-case.safetensors")
    with pytest.raises(SetupError, match=said):
        load_model(card, device="cpu", threads=1)


def test_the_shipped_test_case_is_a_drawn_chest_and_finds_both_lungs() -> None:
    card = load_card(SHIPPED)
    assert card.test_case is not None
    volume = read_test_case(card.folder, card.test_case)
    drawn = volume_of(chest.volume(3000, slices=24, rows=176, columns=176))
    np.testing.assert_array_equal(volume.array, drawn.array[8:16])
    np.testing.assert_allclose(volume.affine, some_slices(drawn, 8, 16).affine)
    file = card.folder / card.test_case.file
    assert file.stat().st_size < 600_000
    assert hashlib.sha256(file.read_bytes()).hexdigest() == card.test_case.sha256
    model: LoadedModel = load_model(card, device="cpu", threads=1)
    assert "keeps labels: Dice 1.0" in model.chosen
    assert set(np.unique(labels_of_volume(volume, model))) == {0, 1, 2}


def test_the_runtime_of_a_model_is_shown_by_a_command(tmp_path: Path) -> None:
    card = with_case(small_model(tmp_path))
    command = ["runtime", str(card.folder), "--device", "cpu", "--threads", "1"]
    done = CliRunner().invoke(models, command)
    assert done.exit_code == 0, done.output
    assert "small 1: openvino 20" in done.output
    assert "fp32, 1 thread, cpu" in done.output
    assert "OpenVINO in fp32 keeps labels" in done.output


LISTENING_IN = """
import os, sys
def heard(event, args):
    if event in ("socket.getaddrinfo", "socket.connect", "urllib.Request"):
        with open(os.environ["HEARD"], "a") as file:
            file.write(event + "\\n")
sys.addaudithook(heard)
import torch
from node.models.openvino_runtime import OpenVinoRuntime
network = torch.nn.Conv2d(1, 2, 3, padding=1).eval().requires_grad_(False)
OpenVinoRuntime(network, threads=1, precision="fp32").scores(torch.zeros(1, 1, 8, 8))
import time; time.sleep(2)
"""


def test_converting_a_model_tells_nobody_outside(tmp_path: Path) -> None:
    # As on a hospital's machine: a home without choices of its own, and no sign of a test run.
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    surroundings = {name: os.environ[name] for name in kept if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING_IN],
        cwd=Path(__file__).resolve().parents[2],
        env={**surroundings, "HOME": str(tmp_path), "HEARD": str(tmp_path / "heard")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "heard").exists(), (tmp_path / "heard").read_text()
    assert list(tmp_path.iterdir()) == []
