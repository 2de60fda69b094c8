"""Layers by number of dimensions and by the words that a card's [network] uses for them.

One table each, so that every architecture says `norm = "instance"` and means the same. The
defaults of torch hold otherwise: an epsilon of 1e-5 in every normalisation.
"""

from __future__ import annotations

from typing import Any, Final

from torch import nn

CONVOLUTION: Final[dict[int, Any]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSE: Final[dict[int, Any]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: Final[dict[int, Any]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL: Final[dict[int, Any]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
LINEAR: Final[dict[int, str]] = {2: "bilinear", 3: "trilinear"}
"""What torch calls linear interpolation."""

_BATCH: Final[dict[int, Any]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE: Final[dict[int, Any]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def norm_layer(name: str, dimensions: int, channels: int, groups: int = 8) -> nn.Module:
    """Return a normalisation.

    Args:
        name: `batch`, `instance` (with learnt scale and offset), `instance_plain` (without), or
            `group`.
        dimensions: 2 or 3.
        channels: Feature channels.
        groups: Groups of channels, for `group`.
    """
    if name == "group":
        return nn.GroupNorm(groups, channels)
    made: nn.Module
    if name == "batch":
        made = _BATCH[dimensions](channels)
    else:
        made = _INSTANCE[dimensions](channels, affine=name == "instance")
    return made


def activation_layer(name: str, slope: float = 0.01) -> nn.Module:
    """Return `relu`, `leaky_relu` with its slope, or `prelu` with one learnt slope."""
    if name == "prelu":
        return nn.PReLU()
    return nn.LeakyReLU(slope, inplace=True) if name == "leaky_relu" else nn.ReLU(inplace=True)
