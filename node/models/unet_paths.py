"""A 2D U-Net that normalises behind the activation, as a published nodule network has it.

Parameter names are those of the published weights: `input_batchnorm`, `unet.down_path.N.block`,
`unet.up_path.N.up`, `unet.up_path.N.conv_block.block`, `unet.last`. Sides are halved by averaging.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.models.parameters import Parameters, Plan


class UNetPaths(nn.Module):
    """Scores for each pixel, before the sigmoid.

    Args of the constructor: input and output channels, and the feature channels per level,
    finest first.
    """

    def __init__(self, channels: int, outputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.input_batchnorm = nn.BatchNorm2d(channels)
        c_in = (channels, *widths[:-1])
        self.unet = nn.Module()
        self.unet.down_path = nn.ModuleList(_block(a, b) for a, b in zip(c_in, widths, strict=True))
        self.unet.up_path = nn.ModuleList(
            nn.ModuleDict(
                OrderedDict(
                    up=nn.ConvTranspose2d(coarse, fine, 2, 2), conv_block=_block(2 * fine, fine)
                )
            )
            for coarse, fine in pairwise(reversed(widths))
        )
        self.unet.last = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, h, w) from (b, channels, h, w)."""
        x = self.input_batchnorm(image)
        skips: list[Tensor] = []
        for place, block in enumerate(self.unet.get_submodule("down_path").children()):
            x = block(functional.avg_pool2d(x, 2) if place else x)  # half as high and wide
            skips.append(x)
        skips.pop()
        for step in self.unet.get_submodule("up_path").children():
            wide = step.get_submodule("up")(x)  # twice as high and wide
            x = step.get_submodule("conv_block")(torch.cat([wide, skips.pop()], dim=1))
        scores: Tensor = self.unet.get_submodule("last")(x)
        return scores


def _block(c_in: int, c_out: int) -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(c_out),
        nn.Conv2d(c_out, c_out, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(c_out),
    )
    return nn.Sequential(OrderedDict(block=layers))


def plan_unet_paths(parameters: Parameters) -> Plan:
    """Read the parameters of `unet2d_paths`."""
    widths = parameters.widths("widths", 2, 7)
    multiple = 1 << (len(widths) - 1)
    return Plan(
        2,
        (multiple, multiple),
        lambda: UNetPaths(parameters.channels, parameters.outputs, widths),
    )
