"""`us-nerve`: the brachial plexus in single frames of ultrasound, from pictures with masks.

Data: `images/SS_NNN.jpg` and `masks/SS_NNN.png`, SS the subject. The pictures are letterboxed: the
mid-grey bars above and below lie outside the tissue region, as an ultrasound image names it. Frames
of one subject are near copies, so that subjects and not frames are dealt out. The licence of the
data is unclear: weights made from it stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.errors import setup_error
from node.training.cases import Case, case_of
from node.training.pictures import read_picture_pair
from node.training.recipe import Augmentation, Budget, Data, Recipe
from node.training.splits import Splitting

TISSUE: Final = (36, 0, 221, 256)
"""First row and column, and those behind the last, between the grey bars of 256 x 256 pictures."""


def read_nerves(
    folder: Path, *, progress: Callable[[float], None] = lambda _: None
) -> tuple[Case, ...]:
    """Read all frames.

    Args:
        folder: With `images` and `masks`.
        progress: Called with the share that is done.

    Raises:
        SetupError: There are no pictures, or one has no mask of its size.
    """
    images = sorted((folder / "images").glob("*.jpg"))
    if not images:
        raise setup_error(
            "no-cases",
            "There is no images/*.jpg.",
            where=str(folder),
            remedy="Give the folder that holds `images` and `masks`.",
        )
    cases = []
    for done, image in enumerate(images, start=1):
        mask = folder / "masks" / f"{image.stem}.png"
        frame, labels = read_picture_pair(image, mask, tissue=TISSUE)
        cases.append(case_of(image.stem, image.stem.partition("_")[0], frame, labels, 1))
        progress(done / len(images))
    return tuple(cases)


US_NERVE: Final = Recipe(
    name="us-nerve",
    augmentation=Augmentation(
        rotation_deg=8.5,
        scale=0.115,
        stretch=0.05,
        shift=0.08,
        elastic=0.015,
        flip=0.5,
        upside_down=0.0,
        contrast=0.15,
        offset=0.1,
        noise=0.1,
        speckle=0.15,
        gain=0.2,
    ),
    budget=Budget(steps=1300, batch=8),
    data=Data(
        read=read_nerves,
        splitting=Splitting(folds=4),
        patch=None,
        credit="Ultrasound Nerve Segmentation (2016), brachial plexus; licence unclear",
        ships=False,
        soft=True,
        blur_px=1.5,
    ),
    background=None,
    schedule="poly",
    rate=2e-3,
    decay=1e-2,
    warm_up=0.04,
    clip=12.0,
    ema=0.995,
    dice_smooth=1.0,
    dice_of_batch=True,
    dice_last=1.0,
)
