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
from node.models.basic_unet import plan_basic_unet
from node.models.dynunet import plan_dynunet
from node.models.monai_unet import plan_monai_unet
from node.models.parameters import Parameters, Plan, Sides
from node.models.parts import Network
from node.models.plain_unet import plan_plain_unet
from node.models.resenc_unet import plan_resenc_unet
from node.models.segresnet import plan_segresnet
from node.models.unet import plan_unet
from node.models.unet_conv_transpose import plan_unet_conv_transpose
from node.models.unet_paths import plan_unet_paths
from node.models.vgg16_unet import plan_vgg16_unet

_PLANS: Final[Mapping[str, Callable[[Parameters], Plan]]] = {
    "unet2d": lambda parameters: plan_unet(parameters, 2),
    "unet3d": lambda parameters: plan_unet(parameters, 3),
    "unet2d_conv_transpose": plan_unet_conv_transpose,
    "unet2d_paths": plan_unet_paths,
    "vgg16_unet": plan_vgg16_unet,
    "plain_unet": plan_plain_unet,
    "resenc_unet": plan_resenc_unet,
    "monai_unet": plan_monai_unet,
    "dynunet": plan_dynunet,
    "segresnet": plan_segresnet,
    "basic_unet": plan_basic_unet,
}


def network_mistakes(network: Network) -> tuple[str, ...]:
    """Return a sentence for everything that is wrong with a [network] table."""
    if network.architecture not in _PLANS:
        near = difflib.get_close_matches(network.architecture, _PLANS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        known = ", ".join(_PLANS)
        return (
            f"There is no architecture '{network.architecture}'{hint} The known ones are {known}.",
        )
    return _planned(network)[1]


def build_network(network: Network) -> nn.Module:
    """Return the network with weights as torch draws them.

    Raises:
        SetupError: The architecture is not known or a parameter is wrong.
    """
    return _plan(network).build()


def size_multiples(network: Network) -> Sides:
    """Return what each side of the network's input must be a multiple of, one per dimension.

    Raises:
        SetupError: The architecture is not known or a parameter is wrong.
    """
    return _plan(network).multiples


def size_multiple(network: Network) -> int:
    """Return the largest of `size_multiples`."""
    return max(size_multiples(network))


def dimensions(network: Network) -> int:
    """Return 2 or 3.

    Raises:
        SetupError: The architecture is not known or a parameter is wrong.
    """
    return _plan(network).dimensions


def _plan(network: Network) -> Plan:
    if mistakes := network_mistakes(network):
        raise setup_error(
            "network-invalid",
            " ".join(mistakes),
            where="[network] in card.toml",
            remedy="docs/models.md lists the architectures with their parameters.",
        )
    return _planned(network)[0]


def _planned(network: Network) -> tuple[Plan, tuple[str, ...]]:
    parameters = Parameters(network)
    plan = _PLANS[network.architecture](parameters)
    parameters.finish()
    return plan, tuple(parameters.mistakes)
