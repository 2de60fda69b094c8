"""Which named architecture a set of tensors belongs to: from their names and shapes alone.

A guess is checked by building the network and holding every key and shape against it, so it is
right or it is none. What shapes cannot tell (activations, strides of MONAI's UNet) is said in
`unsure`, for a person to confirm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

import torch

from node.errors import SetupError
from node.models.architectures import build_network
from node.models.imports.foreign import Shapes
from node.models.parts import Network, Parameter
from node.models.weights import is_counter


@dataclass(frozen=True, slots=True)
class Guess:
    """A network whose keys and shapes are those of the tensors.

    Attributes:
        network: It.
        unsure: Sentences on what the tensors do not tell.
    """

    network: Network
    unsure: tuple[str, ...] = ()


def guess_network(shapes: Shapes) -> Guess | None:
    """Return the network that these tensors fit exactly, or None."""
    for reader in _READERS:
        try:
            guess = reader(shapes)
        except (KeyError, IndexError):
            continue  # a tensor that this architecture always has is not there
        if guess is not None and fits(guess.network, shapes):
            return guess
    return None


def fits(network: Network, shapes: Shapes) -> bool:
    """Say whether the network wants exactly these tensors; counters of BatchNorm aside."""
    try:
        with torch.device("meta"):  # shapes without memory
            wanted = build_network(network).state_dict()
    except (SetupError, RuntimeError, ValueError):
        return False
    mine = {key: tuple(value.shape) for key, value in wanted.items() if not is_counter(key)}
    theirs = {key: tuple(shape) for key, shape in shapes.items() if not is_counter(key)}
    return mine == theirs


def _ours(shapes: Shapes) -> Guess:
    first = shapes["first.0.weight"]
    widths = [first[0], *_each(shapes, "down.{}.0.weight", 0)]
    batch = "first.1.running_mean" in shapes
    parameters: dict[str, Parameter] = {
        "widths": tuple(widths),
        "norm": "batch" if batch else "instance",
        "up": "transpose" if "up.0.weight" in shapes else "nearest",
    }
    network = Network(f"unet{len(first) - 2}d", first[1], shapes["last.weight"][0], parameters)
    return Guess(network, (_ACTIVATION.format("relu"),))


def _conv_transpose(shapes: Shapes) -> Guess:
    widths = [*_each(shapes, "conv{}.0.weight", 1), shapes["middle.0.weight"][0]]
    outputs = shapes["final.weight"][0]
    parameters: dict[str, Parameter] = {"widths": tuple(widths)}
    channels = shapes["conv1.0.weight"][1]
    return Guess(Network("unet2d_conv_transpose", channels, outputs, parameters))


def _paths(shapes: Shapes) -> Guess:
    widths = _each(shapes, "unet.down_path.{}.block.0.weight", 0)
    outputs = shapes["unet.last.weight"][0]
    parameters: dict[str, Parameter] = {"widths": tuple(widths)}
    channels = shapes["input_batchnorm.weight"][0]
    return Guess(Network("unet2d_paths", channels, outputs, parameters))


def _vgg16(shapes: Shapes) -> Guess:
    parameters: dict[str, Parameter] = {
        "widths": tuple(_each(shapes, "merge.{}.0.weight", 0)),
        "norm": "batch" if "merge.0.1.running_mean" in shapes else "instance",
    }
    if "features.28.weight" not in shapes:
        return Guess(Network("vgg16_unet", 1, 1, parameters))
    network = Network("vgg16_unet", 1, shapes["last.weight"][0], parameters)
    return Guess(network, ("network.channels: 1 is repeated to 3; write 3 for colour.",))


def _nnunet(shapes: Shapes) -> Guess:
    residual = "encoder.stem.convs.0.conv.weight" in shapes
    first = (
        "encoder.stages.{}.blocks.0.conv1.conv.weight"
        if residual
        else "encoder.stages.{}.0.convs.0.conv.weight"
    )
    widths = _each(shapes, first, 0)
    stages = range(len(widths))
    begin = "encoder.stem.convs.0" if residual else "encoder.stages.0.0.convs.0"
    dims = len(shapes[f"{begin}.conv.weight"]) - 2
    inner = "encoder.stages.{0}.blocks.{1}.conv1" if residual else "encoder.stages.{0}.0.convs.{1}"
    ups = [tuple(shapes[f"decoder.transpconvs.{n}.weight"][2:]) for n in stages[:-1]]
    parameters: dict[str, Parameter] = {
        "dimensions": dims,
        "widths": tuple(widths),
        "kernels": tuple(tuple(shapes[first.format(n)][2:]) for n in stages),
        "strides": ((1,) * dims, *reversed(ups)),
        "blocks" if residual else "convs": tuple(
            _counted(shapes, inner.format(n, "{}") + ".conv.weight") for n in stages
        ),
        "decoder_convs": tuple(
            _counted(shapes, f"decoder.stages.{n}.convs.{{}}.conv.weight") for n in stages[:-1]
        ),
        "norm": "batch" if f"{begin}.norm.running_mean" in shapes else "instance",
        "bias": f"{begin}.conv.bias" in shapes,
    }
    network = Network(
        "resenc_unet" if residual else "plain_unet",
        shapes[f"{begin}.conv.weight"][1],
        shapes["decoder.seg_layers.0.weight"][0],
        parameters,
    )
    return Guess(network, (_ACTIVATION.format("leaky_relu"),))


def _dynunet(shapes: Shapes) -> Guess:
    levels = ["input_block"]
    levels += [
        f"downsamples.{n}" for n in range(_counted(shapes, "downsamples.{}.conv1.conv.weight"))
    ]
    levels.append("bottleneck")
    convs = [shapes[f"{level}.conv1.conv.weight"] for level in levels]
    ups = [
        tuple(shapes[f"upsamples.{n}.transp_conv.conv.weight"][2:]) for n in range(len(levels) - 1)
    ]
    dims = len(convs[0]) - 2
    parameters: dict[str, Parameter] = {
        "dimensions": dims,
        "widths": tuple(conv[0] for conv in convs),
        "kernels": tuple(tuple(conv[2:]) for conv in convs),
        "strides": ((1,) * dims, *reversed(ups)),
        "norm": _norm(shapes, "input_block.norm1"),
        "residual": "input_block.conv3.conv.weight" in shapes,
        "up_bias": "upsamples.0.transp_conv.conv.bias" in shapes,
    }
    network = Network(
        "dynunet", convs[0][1], shapes["output_block.conv.conv.weight"][0], parameters
    )
    unsure = [_ACTIVATION.format("leaky_relu")]
    if parameters["norm"] == "instance":
        unsure.append(_NORM.format("instance"))
    return Guess(network, tuple(unsure))


def _segresnet(shapes: Shapes) -> Guess:
    first = shapes["convInit.conv.weight"]
    norm = _norm(shapes, "down_layers.0.1.norm1")
    levels = range(_counted(shapes, "down_layers.{}.1.conv1.conv.weight"))
    steps = range(len(levels) - 1)
    learnt = "up_samples.0.1.deconv.weight" in shapes
    parameters: dict[str, Parameter] = {
        "dimensions": len(first) - 2,
        "width": first[0],
        "blocks_down": tuple(
            _counted(shapes, f"down_layers.{n}.{{}}.conv1.conv.weight", 1) for n in levels
        ),
        "blocks_up": tuple(
            _counted(shapes, f"up_layers.{n}.{{}}.conv1.conv.weight") for n in steps
        ),
        "norm": "group" if norm == "instance" else norm,
        "up": "transpose" if learnt else "linear",
    }
    network = Network("segresnet", first[1], shapes["conv_final.2.conv.weight"][0], parameters)
    unsure = [_ACTIVATION.format("relu")]
    if parameters["norm"] == "group":
        unsure.append(_NORM.format("group with 8 groups"))
    return Guess(network, tuple(unsure))


def _basic_unet(shapes: Shapes) -> Guess:
    first = shapes["conv_0.conv_0.conv.weight"]
    widths = [first[0], *(shapes[f"down_{n}.convs.conv_0.conv.weight"][0] for n in range(1, 5))]
    last = shapes["final_conv.weight"]
    parameters: dict[str, Parameter] = {
        "dimensions": len(first) - 2,
        "widths": (*widths, last[1]),
        "norm": _norm(shapes, "conv_0.conv_0.adn.N"),
        "bias": "conv_0.conv_0.conv.bias" in shapes,
        "up": "transpose" if "upcat_1.upsample.deconv.weight" in shapes else "linear",
    }
    unsure: tuple[str, ...] = (_ACTIVATION.format("leaky_relu with slope 0.1"),)
    if "conv_0.conv_0.adn.A.weight" in shapes:
        parameters["activation"] = "prelu"
        unsure = ()
    if parameters["norm"] == "instance":
        unsure = (*unsure, _NORM.format("instance"))
    return Guess(Network("basic_unet", first[1], last[0], parameters), unsure)


def _monai_unet(shapes: Shapes) -> Guess:
    residual = "model.0.conv.unit0.conv.weight" in shapes
    unit = ".conv.unit0" if residual else ""
    place, widths, prefix = "model", [], "model.0"
    for _ in range(12):
        widths.append(shapes[f"{prefix}{unit}.conv.weight"][0])
        place += ".1.submodule"
        if f"{place}.0{unit}.conv.weight" not in shapes:
            break
        prefix = f"{place}.0"
    widths.append(shapes[f"{place}{unit}.conv.weight"][0])
    first = shapes[f"model.0{unit}.conv.weight"]
    up = shapes["model.2.0.conv.weight" if residual else "model.2.conv.weight"]
    top = shapes["model.2.1.conv.unit0.conv.weight"] if residual else None
    units = _counted(shapes, "model.0.conv.unit{}.conv.weight") if residual else 0
    parameters: dict[str, Parameter] = {
        "dimensions": len(first) - 2,
        "widths": tuple(widths),
        "strides": (2,) * (len(widths) - 1),
        "kernel": tuple(first[2:]),
        "up_kernel": tuple(up[2:]),
        "residual_units": units,
        "norm": _norm(shapes, f"model.0{unit}.adn.N", none="instance_plain"),
        "activation": "prelu" if f"model.0{unit}.adn.A.weight" in shapes else "relu",
        "bias": f"model.0{unit}.conv.bias" in shapes,
    }
    outputs = top[0] if top is not None else up[1]
    unsure = ["network.strides: 2 at every level was assumed; the tensors do not tell."]
    if parameters["activation"] != "prelu":
        unsure.append(_ACTIVATION.format("relu"))
    return Guess(Network("monai_unet", first[1], outputs, parameters), tuple(unsure))


def _norm(shapes: Shapes, prefix: str, *, none: str = "instance_plain") -> str:
    if f"{prefix}.running_mean" in shapes:
        return "batch"
    return "instance" if f"{prefix}.weight" in shapes else none


def _each(shapes: Shapes, key: str, start: int) -> list[int]:
    """Return the first side of each tensor whose name counts up from `start`."""
    found = []
    for number in count(start):
        if key.format(number) not in shapes:
            break
        found.append(shapes[key.format(number)][0])
    return found


def _counted(shapes: Shapes, key: str, start: int = 0) -> int:
    return len(_each(shapes, key, start))


_ACTIVATION: Final = "network.activation: {} was assumed; the tensors do not tell."
_NORM: Final = "network.norm: {} was assumed; the tensors do not tell."

_READERS: Final[tuple[Callable[[Shapes], Guess | None], ...]] = (
    _ours,
    _conv_transpose,
    _paths,
    _vgg16,
    _nnunet,
    _dynunet,
    _segresnet,
    _basic_unet,
    _monai_unet,
)
