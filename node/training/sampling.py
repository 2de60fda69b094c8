"""Which examples a step sees, and which part of each; a value that can be stored and taken up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.training.recipe import Examples


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sampler stands: the order of this round, and how far it is."""

    order: tuple[int, ...]
    at: int


class Sampler:
    """Every example is seen once before any is seen again."""

    def __init__(
        self,
        examples: Examples,
        *,
        batch: int,
        patch: tuple[int, ...] | None,
        near: float,
        background: float | None,
    ) -> None:
        self._examples = examples
        self._batch = min(batch, len(examples.images))
        self._patch = patch
        self._near = near
        self._background = background
        self._order: NDArray[np.intp] = np.empty(0, np.intp)
        self._at = 0
        self._labelled = [np.flatnonzero(one) for one in examples.labels] if patch and near else []

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(tuple(int(one) for one in self._order), self._at)

    def go_to(self, place: Place) -> None:
        """Stand where another sampler stood."""
        self._order, self._at = np.array(place.order, np.intp), place.at

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
        """Return images (b, ...) float32 and their labels or shares, of the next step."""
        count = len(self._examples.images)
        if not len(self._order) or self._at + self._batch > count:
            self._order, self._at = rng.permutation(count), 0
        chosen = np.sort(self._order[self._at : self._at + self._batch])
        self._at += self._batch
        if self._patch is None:
            images = self._examples.images[chosen].astype(np.float32)
            return images, self._examples.labels[chosen]
        pairs = [self._part(int(one), rng) for one in chosen]
        return (
            np.stack([image for image, _ in pairs]).astype(np.float32),
            np.stack([labels for _, labels in pairs]),
        )

    def _part(
        self, index: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float16], NDArray[np.generic]]:
        """Return a patch of one example, padded where the example is smaller."""
        patch = self._patch
        if patch is None:
            raise AssertionError("parts are cut where there is a patch")
        image, labels = self._examples.images[index], self._examples.labels[index]
        extents = self._examples.extents
        size = image.shape if extents is None else tuple(int(one) for one in extents[index])
        if self._near and rng.random() < self._near and len(self._labelled[index]):
            voxel = np.unravel_index(int(rng.choice(self._labelled[index])), image.shape)
            starts = [
                int(v) - int(rng.integers(side)) for v, side in zip(voxel, patch, strict=True)
            ]
        else:
            starts = [
                int(rng.integers(min(0, have - side), max(0, have - side) + 1))
                for have, side in zip(size, patch, strict=True)
            ]
        starts = [
            min(max(start, min(0, have - side)), max(0, have - side))
            for start, have, side in zip(starts, size, patch, strict=True)
        ]
        around = image.min() if self._background is None else self._background
        cut_image = np.full(patch, around, np.float16)
        cut_labels = np.zeros(patch, labels.dtype)
        inside = tuple(
            slice(max(0, start), min(have, start + side))
            for start, have, side in zip(starts, size, patch, strict=True)
        )
        target = tuple(
            slice(part.start - start, part.stop - start)
            for part, start in zip(inside, starts, strict=True)
        )
        cut_image[target], cut_labels[target] = image[inside], labels[inside]
        return cut_image, cut_labels
