"""`hippocampus`: front and back part on cropped MR, in three dimensions, from NIfTI with labels.

Data: `images/<case>.nii.gz` and `labels/<case>.nii.gz` with 1 front (head), 2 back (body and
tail). Intensities have no common scale, so that the card normalises each volume by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.errors import setup_error
from node.training.cases import Case, case_of
from node.training.nifti import read_nifti_pair
from node.training.recipe import Augmentation, Budget, Data, Recipe
from node.training.splits import Splitting

_LABELS: Final = 2


def read_hippocampi(
    folder: Path, *, progress: Callable[[float], None] = lambda _: None
) -> tuple[Case, ...]:
    """Read all cases; every case is a patient.

    Args:
        folder: With `images` and `labels`.
        progress: Called with the share that is done.

    Raises:
        SetupError: There are no images, or one has no labels on its grid.
    """
    images = sorted((folder / "images").glob("*.nii.gz"))
    if not images:
        raise setup_error(
            "no-cases",
            "There is no images/*.nii.gz.",
            where=str(folder),
            remedy="Give the folder that holds `images` and `labels`.",
        )
    cases = []
    for done, image in enumerate(images, start=1):
        name = image.name.removesuffix(".nii.gz")
        volume, labels = read_nifti_pair(
            image, folder / "labels" / image.name, units="arbitrary", modality="MR"
        )
        cases.append(case_of(name, name, volume, labels, _LABELS))
        progress(done / len(images))
    return tuple(cases)


HIPPOCAMPUS: Final = Recipe(
    name="hippocampus",
    augmentation=Augmentation(
        rotation_deg=8.5,
        tilt_deg=8.5,
        scale=0.09,
        stretch=0.0,
        shift=0.03,
        elastic=0.0,
        flip=0.5,
        upside_down=0.0,
        contrast=0.14,
        offset=0.12,
        noise=0.1,
        blur=0.15,
    ),
    budget=Budget(steps=1200, batch=2),
    data=Data(
        read=read_hippocampi,
        splitting=Splitting(folds=5),
        patch=(40, 56, 40),
        credit="Medical Segmentation Decathlon, Task04 Hippocampus, CC BY-SA 4.0",
        ships=True,
    ),
    background=None,
    schedule="poly",
    rate=3e-3,
    decay=1e-2,
    warm_up=0.04,
    clip=12.0,
    ema=0.995,
    supervised=2,
    dice_smooth=1e-5,
    dice_of_batch=True,
    dice_last=1.0,
)
