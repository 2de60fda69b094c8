"""`ct-nodule`: the second stage behind `lung-ct`, trained on chests with nodules of known place.

A patch lies on the card's grid: HU inside the lungs and 5 mm around them, as the stage before
leaves it. Patches go round nodules (half of them) and anywhere else in the lungs, so that vessels,
bands and scars are seen as often as what they are mistaken for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.models.card import Card
from node.models.intensity import apply_steps, fix_steps
from node.phantom.disease import Lump
from node.phantom.patient import ChestPatient
from node.phantom.planes import F64, Plane, axial_affine, planes_of
from node.phantom.render import render
from node.training.lung_ct import patient_seeds
from node.training.recipe import Augmentation, Budget, Examples, Recipe
from node.training.template import template_card

NAME: Final = "ct-nodule"
SMALLEST_MM: Final = 5.0
"""Diameter under which a nodule is neither wanted nor held against a model."""

_ORDERED: Final = 3
"""Nodules that every training patient has beside those of its disease."""

_HU: Final = (-630.0, -300.0, -10.0, 40.0, 100.0)
_NEAR_SHARE: Final = 0.5
_HARD_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class NodulePatch:
    """A drawn piece of a chest.

    Attributes:
        hu: float32 [slice, row, column], background outside the grown lungs.
        nodules: uint8, same shape: 1 inside a nodule.
    """

    hu: NDArray[np.float32]
    nodules: NDArray[np.uint8]


def draw_nodule_examples(
    seed: int, budget: Budget, *, progress: Callable[[float], None]
) -> Examples:
    """Draw patches of many patients, `budget.slices` of each.

    Args:
        seed: Seed of the training.
        budget: How many patients and patches.
        progress: Called with the share that is done.
    """
    card = template_card(NAME)
    patch = card.inference.patch
    if patch is None or card.stage is None:
        raise AssertionError("the card of the recipe has a patch and a stage")
    steps = fix_steps(card.steps, np.zeros((1, 1, 1), np.int16), None)
    count = budget.patients * budget.slices
    # Of one output, so that the references are shares: 0 or 1.
    images = np.empty((count, *patch), np.float16)
    labels = np.zeros((count, *patch), np.float16)
    at = 0
    for done, patient_seed in enumerate(patient_seeds(seed, budget.patients)):
        rng = np.random.Generator(np.random.PCG64([patient_seed, 78]))
        patient = draw_patient(rng, patient_seed)
        lumps = nodules_of(patient)
        for _ in range(budget.slices):
            near = lumps and rng.random() < _NEAR_SHARE
            centre = (
                np.array(lumps[int(rng.integers(len(lumps)))].centre)
                if near
                else anywhere(rng, patient)
            )
            drawn = draw_patch(patient, centre + _moved(rng, card), card)
            images[at] = apply_steps(steps, drawn.hu)
            labels[at] = drawn.nodules
            at += 1
        progress((done + 1) / budget.patients)
    return Examples(images, labels)


def draw_patient(rng: np.random.Generator, seed: int) -> ChestPatient:
    """Draw a patient with some nodules on order."""
    ordered = [
        (float(rng.uniform(SMALLEST_MM, 25)), float(rng.choice(_HU))) for _ in range(_ORDERED)
    ]
    hard = bool(rng.random() < _HARD_SHARE)
    return ChestPatient.draw(seed, hard=hard, marker=False, nodules=ordered)


def nodules_of(patient: ChestPatient) -> list[Lump]:
    """Return the lumps that are nodules and large enough to be wanted."""
    lumps = patient.disease.lumps
    return [one for one in lumps if not one.is_mass and one.diameter_mm >= SMALLEST_MM]


def anywhere(rng: np.random.Generator, patient: ChestPatient) -> F64:
    """Return a point in the middle of the chest's box, mostly lung."""
    trunk = patient.trunk
    side = 1 if rng.random() < 0.5 else -1
    return np.array(
        [
            side * rng.uniform(0.2, 0.85) * trunk.half_x,
            rng.uniform(-0.6, 0.7) * trunk.half_y,
            rng.uniform(0.0, 0.95) * patient.lung_height_mm,
        ]
    )


def draw_patch(patient: ChestPatient, centre: F64, card: Card) -> NodulePatch:
    """Draw the patch of a card around a point.

    Args:
        patient: Who.
        centre: LPS mm.
        card: Its patch, spacing, stage and background.
    """
    patch, stage = card.inference.patch, card.stage
    if patch is None or stage is None:
        raise ValueError("the card has no patch or no stage")
    affine = axial_affine(
        float(centre[2]) - card.voxels.spacing_mm[0] * (patch[0] - 1) / 2,
        patch[1:],
        spacing_mm=card.voxels.spacing_mm,
        centre_mm=(float(centre[0]), float(centre[1])),
    )
    planes = planes_of(affine, patch, card.voxels.spacing_mm[0])
    drawn = [render(patient, plane) for plane in planes]
    hu = np.stack([one.hu for one in drawn]).astype(np.float32)
    lung = np.stack([one.labels for one in drawn]) > 0
    if lung.any():
        away = ndimage.distance_transform_edt(~lung, sampling=card.voxels.spacing_mm)
        hu[away > stage.outside_mm] = card.voxels.background
    else:
        hu[:] = card.voxels.background
    return NodulePatch(hu, nodule_mask(patient, planes) * lung_reach(lung))


def nodule_mask(patient: ChestPatient, planes: list[Plane]) -> NDArray[np.uint8]:
    """Return 1 inside every wanted nodule on a stack of planes."""
    mask = np.zeros((len(planes), *planes[0].shape), np.uint8)
    for lump in nodules_of(patient):
        for k, plane in enumerate(planes):
            box = plane.box_round(lump.centre, lump.reach_mm)
            if box is not None:
                mask[k][box] |= (lump.distance(plane.points(*box)) < 0).astype(np.uint8)
    return mask


def lung_reach(lung: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return 1 in the lungs and one voxel around: what of a nodule lies outside is not seen."""
    grown: NDArray[np.bool_] = ndimage.binary_dilation(lung, np.ones((3, 3, 3), bool))
    return grown.astype(np.uint8)


def _moved(rng: np.random.Generator, card: Card) -> F64:
    """Return a shift that leaves the centre anywhere in the middle half of a patch, LPS mm."""
    patch = card.inference.patch or (1, 1, 1)
    half = np.array([patch[2], patch[1], patch[0]]) / 4
    spacing = np.array(card.voxels.spacing_mm)[::-1]
    return np.asarray(rng.uniform(-half, half) * spacing)


CT_NODULE: Final = Recipe(
    name=NAME,
    examples=draw_nodule_examples,
    augmentation=Augmentation(
        rotation_deg=10.0,
        tilt_deg=0.0,
        scale=0.08,
        stretch=0.0,
        shift=0.02,
        elastic=0.0,
        flip=0.5,
        upside_down=0.5,
        over=0.5,
        contrast=0.03,
        offset=0.02,
        noise=0.04,
    ),
    budget=Budget(patients=60, slices=4, steps=1500, batch=2),
    limits=(-1.0, 1.0),
    schedule="poly",
    rate=3e-3,
    decay=1e-2,
    warm_up=0.05,
    clip=12.0,
    ema=0.99,
    supervised=1,
    dice_smooth=5.0,
    dice_of_batch=True,
    dice_last=1.0,
)
