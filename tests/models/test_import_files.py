"""Files with weights become tensors in a process of its own, or are refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from node.errors import SetupError
from node.models.architectures import build_network
from node.models.card import load_card
from node.models.check import check_model
from node.models.imports.bring import import_model
from node.models.imports.torch_file import Refused, scan
from node.models.parts import Network
from tests.models.filling import fill_in

NETWORK = Network("unet2d", 1, 3, {"widths": (2, 4, 8), "norm": "instance", "up": "transpose"})


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("wrapped", ["network_weights", "module."])
def test_a_state_dict_becomes_a_model_folder(tmp_path: Path, wrapped: str) -> None:
    state = build_network(NETWORK).state_dict()
    content: object
    if wrapped == "module.":
        content = {f"module.{key}": value for key, value in state.items()}
    else:
        content = {wrapped: state, "_best_ema": np.float64(0.9), "current_epoch": 3}
    torch.save(content, tmp_path / "theirs.pt")
    converted = import_model(tmp_path / "theirs.pt", tmp_path / "ours")
    assert converted.architecture == "unet2d"
    found = load_file(tmp_path / "ours" / "weights.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_the_card_that_is_begun_names_what_is_missing_and_knows_the_network(
    tmp_path: Path,
) -> None:
    torch.save(build_network(NETWORK).state_dict(), tmp_path / "theirs.pt")
    converted = import_model(tmp_path / "theirs.pt", tmp_path / "ours")
    (fault,) = check_model(converted.folder)
    for key in ("about.title", "about.licence", "voxels.orientation", "results.series_description"):
        assert key in fault.what
    text = (converted.folder / "card.toml").read_text(encoding="utf-8")
    for line in ("widths = [2, 4, 8]", 'norm = "instance"', 'up = "transpose"', "outputs = 3"):
        assert line in text
    with pytest.raises(SetupError, match="card-invalid"):
        load_card(converted.folder)


@pytest.mark.parametrize("place", ["alone", "among tensors"])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    witness = tmp_path / "ran"
    payload = Payload(f"touch {witness}")
    source = tmp_path / "theirs.pt"
    if place == "alone":
        source.write_bytes(pickle.dumps(payload))
    else:
        torch.save({"weight": torch.zeros(2), "extra": payload}, source)
    with pytest.raises(SetupError) as caught:
        import_model(source, tmp_path / "ours")
    assert caught.value.fault.code in ("import-refused", "import-unreadable")
    assert not witness.exists()
    assert not (tmp_path / "ours").exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(build_network(NETWORK), tmp_path / "theirs.pt")
    with pytest.raises(SetupError, match="import-refused"):
        import_model(tmp_path / "theirs.pt", tmp_path / "ours")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs.pt").write_bytes(b"\x89PNG not a checkpoint")
    with pytest.raises(SetupError) as caught:
        import_model(tmp_path / "theirs.pt", tmp_path / "ours")
    assert caught.value.fault.code in ("import-refused", "import-unreadable")


def test_numbers_without_names_are_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "theirs.pt")
    with pytest.raises(SetupError, match="import-no-tensors"):
        import_model(tmp_path / "theirs.pt", tmp_path / "ours")


def test_a_reader_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "theirs.pt")
    with pytest.raises(SetupError, match="import-too-slow"):
        import_model(tmp_path / "theirs.pt", tmp_path / "ours", wall_s=0.05)
    assert not (tmp_path / "ours").exists()


def test_a_checkpoint_that_swells_in_memory_is_stopped(tmp_path: Path) -> None:
    """Eight GiB of zeros that share one number; the copy would have its full size."""
    torch.save({"a": torch.zeros(1).expand(1 << 31)}, tmp_path / "theirs.pt")
    with pytest.raises(SetupError) as caught:
        import_model(tmp_path / "theirs.pt", tmp_path / "ours")
    assert caught.value.fault.code in ("import-failed", "import-unreadable")


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "posix.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"(S'true'\niposix\nsystem\n.", "INST"),
    ],
)
def test_a_name_in_a_pickle_is_found_before_any_of_it_is_carried_out(
    tmp_path: Path, pickled: bytes, said: str
) -> None:
    (tmp_path / "theirs.pt").write_bytes(pickled)
    with pytest.raises(Refused, match=said):
        scan(tmp_path / "theirs.pt")


def test_a_saved_state_dict_has_no_name_that_is_refused(tmp_path: Path) -> None:
    content = {
        "state_dict": {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.zeros(1).half()},
        "best": np.float64(0.5),
        "size": torch.Size([2]),
        "device": torch.device("cpu"),
        "type": torch.float32,
    }
    for kind in (True, False):  # the zip format, and that from before torch 1.6
        torch.save(content, tmp_path / "theirs.pt", _use_new_zipfile_serialization=kind)
        scan(tmp_path / "theirs.pt")


@pytest.mark.parametrize(
    ("file", "architecture"),
    [
        ("lung-ct-unet/UNet_wdk24.pt", "unet2d_conv_transpose"),
        ("luna-nodule-unet-2p5d/seg.best.state", "unet2d_paths"),
    ],
)
def test_published_weights_find_their_architecture(
    tmp_path: Path, shared_data: Callable[[str], Path], file: str, architecture: str
) -> None:
    made = import_model(shared_data(f"weights/{file}"), tmp_path / "ours")
    assert made.architecture == architecture
    assert "about.licence" in " ".join(made.todo)
    fill_in(made.folder)
    assert check_model(made.folder) == ()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    with pytest.raises(SetupError, match="model-exists"):
        import_model(tmp_path / "theirs.pt", tmp_path / "ours")
