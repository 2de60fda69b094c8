"""nnU-Net's plain U-Net: stacked convolutions, strided on the way down, learnt on the way up.

Parameter names are those of `PlainConvUNet` in dynamic-network-architectures, so that published
weights load with a strict match. Every decoder stage has a head for deep supervision, as there;
only the last one is used.

Source: Isensee et al., Nature Methods 18, 203-211 (2021), and the names and shapes in the state
dicts of dynamic-network-architectures 0.4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.models.layers import CONVOLUTION, TRANSPOSE, activation_layer, norm_layer
from node.models.parameters import Parameters, Plan, Sides, strides_product


@dataclass(frozen=True, slots=True)
class StagesShape:
    """What must be known to rebuild one of nnU-Net's networks.

    Attributes:
        dimensions: 2 or 3.
        channels: Input channels.
        outputs: Output channels.
        widths: Feature channels per stage, finest first.
        kernels: Kernel sides per stage.
        strides: Strides per stage, with which it begins.
        blocks: Convolutions (plain) or residual blocks per encoder stage.
        decoder_convs: Convolutions per decoder stage, coarsest first.
        norm: A word of `layers.norm_layer`.
        activation: A word of `layers.activation_layer`.
        slope: Of leaky_relu.
        bias: Whether convolutions have one.
    """

    dimensions: int
    channels: int
    outputs: int
    widths: tuple[int, ...]
    kernels: tuple[Sides, ...]
    strides: tuple[Sides, ...]
    blocks: tuple[int, ...]
    decoder_convs: tuple[int, ...]
    norm: str
    activation: str
    slope: float
    bias: bool


class ConvNorm(nn.Module):
    """A convolution, its normalisation and, unless `last`, the activation.

    (b, c_in, ...) becomes (b, c_out, ...) with sides divided by the stride.
    """

    def __init__(
        self, shape: StagesShape, c_in: int, c_out: int, kernel: Sides, stride: Sides | int = 1
    ) -> None:
        super().__init__()
        padding = tuple((side - 1) // 2 for side in kernel)
        self.conv = CONVOLUTION[shape.dimensions](
            c_in, c_out, kernel, stride, padding, bias=shape.bias
        )
        self.norm = norm_layer(shape.norm, shape.dimensions, c_out)

    def forward(self, image: Tensor) -> Tensor:
        """Return normalised features."""
        features: Tensor = self.norm(self.conv(image))
        return features


class ConvNormAct(ConvNorm):
    """The same with the activation behind it."""

    def __init__(
        self, shape: StagesShape, c_in: int, c_out: int, kernel: Sides, stride: Sides | int = 1
    ) -> None:
        super().__init__(shape, c_in, c_out, kernel, stride)
        self.nonlin = activation_layer(shape.activation, shape.slope)

    def forward(self, image: Tensor) -> Tensor:
        """Return activated features."""
        features: Tensor = self.nonlin(super().forward(image))
        return features


def stacked(
    shape: StagesShape,
    count: int,
    c_in: int,
    c_out: int,
    *,
    kernel: Sides,
    stride: Sides | int = 1,
) -> nn.Module:
    """Return `count` convolutions under the name `convs`; the first one has the stride."""
    convs = [ConvNormAct(shape, c_in, c_out, kernel, stride)]
    convs += [ConvNormAct(shape, c_out, c_out, kernel) for _ in range(count - 1)]
    return nn.Sequential(OrderedDict(convs=nn.Sequential(*convs)))


class PlainEncoder(nn.Module):
    """The way down; gives the features of every stage."""

    def __init__(self, shape: StagesShape) -> None:
        super().__init__()
        c_in = (shape.channels, *shape.widths[:-1])
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    stacked(
                        shape,
                        shape.blocks[stage],
                        c_in[stage],
                        shape.widths[stage],
                        kernel=shape.kernels[stage],
                        stride=shape.strides[stage],
                    )
                )
                for stage in range(len(shape.widths))
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return (b, width, ...) of each stage, finest first."""
        skips = []
        for stage in self.stages:
            image = stage(image)
            skips.append(image)
        return skips


class StagesDecoder(nn.Module):
    """The way up; stages count from the coarsest."""

    def __init__(self, shape: StagesShape) -> None:
        super().__init__()
        up, stages, heads = [], [], []
        for place, count in enumerate(shape.decoder_convs):
            coarse = len(shape.widths) - 1 - place
            below, skip = shape.widths[coarse], shape.widths[coarse - 1]
            stride = shape.strides[coarse]
            up.append(TRANSPOSE[shape.dimensions](below, skip, stride, stride, bias=shape.bias))
            stages.append(stacked(shape, count, 2 * skip, skip, kernel=shape.kernels[coarse - 1]))
            heads.append(CONVOLUTION[shape.dimensions](skip, shape.outputs, 1))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(up)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        """Return scores (b, outputs, ...) from the features of every stage, finest first."""
        *finer, x = skips
        for up, stage, skip in zip(self.transpconvs, self.stages, reversed(finer), strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))  # as large as the skip
        scores: Tensor = self.seg_layers[-1](x)
        return scores


class PlainUNet(nn.Module):
    """Scores for each voxel and class, before softmax or sigmoid."""

    def __init__(self, shape: StagesShape) -> None:
        super().__init__()
        self.encoder = PlainEncoder(shape)
        self.decoder = StagesDecoder(shape)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, ...) from (b, channels, ...)."""
        scores: Tensor = self.decoder(self.encoder(image))
        return scores


def read_stages(parameters: Parameters, blocks: str) -> StagesShape:
    """Read the parameters that nnU-Net's networks share.

    Args:
        parameters: The [network] table.
        blocks: Name of the parameter that counts what an encoder stage holds.
    """
    dimensions = parameters.dimensions()
    widths = parameters.widths("widths", 2, 12)
    count = len(widths)
    shape = StagesShape(
        dimensions=dimensions,
        channels=parameters.channels,
        outputs=parameters.outputs,
        widths=widths,
        kernels=parameters.per_level("kernels", count, dimensions, 3),
        strides=parameters.per_level("strides", count, dimensions),
        blocks=parameters.counts(blocks, count, 2),
        decoder_convs=parameters.counts("decoder_convs", count - 1, 2),
        norm=parameters.choice("norm", ("instance", "batch")),
        activation=parameters.choice("activation", ("leaky_relu", "relu")),
        slope=parameters.slope(),
        bias=parameters.flag("bias", default=True),
    )
    parameters.odd("kernels", shape.kernels)
    return shape


def plan_plain_unet(parameters: Parameters) -> Plan:
    """Read the parameters of `plain_unet`."""
    shape = read_stages(parameters, "convs")
    return Plan(shape.dimensions, strides_product(shape.strides), lambda: PlainUNet(shape))
