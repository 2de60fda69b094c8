"""Down the ladder when memory is short: each step holds less at a time, never the same again.

Smaller batches; scores added up in the computer's memory instead of the GPU's; strips of rows one
after the other; the CPU, where `[worker] device = "auto"` leaves the choice; then the job fails
with the numbers. The first step is the first that is predicted to fit; a step that runs out of
memory all the same is followed by the next. What a voxel is added up from does not change with a
step, but a batch of another size may round differently, so the step goes into the result.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import torch

from node.errors import passing_error
from node.imaging.values import Fractions, Labels
from node.models.activations import activation_bytes
from node.models.architectures import size_multiples
from node.models.budget import Free, Need, free_memory, needed
from node.models.fractions import fractions_of
from node.models.memory import give_back
from node.models.native import labels_of
from node.models.prepare import Prepared
from node.models.scores import Meter, Work

if TYPE_CHECKING:
    from node.models.loaded import LoadedModel

AS_ASKED: Final = "none"
"""What a result says where the card's own batch fitted."""

_STRIPS: Final = (2, 4, 8, 16)
_OUT_OF_MEMORY: Final = (
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # the same, in other places
    "bad_alloc",  # C++ below torch and OpenVINO
    "out of memory",  # CUDA libraries
    "could not create a",  # oneDNN: a memory object, or a primitive and its code
    "could not execute a primitive",
)


_Made = TypeVar("_Made", Labels, Fractions)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted(Generic[_Made]):
    """Labels or fractions, and how they fitted.

    Attributes:
        made: On the native grid with the card's axes.
        ladder: The steps that were taken, or `AS_ASKED`.
        model: What ran: another one than asked where the CPU had to help.
    """

    made: _Made
    ladder: str
    model: LoadedModel


@dataclass(frozen=True, slots=True)
class _Rung:
    work: Work
    need: Need

    def __str__(self) -> str:
        words = [f"batch {self.work.batch}"]
        words += ["scores in host memory"] if self.work.on_host else []
        words += [f"{self.work.strips} strips"] if self.work.strips > 1 else []
        return ", ".join(words)


def labels_that_fit(
    prepared: Prepared,
    model: LoadedModel,
    meter: Meter,
    *,
    free_now: Callable[[torch.device], Free] = free_memory,
) -> Fitted[Labels]:
    """Return labels, made in as much memory as there is.

    Args:
        prepared: The volume on its way in.
        model: The network.
        meter: Told the seconds and the share that is done.
        free_now: What may be taken on a device.

    Raises:
        PassingError: Not even the last step fits.
    """
    return _fitted(prepared, model, meter, labels_of, free_now=free_now)


def fractions_that_fit(
    prepared: Prepared,
    model: LoadedModel,
    meter: Meter,
    *,
    free_now: Callable[[torch.device], Free] = free_memory,
) -> Fitted[Fractions]:
    """Return the fractions of an occupancy head in the same way; there are no strips of them."""
    return _fitted(prepared, model, meter, fractions_of, free_now=free_now)


def _fitted(
    prepared: Prepared,
    model: LoadedModel,
    meter: Meter,
    make: Callable[[Prepared, LoadedModel, Meter, Work], _Made],
    *,
    free_now: Callable[[torch.device], Free],
    before: tuple[str, ...] = (),
) -> Fitted[_Made]:
    """Try each step after those that another device has taken `before`."""
    free = free_now(model.device)
    said: list[str] = list(before)
    try:
        rungs = list(_rungs(prepared, model))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said.append("two small images through the network ran out of memory")
        rungs = []
    if not rungs:
        _let_go(model.device)
    for rung in rungs:
        if not free.holds(rung.need):
            said.append(f"{rung} needs {rung.need} of {free}")
            continue
        try:
            made = make(prepared, model, meter, rung.work)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said.append(f"{rung} ran out of memory")
        else:
            ladder = "; ".join([*said, f"{rung} ran"]) if said else AS_ASKED
            return Fitted(made, ladder, model)
        _let_go(model.device)
    if model.spare is not None:
        steps = (*said, "the CPU takes over")
        return _fitted(prepared, model.spare(), meter, make, free_now=free_now, before=steps)
    slices, rows, columns = prepared.shape
    least = f"at least {rungs[-1].need}" if rungs else "more than there is"
    raise passing_error(
        "memory-short",
        f"{model.card.name} on {slices} x {rows} x {columns} voxels with "
        f"{model.card.network.outputs} outputs needs {least}, and {free} were free. "
        f"Tried: {'; '.join(said)}.",
        where=model.runner.facts.device,
        remedy="Give the worker more memory, stop what else runs beside it, or lower [inference] "
        "patch in the card.",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY)


def _rungs(prepared: Prepared, model: LoadedModel) -> Iterator[_Rung]:
    """Yield what may be tried, the card's own batch first."""
    card = model.card
    on_gpu = model.device.type == "cuda"
    sides = card.inference.patch or prepared.shape[1:]
    activations = activation_bytes(
        model.network, (1, card.network.channels, *sides), size_multiples(card.network)
    )
    batch = card.inference.batch
    works = []
    while batch:
        works.append(Work(batch))
        batch //= 2
    if on_gpu:
        works.append(Work(1, on_host=True))
    if card.inference.patch is not None and card.head.kind != "occupancy":
        works += [Work(1, strips=count, on_host=on_gpu) for count in _STRIPS]
    for work in works:
        need = needed(prepared, card, work, activations=activations, on_gpu=on_gpu)
        yield _Rung(work, need)


def _let_go(device: torch.device) -> None:
    """Free what the failed step held; its exception, and with it its frames, is gone by now."""
    gc.collect()
    give_back()
    if device.type == "cuda":
        torch.cuda.empty_cache()
