"""A card with its network in memory, ready to give scores.

What can change a label is fixed here: engine, precision, threads, device and the number of
planes per call. `runtime` says each of them, and it goes into every result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from node.errors import setup_error
from node.models.architectures import build_network, dimensions, size_multiples
from node.models.card import Card
from node.models.device import choose_device, device_name, has_bf16, usable_cores
from node.models.features import FeatureSet, read_features
from node.models.weights import put_weights, read_weights_file

_AXES_FROM_END = {"slice": -3, "row": -2, "column": -1}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that can be run.

    Attributes:
        card: What it is.
        network: In evaluation mode, on `device`.
        device: Where it runs.
        precision: `fp32` or `bf16`; a card's bf16 is fp32 where the device has no bf16.
        threads: CPU threads of one pass.
        runtime: Facts of a run, for provenance.
        first: The model of the card's stage, which runs before this one.
        features: What the training set looked like, where the card names it.
    """

    card: Card
    network: nn.Module
    device: torch.device
    precision: str
    threads: int
    runtime: Mapping[str, str]
    first: LoadedModel | None = None
    features: FeatureSet | None = None

    def scores(self, batch: Tensor) -> Tensor:
        """Return float32 scores (b, outputs, ...) on `device`, mirrored passes averaged.

        Args:
            batch: Normalised intensities, (b, channels, [slices,] rows, columns), float32.
        """
        image = batch.to(self.device)
        if _wants_channels_last(self.card, self.device):
            image = image.to(memory_format=torch.channels_last)
        axes = [_AXES_FROM_END[name] for name in self.card.inference.mirrors]
        total: Tensor | None = None
        for choice in range(1 << len(axes)):
            flip = [axis for bit, axis in enumerate(axes) if choice >> bit & 1]
            scores = self._pass(image.flip(flip) if flip else image)
            scores = scores.flip(flip) if flip else scores
            total = scores if total is None else total.add_(scores)
        if total is None:
            raise AssertionError("there is always the pass that is not mirrored")
        return total.div_(1 << len(axes)) if axes else total

    def _pass(self, image: Tensor) -> Tensor:
        low = self.precision == "bf16"
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low),
        ):
            scores: Tensor = self.network(image)
        return scores.float()


def load_model(card: Card, *, device: str = "auto", threads: int = 0) -> LoadedModel:
    """Build the card's network, fill it with its weights and fix how it runs.

    Sets torch's number of threads for the whole process.

    Args:
        card: The model.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads where the card does not fix them; 0 takes one per usable core.

    Raises:
        SetupError: The weights are missing or not those of the card, they do not fit the
            network, the card contradicts itself, or the device is not there.
    """
    check_sizes(card)
    first = None if card.first is None else load_model(card.first, device=device, threads=threads)
    chosen = choose_device(device)
    count = card.inference.threads or threads or usable_cores()
    torch.set_num_threads(count)
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    network = runnable_network(card)
    network.eval().requires_grad_(requires_grad=False).to(chosen)
    if _wants_channels_last(card, chosen):
        # Module.to takes the keyword; its type stub does not know it.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = card.inference.precision if has_bf16(chosen) else "fp32"
    runtime = {
        "engine": f"torch {torch.__version__}",
        "device": device_name(chosen),
        "precision": precision,
        "threads": str(count),
        "batch": str(card.inference.batch),
    }
    return LoadedModel(card, network, chosen, precision, count, runtime, first, read_features(card))


def runnable_network(card: Card) -> nn.Module:
    """Return the card's network with its weights, as inference calls it.

    Of several weights files it is the ensemble; a 2D network in a window of one slice is given
    that slice.

    Raises:
        SetupError: The weights are missing or not those of the card, or do not fit.
    """
    members = []
    for each in card.weights.files:
        path = card.folder / each.file
        network = build_network(card.network)
        put_weights(network, read_weights_file(path, sha256=each.sha256), where=path)
        members.append(network)
    found = members[0] if len(members) == 1 else Ensemble(members)
    flat = card.inference.mode == "window" and dimensions(card.network) == 2
    return OneSlice(found) if flat else found


class Ensemble(nn.Module):
    """The mean of the scores of several networks of one shape."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, ...) from (b, channels, ...)."""
        first, *others = self.members
        total: Tensor = first(image)
        for member in others:
            total = total + member(image)
        return total / len(self.members)


class OneSlice(nn.Module):
    """A 2D network that is given 3D patches of one slice."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return scores (b, outputs, 1, h, w) from (b, channels, 1, h, w)."""
        scores: Tensor = self.network(image.squeeze(2))
        return scores.unsqueeze(2)


def check_sizes(card: Card) -> None:
    """Check that windows and patches are what the network can take.

    Raises:
        SetupError: They are not.
    """
    mistakes = size_mistakes(card)
    if mistakes:
        raise setup_error(
            "card-invalid",
            " ".join(mistakes),
            where=str(card.folder / "card.toml"),
            remedy="Change [voxels] size, or [inference] mode and patch.",
        )


def size_mistakes(card: Card) -> tuple[str, ...]:
    """Return a sentence for each size that the network cannot take."""
    mistakes = []
    sides = dimensions(card.network)
    mode, patch = card.inference.mode, card.inference.patch
    if sides == 3 and (patch is None or patch[0] == 1):
        mistakes.append(
            f'{card.network.architecture} runs with inference.mode = "window" and a patch of '
            f"several slices, the card says {_mode_words(card)}."
        )
    if sides == 2 and patch is not None and patch[0] != 1:
        mistakes.append(
            f'{card.network.architecture} runs with inference.mode = "slices" or "frames", or with '
            f"a patch of 1 slice, the card says {_mode_words(card)}."
        )
    multiples = size_multiples(card.network)
    # A patch is all that the network sees; the window around it may have any size.
    name, sizes = ("patch", patch) if mode == "window" else ("voxels.size", card.voxels.size)
    used = () if sizes is None else sizes[-len(multiples) :]
    if any(size % multiple for size, multiple in zip(used, multiples, strict=False)):
        same = multiples[0] if len(set(multiples)) == 1 else list(multiples)
        mistakes.append(f"{name} must hold multiples of {same}, is {list(used)}.")
    return tuple(mistakes)


def _mode_words(card: Card) -> str:
    patch = card.inference.patch
    return (
        f'"{card.inference.mode}"' if patch is None else f'"window" with a patch of {list(patch)}'
    )


def _wants_channels_last(card: Card, device: torch.device) -> bool:
    """Say whether the channels-last layout is the fast one.

    On CPU it makes BatchNorm networks 1.5 to 3 times faster; InstanceNorm converts to and fro.
    """
    instance = str(card.network.parameters.get("norm")).startswith("instance")
    return device.type == "cpu" and card.inference.mode != "window" and not instance
