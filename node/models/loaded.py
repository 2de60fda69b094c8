"""A card with its network in memory, ready to give scores.

What can change a label is fixed here: engine, precision, threads, device and the number of
planes per call. `runtime` says each of them, and it goes into every result. torch in the card's
precision is the reference; a faster runtime is taken where the model's own test case shows that
it keeps the labels (`selfcheck`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from node.errors import setup_error
from node.imaging.values import Labels, Volume
from node.models.architectures import build_network, dimensions, size_multiples
from node.models.card import Card
from node.models.device import choose_device, has_bf16, usable_cores
from node.models.features import FeatureSet, read_features
from node.models.native import labels_of
from node.models.openvino_runtime import OpenVinoRuntime
from node.models.prepare import prepare
from node.models.runtime import Runtime
from node.models.scores import Meter, Work
from node.models.selfcheck import Candidate, first_that_keeps
from node.models.testcase import read_test_case
from node.models.torch_runtime import TorchRuntime
from node.models.weights import put_weights, read_weights_file
from node.settings import RUNTIMES

_AXES_FROM_END = {"slice": -3, "row": -2, "column": -1}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that can be run.

    Attributes:
        card: What it is.
        network: As torch knows it, in evaluation mode.
        runner: What runs it.
        chosen: How the runner was chosen, a sentence; empty where nothing was to be chosen.
        spare: Loads the model on the CPU, for a volume that the GPU cannot hold; None where there
            is no GPU or a person said that it must be one.
        first: The model of the card's stage, which runs before this one.
        features: What the training set looked like, where the card names it.
    """

    card: Card
    network: nn.Module
    runner: Runtime
    chosen: str = ""
    spare: Callable[[], LoadedModel] | None = None
    first: LoadedModel | None = None
    features: FeatureSet | None = None

    @property
    def device(self) -> torch.device:
        """Where scores lie."""
        return self.runner.device

    @property
    def threads(self) -> int:
        """CPU threads of one pass."""
        return self.runner.facts.threads

    @property
    def runtime(self) -> Mapping[str, str]:
        """Facts of a run, for provenance."""
        chosen = {"chosen": self.chosen} if self.chosen else {}
        batch = str(self.card.inference.batch)
        return {**self.runner.facts.as_mapping(), "batch": batch, **chosen}

    def scores(self, batch: Tensor) -> Tensor:
        """Return float32 scores (b, outputs, ...) on `device`, mirrored passes averaged.

        Args:
            batch: Normalised intensities, (b, channels, [slices,] rows, columns), float32.
        """
        axes = [_AXES_FROM_END[name] for name in self.card.inference.mirrors]
        if not axes:
            return self.runner.scores(batch)
        total = self.runner.scores(batch)
        for choice in range(1, 1 << len(axes)):
            flip = [axis for bit, axis in enumerate(axes) if choice >> bit & 1]
            total.add_(self.runner.scores(batch.flip(flip)).flip(flip))
        return total.div_(1 << len(axes))


def load_model(
    card: Card, *, device: str = "auto", threads: int = 0, runtime: str = "auto"
) -> LoadedModel:
    """Build the card's network, fill it with its weights and fix how it runs.

    Sets torch's number of threads for the whole process. A runtime other than torch is tried on
    the card's test case, which takes seconds.

    Args:
        card: The model.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads where the card does not fix them; 0 takes one per usable core.
        runtime: One of `settings.RUNTIMES`.

    Raises:
        SetupError: The weights or the test case are missing or not those of the card, the weights
            do not fit the network, the card contradicts itself, or the device or the runtime is
            not there or changes the labels of the test case.
    """
    check_sizes(card)
    first = None
    if card.first is not None:
        first = load_model(card.first, device=device, threads=threads, runtime=runtime)
    chosen = choose_device(device)
    _check_runtime(runtime, chosen)
    count = card.inference.threads or threads or usable_cores()
    torch.set_num_threads(count)
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    network = runnable_network(card)
    network.eval().requires_grad_(requires_grad=False)
    plain = LoadedModel(
        card,
        network,
        TorchRuntime(network, device=chosen, precision="fp32", threads=count),
        first=first,
        features=read_features(card),
    )
    if device == "auto" and chosen.type == "cuda":
        spare = partial(load_model, card, device="cpu", threads=threads, runtime=runtime)
        plain = dataclasses.replace(plain, spare=spare)
    if card.test_case is None:
        return _untried(plain, runtime, count)
    return _tried(plain, read_test_case(card.folder, card.test_case), runtime, count)


def _untried(plain: LoadedModel, runtime: str, threads: int) -> LoadedModel:
    """Return a model without a test case: on torch, or on what a person asked for."""
    card, network = plain.card, plain.network
    if runtime == "openvino":
        return dataclasses.replace(
            plain,
            runner=OpenVinoRuntime(network, threads=threads, precision="fp32"),
            chosen="OpenVINO was asked for; the model has no test case to compare its labels.",
        )
    precision = card.inference.precision if has_bf16(plain.device) else "fp32"
    if precision == "fp32":
        return plain
    runner = TorchRuntime(network, device=plain.device, precision=precision, threads=threads)
    return dataclasses.replace(plain, runner=runner)


def _tried(plain: LoadedModel, case: Volume, runtime: str, threads: int) -> LoadedModel:
    """Return the model with the first runtime that keeps the labels of its test case."""
    prepared = prepare(case, plain.card)

    def labels(runner: Runtime | None) -> Labels:
        model = plain if runner is None else dataclasses.replace(plain, runner=runner)
        meter = Meter(lambda _share: None)
        return labels_of(prepared, model, meter, Work(plain.card.inference.batch))

    choice = first_that_keeps(_candidates(plain, runtime, threads), labels)
    if runtime == "openvino" and choice.runtime is None:
        raise setup_error(
            "runtime-changes-labels",
            f"OpenVINO was asked for {plain.card.name}. {choice.said}",
            where="worker.runtime",
            remedy='Write runtime = "auto" or "torch".',
        )
    return dataclasses.replace(plain, runner=choice.runtime or plain.runner, chosen=choice.said)


def _candidates(plain: LoadedModel, runtime: str, threads: int) -> tuple[Candidate, ...]:
    """Return the runtimes to try, the fastest first."""
    card, device, network = plain.card, plain.device, plain.network
    torch_in = partial(TorchRuntime, network, device=device, threads=threads)
    if device.type == "cuda":
        return (Candidate("torch in fp16", partial(torch_in, precision="fp16")),)
    low = has_bf16(device)
    found: list[Candidate] = []
    if runtime != "torch" and _has_openvino():
        found += [
            Candidate(
                f"OpenVINO in {precision}",
                partial(OpenVinoRuntime, network, threads=threads, precision=precision),
            )
            for precision in (("bf16", "fp32") if low else ("fp32",))
        ]
    if runtime != "openvino" and low and card.inference.precision == "bf16":
        found.append(Candidate("torch in bf16", partial(torch_in, precision="bf16")))
    return tuple(found)


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _check_runtime(runtime: str, device: torch.device) -> None:
    """Check that a runtime that was asked for is there.

    Raises:
        SetupError: It is not.
    """
    if runtime not in RUNTIMES:
        raise setup_error(
            "runtime-unknown",
            f"The runtime must be one of {', '.join(RUNTIMES)}, is '{runtime}'.",
            where="worker.runtime",
            remedy='Write runtime = "auto".',
        )
    if runtime == "openvino" and not (_has_openvino() and device.type == "cpu"):
        why = "it is not installed" if device.type == "cpu" else "the device is a GPU"
        raise setup_error(
            "runtime-missing",
            f"OpenVINO was asked for, and {why}.",
            where="worker.runtime",
            remedy="Install it with `pip install 'limner[cpu]'` and write device = \"cpu\", or "
            'write runtime = "auto".',
        )


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
