"""How far a case is from what a model was trained on, as the network itself sees it.

Features are the outputs of the network's deepest convolution, averaged over each patch that holds
foreground and over the patches. The training set's features are summed up as a mean, the main
directions around it and what is left beside them; a case's distance is Mahalanobis in both.
Source: Woodland et al., MELBA 2024:020. Training writes the numbers with `write_features`; the
card names the file with its digest and the distance above which a person should look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn

from node.errors import setup_error
from node.imaging.values import Floats, Labels, Outcome, Volume
from node.models.prepare import Prepared, plane_inputs, prepare, slab_inputs
from node.models.verdict import Said
from node.models.weights import read_weights_file

if TYPE_CHECKING:
    from node.models.card import Card
    from node.models.loaded import LoadedModel

_PATCHES: Final = 8
"""Patches looked at per case; they cost as much as so many patches of inference."""

_HELD_OUT: Final = 0.975
"""Of cases the model knows, one in forty is sent to a person without need."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """The features of a training set, summed up.

    Attributes:
        mean: (c,)
        components: (k, c), orthonormal: the directions in which cases differ most.
        variances: (k,), along each.
        rest: Mean squared length of what lies beside all of them.
    """

    mean: Floats
    components: Floats
    variances: Floats
    rest: float

    def distance(self, features: Floats) -> float:
        """Return the distance of one case, (c,); about the square root of k for a usual one."""
        away = features - self.mean
        along = self.components @ away
        beside = away - along @ self.components
        return float(np.sqrt((along**2 / self.variances).sum() + beside @ beside / self.rest))


def fit_features(cases: Floats, *, keep: int = 32) -> FeatureSet:
    """Return the summary of a training set.

    Args:
        cases: (n, c), one row of `case_features` per case, at least 4.
        keep: Most directions; at most a third of the cases, or single cases would be directions.

    Raises:
        ValueError: There are too few cases.
    """
    count = cases.shape[0]
    if count < 4:
        raise ValueError(f"features of {count} cases say nothing; at least 4 are needed")
    mean = cases.mean(axis=0)
    _, lengths, directions = np.linalg.svd(cases - mean, full_matrices=False)
    kept = min(keep, (count - 1) // 3, directions.shape[0])
    variances = lengths**2 / (count - 1)
    floor = 1e-6 * max(float(variances.sum()), 1e-12)  # equal cases have no spread to divide by
    return FeatureSet(
        mean=mean,
        components=directions[:kept],
        variances=np.maximum(variances[:kept], floor),
        rest=max(float(variances[kept:].sum()), floor),
    )


def held_out_limit(cases: Floats, *, keep: int = 32) -> float:
    """Return the distance that 97.5 % of cases stay below, each measured without itself."""
    places = range(cases.shape[0])
    away = [
        fit_features(np.delete(cases, place, axis=0), keep=keep).distance(cases[place])
        for place in places
    ]
    return float(np.quantile(away, _HELD_OUT))


def write_features(path: Path, features: FeatureSet) -> str:
    """Write features as safetensors; return the SHA-256 that the card must name."""
    data = as_safetensors(
        {
            "mean": torch.from_numpy(features.mean),
            "components": torch.from_numpy(np.ascontiguousarray(features.components)),
            "variances": torch.from_numpy(features.variances),
            "rest": torch.tensor([features.rest], dtype=torch.float64),
        }
    )
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_features(card: Card) -> FeatureSet | None:
    """Return the features that a card names, None where it names none.

    Raises:
        SetupError: The file is absent, its digest is another one, or it does not hold features.
    """
    limits = card.quality.features
    if limits is None:
        return None
    path = card.folder / limits.file
    held = read_weights_file(path, sha256=limits.sha256)
    shapes = {key: tuple(value.shape) for key, value in held.items()}
    k, c = shapes.get("components", (0, 0)) if len(shapes.get("components", ())) == 2 else (0, 0)
    wanted = {"mean": (c,), "components": (k, c), "variances": (k,), "rest": (1,)}
    if shapes != wanted or not k:
        raise setup_error(
            "model-features",
            f"The file {path.name} does not hold the features of a training set.",
            where=str(path),
            remedy="Write it with the training's own code, or leave out [quality.features].",
        )
    numbers = {key: value.double().numpy() for key, value in held.items()}
    return FeatureSet(
        numbers["mean"], numbers["components"], numbers["variances"], float(numbers["rest"][0])
    )


def case_features(volume: Volume, model: LoadedModel, labels: Labels) -> Floats | None:
    """Return the features (c,) of a case, None where nothing is labelled.

    Args:
        volume: As it goes through inference.
        model: Loaded.
        labels: uint8, the volume's shape.
    """
    prepared = prepare(volume, model.card)
    return features_of(prepared, model, prepared.from_native(labels))


def features_of(prepared: Prepared, model: LoadedModel, labels: Labels) -> Floats | None:
    """As `case_features`, for a volume that is prepared and labels with the card's axes."""
    boxes = list(_boxes(prepared, model, labels))
    if not boxes:
        return None
    chosen = np.unique(np.linspace(0, len(boxes) - 1, _PATCHES).round().astype(int))
    found = [_deepest(model.network, _patch(prepared, model, boxes[place])) for place in chosen]
    mean: Floats = np.mean(found, axis=0, dtype=np.float64)
    return mean


def unusual(features: Floats | None, known: FeatureSet | None, card: Card) -> Said:
    """Return a sentence if a case is further from the training set than the card allows."""
    limits = card.quality.features
    if features is None or known is None or limits is None:
        return []
    away = known.distance(features)
    if away <= limits.review_above:
        return []
    return [
        (
            Outcome.REVIEW,
            f"The image is unlike those the model was trained on: distance {away:.1f}, expected "
            f"is at most {limits.review_above:g}.",
        )
    ]


_Corner = tuple[int, int, int]


def _size(prepared: Prepared, model: LoadedModel) -> _Corner:
    return model.card.inference.patch or (1, prepared.shape[1], prepared.shape[2])


def _boxes(prepared: Prepared, model: LoadedModel, labels: Labels) -> Iterator[_Corner]:
    """Yield where patches begin on the network's grid, side by side, that hold a label."""
    sides = _size(prepared, model)
    starts = [
        [min(start, size - side) for start in range(0, size, side)]
        for size, side in zip(prepared.shape, sides, strict=True)
    ]
    for corner in product(*starts):
        box = tuple(
            slice(
                max(0, int(axis.start + start * axis.ratio)),
                max(0, int(np.ceil(axis.start + (start + side) * axis.ratio))),
            )
            for axis, start, side in zip(prepared.axes, corner, sides, strict=True)
        )
        if labels[box].any():
            yield (corner[0], corner[1], corner[2])


def _patch(prepared: Prepared, model: LoadedModel, corner: _Corner) -> Tensor:
    """Return one input of the network, (1, channels, [slices,] rows, columns)."""
    beside = model.card.inference.neighbours
    if model.card.inference.patch is None:
        return plane_inputs(prepared, corner[0], corner[0] + 1, beside)
    (z, y, x), (depth, rows, columns) = corner, model.card.inference.patch
    planes = slab_inputs(prepared, z, z + depth)
    return planes[None, :, :, y : y + rows, x : x + columns].contiguous()


def _deepest(network: nn.Module, batch: Tensor) -> NDArray[np.float32]:
    """Return the output of the network's deepest convolution, averaged over space, (c,)."""
    found: list[tuple[int, Tensor]] = []

    def look(_layer: nn.Module, _given: object, output: Tensor) -> None:
        found.append((output[0, 0].numel(), output[0].flatten(1).mean(dim=1)))

    kinds = (nn.Conv2d, nn.Conv3d)
    hooks = [
        layer.register_forward_hook(look) for layer in network.modules() if isinstance(layer, kinds)
    ]
    try:
        with torch.no_grad():
            network(batch.to(next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    smallest = min(size for size, _ in found)
    features: NDArray[np.float32] = (
        [each for size, each in found if size == smallest][-1].cpu().numpy()
    )
    return features
