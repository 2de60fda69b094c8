"""From cases to examples: through the very preparation that inference has.

Images come out of `prepare`, so that training cannot differ from inference in grid, window or
intensity. References are brought to the same grid by exact overlap of voxels: as shares where the
recipe wants them, else as the label with the largest share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from node.models.axis import Axis
from node.models.card import Card
from node.models.prepare import Prepared, prepare
from node.training.cases import Case
from node.training.recipe import Data, Examples


def examples_of(
    cases: Sequence[Case],
    card: Card,
    data: Data,
    *,
    background: float | None,
    progress: Callable[[float], None] = lambda _: None,
) -> Examples:
    """Return what a training sees of cases.

    A 2D network's examples are the planes of the volumes, a 3D network's are whole volumes,
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
        prepared = prepare(case.volume, card)
        image = prepared.planes(0, prepared.shape[0]).astype(np.float16)
        reference = on_network_grid(case, prepared, card, soft=data.soft)
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


def on_network_grid(
    case: Case, prepared: Prepared, card: Card, *, soft: bool
) -> NDArray[np.uint8] | NDArray[np.float16]:
    """Return the reference on the network's grid: uint8 labels, or float16 shares of label 1."""
    turned = prepared.turn.apply(case.reference)
    if all(axis.is_shift for axis in prepared.axes) and not soft:
        labels: NDArray[np.uint8] = _overlapped(turned, prepared.axes).round().astype(np.uint8)
        return labels
    if soft:
        return _overlapped(turned == 1, prepared.axes).astype(np.float16)
    shares = [_overlapped(turned == k, prepared.axes) for k in range(len(card.segments) + 1)]
    shares[0] += 1 - sum(shares)  # outside the image is background
    best: NDArray[np.uint8] = np.argmax(shares, axis=0).astype(np.uint8)
    return best


def _overlapped(values: NDArray[np.generic], axes: Sequence[Axis]) -> NDArray[np.float32]:
    """Return values averaged over the network's voxels, by exact overlap along each axis."""
    result = values.astype(np.float32)
    for place, axis in enumerate(axes):
        shares = (axis.shared() / axis.ratio).astype(np.float32)
        result = np.moveaxis(np.tensordot(shares, result, axes=(1, place)), 0, place)
    return np.ascontiguousarray(result)
