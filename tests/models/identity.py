"""A U-Net whose scores are its input: its labels are a threshold, known before it runs."""

from __future__ import annotations

import torch

from node.models.architectures import build_network
from node.models.parts import Network


def identity_network(network: Network) -> torch.nn.Module:
    """Return the network with weights that carry a positive input through to the output.

    The finest level hands channel 0 on by the centre of each kernel, everything else is zero.
    Of two outputs the background scores 0 and the other class the input minus 0.5, which is also
    what a single output scores.
    """
    model = build_network(network)
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    finest = f"merge.{len(network.parameters['widths']) - 2}"  # type: ignore[arg-type]
    for convs in ("first", finest):
        for convolution, norm in ((0, 1), (3, 4)):
            weight = state[f"{convs}.{convolution}.weight"]
            weight[(0, 0, *(1 for _ in weight.shape[2:]))] = 1.0
            state[f"{convs}.{norm}.weight"] += (1.0 + 1e-5) ** 0.5  # undoes the norm's epsilon
            state[f"{convs}.{norm}.running_var"] += 1.0
    state["last.weight"][-1, 0] = 1.0
    state["last.bias"][-1] = -0.5
    model.load_state_dict(state)
    return model.eval()
