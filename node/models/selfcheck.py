"""Which runtime a model gets: the fastest one that keeps its labels, tried at start.

A faster runtime rounds differently, and at the border of two classes a label may change. Each is
tried on the model's own test case against torch in float32: for every class Dice >= 0.999, and at
most 0.05 % of the voxels changed. One that fails is not used, and the reason is said. A model
without a test case runs on torch, in the precision of its card. The order is fixed and no time is
measured: the same machine makes the same choice at every start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from node.imaging.values import Labels
from node.models.runtime import Runtime

LEAST_DICE: Final = 0.999
LARGEST_CHANGE: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near labels are to those of the reference.

    Attributes:
        dice: The lowest of all classes that either has; 1.0 where neither has any.
        label: The class with the lowest.
        changed: Share of voxels with another label.
    """

    dice: float
    label: int
    changed: float

    @property
    def kept(self) -> bool:
        """Whether these are the same labels for every purpose."""
        return self.dice >= LEAST_DICE and self.changed <= LARGEST_CHANGE

    def __str__(self) -> str:
        where = f" of label {self.label}" if self.label else ""
        return f"Dice {self.dice:.5f}{where}, {100 * self.changed:.4f} % of voxels changed"


def agreement(found: Labels, wanted: Labels) -> Agreement:
    """Compare labels with the reference's, class by class."""
    both = np.bincount(wanted[found == wanted], minlength=256)
    one, other = (np.bincount(each.ravel(), minlength=256) for each in (found, wanted))
    total = one + other
    labels = [int(label) for label in np.flatnonzero(total) if label]
    dices = [(2.0 * float(both[label]) / float(total[label]), label) for label in labels]
    lowest, label = min(dices, default=(1.0, 0))
    return Agreement(lowest, label, float(np.mean(found != wanted)))


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A runtime that may be used: its name for people, and how it is made."""

    name: str
    make: Callable[[], Runtime]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The runtime that runs, or None for the reference, and a sentence on how it was chosen."""

    runtime: Runtime | None
    said: str


def first_that_keeps(
    candidates: tuple[Candidate, ...], labels_of: Callable[[Runtime | None], Labels]
) -> Choice:
    """Try candidates in order on the test case.

    Args:
        candidates: Fastest first.
        labels_of: The labels of the test case as a runtime gives them; None is the reference.
    """
    if not candidates:
        return Choice(None, "There is no faster runtime here than torch.")
    wanted = labels_of(None)
    if not wanted.any():
        return Choice(
            None, "The test case has no labels at all, so that nothing can be compared: torch runs."
        )
    refused = []
    for candidate in candidates:
        try:
            runtime = candidate.make()
            near = agreement(labels_of(runtime), wanted)
        except (ImportError, RuntimeError) as error:
            # What an engine says when it cannot take a network; a bug of ours is not among them.
            refused.append(f"{candidate.name} does not run it ({_first_line(error)}).")
            continue
        if near.kept:
            return Choice(runtime, " ".join([*refused, f"{candidate.name} keeps labels: {near}."]))
        refused.append(f"{candidate.name} changes labels: {near}.")
    return Choice(None, " ".join([*refused, "torch runs."]))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:160] or type(error).__name__
