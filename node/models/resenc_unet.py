"""nnU-Net's U-Net with a residual encoder (the ResEnc presets).

Parameter names are those of `ResidualEncoderUNet` in dynamic-network-architectures; the decoder
is the plain one. A block's shortcut averages where the block strides and has a 1x1 convolution
where the number of channels changes.

Source: Isensee et al., arXiv 2404.09556; blocks after He et al., arXiv 1812.01187 (ResNet-D).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from torch import Tensor, nn

from node.models.layers import AVERAGE_POOL, activation_layer
from node.models.parameters import Parameters, Plan, Sides, strides_product
from node.models.plain_unet import (
    ConvNorm,
    ConvNormAct,
    StagesDecoder,
    StagesShape,
    read_stages,
    stacked,
)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; sides are divided by the stride."""

    def __init__(
        self, shape: StagesShape, c_in: int, c_out: int, kernel: Sides, stride: Sides
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(shape, c_in, c_out, kernel, stride)
        self.conv2 = ConvNorm(shape, c_out, c_out, kernel)
        self.nonlin2 = activation_layer(shape.activation, shape.slope)
        shortcut: list[nn.Module] = []
        if any(side != 1 for side in stride):
            shortcut.append(AVERAGE_POOL[shape.dimensions](stride, stride))
        if c_in != c_out:
            one = (1,) * shape.dimensions
            shortcut.append(ConvNorm(replace(shape, bias=False), c_in, c_out, one))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, image: Tensor) -> Tensor:
        """Return features (b, c_out, ...)."""
        features: Tensor = self.nonlin2(self.conv2(self.conv1(image)) + self.skip(image))
        return features


class ResidualEncoder(nn.Module):
    """The way down; gives the features of every stage."""

    def __init__(self, shape: StagesShape) -> None:
        super().__init__()
        first = shape.widths[0]
        self.stem = stacked(shape, 1, shape.channels, first, kernel=shape.kernels[0])
        stages = []
        c_in = first
        one = (1,) * shape.dimensions
        for count, width, kernel, stride in zip(
            shape.blocks, shape.widths, shape.kernels, shape.strides, strict=True
        ):
            blocks = [ResidualBlock(shape, c_in, width, kernel, stride)]
            blocks += [ResidualBlock(shape, width, width, kernel, one) for _ in range(count - 1)]
            stages.append(nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks))))
            c_in = width
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return (b, width, ...) of each stage, finest first."""
        skips = []
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class ResEncUNet(nn.Module):
    """Scores for each voxel and class, before softmax or sigmoid."""

    def __init__(self, shape: StagesShape) -> None:
        super().__init__()
        self.encoder = ResidualEncoder(shape)
        self.decoder = StagesDecoder(shape)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, ...) from (b, channels, ...)."""
        scores: Tensor = self.decoder(self.encoder(image))
        return scores


def plan_resenc_unet(parameters: Parameters) -> Plan:
    """Read the parameters of `resenc_unet`."""
    shape = read_stages(parameters, "blocks")
    return Plan(shape.dimensions, strides_product(shape.strides), lambda: ResEncUNet(shape))
