"""MONAI's `UNet`: one strided unit per level, nested skips, optional residual units.

Parameter names are those of `monai.networks.nets.UNet`, so that the weights of bundles load with
a strict match: `model.0` is the way down, `model.1.submodule` what lies below, `model.2` the way
up, and so on inwards.

Source: Kerfoot et al., STACOM 2018; names and shapes of MONAI 1.6 state dicts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from node.models.layers import CONVOLUTION, TRANSPOSE, activation_layer, norm_layer
from node.models.parameters import Parameters, Plan, Sides, strides_product


@dataclass(frozen=True, slots=True)
class MonaiShape:
    """What must be known to rebuild the network.

    Attributes:
        dimensions: 2 or 3.
        channels: Input channels.
        outputs: Output channels.
        widths: Feature channels per level, finest first; the last is the bottom's.
        strides: Strides per level but the bottom.
        kernel: Kernel sides on the way down.
        up_kernel: Kernel sides of the transposed convolutions.
        residual_units: Convolutions beside a shortcut; 0 for a single convolution without one.
        norm: A word of `layers.norm_layer`.
        groups: Of norm `group`.
        activation: A word of `layers.activation_layer`.
        slope: Of leaky_relu.
        bias: Whether convolutions have one.
        order: `NA` normalises before the activation, `AN` after it.
    """

    dimensions: int
    channels: int
    outputs: int
    widths: tuple[int, ...]
    strides: tuple[Sides, ...]
    kernel: Sides
    up_kernel: Sides
    residual_units: int
    norm: str
    groups: int
    activation: str
    slope: float
    bias: bool
    order: str


class Skip(nn.Module):
    """What lies below, beside its own input: (b, c, ...) becomes (b, c + c_below, ...)."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, features: Tensor) -> Tensor:
        """Return input and result joined."""
        return torch.cat([features, self.submodule(features)], dim=1)


class ResidualUnit(nn.Module):
    """Some convolutions beside a shortcut."""

    def __init__(
        self,
        shape: MonaiShape,
        c_in: int,
        c_out: int,
        stride: Sides,
        *,
        units: int,
        bare_end: bool = False,
    ) -> None:
        super().__init__()
        one = (1,) * shape.dimensions
        made = [
            _unit(
                shape,
                c_in if place == 0 else c_out,
                c_out,
                stride if place == 0 else one,
                bare=bare_end and place == units - 1,
            )
            for place in range(units)
        ]
        self.conv = nn.Sequential(OrderedDict((f"unit{n}", unit) for n, unit in enumerate(made)))
        self.residual: nn.Module = nn.Identity()
        if prod(stride) != 1 or c_in != c_out:
            kernel = one if prod(stride) == 1 else shape.kernel
            self.residual = CONVOLUTION[shape.dimensions](
                c_in, c_out, kernel, stride, _padding(kernel), bias=shape.bias
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return features (b, c_out, ...), sides divided by the stride."""
        shortcut = self.residual(features)
        added: Tensor = self.conv(features) + shortcut
        return added


class MonaiUNet(nn.Module):
    """Scores for each voxel and class, before softmax or sigmoid."""

    def __init__(self, shape: MonaiShape) -> None:
        super().__init__()
        self.model = _level(shape, shape.channels, shape.outputs, 0)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, ...) from (b, channels, ...)."""
        scores: Tensor = self.model(image)
        return scores


def _level(shape: MonaiShape, c_in: int, c_out: int, level: int) -> nn.Module:
    width, stride = shape.widths[level], shape.strides[level]
    if level + 2 < len(shape.widths):
        below, c_up = _level(shape, width, width, level + 1), 2 * width
    else:
        bottom = shape.widths[level + 1]
        below, c_up = _down(shape, width, bottom, (1,) * shape.dimensions), width + bottom
    up = _up(shape, c_up, c_out, stride, top=level == 0)
    return nn.Sequential(_down(shape, c_in, width, stride), Skip(below), up)


def _down(shape: MonaiShape, c_in: int, c_out: int, stride: Sides) -> nn.Module:
    if shape.residual_units:
        return ResidualUnit(shape, c_in, c_out, stride, units=shape.residual_units)
    return _unit(shape, c_in, c_out, stride)


def _up(shape: MonaiShape, c_in: int, c_out: int, stride: Sides, *, top: bool) -> nn.Module:
    residual = shape.residual_units > 0
    convolution = TRANSPOSE[shape.dimensions](
        c_in,
        c_out,
        shape.up_kernel,
        stride,
        _padding(shape.up_kernel),
        output_padding=tuple(side - 1 for side in stride),
        bias=shape.bias,
    )
    unit = _named(shape, convolution, c_out, bare=top and not residual)
    if not residual:
        return unit
    one = (1,) * shape.dimensions
    return nn.Sequential(unit, ResidualUnit(shape, c_out, c_out, one, units=1, bare_end=top))


def _unit(
    shape: MonaiShape, c_in: int, c_out: int, stride: Sides, *, bare: bool = False
) -> nn.Module:
    convolution = CONVOLUTION[shape.dimensions](
        c_in, c_out, shape.kernel, stride, _padding(shape.kernel), bias=shape.bias
    )
    return _named(shape, convolution, c_out, bare=bare)


def _named(shape: MonaiShape, convolution: nn.Module, channels: int, *, bare: bool) -> nn.Module:
    """Return a convolution as `conv` and, unless bare, what follows it as `adn`."""
    parts = OrderedDict(conv=convolution)
    if not bare:
        layers = {
            "N": norm_layer(shape.norm, shape.dimensions, channels, shape.groups),
            "A": activation_layer(shape.activation, shape.slope),
        }
        parts["adn"] = nn.Sequential(OrderedDict((name, layers[name]) for name in shape.order))
    return nn.Sequential(parts)


def _padding(kernel: Sequence[int]) -> Sides:
    return tuple((side - 1) // 2 for side in kernel)


def plan_monai_unet(parameters: Parameters) -> Plan:
    """Read the parameters of `monai_unet`."""
    dimensions = parameters.dimensions()
    widths = parameters.widths("widths", 2, 12)
    shape = MonaiShape(
        dimensions=dimensions,
        channels=parameters.channels,
        outputs=parameters.outputs,
        widths=widths,
        strides=parameters.per_level("strides", len(widths) - 1, dimensions),
        kernel=parameters.sides("kernel", dimensions, 3),
        up_kernel=parameters.sides("up_kernel", dimensions, 3),
        residual_units=parameters.whole("residual_units", 0, 16, 0),
        norm=parameters.choice("norm", ("instance_plain", "instance", "batch", "group")),
        groups=parameters.whole("groups", 1, 256, 8),
        activation=parameters.choice("activation", ("prelu", "relu", "leaky_relu")),
        slope=parameters.slope(),
        bias=parameters.flag("bias", default=True),
        order=parameters.choice("order", ("NA", "AN")),
    )
    parameters.odd("kernel", (shape.kernel,))
    parameters.odd("up_kernel", (shape.up_kernel,))
    return Plan(dimensions, strides_product(shape.strides), lambda: MonaiUNet(shape))
