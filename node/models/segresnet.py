"""MONAI's `SegResNet`: a residual encoder, additive skips, channels doubled at each level.

Parameter names are those of `monai.networks.nets.SegResNet` (without the autoencoder branch).
The activation in `conv_final` has none of its own, so both share a name and nothing else.

Source: Myronenko, arXiv 1810.11654; names and shapes of MONAI 1.6 state dicts.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from node.models.layers import CONVOLUTION, LINEAR, TRANSPOSE, activation_layer, norm_layer
from node.models.parameters import Parameters, Plan


@dataclass(frozen=True, slots=True)
class SegResNetShape:
    """What must be known to rebuild the network.

    Attributes:
        dimensions: 2 or 3.
        channels: Input channels.
        outputs: Output channels.
        width: Feature channels of the finest level.
        down: Residual blocks per level on the way down.
        up: The same on the way up, coarsest first.
        norm: A word of `layers.norm_layer`.
        groups: Of norm `group`.
        activation: A word of `layers.activation_layer`.
        slope: Of leaky_relu.
        enlarge: `linear`, or `transpose` (learnt).
    """

    dimensions: int
    channels: int
    outputs: int
    width: int
    down: tuple[int, ...]
    up: tuple[int, ...]
    norm: str
    groups: int
    activation: str
    slope: float
    enlarge: str


class ResBlock(nn.Module):
    """Normalise, activate, convolve; twice, beside the block's input."""

    def __init__(self, shape: SegResNetShape, channels: int) -> None:
        super().__init__()
        self.norm1 = norm_layer(shape.norm, shape.dimensions, channels, shape.groups)
        self.norm2 = norm_layer(shape.norm, shape.dimensions, channels, shape.groups)
        self.act = activation_layer(shape.activation, shape.slope)
        self.conv1 = _convolution(shape, channels, channels)
        self.conv2 = _convolution(shape, channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        x = self.conv1(self.act(self.norm1(features)))
        added: Tensor = self.conv2(self.act(self.norm2(x))) + features
        return added


class SegResNet(nn.Module):
    """Scores for each voxel and class, before softmax or sigmoid."""

    def __init__(self, shape: SegResNetShape) -> None:
        super().__init__()
        self.convInit = _convolution(shape, shape.channels, shape.width)
        self.down_layers = nn.ModuleList(
            nn.Sequential(
                _convolution(shape, shape.width << (n - 1), shape.width << n, stride=2)
                if n
                else nn.Identity(),
                *(ResBlock(shape, shape.width << n) for _ in range(count)),
            )
            for n, count in enumerate(shape.down)
        )
        levels = [shape.width << n for n in reversed(range(len(shape.up)))]
        self.up_layers = nn.ModuleList(
            nn.Sequential(*(ResBlock(shape, channels) for _ in range(count)))
            for channels, count in zip(levels, shape.up, strict=True)
        )
        self.up_samples = nn.ModuleList(
            nn.Sequential(
                _convolution(shape, 2 * channels, channels, kernel=1), _enlarge(shape, channels)
            )
            for channels in levels
        )
        self.conv_final = nn.Sequential(
            norm_layer(shape.norm, shape.dimensions, shape.width, shape.groups),
            activation_layer(shape.activation, shape.slope),
            _convolution(shape, shape.width, shape.outputs, kernel=1, bias=True),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, ...) from (b, channels, ...)."""
        x = self.convInit(image)
        skips = []
        for down in self.down_layers:
            x = down(x)
            skips.append(x)
        skips.pop()
        for enlarge, layer in zip(self.up_samples, self.up_layers, strict=True):
            x = layer(enlarge(x) + skips.pop())  # twice as long on every side
        scores: Tensor = self.conv_final(x)
        return scores


def _convolution(
    shape: SegResNetShape,
    c_in: int,
    c_out: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = False,
) -> nn.Module:
    conv = CONVOLUTION[shape.dimensions](c_in, c_out, kernel, stride, kernel // 2, bias=bias)
    return nn.Sequential(OrderedDict(conv=conv))


def _enlarge(shape: SegResNetShape, channels: int) -> nn.Module:
    if shape.enlarge == "linear":
        return nn.Upsample(scale_factor=2, mode=LINEAR[shape.dimensions], align_corners=False)
    deconv = TRANSPOSE[shape.dimensions](channels, channels, 2, 2)
    return nn.Sequential(OrderedDict(deconv=deconv))


def plan_segresnet(parameters: Parameters) -> Plan:
    """Read the parameters of `segresnet`."""
    dimensions = parameters.dimensions()
    width = parameters.whole("width", 1, 512, 8)
    levels = parameters.widths("blocks_down", 2, 8)
    down = levels if max(levels) <= 32 else (1,) * len(levels)
    shape = SegResNetShape(
        dimensions=dimensions,
        channels=parameters.channels,
        outputs=parameters.outputs,
        width=width,
        down=down,
        up=parameters.counts("blocks_up", len(down) - 1, 1),
        norm=parameters.choice("norm", ("group", "instance", "instance_plain", "batch")),
        groups=parameters.whole("groups", 1, 256, 8),
        activation=parameters.choice("activation", ("relu", "leaky_relu", "prelu")),
        slope=parameters.slope(),
        enlarge=parameters.choice("up", ("linear", "transpose")),
    )
    if down != levels:
        parameters.note("blocks_down", "a level has at most 32 blocks")
    if shape.norm == "group" and width % shape.groups:
        parameters.note("groups", f"must divide width = {width}, is {shape.groups}")
    multiples = (1 << (len(down) - 1),) * dimensions
    return Plan(dimensions, multiples, lambda: SegResNet(shape))
