"""Examples for `lung-ct`: slices of drawn chests on the card's grid, and the recipe.

Slices lie on the network's 2.5 mm grid from the start; the phantom's soft borders and averaged
noise stand for the area averaging of the real pipeline. Levels are drawn more densely at base and
apex, where background air and thin lung meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.models.intensity import apply_steps, fix_steps
from node.phantom.patient import ChestPatient
from node.phantom.planes import axial_affine, planes_of
from node.phantom.render import render
from node.training.recipe import Augmentation, Budget, Examples, Recipe
from node.training.template import template_card

FIRST_TRAINING_SEED: Final = 1_000_000
"""Patient seeds of trainings begin here; the demo, tests and scores use smaller ones."""

SEEDS_PER_TRAINING: Final = 100_000
"""Patient seeds set apart for each training seed."""

_SIDE: Final = 128
"""Rows and columns of an example: 320 mm at 2.5 mm; the network itself runs on whole planes."""

_HARD_SHARE: Final = 0.3
"""Share of patients drawn with the hard profile."""


def patient_seeds(seed: int, count: int) -> range:
    """Return the patient seeds of a training.

    Raises:
        ValueError: More patients than are set apart for one training.
    """
    if count > SEEDS_PER_TRAINING:
        raise ValueError(f"a training draws at most {SEEDS_PER_TRAINING} patients, not {count}")
    first = FIRST_TRAINING_SEED + seed * SEEDS_PER_TRAINING
    return range(first, first + count)


def draw_lung_examples(seed: int, budget: Budget, *, progress: Callable[[float], None]) -> Examples:
    """Draw slices of many patients.

    Args:
        seed: Seed of the training.
        budget: How many patients and slices.
        progress: Called with the share that is done.
    """
    card = template_card("lung-ct")
    spacing = card.voxels.spacing_mm[1]
    count = budget.patients * budget.slices
    images = np.empty((count, _SIDE, _SIDE), np.float16)
    labels = np.zeros((count, _SIDE, _SIDE), np.uint8)
    steps = fix_steps(card.steps, np.zeros((1, 1, 1), np.int16), None)
    at = 0
    for done, patient_seed in enumerate(patient_seeds(seed, budget.patients)):
        rng = np.random.Generator(np.random.PCG64([patient_seed, 77]))
        hard = bool(rng.random() < _HARD_SHARE)
        patient = ChestPatient.draw(patient_seed, hard=hard, marker=False)
        for _ in range(budget.slices):
            hu, label = _draw_slice(rng, patient, spacing)
            window = _draw_window(rng, hu.shape)
            image = np.full((_SIDE, _SIDE), card.voxels.background, np.float32)
            _place(image, hu, window)
            _place(labels[at], label, window)
            images[at] = apply_steps(steps, image)
            at += 1
        progress((done + 1) / budget.patients)
    return Examples(images, labels)


def _draw_slice(
    rng: np.random.Generator, patient: ChestPatient, spacing: float
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    level = rng.random()
    if level < 0.22:
        t = rng.uniform(-0.04, 0.3)
    elif level < 0.44:
        t = rng.uniform(0.8, 1.02)
    elif level < 0.6:
        t = rng.uniform(0.3, 0.8)
    else:
        t = rng.uniform(-0.35, 1.4)
    side = round(patient.formation.field_mm / spacing)
    affine = axial_affine(
        t * patient.lung_height_mm,
        (side, side),
        spacing_mm=(1.0, spacing, spacing),
        centre_mm=patient.formation.centre_mm,
    )
    thickness = float(rng.choice([0.8, 1.5, 3.0, 5.0, 8.0]))
    slice_ = render(patient, planes_of(affine, (1, side, side), thickness)[0])
    return slice_.hu, slice_.labels


def _draw_window(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return where a window begins: near the middle of a large plane, anywhere round a small."""
    begin = []
    for side in shape:
        room = side - _SIDE
        share = rng.uniform(0, 1) if room < 0 else rng.uniform(0.2, 0.8)
        begin.append(round(room * share))
    return begin[0], begin[1]


def _place(
    into: NDArray[np.float32] | NDArray[np.uint8],
    plane: NDArray[np.int16] | NDArray[np.uint8],
    window: tuple[int, int],
) -> None:
    source, target = [], []
    for begin, side in zip(window, plane.shape, strict=True):
        first, last = max(begin, 0), min(begin + _SIDE, side)
        source.append(slice(first, last))
        target.append(slice(first - begin, last - begin))
    into[tuple(target)] = plane[tuple(source)]


LUNG_CT: Final = Recipe(
    name="lung-ct",
    examples=draw_lung_examples,
    augmentation=Augmentation(swaps=((1, 2),)),
    budget=Budget(patients=200, slices=8, steps=340, batch=12),
    limits=(-1.0, 1.0),
)
