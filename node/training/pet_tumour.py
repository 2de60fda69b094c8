"""`pet-tumour`: the share of each voxel that is tumour, on PET, from NIfTI in SUV with masks.

Data: `<patient>/PET_image.nii.gz` in SUV and `PET_mask.nii.gz`. Partial volume makes a PET voxel a
mixture; the network estimates the share, and the volume is the sum of shares.

Source: Liu et al., Phys Med Biol 66:124002, 2021 (posterior mean of the fraction).
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


def read_tumours(
    folder: Path, *, progress: Callable[[float], None] = lambda _: None
) -> tuple[Case, ...]:
    """Read all patients, one case each.

    Args:
        folder: With a folder for each patient.
        progress: Called with the share that is done.

    Raises:
        SetupError: There are no images, or one has no mask on its grid.
    """
    images = sorted(folder.glob("*/PET_image.nii.gz"))
    if not images:
        raise setup_error(
            "no-cases",
            "There is no <patient>/PET_image.nii.gz.",
            where=str(folder),
            remedy="Give the folder that holds a folder for each patient.",
        )
    cases = []
    for done, image in enumerate(images, start=1):
        name = image.parent.name
        mask = image.parent / "PET_mask.nii.gz"
        volume, labels = read_nifti_pair(image, mask, units="SUVbw", modality="PT")
        cases.append(case_of(name, name, volume, labels, 1))
        progress(done / len(images))
    return tuple(cases)


PET_TUMOUR: Final = Recipe(
    name="pet-tumour",
    augmentation=Augmentation(
        rotation_deg=10.0,
        tilt_deg=6.0,
        spin=0.5,
        scale=0.13,
        stretch=0.05,
        shift=0.04,
        elastic=0.012,
        flip=0.5,
        upside_down=0.5,
        over=0.5,
        contrast=0.05,
        offset=0.14,
        noise=0.06,
        blur=0.15,
    ),
    budget=Budget(steps=400, batch=2),
    data=Data(
        read=read_tumours,
        splitting=Splitting(folds=3),
        patch=(48, 48, 48),
        credit="Soft-tissue-Sarcoma (TCIA), prepared by the IBSI, CC BY 3.0",
        ships=True,
        near=0.3,
        soft=True,
        thresholds=(2.5,),
    ),
    schedule="poly",
    rate=3e-3,
    decay=1e-2,
    warm_up=0.05,
    clip=12.0,
    ema=0.995,
    supervised=2,
    dice_smooth=1.0,
    dice_of_batch=True,
    dice_last=1.0,
)
