"""ONNX and .pt2 files give their weights to a named architecture, read as data, or are refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from node.errors import SetupError
from node.models.architectures import build_network
from node.models.imports import onnx_file, pt2_file
from node.models.imports.bring import import_model
from node.models.imports.torch_file import Refused
from node.models.parts import Network

NETWORK = Network("unet2d", 1, 3, {"widths": (2, 4), "norm": "instance", "up": "transpose"})


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    return dict(build_network(NETWORK).state_dict())


def write_onnx(path: Path, change: Callable[[onnx.ModelProto], None] = lambda _: None) -> Path:
    """Write a model whose initialisers are a network's weights."""
    tensors = [numpy_helper.from_array(value.numpy(), name) for name, value in state().items()]
    tensors.append(numpy_helper.from_array(np.array([1, 2], np.int64), "sides"))
    some = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])
    other = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, 8, 8])
    node = helper.make_node("Relu", ["image"], ["scores"])
    model = helper.make_model(helper.make_graph([node], "g", [some], [other], tensors))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_onnx_gives_its_weights_to_the_architecture_that_they_fit(tmp_path: Path) -> None:
    made = import_model(write_onnx(tmp_path / "theirs.onnx"), tmp_path / "ours")
    assert made.architecture == "unet2d"
    found, facts = onnx_file.read(tmp_path / "theirs.onnx")
    assert facts == {"operators": ["Relu"]}
    assert found.keys() == state().keys()
    assert all(torch.equal(found[name], value) for name, value in state().items())


def test_numbers_in_any_of_onnxs_fields_are_read(tmp_path: Path) -> None:
    def as_lists(model: onnx.ModelProto) -> None:
        del model.graph.initializer[:]
        for kind in (TensorProto.FLOAT, TensorProto.DOUBLE):
            name = TensorProto.DataType.Name(kind)
            model.graph.initializer.append(helper.make_tensor(name, kind, [2], [1.5, -2.0]))

    found, _ = onnx_file.read(write_onnx(tmp_path / "theirs.onnx", as_lists))
    assert {name: value.tolist() for name, value in found.items()} == {
        "FLOAT": [1.5, -2.0],
        "DOUBLE": [1.5, -2.0],
    }


def other_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    tensor.ClearField("raw_data")


def gigantic(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 20]


def function(model: onnx.ModelProto) -> None:
    model.functions.add(name="mine", domain="")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_domain, "operator Relu of the domain com.example"),
        (outside, "lies in another file"),
        (gigantic, "numbers, at most"),
        (function, "functions of its own"),
    ],
)
def test_onnx_that_is_more_than_data_is_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        onnx_file.read(write_onnx(tmp_path / "theirs.onnx", change))


def test_damaged_onnx_is_explained_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "theirs.onnx").read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"."):
            onnx_file.read(tmp_path / "cut.onnx")


def test_a_graph_of_no_named_architecture_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].name = "something.else"

    with pytest.raises(SetupError, match=r"import-no-architecture") as caught:
        import_model(write_onnx(tmp_path / "theirs.onnx", rename), tmp_path / "ours")
    assert "something.else 2x1x3x3" in caught.value.fault.what
    assert not (tmp_path / "ours").exists()


def write_pt2(path: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Export a network with torch, then rewrite its table of weights."""
    network = build_network(NETWORK)
    network.load_state_dict(state())
    exported = torch.export.export(network.eval(), (torch.zeros(1, 1, 8, 8),))
    torch.export.save(exported, path.with_suffix(".whole.pt2"))
    with (
        zipfile.ZipFile(path.with_suffix(".whole.pt2")) as whole,
        zipfile.ZipFile(path, "w") as written,
    ):
        for name in whole.namelist():
            content = whole.read(name)
            if name.endswith("model_weights_config.json"):
                table = json.loads(content)
                change(table["config"])
                content = json.dumps(table).encode()
            written.writestr(name, content)
    return path


# torch's exporter warns of its own tables; what is tested is what it writes.
@pytest.mark.filterwarnings("ignore")
def test_pt2_gives_its_weights_to_the_architecture_that_they_fit(tmp_path: Path) -> None:
    found, _ = pt2_file.read(write_pt2(tmp_path / "theirs.pt2"))
    assert found.keys() == state().keys()
    assert all(torch.equal(found[name], value) for name, value in state().items())
    made = import_model(tmp_path / "theirs.pt2", tmp_path / "ours")
    assert made.architecture == "unet2d"

    def pickled(table: dict[str, Any]) -> None:
        table["last.weight"]["use_pickle"] = True

    def gigantic(table: dict[str, Any]) -> None:
        table["last.weight"]["tensor_meta"]["sizes"] = [{"as_int": 1 << 60}]

    def outside(table: dict[str, Any]) -> None:
        table["last.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 100}

    for change, said in ((pickled, "as a pickle"), (gigantic, "at most"), (outside, "outside its")):
        with pytest.raises((Refused, ValueError), match=said):
            pt2_file.read(write_pt2(tmp_path / "changed.pt2", change))
