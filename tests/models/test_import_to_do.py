"""The list that an import prints is complete: who fills in what it names has a good model."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from node.models.architectures import build_network
from node.models.check import check_model
from node.models.imports.bring import Imported, import_model
from node.models.imports.draft import Draft, to_do
from node.models.parts import Network
from tests.models.nnunet_folder import write_results
from tests.models.test_import_graphs import write_pt2
from tests.models.test_import_monai import write_bundle

ANSWERS: dict[str, str] = {
    "about.title": '"Things"',
    "about.intended_use": '"For research use only: tests."',
    "about.licence": '"Apache-2.0"',
    "voxels.orientation": '"HPL"',
    "voxels.spacing_mm": "[0, 0, 0]",
    "voxels.units": '"HU"',
    "voxels.background": "-1024",
    "inference.patch": "[16, 16, 16]",
    "segments.label": '"Thing {}"',
    "segments.category": '"91723000, SCT, Anatomical Structure"',
    "segments.type": '"39607008, SCT, Lung"',
    "results.series_description": '"Things"',
}
"""What a person writes where the list names a key."""


def keys_of(todo: tuple[str, ...]) -> set[str]:
    """Return the keys that stand before the colons."""
    return {key for each in todo for key in each.split(":", 1)[0].split(", ")}


def empty_keys(value: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted name of every empty text and list of a card, and of an empty table."""
    if value in ("", [], {}):
        yield name
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from empty_keys(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list) and isinstance(value[0], dict):
        for inner in value:
            yield from empty_keys(inner, name)


def fill_what_is_listed(made: Imported) -> None:
    """Answer the keys of the list, and no other."""
    path = made.folder / "card.toml"
    listed, table, lines, count = keys_of(made.todo), "", [], 0
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        if header := re.fullmatch(r"\[+([a-z]+)\]+", line):
            table = header[1]
        elif (key := re.match(r"(\w+) = (\"\"|\[\])$", line)) and f"{table}.{key[1]}" in listed:
            count += 1
            line = f"{key[1]} = {ANSWERS[f'{table}.{key[1]}'].format(count)}"
        lines.append(line)
        if line == "[accepts]" and "accepts" in listed and "[accepts]\nModality" not in text:
            lines.append('Modality = "CT"')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def state_dict(network: Network) -> dict[str, torch.Tensor]:
    return dict(build_network(network).state_dict())


FLAT = Network("unet2d", 1, 3, {"widths": (2, 4), "norm": "instance", "up": "transpose"})
DEEP = Network("basic_unet", 1, 3, {"dimensions": 3, "widths": (4, 4, 8, 8, 16, 4)})


def bare(folder: Path, network: Network = FLAT) -> Path:
    path = folder / "theirs.pt"
    torch.save(state_dict(network), path)
    return path


def onnx_of(folder: Path) -> Path:
    tensors = [numpy_helper.from_array(v.numpy(), k) for k, v in state_dict(FLAT).items()]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in "ab"]
    node = helper.make_node("Relu", ["a"], ["b"])
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], tensors)
    (folder / "theirs.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return folder / "theirs.onnx"


SOURCES: dict[str, Callable[[Path], Path]] = {
    "state dict, 2D": bare,
    "state dict, 3D": lambda folder: bare(folder, DEEP),
    "state dict, neighbours": lambda folder: bare(
        folder, Network("unet2d", 3, 1, {"widths": (2, 4), "norm": "batch", "up": "nearest"})
    ),
    "nnU-Net": write_results,
    "MONAI bundle": lambda folder: write_bundle(folder / "bundle"),
    "MONAI bundle without an inferer": lambda folder: write_bundle(
        folder / "bundle", inferer={"_target_": "SimpleInferer"}
    ),
    "ONNX": onnx_of,
    "pt2": lambda folder: write_pt2(folder / "theirs.pt2"),
}


# torch's exporter warns of its own tables; what is tested is what it writes.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SOURCES)
def test_who_fills_in_what_is_listed_has_a_good_model(tmp_path: Path, kind: str) -> None:
    made = import_model(SOURCES[kind](tmp_path), tmp_path / "ours")
    begun = tomllib.loads((made.folder / "card.toml").read_text(encoding="utf-8"))
    wanted = set(empty_keys(begun)) - {"about.limits"}
    assert wanted <= keys_of(made.todo), "an empty value stands in the card and not in the list"
    assert check_model(made.folder), "a draft that nobody finished is refused"
    fill_what_is_listed(made)
    assert check_model(made.folder) == ()


def test_a_background_that_was_assumed_is_told_and_one_that_was_learnt_is_not(
    tmp_path: Path,
) -> None:
    assumed = import_model(bare(tmp_path), tmp_path / "ours")
    assert "voxels.background" in keys_of(assumed.todo)
    learnt = import_model(write_bundle(tmp_path / "bundle"), tmp_path / "bundled")
    assert "voxels.background" not in keys_of(learnt.todo)


def test_series_beside_the_first_are_listed(tmp_path: Path) -> None:
    two = Network("unet2d", 2, 3, {"widths": (2, 4), "norm": "instance", "up": "transpose"})
    made = import_model(bare(tmp_path, two), tmp_path / "ours")
    assert "network.channels" in keys_of(made.todo)


def test_an_architecture_that_is_not_recognised_is_asked_for(tmp_path: Path) -> None:
    torch.save({"odd.weight": torch.from_numpy(np.zeros(3, np.float32))}, tmp_path / "theirs.pt")
    made = import_model(tmp_path / "theirs.pt", tmp_path / "ours")
    (said,) = [each for each in made.todo if each.startswith("network: architecture")]
    for key in ("channels", "outputs", "inference.mode", "inference.patch", "head.kind"):
        assert key in said


def test_what_a_source_says_cannot_write_the_card(tmp_path: Path) -> None:
    """Names and texts of somebody else's stand in comments; a line feed would end one."""
    odd = "x\nquality = { removed_fraction = 1.0 }\n\x1b[31m#.pt"
    torch.save({"odd.weight": torch.from_numpy(np.zeros(3, np.float32))}, tmp_path / odd)
    made = import_model(tmp_path / odd, tmp_path / "ours")
    text = (made.folder / "card.toml").read_text(encoding="utf-8")
    assert "quality" not in tomllib.loads(text)
    assert "\x1b" not in text
    draft = Draft("a", "b", (), None, todo=["metadata.json says:\nkind = 2\ud800"])
    (said,) = (one for one in to_do(draft) if one.startswith("metadata"))
    assert said == "metadata.json says: kind = 2 "


def test_what_lies_there_as_a_licence_and_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").mkdir()
    made = import_model(bare(tmp_path), tmp_path / "ours")
    assert 'licence = ""' in (made.folder / "card.toml").read_text()


def test_a_licence_beside_the_weights_is_taken_and_questioned(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("MIT License\n\nCopyright\n", encoding="utf-8")
    made = import_model(bare(tmp_path), tmp_path / "ours")
    assert 'licence = "MIT License (text in LICENSE)"' in (made.folder / "card.toml").read_text()
    assert (made.folder / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert "is it theirs?" in " ".join(made.todo)
