"""Recipes: all that a training needs beside a seed, as values in one table.

A recipe names a card without weights (`cards/<name>.toml`), a source of drawn examples and a
budget. The network, its input grid and its intensity steps are the card's, so that training and
inference cannot differ in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

CARDS: Final = Path(__file__).parent / "cards"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a training is.

    Attributes:
        patients: Drawn patients.
        slices: Slices of each.
        steps: Optimiser steps.
        batch: Slices per step.
    """

    patients: int
    slices: int
    steps: int
    batch: int


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Training slices on the card's grid.

    Attributes:
        images: float16 (n, rows, columns), after the card's intensity steps.
        labels: uint8, same shape.
    """

    images: NDArray[np.float16]
    labels: NDArray[np.uint8]


class ExampleSource(Protocol):
    """Draws the examples of a training."""

    def __call__(self, seed: int, budget: Budget, *, progress: Callable[[float], None]) -> Examples:
        """Return `budget.patients * budget.slices` examples; the same seed gives the same."""
        ...


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Changes made to a slice each time it is seen; all drawn anew.

    Attributes:
        rotation_deg: Standard deviation.
        scale: Standard deviation of the size, as a share.
        stretch: Standard deviation of height against width.
        shift: Standard deviation, as a share of the side.
        elastic: Standard deviation of a coarse warp, as a share of the side.
        flip: Chance of a left-right flip.
        swaps: Pairs of labels that change places in a left-right flip.
        upside_down: Chance of an up-down flip (prone).
        contrast: Standard deviation of a factor on the values.
        offset: Standard deviation of what is added, in the network's units.
        noise: Largest standard deviation of added noise, in the network's units.
    """

    rotation_deg: float = 6.0
    scale: float = 0.13
    stretch: float = 0.07
    shift: float = 0.08
    elastic: float = 0.012
    flip: float = 0.5
    swaps: tuple[tuple[int, int], ...] = ()
    upside_down: float = 0.08
    contrast: float = 0.05
    offset: float = 0.03
    noise: float = 0.04


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is trained.

    Attributes:
        name: The model's and the card's name.
        examples: Draws the training slices.
        augmentation: What is varied on the fly.
        budget: The usual amount of work.
        background: Network value of what lies outside the image.
        rate: Highest learning rate.
        decay: Weight decay.
        warm_up: Share of the steps in which the rate rises.
        dice_smooth: Pixels added to both sides of the soft Dice, so that slices without an organ
            do not dominate.
        dice_last: Weight of the Dice at the end; it begins at 1. Dice alone prefers too much over
            too little where lungs are small: with a constant weight of 1 two thirds of the
            wrong border voxels were outside the lungs.
    """

    name: str
    examples: ExampleSource
    augmentation: Augmentation
    budget: Budget
    background: float = -1.0
    rate: float = 3e-3
    decay: float = 1e-3
    warm_up: float = 0.15
    dice_smooth: float = 50.0
    dice_last: float = 0.2

    @property
    def card_text(self) -> str:
        """The card's text with `@sha256@` where the digest goes and no scores."""
        return (CARDS / f"{self.name}.toml").read_text(encoding="utf-8")


def recipe_named(name: str, recipes: Mapping[str, Recipe]) -> Recipe:
    """Return a recipe of the table.

    Raises:
        KeyError: There is none of that name; the message names those there are.
    """
    if name not in recipes:
        raise KeyError(f"no recipe '{name}'; there are {', '.join(sorted(recipes))}")
    return recipes[name]
