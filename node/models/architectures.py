"""Named architectures: from a card's [network] table to a network without weights.

A name is looked up in one table; nothing is imported or found by name. Each architecture checks
its own parameters and tells all mistakes at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from node.errors import setup_error
from node.models.parts import Network, Parameter
from node.models.unet import UNet, UNetShape
from node.models.unet_conv_transpose import UNetConvTranspose

_LEVELS: Final = (2, 7)
_WIDEST: Final = 1024


def network_mistakes(network: Network) -> tuple[str, ...]:
    """Return a sentence for everything that is wrong with a [network] table."""
    if network.architecture not in _BUILDERS:
        near = difflib.get_close_matches(network.architecture, _BUILDERS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        known = ", ".join(_BUILDERS)
        return (
            f"There is no architecture '{network.architecture}'{hint} The known ones are {known}.",
        )
    allowed = _CHOICES[network.architecture]
    mistakes = [
        f"network.{key}: {network.architecture} has no such parameter; it has "
        f"{', '.join(('widths', *allowed))}."
        for key in network.parameters
        if key != "widths" and key not in allowed
    ]
    widths = network.parameters.get("widths")
    if not _are_widths(widths):
        mistakes.append(
            f"network.widths: must be {_LEVELS[0]} to {_LEVELS[1]} whole numbers of 1 to "
            f"{_WIDEST}, finest level first, is {widths!r}."
        )
    for key, choices in allowed.items():
        value = network.parameters.get(key, choices[0])
        if value not in choices:
            mistakes.append(f"network.{key}: must be one of {', '.join(choices)}, is {value!r}.")
    return tuple(mistakes)


def build_network(network: Network) -> nn.Module:
    """Return the network with weights as torch draws them.

    Raises:
        SetupError: The architecture is not known or a parameter is wrong.
    """
    if mistakes := network_mistakes(network):
        raise setup_error(
            "network-invalid",
            " ".join(mistakes),
            where="[network] in card.toml",
            remedy="docs/models.md lists the architectures with their parameters.",
        )
    return _BUILDERS[network.architecture](network)


def size_multiple(network: Network) -> int:
    """Return what every side of the network's input must be a multiple of."""
    return 1 << (len(_widths(network.parameters)) - 1)


def dimensions(network: Network) -> int:
    """Return 2 or 3."""
    return 3 if network.architecture == "unet3d" else 2


def _unet(network: Network) -> nn.Module:
    words = {
        key: str(network.parameters.get(key, choices[0]))
        for key, choices in _CHOICES[network.architecture].items()
    }
    return UNet(
        UNetShape(
            dimensions=dimensions(network),
            channels=network.channels,
            outputs=network.outputs,
            widths=_widths(network.parameters),
            norm=words["norm"],
            activation=words["activation"],
            up=words["up"],
        )
    )


def _unet_conv_transpose(network: Network) -> nn.Module:
    return UNetConvTranspose(network.channels, network.outputs, _widths(network.parameters))


def _are_widths(widths: Parameter | None) -> bool:
    return (
        isinstance(widths, tuple)
        and _LEVELS[0] <= len(widths) <= _LEVELS[1]
        and all(1 <= width <= _WIDEST for width in widths)
    )


def _widths(parameters: Mapping[str, Parameter]) -> tuple[int, ...]:
    widths = parameters["widths"]
    if not isinstance(widths, tuple):
        raise TypeError(f"widths were not checked: {widths!r}")
    return widths


_UNET_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "norm": ("batch", "instance"),
    "activation": ("relu", "leaky_relu"),
    "up": ("nearest", "transpose"),
}
_CHOICES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "unet2d": _UNET_CHOICES,
    "unet3d": _UNET_CHOICES,
    "unet2d_conv_transpose": {},
}
"""Per architecture: the parameters beside `widths`, each with its words, the default first."""

_BUILDERS: Final[Mapping[str, Callable[[Network], nn.Module]]] = {
    "unet2d": _unet,
    "unet3d": _unet,
    "unet2d_conv_transpose": _unet_conv_transpose,
}
