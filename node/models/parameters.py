"""A card's [network] parameters read strictly: every mistake noted, all told at once.

An architecture asks for what it knows; what is left at `finish` it does not know. Values that
are wrong come back as something harmless, because nothing is built once a mistake is noted.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from torch import nn

from node.models.parts import Network, Parameter

WIDEST: Final = 4096
"""Most feature channels of a level: nnU-Net's largest presets have 512, VGG16 has 512."""

Sides = tuple[int, ...]
"""One number per axis of the network."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A network that can be built.

    Attributes:
        dimensions: 2 or 3.
        multiples: What each side of the input must be a multiple of, one per dimension.
        build: Returns it with weights as torch draws them.
    """

    dimensions: int
    multiples: Sides
    build: Callable[[], nn.Module]


class Parameters:
    """Hands out the parameters of one [network] table and notes what is wrong with them."""

    def __init__(self, network: Network) -> None:
        self.channels = network.channels
        self.outputs = network.outputs
        self.mistakes: list[str] = []
        self._architecture = network.architecture
        self._left = dict(network.parameters)
        self._asked: list[str] = []

    def note(self, key: str, text: str) -> None:
        """Note what is wrong with one parameter."""
        self.mistakes.append(f"network.{key}: {text}.")

    def dimensions(self) -> int:
        """Return `dimensions`, 2 or 3."""
        value = self._take("dimensions", None)
        if type(value) is int and value in (2, 3):
            return value
        self.note("dimensions", f"must be 2 or 3, is {_shown(value)}")
        return 2

    def widths(self, key: str, least: int, most: int) -> tuple[int, ...]:
        """Return feature channels per level, finest first."""
        value = self._take(key, None)
        if (
            isinstance(value, tuple)
            and least <= len(value) <= most
            and all(type(one) is int and 1 <= one <= WIDEST for one in value)
        ):
            return tuple(one for one in value if isinstance(one, int))
        count = f"{least}" if least == most else f"{least} to {most}"
        self.note(
            key,
            f"must be {count} whole numbers of 1 to {WIDEST}, finest level first, "
            f"is {_shown(value)}",
        )
        return (1,) * least

    def counts(self, key: str, count: int, default: Parameter | None = None) -> tuple[int, ...]:
        """Return how many of something each of `count` levels has; one number means the same."""
        value = self._take(key, default)
        if type(value) is int and 1 <= value <= 32:
            return (value,) * count
        if isinstance(value, tuple) and len(value) == count:
            numbers = tuple(one for one in value if isinstance(one, int) and 1 <= one <= 32)
            if len(numbers) == count:
                return numbers
        self.note(
            key, f"must be {count} whole numbers of 1 to 32, or one number, is {_shown(value)}"
        )
        return (1,) * count

    def per_level(
        self, key: str, count: int, dimensions: int, default: Parameter | None = None
    ) -> tuple[Sides, ...]:
        """Return sides of kernels or strides for each of `count` levels.

        One number holds for all; a level is a number or a list with one number per axis.
        """
        value = self._take(key, default)
        levels = (value,) * count if isinstance(value, int) else value
        if isinstance(levels, tuple) and len(levels) == count:
            sides = [_sides(one, dimensions) for one in levels]
            if all(sides):
                return tuple(one for one in sides if one)
        self.note(
            key,
            f"must hold {count} entries, each a whole number of 1 to 16 or a list of "
            f"{dimensions}, is {_shown(value)}",
        )
        return ((1,) * dimensions,) * count

    def sides(self, key: str, dimensions: int, default: int) -> Sides:
        """Return the sides of one kernel: a number, or a list with one per axis."""
        value = self._take(key, default)
        if found := _sides(value, dimensions):
            return found
        self.note(
            key, f"must be a whole number of 1 to 16 or a list of {dimensions}, is {_shown(value)}"
        )
        return (1,) * dimensions

    def odd(self, key: str, kernels: Sequence[Sides]) -> None:
        """Note kernels with an even side: with padding they would shift the image."""
        if any(side % 2 == 0 for kernel in kernels for side in kernel):
            self.note(key, f"sides of a kernel must be odd, is {_shown(tuple(kernels))}")

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Return one of `choices`; the first is the default."""
        value = self._take(key, choices[0])
        if isinstance(value, str) and value in choices:
            return value
        self.note(key, f"must be one of {', '.join(choices)}, is {_shown(value)}")
        return choices[0]

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._take(key, default)
        if isinstance(value, bool):
            return value
        self.note(key, f"must be true or false, is {_shown(value)}")
        return default

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number from `low` to `high`."""
        value = self._take(key, default)
        if type(value) is int and low <= value <= high:
            return value
        self.note(key, f"must be a whole number from {low} to {high}, is {_shown(value)}")
        return low

    def slope(self, default: float = 0.01) -> float:
        """Return `slope`, of leaky_relu below zero."""
        value = self._take("slope", default)
        if type(value) in (int, float) and isinstance(value, int | float) and 0 <= value <= 1:
            return float(value)
        self.note("slope", f"must be a number from 0 to 1, is {_shown(value)}")
        return default

    def finish(self) -> None:
        """Note every parameter that the architecture did not ask for."""
        for key in self._left:
            near = difflib.get_close_matches(key, self._asked, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            known = ", ".join(self._asked)
            self.note(key, f"{self._architecture} has no such parameter; it has {known}{hint}")

    def _take(self, key: str, default: Parameter | None) -> Parameter | None:
        self._asked.append(key)
        return self._left.pop(key, default)


def strides_product(strides: Sequence[Sides]) -> Sides:
    """Return per axis what all strides together divide the image by."""
    return tuple(prod(axis) for axis in zip(*strides, strict=True))


def _sides(value: object, dimensions: int) -> Sides:
    """Return one number per axis, or nothing if `value` is not that."""
    if type(value) is int:
        value = (value,) * dimensions
    if not isinstance(value, tuple) or len(value) != dimensions:
        return ()
    return value if all(type(one) is int and 1 <= one <= 16 for one in value) else ()


def _shown(value: object) -> str:
    """Return a value as it stands in TOML."""
    if value is None:
        return "missing"
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(one) for one in value) + "]"
    return repr(value).lower() if isinstance(value, bool) else repr(value)
