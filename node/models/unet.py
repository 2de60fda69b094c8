"""U-Nets in two and three dimensions whose every line can be checked against the figure.

One class per box of the figure, one comment per change of shape. Sizes of input and output
agree, because convolutions are padded; the input's sides must be multiples of `multiple`.

Source: Ronneberger, Fischer, Brox, MICCAI 2015, figure 1; Cicek et al., MICCAI 2016 for three
dimensions. Padding and normalisation layers differ from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from node.models.layers import CONVOLUTION, MAX_POOL, TRANSPOSE, activation_layer, norm_layer
from node.models.parameters import Parameters, Plan


@dataclass(frozen=True, slots=True)
class UNetShape:
    """What must be known to rebuild a network before its weights are loaded.

    Attributes:
        dimensions: 2 or 3.
        channels: Input channels, e.g. neighbouring slices.
        outputs: Output channels, background included.
        widths: Feature channels per level, finest first; its length is the depth.
        norm: `batch` or `instance`.
        activation: `relu` or `leaky_relu` (slope 0.01).
        up: `nearest` doubling, or `transpose` (learnt, kernel 2).
    """

    dimensions: int
    channels: int
    outputs: int
    widths: tuple[int, ...]
    norm: str = "batch"
    activation: str = "relu"
    up: str = "nearest"

    @property
    def multiple(self) -> int:
        """Every side of the input must be a multiple of this."""
        return 1 << (len(self.widths) - 1)


class TwoConvs(nn.Sequential):
    """Two convolutions of kernel 3; (b, c_in, ...) becomes (b, c_out, ...)."""

    def __init__(self, shape: UNetShape, c_in: int, c_out: int) -> None:
        conv = CONVOLUTION[shape.dimensions]
        super().__init__(
            conv(c_in, c_out, kernel_size=3, padding=1, bias=False),
            norm_layer(shape.norm, shape.dimensions, c_out),
            activation_layer(shape.activation),
            conv(c_out, c_out, kernel_size=3, padding=1, bias=False),
            norm_layer(shape.norm, shape.dimensions, c_out),
            activation_layer(shape.activation),
        )


class UNet(nn.Module):
    """Scores for each voxel and class, before softmax or sigmoid."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        finer_and_coarser = list(pairwise(shape.widths))
        self.first = TwoConvs(shape, shape.channels, shape.widths[0])
        self.down = nn.ModuleList(TwoConvs(shape, f, c) for f, c in finer_and_coarser)
        self.up = nn.ModuleList(_doubling(shape, f, c) for f, c in reversed(finer_and_coarser))
        learnt = shape.up == "transpose"  # nearest doubling keeps the coarser level's width
        self.merge = nn.ModuleList(
            TwoConvs(shape, f + (f if learnt else c), f) for f, c in reversed(finer_and_coarser)
        )
        self.last = CONVOLUTION[shape.dimensions](shape.widths[0], shape.outputs, kernel_size=1)
        self.halve = MAX_POOL[shape.dimensions](2)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores, shape (b, outputs, ...).

        Args:
            image: Normalised intensities, shape (b, channels, [slices,] rows, columns).

        Raises:
            ValueError: A side is not a multiple of `shape.multiple`; padding belongs to the
                caller, who also has to undo it.
        """
        if any(side % self.shape.multiple for side in image.shape[2:]):
            sides = " x ".join(str(side) for side in image.shape[2:])
            raise ValueError(f"image is {sides}, want multiples of {self.shape.multiple}")
        x = self.first(image)  # (b, w0, ...)
        skips: list[Tensor] = []
        for convs in self.down:
            skips.append(x)
            x = convs(self.halve(x))  # half as long on every side, next width
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))  # twice as long on every side
        scores: Tensor = self.last(x)
        return scores


def init_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all convolution weights from `generator` (He et al. 2015), in place."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _doubling(shape: UNetShape, finer: int, coarser: int) -> nn.Module:
    if shape.up == "nearest":
        return nn.Upsample(scale_factor=2, mode="nearest")
    up: nn.Module = TRANSPOSE[shape.dimensions](coarser, finer, kernel_size=2, stride=2)
    return up


def plan_unet(parameters: Parameters, dimensions: int) -> Plan:
    """Read the parameters of `unet2d` and `unet3d`."""
    shape = UNetShape(
        dimensions=dimensions,
        channels=parameters.channels,
        outputs=parameters.outputs,
        widths=parameters.widths("widths", 2, 7),
        norm=parameters.choice("norm", ("batch", "instance")),
        activation=parameters.choice("activation", ("relu", "leaky_relu")),
        up=parameters.choice("up", ("nearest", "transpose")),
    )
    return Plan(dimensions, (shape.multiple,) * dimensions, lambda: UNet(shape))
