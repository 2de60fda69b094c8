"""Explain everything that is wrong with a model folder, for `limner models check`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from node.errors import Fault, SetupError
from node.models.architectures import build_network, network_mistakes, size_multiples
from node.models.card import Card, load_card
from node.models.device import has_bf16
from node.models.features import read_features
from node.models.loaded import size_mistakes
from node.models.testcase import read_test_case
from node.models.torch_runtime import TorchRuntime
from node.models.weights import key_mistakes, read_weights_file

_LARGEST_SHARE: Final = 0.25  # of the scores' spread, that bf16 may differ from fp32


def check_model(folder: Path) -> tuple[Fault, ...]:
    """Return a fault for each thing that is wrong; empty if the model can be used.

    Mistakes in the card are one fault that names them all. If the card can be read, weights,
    network and sizes are judged apart, and the network is run once.
    """
    try:
        card = load_card(folder)
    except SetupError as error:
        return (error.fault,)
    faults = [
        _fault(card, "card-invalid", sentence, "Change card.toml; docs/models.md shows every key.")
        for sentence in (*network_mistakes(card.network),)
    ]
    if card.test_case is not None:
        try:
            read_test_case(card.folder, card.test_case)
        except SetupError as error:
            faults.append(error.fault)
    members = []
    for each in card.weights.files:
        try:
            members.append(read_weights_file(folder / each.file, sha256=each.sha256))
        except SetupError as error:
            faults.append(error.fault)
    if faults:
        return tuple(faults)
    faults += [
        _fault(card, "card-invalid", sentence, "Change [voxels] size or [inference].")
        for sentence in size_mistakes(card)
    ]
    network = build_network(card.network)
    unfit = [sentence for weights in members for sentence in key_mistakes(network, weights)]
    faults += [
        _fault(
            card,
            "model-weights-keys",
            sentence,
            "The [network] table must describe the network that was trained.",
        )
        for sentence in unfit
    ]
    if faults:
        return tuple(faults)
    network.load_state_dict(members[0], strict=False)
    try:
        read_features(card)
    except SetupError as error:
        return (error.fault,)
    return tuple(
        _fault(card, "model-run", sentence, "Do not use this model as it is.")
        for sentence in _run_once(card, network.eval())
    )


def _run_once(card: Card, network: torch.nn.Module) -> tuple[str, ...]:
    """Give the network one small random input and judge what comes out."""
    # Two voxels on each side of the coarsest level: an instance has to have a spread.
    shape = (1, card.network.channels, *[2 * one for one in size_multiples(card.network)])
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    cpu = torch.device("cpu")
    with torch.no_grad():
        plain = network(image).float()
    mistakes = []
    if plain.shape != (1, card.network.outputs, *shape[2:]):
        mistakes.append(f"The network gives {tuple(plain.shape)} for {shape}.")
    if not bool(torch.isfinite(plain).all()):
        mistakes.append("The network gives scores that are not finite.")
    if card.inference.precision == "bf16" and has_bf16(cpu) and not mistakes:
        low = TorchRuntime(network, device=cpu, precision="bf16", threads=torch.get_num_threads())
        apart = float((low.scores(image) - plain).abs().max())
        if apart > _LARGEST_SHARE * float(plain.std()) + 1e-3:
            mistakes.append(
                f"In bf16 the scores differ by {apart:.3g} from fp32, whose spread is "
                f'{float(plain.std()):.3g}: use precision = "fp32".'
            )
    return tuple(mistakes)


def _fault(card: Card, code: str, what: str, remedy: str) -> Fault:
    return Fault(code=code, what=what, where=str(card.folder), remedy=remedy)
