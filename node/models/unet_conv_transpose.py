"""A small 2D U-Net with learnt doubling of kernel 3, as several published lung networks use it.

Its parameter names are those of the published weights, so that they load with a strict match:
`conv1..n`, `middle`, `upsample n..1`, `upconv n..1`, `final`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.models.parameters import Parameters, Plan


class UNetConvTranspose(nn.Module):
    """Scores for each pixel, before the sigmoid.

    Args of the constructor: input and output channels, and the feature channels per level,
    finest first.
    """

    def __init__(self, channels: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.levels = len(widths) - 1
        c_in = channels
        for level, width in enumerate(widths[:-1], start=1):
            self.add_module(f"conv{level}", _two_convs(c_in, width))
            c_in = width
        self.middle = _two_convs(widths[-2], widths[-1])
        for level, (finer, coarser) in enumerate(pairwise(widths), start=1):
            self.add_module(
                f"upsample{level}",
                nn.ConvTranspose2d(
                    coarser, finer, kernel_size=3, stride=2, padding=1, output_padding=1
                ),
            )
            self.add_module(f"upconv{level}", _two_convs(2 * finer, finer))
        self.final = nn.Conv2d(widths[0], outputs, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores, shape (b, outputs, h, w), from (b, channels, h, w)."""
        x = image
        skips: list[Tensor] = []
        for level in range(1, self.levels + 1):
            skips.append(self.get_submodule(f"conv{level}")(x))
            x = functional.max_pool2d(skips[-1], 2)  # half as high and wide
        x = self.middle(x)
        for level in range(self.levels, 0, -1):
            x = self.get_submodule(f"upsample{level}")(x)  # twice as high and wide
            x = self.get_submodule(f"upconv{level}")(torch.cat([x, skips.pop()], dim=1))
        scores: Tensor = self.final(x)
        return scores


def _two_convs(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size=3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_out, c_out, kernel_size=3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


def plan_unet_conv_transpose(parameters: Parameters) -> Plan:
    """Read the parameters of `unet2d_conv_transpose`."""
    widths = parameters.widths("widths", 2, 7)
    multiple = 1 << (len(widths) - 1)
    return Plan(
        2,
        (multiple, multiple),
        lambda: UNetConvTranspose(parameters.channels, parameters.outputs, widths),
    )
