"""MONAI's `BasicUNet`: five levels of two convolutions, pooled on the way down.

Parameter names are those of `monai.networks.nets.BasicUNet`. The sixth width is that of the
finest level on the way up. The last enlargement keeps its channels, the others halve them.

Source: Falk et al., Nature Methods 16, 67-70 (2019); names and shapes of MONAI 1.6 state dicts.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.models.layers import (
    CONVOLUTION,
    LINEAR,
    MAX_POOL,
    TRANSPOSE,
    activation_layer,
    norm_layer,
)
from node.models.parameters import Parameters, Plan


@dataclass(frozen=True, slots=True)
class BasicUNetShape:
    """What must be known to rebuild the network.

    Attributes:
        dimensions: 2 or 3.
        channels: Input channels.
        outputs: Output channels.
        widths: Feature channels of the five levels, finest first, and of the last result.
        norm: A word of `layers.norm_layer`.
        groups: Of norm `group`.
        activation: A word of `layers.activation_layer`.
        slope: Of leaky_relu.
        bias: Whether convolutions have one.
        enlarge: `transpose` (learnt) or `linear`.
    """

    dimensions: int
    channels: int
    outputs: int
    widths: tuple[int, ...]
    norm: str
    groups: int
    activation: str
    slope: float
    bias: bool
    enlarge: str


class UpCat(nn.Module):
    """Enlarge, join with the skip, convolve twice."""

    def __init__(
        self, shape: BasicUNetShape, c_in: int, c_up: int, c_skip: int, c_out: int
    ) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if shape.enlarge == "transpose":
            parts["deconv"] = TRANSPOSE[shape.dimensions](c_in, c_up, 2, 2)
        else:
            if c_in != c_up:
                parts["preconv"] = CONVOLUTION[shape.dimensions](c_in, c_up, 1)
            # This network was published with corners aligned, unlike every resampling of ours.
            parts["upsample_non_trainable"] = nn.Upsample(
                scale_factor=2, mode=LINEAR[shape.dimensions], align_corners=True
            )
        self.upsample = nn.Sequential(parts)
        self.convs = _two(shape, c_skip + c_up, c_out)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Return features as large as the skip."""
        features: Tensor = self.convs(torch.cat([skip, self.upsample(below)], dim=1))
        return features


class BasicUNet(nn.Module):
    """Scores for each voxel and class, before softmax or sigmoid."""

    def __init__(self, shape: BasicUNetShape) -> None:
        super().__init__()
        widths = shape.widths
        self.conv_0 = _two(shape, shape.channels, widths[0])
        for level in range(1, 5):
            pooled = OrderedDict(
                max_pooling=MAX_POOL[shape.dimensions](2),
                convs=_two(shape, widths[level - 1], widths[level]),
            )
            self.add_module(f"down_{level}", nn.Sequential(pooled))
        for level in range(4, 0, -1):
            below, skip = widths[level], widths[level - 1]
            c_up, c_out = (below // 2, skip) if level > 1 else (below, widths[5])
            self.add_module(f"upcat_{level}", UpCat(shape, below, c_up, skip, c_out))
        self.final_conv = CONVOLUTION[shape.dimensions](widths[5], shape.outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, ...) from (b, channels, ...)."""
        skips = [self.conv_0(image)]
        for level in range(1, 5):
            skips.append(self.get_submodule(f"down_{level}")(skips[-1]))  # half as long
        x = skips.pop()
        for level in range(4, 0, -1):
            x = self.get_submodule(f"upcat_{level}")(x, skips.pop())  # twice as long
        scores: Tensor = self.final_conv(x)
        return scores


def _two(shape: BasicUNetShape, c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(conv_0=_unit(shape, c_in, c_out), conv_1=_unit(shape, c_out, c_out))
    )


def _unit(shape: BasicUNetShape, c_in: int, c_out: int) -> nn.Module:
    adn = OrderedDict(
        N=norm_layer(shape.norm, shape.dimensions, c_out, shape.groups),
        A=activation_layer(shape.activation, shape.slope),
    )
    conv = CONVOLUTION[shape.dimensions](c_in, c_out, 3, padding=1, bias=shape.bias)
    return nn.Sequential(OrderedDict(conv=conv, adn=nn.Sequential(adn)))


def plan_basic_unet(parameters: Parameters) -> Plan:
    """Read the parameters of `basic_unet`."""
    dimensions = parameters.dimensions()
    shape = BasicUNetShape(
        dimensions=dimensions,
        channels=parameters.channels,
        outputs=parameters.outputs,
        widths=parameters.widths("widths", 6, 6),
        norm=parameters.choice("norm", ("instance", "instance_plain", "batch", "group")),
        groups=parameters.whole("groups", 1, 256, 8),
        activation=parameters.choice("activation", ("leaky_relu", "relu", "prelu")),
        slope=parameters.slope(0.1),
        bias=parameters.flag("bias", default=True),
        enlarge=parameters.choice("up", ("transpose", "linear")),
    )
    return Plan(dimensions, (16,) * dimensions, lambda: BasicUNet(shape))
