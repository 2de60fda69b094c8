"""Recipes: all that a training needs beside a seed, as values in one table.

A recipe names a card without weights (`cards/<name>.toml`), where its examples come from (drawn
patients, or a folder of cases with references) and a budget. The network, its input grid and its
intensity steps are the card's, so that training and inference cannot differ in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from node.training.cases import Case
from node.training.splits import Splitting

CARDS: Final = Path(__file__).parent / "cards"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a training is.

    Attributes:
        steps: Optimiser steps; with `minutes` only a first guess of how many there will be.
        batch: Examples per step.
        patients: Patients to draw; a recipe that reads cases takes what is in the folder.
        slices: Slices of each drawn patient.
        minutes: Wall minutes after which the training ends; None counts steps. Only a training
            that counts steps repeats to the byte.
    """

    steps: int
    batch: int
    patients: int = 0
    slices: int = 0
    minutes: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What a training sees, on the card's grid.

    Attributes:
        images: float16 (n, [slices,] rows, columns), after the card's intensity steps.
        labels: uint8 labels, or float16 shares of the voxel, same shape.
        extents: (n, axes): how much of each example is image; the rest, at the end of each axis,
            is padding. None: all of it.
    """

    images: NDArray[np.float16]
    labels: NDArray[np.uint8] | NDArray[np.float16]
    extents: NDArray[np.intp] | None = None


class ExampleSource(Protocol):
    """Draws the examples of a training."""

    def __call__(self, seed: int, budget: Budget, *, progress: Callable[[float], None]) -> Examples:
        """Return `budget.patients * budget.slices` examples; the same seed gives the same."""
        ...


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Changes made to an example each time it is seen; all drawn anew.

    Lengths are shares of the side, so that they mean the same in two and three dimensions.

    Attributes:
        rotation_deg: Standard deviation, in the plane of rows and columns.
        tilt_deg: Standard deviation about the other two axes, in three dimensions.
        spin: Chance of any angle in the plane instead.
        scale: Standard deviation of the size, as a share.
        stretch: Standard deviation of height against width.
        shift: Standard deviation, as a share of the side.
        elastic: Standard deviation of a coarse warp, as a share of the side.
        flip: Chance of a left-right flip (columns).
        swaps: Pairs of labels that change places in a left-right flip.
        upside_down: Chance of an up-down flip (rows).
        over: Chance of a flip of the slices, in three dimensions.
        contrast: Standard deviation of a factor on the values.
        offset: Standard deviation of what is added, in the network's units.
        noise: Largest standard deviation of added noise, in the network's units.
        speckle: Largest standard deviation of noise that grows with the signal above background.
        gain: Standard deviation of what is added from top to bottom: gain over depth.
        blur: Chance of a blur over the nearest voxels.
    """

    rotation_deg: float = 6.0
    tilt_deg: float = 0.0
    spin: float = 0.0
    scale: float = 0.13
    stretch: float = 0.07
    shift: float = 0.08
    elastic: float = 0.012
    flip: float = 0.5
    swaps: tuple[tuple[int, int], ...] = ()
    upside_down: float = 0.08
    over: float = 0.0
    contrast: float = 0.05
    offset: float = 0.03
    noise: float = 0.04
    speckle: float = 0.0
    gain: float = 0.0
    blur: float = 0.0

    @property
    def mirrored(self) -> tuple[str, ...]:
        """The axes that are mirrored in training: the only ones that inference may mirror."""
        chances = {"slice": self.over, "row": self.upside_down, "column": self.flip}
        return tuple(axis for axis, chance in chances.items() if chance > 0)


class CaseSource(Protocol):
    """Reads the cases of a training."""

    def __call__(self, folder: Path, *, progress: Callable[[float], None]) -> tuple[Case, ...]:
        """Return every case in `folder`, in one order."""
        ...


@dataclass(frozen=True, slots=True)
class Data:
    """Where a recipe's cases come from and what of them is held out.

    Attributes:
        read: Reads the cases of a folder.
        splitting: How patients are held out.
        patch: The part of an example that one step sees; None: all of it.
        near: Share of the patches that are placed on a labelled voxel, which then lies anywhere
            in the patch.
        soft: References are averaged over the network's voxels to shares of them; else labels.
        blur_px: Standard deviation of a blur of soft references that falls to 0 over the training.
        thresholds: Values of the native volume above which fixed baselines call a voxel 1.
        credit: Whose data, under which licence.
        ships: Whether the licence lets weights leave the machine.
    """

    read: CaseSource
    splitting: Splitting
    patch: tuple[int, ...] | None
    credit: str
    ships: bool
    near: float = 0.0
    soft: bool = False
    blur_px: float = 0.0
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is trained.

    Attributes:
        name: The model's and the card's name.
        augmentation: What is varied on the fly.
        budget: The usual amount of work.
        examples: Draws the training slices, where they are drawn.
        data: Where cases come from, where they are read.
        background: Network value of what lies outside the image; None: its least value.
        limits: What values are cut to after augmentation; None: nothing.
        schedule: `one-cycle` or `poly` (power 0.9), both over the budget.
        rate: Highest learning rate.
        decay: Weight decay.
        warm_up: Share of the budget in which the rate rises.
        clip: Largest norm of a step's gradient; 0: any.
        ema: Most that the running mean of the weights keeps of itself at each step; 0: no mean.
        supervised: Losses at coarser levels, each half the weight of the finer one.
        dice_smooth: Voxels added to both sides of the soft Dice, so that slices without an organ
            do not dominate.
        dice_of_batch: The Dice is of the whole batch and not of each example.
        dice_last: Weight of the Dice at the end; it begins at 1. Dice alone prefers too much over
            too little where lungs are small: with a constant weight of 1 two thirds of the
            wrong border voxels were outside the lungs.
    """

    name: str
    augmentation: Augmentation
    budget: Budget
    examples: ExampleSource | None = None
    data: Data | None = None
    background: float | None = -1.0
    limits: tuple[float, float] | None = None
    schedule: str = "one-cycle"
    rate: float = 3e-3
    decay: float = 1e-3
    warm_up: float = 0.15
    clip: float = 0.0
    ema: float = 0.0
    supervised: int = 0
    dice_smooth: float = 50.0
    dice_of_batch: bool = False
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
