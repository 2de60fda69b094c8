"""Every architecture that others publish has their parameter names and gives their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks import nets
from torch import nn

from node.errors import SetupError
from node.models.architectures import build_network, network_mistakes, size_multiples
from node.models.card import parse_card
from node.models.parts import Network, Parameter
from node.models.weights import put_weights
from tests.models.builders import documented_card

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def alike(original: nn.Module, network: Network, sides: tuple[int, ...], *, drop: str = "") -> None:
    """Compare the original with ours, all weights and statistics drawn at random.

    Args:
        drop: Keys that begin so are the original's second copies or unused heads.
    """
    generator = torch.Generator().manual_seed(5)
    state = original.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator)
            positive = key.endswith("running_var") or value.ndim == 1
            # In place: some tensors stand in the state dict under two names.
            value.copy_(0.5 + drawn.abs() if positive else 0.3 * drawn)
    names = [
        key
        for key in state
        if ".all_modules." not in key
        and not key.startswith("decoder.encoder.")
        and not (drop and key.startswith(tuple(drop.split())))
    ]
    ours = build_network(network)
    put_weights(ours, {key: state[key] for key in names}, where=Path("theirs"))
    image = torch.randn((2, network.channels, *sides), generator=generator)
    with torch.no_grad():
        theirs = original.eval()(image)
        found = ours.eval()(image)
    spread = float(theirs.std())
    assert spread > 1e-2, "the comparison sees nothing"
    assert float((found - theirs).abs().max()) <= 1e-5 * max(1.0, spread)


NNUNET: Mapping[str, dict[str, object]] = {
    "3D, isotropic": {"dims": 3, "widths": [4, 6, 8], "strides": [1, 2, 2]},
    "3D, thick slices": {
        "dims": 3,
        "widths": [4, 6, 8, 8],
        "kernels": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]],
        "blocks": [1, 2, 3, 2],
        "decoder": [1, 2, 1],
    },
    "2D, batch norm, relu": {
        "dims": 2,
        "widths": [4, 8, 8],
        "strides": [[1, 1], [2, 2], [2, 1]],
        "norm": "batch",
        "activation": "relu",
        "bias": False,
    },
}


@pytest.mark.parametrize("kind", ["plain", "resenc"])
@pytest.mark.parametrize("case", NNUNET.values(), ids=NNUNET.keys())
def test_nnunets_networks_are_ours(kind: str, case: dict[str, object]) -> None:
    dims = int(str(case["dims"]))
    widths = case["widths"]
    assert isinstance(widths, list)
    blocks = case.get("blocks", [2] * len(widths))
    decoder = case.get("decoder", [2] * (len(widths) - 1))
    norm = str(case.get("norm", "instance"))
    activation = str(case.get("activation", "leaky_relu"))
    kernels = case.get("kernels", 3)
    strides = case["strides"]
    bias = bool(case.get("bias", True))
    common = {
        "input_channels": 2,
        "n_stages": len(widths),
        "features_per_stage": widths,
        "conv_op": CONVOLUTION[dims],
        "kernel_sizes": kernels,
        "strides": strides,
        "num_classes": 3,
        "n_conv_per_stage_decoder": decoder,
        "conv_bias": bias,
        "norm_op": (INSTANCE if norm == "instance" else BATCH)[dims],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU if activation == "leaky_relu" else nn.ReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    if kind == "plain":
        original: nn.Module = PlainConvUNet(n_conv_per_stage=blocks, **common)
    else:
        original = ResidualEncoderUNet(n_blocks_per_stage=blocks, **common)
    parameters = {
        "dimensions": dims,
        "widths": _levels(widths),
        "kernels": _levels(kernels),
        "strides": _levels(strides),
        "convs" if kind == "plain" else "blocks": _levels(blocks),
        "decoder_convs": _levels(decoder),
        "norm": norm,
        "activation": activation,
        "bias": bias,
    }
    network = Network(f"{kind}_unet", 2, 3, parameters)
    alike(original, network, tuple(4 * one for one in size_multiples(network)))


MONAI: Mapping[str, tuple[Callable[[], nn.Module], Network, str]] = {
    "UNet": (
        lambda: nets.UNet(3, 1, 2, (4, 8, 16), (2, 2)),
        Network("monai_unet", 1, 2, {"dimensions": 3, "widths": (4, 8, 16), "strides": 2}),
        "",
    ),
    "UNet, residual units, batch norm": (
        lambda: nets.UNet(
            2, 3, 2, (4, 8, 16, 16), (2, 2, 1), num_res_units=2, norm="batch", act="relu"
        ),
        Network(
            "monai_unet",
            3,
            2,
            {
                "dimensions": 2,
                "widths": (4, 8, 16, 16),
                "strides": (2, 2, 1),
                "residual_units": 2,
                "norm": "batch",
                "activation": "relu",
            },
        ),
        "",
    ),
    "UNet, kernels per axis, activation first": (
        lambda: nets.UNet(
            3,
            1,
            3,
            (4, 8, 8),
            ((1, 2, 2), (2, 2, 2)),
            kernel_size=(1, 3, 3),
            up_kernel_size=(3, 3, 1),
            num_res_units=1,
            norm=("group", {"num_groups": 1}),
            act=("leakyrelu", {"negative_slope": 0.2}),
            bias=False,
            adn_ordering="AN",
        ),
        Network(
            "monai_unet",
            1,
            3,
            {
                "dimensions": 3,
                "widths": (4, 8, 8),
                "strides": ((1, 2, 2), (2, 2, 2)),
                "kernel": (1, 3, 3),
                "up_kernel": (3, 3, 1),
                "residual_units": 1,
                "norm": "group",
                "groups": 1,
                "activation": "leaky_relu",
                "slope": 0.2,
                "bias": False,
                "order": "AN",
            },
        ),
        "",
    ),
    "DynUNet": (
        lambda: nets.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 6, 8]),
        Network("dynunet", 1, 2, {"dimensions": 2, "widths": (4, 6, 8), "strides": (1, 2, 2)}),
        "skip_layers.",
    ),
    "DynUNet, residual, deep supervision, thick slices": (
        lambda: nets.DynUNet(
            3,
            2,
            3,
            [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
            [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]],
            [[1, 2, 2], [2, 2, 2], [1, 2, 2]],
            filters=[4, 6, 8, 8],
            norm_name="batch",
            res_block=True,
            trans_bias=True,
            deep_supervision=True,
            deep_supr_num=2,
        ),
        Network(
            "dynunet",
            2,
            3,
            {
                "dimensions": 3,
                "widths": (4, 6, 8, 8),
                "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
                "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)),
                "norm": "batch",
                "residual": True,
                "up_bias": True,
            },
        ),
        "skip_layers. deep_supervision_heads.",
    ),
    "SegResNet": (
        lambda: nets.SegResNet(3, 8, 1, 2, blocks_down=(1, 2, 2), blocks_up=(1, 1)),
        Network("segresnet", 1, 2, {"dimensions": 3, "width": 8, "blocks_down": (1, 2, 2)}),
        "",
    ),
    "SegResNet, learnt enlargement": (
        lambda: nets.SegResNet(
            2, 4, 3, 2, norm="instance", blocks_down=(1, 1), blocks_up=(2,), upsample_mode="deconv"
        ),
        Network(
            "segresnet",
            3,
            2,
            {
                "dimensions": 2,
                "width": 4,
                "blocks_down": (1, 1),
                "blocks_up": (2,),
                "norm": "instance_plain",
                "up": "transpose",
            },
        ),
        "",
    ),
    "BasicUNet": (
        lambda: nets.BasicUNet(2, 1, 2, (4, 4, 8, 8, 16, 6)),
        Network("basic_unet", 1, 2, {"dimensions": 2, "widths": (4, 4, 8, 8, 16, 6)}),
        "",
    ),
    "BasicUNet, linear enlargement": (
        lambda: nets.BasicUNet(
            3, 1, 2, (4, 4, 8, 8, 8, 4), act="prelu", norm="batch", upsample="nontrainable"
        ),
        Network(
            "basic_unet",
            1,
            2,
            {
                "dimensions": 3,
                "widths": (4, 4, 8, 8, 8, 4),
                "activation": "prelu",
                "norm": "batch",
                "up": "linear",
            },
        ),
        "",
    ),
}


@pytest.mark.parametrize(("make", "network", "drop"), MONAI.values(), ids=MONAI.keys())
def test_monais_networks_are_ours(
    make: Callable[[], nn.Module], network: Network, drop: str
) -> None:
    alike(make(), network, tuple(2 * one for one in size_multiples(network)), drop=drop)


VGG16: Mapping[int, tuple[int, int]] = {
    0: (64, 3),
    2: (64, 64),
    5: (128, 64),
    7: (128, 128),
    10: (256, 128),
    12: (256, 256),
    14: (256, 256),
    17: (512, 256),
    19: (512, 512),
    21: (512, 512),
    24: (512, 512),
    26: (512, 512),
    28: (512, 512),
}
"""Convolutions of torchvision's `vgg16().features` by number: channels out and in, 3 x 3 each."""


def test_the_encoder_of_vgg16_unet_takes_torchvisions_weights() -> None:
    original = nn.Sequential()
    for number in range(30):
        if number in VGG16:
            c_out, c_in = VGG16[number]
            original.append(nn.Conv2d(c_in, c_out, 3, padding=1))
        else:
            original.append(nn.ReLU() if number - 1 in VGG16 else nn.MaxPool2d(2, 2))
    network = build_network(Network("vgg16_unet", 1, 2, {"widths": (8, 8, 8, 8)})).eval()
    features = network.get_submodule("features")
    features.load_state_dict(original.state_dict(), strict=True)
    image = torch.rand(1, 1, 32, 48)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    sd = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    seen: list[torch.Tensor] = []
    list(features.children())[-1].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        scores = network(image)
        wanted = original((image.expand(-1, 3, -1, -1) - mean) / sd)
    assert scores.shape == (1, 2, 32, 48)
    assert float((seen[0] - wanted).abs().max()) <= 1e-5


def test_the_published_nodule_network_has_the_parameters_of_its_description() -> None:
    network = build_network(Network("unet2d_paths", 7, 1, {"widths": (16, 32, 64)})).eval()
    assert sum(one.numel() for one in network.parameters()) == 118_271
    with torch.no_grad():
        assert network(torch.zeros(2, 7, 8, 12)).shape == (2, 1, 8, 12)


WRONG: Mapping[str, tuple[str, dict[str, Parameter], str]] = {
    "no dimensions": ("plain_unet", {"widths": (4, 8), "strides": (1, 2)}, "must be 2 or 3"),
    "a stride for each but one": (
        "plain_unet",
        {"dimensions": 2, "widths": (4, 8), "strides": (1, 2, 2)},
        "network.strides: must hold 2 entries",
    ),
    "three sides in 2D": (
        "plain_unet",
        {"dimensions": 2, "widths": (4, 8), "strides": 2, "kernels": ((3, 3, 3), (3, 3, 3))},
        "a list of 2",
    ),
    "an even kernel": (
        "resenc_unet",
        {"dimensions": 2, "widths": (4, 8), "strides": 2, "kernels": 4},
        "must be odd",
    ),
    "a word of another network": (
        "resenc_unet",
        {"dimensions": 2, "widths": (4, 8), "strides": 2, "convs": 2},
        "resenc_unet has no such parameter",
    ),
    "a stride before the first level": (
        "dynunet",
        {"dimensions": 2, "widths": (4, 8, 8), "strides": 2},
        "the first level must have stride 1",
    ),
    "groups that do not divide": (
        "segresnet",
        {"dimensions": 2, "width": 12, "blocks_down": (1, 1)},
        "must divide width = 12",
    ),
    "five widths": (
        "basic_unet",
        {"dimensions": 2, "widths": (4, 4, 4, 4, 4)},
        "must be 6 whole numbers",
    ),
    "text for a flag": (
        "dynunet",
        {"dimensions": 2, "widths": (4, 8, 8), "strides": (1, 2, 2), "residual": "yes"},
        "must be true or false",
    ),
    "two channels of a picture": ("vgg16_unet", {"widths": (8, 8, 8, 8)}, "must be 1 or 3"),
}


@pytest.mark.parametrize(("architecture", "parameters", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_parameter_is_explained_and_nothing_is_built(
    architecture: str, parameters: dict[str, Parameter], said: str
) -> None:
    network = Network(architecture, 2, 2, parameters)
    assert said in " ".join(network_mistakes(network))
    with pytest.raises(SetupError, match="network-invalid"):
        build_network(network)


def test_a_card_holds_kernels_and_strides_as_lists_of_lists() -> None:
    table = (
        'architecture = "plain_unet"\ndimensions = 3\nstrides = [[1, 1, 1], [1, 2, 2]]\n'
        "kernels = [[1, 3, 3], [3, 3, 3]]\nwidths = [4, 8]\n"
    )
    text = documented_card()
    begin = text.index('architecture = "unet2d"')
    end = text.index("[inference]")
    outputs = "outputs = 3\n"
    card = parse_card(text[:begin] + table + outputs + text[end:], Path("models/lung-ct"))
    assert card.network.parameters["strides"] == ((1, 1, 1), (1, 2, 2))
    assert network_mistakes(card.network) == ()
    assert size_multiples(card.network) == (1, 2, 2)
    wrong = table.replace("[1, 2, 2]]", "[1, 2.5, 2]]")
    with pytest.raises(SetupError, match=r"network\.strides: must be a number, text, flag"):
        parse_card(text[:begin] + wrong + outputs + text[end:], Path("models/lung-ct"))


def _levels(value: object) -> Parameter:
    if isinstance(value, list):
        return tuple(tuple(one) if isinstance(one, list) else one for one in value)
    assert isinstance(value, int)
    return value
