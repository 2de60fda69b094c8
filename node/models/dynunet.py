"""MONAI's `DynUNet`: kernels and strides of its own per level, plain or residual blocks.

Parameter names are those of `monai.networks.nets.DynUNet` without deep supervision. Weights that
were saved with it hold its heads and every block a second time under `skip_layers`; an import
leaves both out, because neither is used when a volume is segmented.

Source: names and shapes of MONAI 1.6 state dicts.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.models.layers import CONVOLUTION, TRANSPOSE, activation_layer, norm_layer
from node.models.parameters import Parameters, Plan, Sides, strides_product


@dataclass(frozen=True, slots=True)
class DynUNetShape:
    """What must be known to rebuild the network.

    Attributes:
        dimensions: 2 or 3.
        channels: Input channels.
        outputs: Output channels.
        widths: Feature channels per level, finest first; the last is the bottleneck's.
        kernels: Kernel sides per level.
        strides: Strides per level, with which it begins; the first is 1.
        up_kernels: Kernel sides and strides of the transposed convolutions, finest first.
        residual: Whether blocks on the way down have a shortcut.
        norm: A word of `layers.norm_layer`.
        groups: Of norm `group`.
        activation: A word of `layers.activation_layer`.
        slope: Of leaky_relu.
        up_bias: Whether transposed convolutions have a bias.
    """

    dimensions: int
    channels: int
    outputs: int
    widths: tuple[int, ...]
    kernels: tuple[Sides, ...]
    strides: tuple[Sides, ...]
    up_kernels: tuple[Sides, ...]
    residual: bool
    norm: str
    groups: int
    activation: str
    slope: float
    up_bias: bool


class Block(nn.Module):
    """Two convolutions, with a shortcut where `residual`."""

    def __init__(
        self,
        shape: DynUNetShape,
        c_in: int,
        c_out: int,
        kernel: Sides,
        stride: Sides,
        *,
        residual: bool,
    ) -> None:
        super().__init__()
        one = (1,) * shape.dimensions
        self.residual = residual
        self.projects = residual and (c_in != c_out or stride != one)
        self.conv1 = _convolution(shape, c_in, c_out, kernel, stride)
        self.conv2 = _convolution(shape, c_out, c_out, kernel, one)
        self.lrelu = activation_layer(shape.activation, shape.slope)
        self.norm1 = norm_layer(shape.norm, shape.dimensions, c_out, shape.groups)
        self.norm2 = norm_layer(shape.norm, shape.dimensions, c_out, shape.groups)
        if self.projects:
            self.conv3 = _convolution(shape, c_in, c_out, one, stride)
            self.norm3 = norm_layer(shape.norm, shape.dimensions, c_out, shape.groups)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (b, c_out, ...), sides divided by the stride."""
        x = self.lrelu(self.norm1(self.conv1(features)))
        x = self.norm2(self.conv2(x))
        if self.residual:
            x = x + (self.norm3(self.conv3(features)) if self.projects else features)
        activated: Tensor = self.lrelu(x)
        return activated


class UpBlock(nn.Module):
    """A learnt enlargement, the skip beside it, and a block."""

    def __init__(
        self, shape: DynUNetShape, c_in: int, c_out: int, kernel: Sides, up_kernel: Sides
    ) -> None:
        super().__init__()
        up = TRANSPOSE[shape.dimensions](c_in, c_out, up_kernel, up_kernel, bias=shape.up_bias)
        self.transp_conv = nn.Sequential(OrderedDict(conv=up))
        one = (1,) * shape.dimensions
        self.conv_block = Block(shape, 2 * c_out, c_out, kernel, one, residual=False)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Return features as large as the skip."""
        features: Tensor = self.conv_block(torch.cat((self.transp_conv(below), skip), dim=1))
        return features


class DynUNet(nn.Module):
    """Scores for each voxel and class, before softmax or sigmoid."""

    def __init__(self, shape: DynUNetShape) -> None:
        super().__init__()
        c_in = (shape.channels, *shape.widths[:-1])
        down = [
            Block(shape, c_in[n], width, kernel, stride, residual=shape.residual)
            for n, (width, kernel, stride) in enumerate(
                zip(shape.widths, shape.kernels, shape.strides, strict=True)
            )
        ]
        self.input_block = down[0]
        self.downsamples = nn.ModuleList(down[1:-1])
        self.bottleneck = down[-1]
        self.upsamples = nn.ModuleList(
            UpBlock(
                shape,
                shape.widths[n + 1],
                shape.widths[n],
                shape.kernels[n + 1],
                shape.up_kernels[n],
            )
            for n in reversed(range(len(shape.widths) - 1))
        )
        last = CONVOLUTION[shape.dimensions](shape.widths[0], shape.outputs, 1)
        conv = nn.Sequential(OrderedDict(conv=last))
        self.output_block = nn.Sequential(OrderedDict(conv=conv))

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, ...) from (b, channels, ...)."""
        skips = [self.input_block(image)]
        for down in self.downsamples:
            skips.append(down(skips[-1]))
        x = self.bottleneck(skips[-1])
        for up, skip in zip(self.upsamples, reversed(skips), strict=True):
            x = up(x, skip)
        scores: Tensor = self.output_block(x)
        return scores


def _convolution(
    shape: DynUNetShape, c_in: int, c_out: int, kernel: Sides, stride: Sides
) -> nn.Module:
    padding = tuple((side - step + 1) // 2 for side, step in zip(kernel, stride, strict=True))
    conv = CONVOLUTION[shape.dimensions](c_in, c_out, kernel, stride, padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv))


def plan_dynunet(parameters: Parameters) -> Plan:
    """Read the parameters of `dynunet`."""
    dimensions = parameters.dimensions()
    widths = parameters.widths("widths", 3, 12)
    count = len(widths)
    strides = parameters.per_level("strides", count, dimensions)
    shape = DynUNetShape(
        dimensions=dimensions,
        channels=parameters.channels,
        outputs=parameters.outputs,
        widths=widths,
        kernels=parameters.per_level("kernels", count, dimensions, 3),
        strides=strides,
        up_kernels=parameters.per_level("up_kernels", count - 1, dimensions, strides[1:]),
        residual=parameters.flag("residual", default=False),
        norm=parameters.choice("norm", ("instance", "instance_plain", "batch", "group")),
        groups=parameters.whole("groups", 1, 256, 8),
        activation=parameters.choice("activation", ("leaky_relu", "relu", "prelu")),
        slope=parameters.slope(),
        up_bias=parameters.flag("up_bias", default=False),
    )
    _check(parameters, shape)
    return Plan(dimensions, strides_product(strides), lambda: DynUNet(shape))


def _check(parameters: Parameters, shape: DynUNetShape) -> None:
    parameters.odd("kernels", shape.kernels)
    if any(side != 1 for side in shape.strides[0]):
        parameters.note("strides", "the first level must have stride 1, or scores are too small")
    if shape.up_kernels != shape.strides[1:]:
        parameters.note("up_kernels", "must be the strides from the second level on")
    pairs = zip(shape.kernels, shape.strides, strict=True)
    if any(step > side + 1 for kernel, stride in pairs for side, step in zip(kernel, stride)):  # noqa: B905
        parameters.note("strides", "must not be larger than the kernel's side by more than 1")
