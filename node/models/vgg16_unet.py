"""A 2D U-Net whose encoder is VGG16, for transfer learning on ultrasound (the V-type).

The encoder's parameter names are torchvision's `features.N`, so that ImageNet weights can be put
in; its input is normalised inside, as those weights want it, from values of 0 to 1. One input
channel is repeated to three. The decoder doubles by learnt steps.

Source: Simonyan and Zisserman, ICLR 2015, configuration D; Cheng and Lam, arXiv 2110.02196, for
its use as the way down of a U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from node.models.layers import norm_layer
from node.models.parameters import Parameters, Plan

_LEVELS: Final = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Width and convolutions of each level of configuration D."""
_MEAN: Final = (0.485, 0.456, 0.406)
_SD: Final = (0.229, 0.224, 0.225)
_COLOURS: Final = 3


@dataclass(frozen=True, slots=True)
class Vgg16Shape:
    """What must be known to rebuild the network.

    Attributes:
        channels: 1 (repeated) or 3.
        outputs: Output channels.
        widths: Feature channels of the decoder, coarsest of its four levels first.
        norm: Of the decoder; a word of `layers.norm_layer`.
        imagenet: Whether the input is normalised as ImageNet weights want it.
    """

    channels: int
    outputs: int
    widths: tuple[int, ...]
    norm: str
    imagenet: bool


class Vgg16UNet(nn.Module):
    """Scores for each pixel and class, before softmax or sigmoid."""

    def __init__(self, shape: Vgg16Shape) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        self._ends: list[int] = []  # where each level's features are ready
        c_in = _COLOURS
        for width, count in _LEVELS:
            for _ in range(count):
                layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.ReLU(inplace=True)]
                c_in = width
            self._ends.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])  # nothing lies below the fifth level
        below = (_LEVELS[-1][0], *shape.widths[:-1])
        skips = [width for width, _ in reversed(_LEVELS[:-1])]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, width, 2, 2)
            for coarse, width in zip(below, shape.widths, strict=True)
        )
        self.merge = nn.ModuleList(
            _two(shape.norm, skip + width, width)
            for skip, width in zip(skips, shape.widths, strict=True)
        )
        self.last = nn.Conv2d(shape.widths[-1], shape.outputs, 1)
        # Not among the weights: the same numbers belong to every ImageNet encoder.
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(_SD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, h, w) from (b, 1 or 3, h, w)."""
        x = image.expand(-1, _COLOURS, -1, -1)  # (b, 3, h, w)
        if self.shape.imagenet:
            x = (x - self.get_buffer("mean")) / self.get_buffer("sd")
        skips: list[Tensor] = []
        for place, layer in enumerate(self.features, start=1):
            x = layer(x)
            if place in self._ends:
                skips.append(x)
        x = skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))  # twice as high and wide
        scores: Tensor = self.last(x)
        return scores


def _two(norm: str, c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        norm_layer(norm, 2, c_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        norm_layer(norm, 2, c_out),
        nn.ReLU(inplace=True),
    )


def plan_vgg16_unet(parameters: Parameters) -> Plan:
    """Read the parameters of `vgg16_unet`."""
    shape = Vgg16Shape(
        channels=parameters.channels,
        outputs=parameters.outputs,
        widths=parameters.widths("widths", 4, 4),
        norm=parameters.choice("norm", ("batch", "instance")),
        imagenet=parameters.flag("imagenet", default=True),
    )
    if shape.channels not in (1, _COLOURS):
        parameters.note("channels", f"must be 1 or 3 for vgg16_unet, is {shape.channels}")
    return Plan(2, (16, 16), lambda: Vgg16UNet(shape))
