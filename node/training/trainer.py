"""The trainer: examples in, a network with weights out, bit by bit the same for a seed.

One loop for slices and volumes, labels and shares, drawn patients and real cases. Every random
number comes from the seed. On one thread in float32 and with a budget of steps, the same torch
version on the same kind of processor gives the same weights, also when the training was killed
and taken up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from node.errors import setup_error
from node.models.architectures import build_network
from node.models.device import has_bf16
from node.models.parts import Network
from node.models.unet import init_weights
from node.training.augment import augment
from node.training.checkpoint import Standing, store, taken_up
from node.training.losses import loss_of, share_loss_of
from node.training.rates import one_cycle, poly
from node.training.recipe import Budget, Examples, Recipe
from node.training.sampling import Sampler
from node.training.supervision import Supervision

_STORE_EVERY_S: Final = 60.0
"""Wall seconds between two stored states; a kill costs at most these."""

_VIRTUAL_STEPS: Final = 10_000.0
"""In how many parts the minutes of a budget count as steps for rate and weights."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes:
        stage: `draw`, `train`, `score` or `write`.
        share: 0..1 of that stage.
        loss: Mean loss of the last steps; 0 outside `train`.
        step: Steps that are done; 0 outside `train`.
    """

    stage: str
    share: float
    loss: float = 0.0
    step: int = 0


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Means:
    """With what a training runs; nothing here is part of the recipe.

    Attributes:
        clock: Gives seconds that never run back.
        threads: Threads of torch; more than one may change the last bits.
        bf16: Compute the network in bf16 where the processor can.
        states: Where states are stored; None stores none.
    """

    clock: Callable[[], float]
    threads: int = 1
    bf16: bool = False
    states: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A network with weights, and what it took.

    Attributes:
        network: In evaluation mode.
        steps: Steps that were made.
        seconds: Wall seconds, those before a restart included.
        loss: Running mean of the loss at the end.
    """

    network: nn.Module
    steps: int
    seconds: float
    loss: float


def fit_network(
    network: Network,
    recipe: Recipe,
    examples: Examples,
    *,
    seed: int,
    budget: Budget,
    means: Means,
    made_from: str = "",
    report: Report = lambda _: None,
) -> Fitted:
    """Return a trained network.

    Args:
        network: The card's [network].
        recipe: Rates and variation.
        examples: What to learn from.
        seed: Seed of weights, order and variation.
        budget: Steps or minutes, and batch.
        means: Clock, threads, where states go.
        made_from: Digest of all that the result depends on, for stored states.
        report: Called after every step.

    Raises:
        SetupError: The loss is not a number twice in a row, or a stored state is another's.
    """
    with _threads(means.threads):
        training = _Training(network, recipe, examples, seed=seed, budget=budget, means=means)
        if means.states and (standing := taken_up(means.states, made_from)):
            training.go_to(standing)
        stored = means.clock()
        while training.share() < 1.0:
            training.step()
            report(Progress("train", min(training.share(), 1.0), training.loss, training.done))
            if means.states and means.clock() - stored > _STORE_EVERY_S:
                store(means.states, training.standing(made_from))
                stored = means.clock()
        if means.states:
            store(means.states, training.standing(made_from))
        return Fitted(training.result(), training.done, training.elapsed_s(), training.loss)


class _Training:
    """All that changes from step to step."""

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        examples: Examples,
        *,
        seed: int,
        budget: Budget,
        means: Means,
    ) -> None:
        self._recipe, self._budget, self._means = recipe, budget, means
        self._rng = np.random.Generator(np.random.PCG64([seed, 11]))
        drawn = torch.Generator().manual_seed(seed)
        self._model = build_network(network)
        init_weights(self._model, drawn)
        self._model.train()
        _lay_out(self._model, last=True)
        self._deep = Supervision(self._model, network.outputs, recipe.supervised, drawn)
        self._trained = [*self._model.parameters(), *self._deep.parameters()]
        self._optimiser = torch.optim.AdamW(
            self._trained, lr=recipe.rate, weight_decay=recipe.decay
        )
        self._mean = [one.detach().clone() for one in self._model.parameters() if recipe.ema]
        data = recipe.data
        self._sampler = Sampler(
            examples,
            batch=budget.batch,
            patch=data.patch if data else None,
            near=data.near if data else 0.0,
            background=recipe.background,
        )
        self._shares = examples.labels.dtype != np.uint8
        self._begun_s, self._spent_s = means.clock(), 0.0
        self._wrong = 0
        self.done, self.loss = 0, 0.0

    def elapsed_s(self) -> float:
        """Return the wall seconds spent, those before a restart included."""
        return self._spent_s + self._means.clock() - self._begun_s

    def share(self) -> float:
        """Return how much of the budget is spent."""
        if self._budget.minutes is None:
            return self.done / self._budget.steps
        return self.elapsed_s() / (60 * self._budget.minutes)

    def step(self) -> None:
        """Make one step."""
        recipe = self._recipe
        at, of = self._at()
        rule = poly if recipe.schedule == "poly" else one_cycle
        rate, momentum = rule(at, of, peak=recipe.rate, warm_up=recipe.warm_up)
        for group in self._optimiser.param_groups:
            group["lr"], group["betas"] = rate, (momentum, group["betas"][1])
        images, labels = self._drawn(at / of)
        self._optimiser.zero_grad(set_to_none=True)
        weight = 1 + (recipe.dice_last - 1) * at / of
        with torch.autocast("cpu", torch.bfloat16, enabled=self._low()):
            levels = self._deep.scores(images)
        loss = self._deep.weighted(
            [self._loss(scores.float(), labels, weight) for scores in levels]
        )
        torch.autograd.backward(loss)
        value = loss.item()
        if self._is_wrong(value):
            return
        if recipe.clip:
            nn.utils.clip_grad_norm_(self._trained, recipe.clip)
        self._optimiser.step()
        self._follow()
        self.loss = value if self.done == 0 else 0.95 * self.loss + 0.05 * value
        self.done += 1

    def result(self) -> nn.Module:
        """Return the network with the mean of its weights, where there is one."""
        for weight, mean in zip(self._model.parameters(), self._mean, strict=False):
            weight.data.copy_(mean)
        self._deep.remove()
        _lay_out(self._model, last=False)
        return self._model.eval()

    def standing(self, made_from: str) -> Standing:
        """Return where it stands."""
        tensors = {f"model.{k}": v for k, v in self._model.state_dict().items()}
        tensors |= {f"deep.{k}": v for k, v in self._deep.state_dict().items()}
        tensors |= {f"mean.{k}": v for k, v in enumerate(self._mean)}
        for number, weight in enumerate(self._trained):
            for key, value in self._optimiser.state[weight].items():
                tensors[f"moment.{number}.{key}"] = value
        return Standing(
            made_from=made_from,
            step=self.done,
            elapsed_s=self.elapsed_s(),
            loss=self.loss,
            place=self._sampler.place,
            rng=self._rng.bit_generator.state,
            tensors=tensors,
        )

    def go_to(self, standing: Standing) -> None:
        """Stand where another training stood."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in standing.tensors.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = value
        self._model.load_state_dict(parts["model"])
        self._deep.load_state_dict(parts.get("deep", {}))
        self._mean = [parts["mean"][str(k)].clone() for k in range(len(self._mean))]
        for key, value in parts.get("moment", {}).items():
            number, _, name = key.partition(".")
            weight = self._trained[int(number)]
            moment = torch.empty_like(weight) if value.shape == weight.shape else value.clone()
            self._optimiser.state[weight][name] = moment.copy_(value)
        self._rng.bit_generator.state = dict(standing.rng)
        self._sampler.go_to(standing.place)
        self.done, self.loss, self._spent_s = standing.step, standing.loss, standing.elapsed_s

    def _at(self) -> tuple[float, float]:
        """Return where the training stands, in steps or in parts of the minutes."""
        if self._budget.minutes is None:
            return float(self.done), float(self._budget.steps)
        return min(self.share(), 1.0) * (_VIRTUAL_STEPS - 1), _VIRTUAL_STEPS

    def _drawn(self, share: float) -> tuple[Tensor, Tensor]:
        pictures, references = self._sampler.draw(self._rng)
        images = torch.from_numpy(pictures)[:, None]
        labels = torch.from_numpy(references.astype(np.float32 if self._shares else np.int64))
        around = self._recipe.background
        images, labels = augment(
            images,
            labels,
            self._recipe.augmentation,
            background=images.flatten(1).amin(1).reshape(-1, *[1] * (images.dim() - 1))
            if around is None
            else around,
            limits=self._recipe.limits,
            rng=self._rng,
        )
        data = self._recipe.data
        if data and data.blur_px and share < 1:
            labels = blurred(labels, data.blur_px * (1 - share))
        order = torch.channels_last_3d if images.dim() == 5 else torch.channels_last
        return images.contiguous(memory_format=order), labels

    def _low(self) -> bool:
        return self._means.bf16 and has_bf16(torch.device("cpu"))

    def _loss(self, scores: Tensor, labels: Tensor, weight: float) -> Tensor:
        coarser = labels.shape[-1] // scores.shape[-1]
        of = {
            "smooth": self._recipe.dice_smooth,
            "dice_weight": weight,
        }
        if self._shares:
            if coarser > 1:
                pool = functional.avg_pool3d if scores.dim() == 5 else functional.avg_pool2d
                labels = pool(labels[:, None], coarser)[:, 0]
            return share_loss_of(scores, labels, of_batch=self._recipe.dice_of_batch, **of)
        if coarser > 1:
            thinned = (slice(None), *[slice(coarser // 2, None, coarser)] * (scores.dim() - 2))
            labels = labels[thinned]
        return loss_of(scores, labels, of_batch=self._recipe.dice_of_batch, **of)

    def _is_wrong(self, value: float) -> bool:
        """Say whether this step must be left out because its loss is no number."""
        if np.isfinite(value):
            self._wrong = 0
            return False
        self._wrong += 1
        if self._wrong == 2:
            raise setup_error(
                "non-finite",
                f"The loss is {value} twice in a row, after {self.done} steps.",
                where=f"training of {self._recipe.name}",
                remedy="Look for values that are no numbers in the images; else lower the rate.",
            )
        return True

    def _follow(self) -> None:
        """Let the running mean follow the weights, the faster the younger it is."""
        if not self._mean:
            return
        keep = min(self._recipe.ema, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for mean, weight in zip(self._mean, self._model.parameters(), strict=True):
                mean.lerp_(weight, 1 - keep)


def blurred(shares: Tensor, sigma_px: float) -> Tensor:
    """Return shares (b, rows, columns) blurred by a Gaussian, sums kept but at the border."""
    reach = max(1, round(3 * sigma_px))
    offset = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / max(sigma_px, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    across = functional.conv2d(shares[:, None], kernel[None, None, None], padding=(0, reach))
    return functional.conv2d(across, kernel[None, None, :, None], padding=(reach, 0))[:, 0]


def _lay_out(model: nn.Module, *, last: bool) -> None:
    """Order the weights in memory: channels last is a tenth (2D) to a third (3D) faster on AVX2."""
    for weight in model.parameters():
        if weight.dim() == 4:
            order = torch.channels_last if last else torch.contiguous_format
            weight.data = weight.data.contiguous(memory_format=order)
        elif weight.dim() == 5:
            order = torch.channels_last_3d if last else torch.contiguous_format
            weight.data = weight.data.contiguous(memory_format=order)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact)
