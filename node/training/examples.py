"""From cases to examples: with shares of a voxel where the recipe wants them, else with labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from node.models.card import Card
from node.training.cases import Case
from node.training.recipe import Data, Examples
from node.training.view import view_of


def examples_of(
    cases: Sequence[Case],
    card: Card,
    data: Data,
    *,
    background: float | None,
    progress: Callable[[float], None] = lambda _: None,
) -> Examples:
    """Return what a training sees of cases.

    A 2D network's examples are planes or frames, a 3D network's are whole volumes,
    padded to one size; the trainer cuts patches from them.

    Args:
        cases: What to learn from.
        card: Grid, intensities, and whether planes or windows are seen.
        data: Whether references become shares.
        background: Network value of padding; None takes each image's least value.
        progress: Called with the share that is done.
    """
    images: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.uint8] | NDArray[np.float16]] = []
    for done, case in enumerate(cases, start=1):
        view = view_of(case, card)
        image = view.image.astype(np.float16)
        reference: NDArray[np.uint8] | NDArray[np.float16] = (
            view.shares(case.reference == 1).astype(np.float16)
            if data.soft
            else view.labels(case.reference, len(card.segments))
        )
        if card.inference.mode == "window":
            images.append(image)
            labels.append(reference)
        else:
            images += list(image)
            labels += list(reference)
        progress(done / len(cases))
    extents = np.array([image.shape for image in images], np.intp)
    shape = tuple(int(one) for one in extents.max(axis=0))
    padded = np.empty((len(images), *shape), np.float16)
    marked: NDArray[np.uint8] | NDArray[np.float16] = (
        np.zeros(padded.shape, np.float16) if data.soft else np.zeros(padded.shape, np.uint8)
    )
    for place, (image, reference) in enumerate(zip(images, labels, strict=True)):
        inside = tuple(slice(0, side) for side in image.shape)
        padded[place] = image.min() if background is None else background
        padded[place][inside], marked[place][inside] = image, reference
    return Examples(padded, marked, extents)
