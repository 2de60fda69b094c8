"""Frames that end in rows of one value: what a decoder leaves of a stream that was cut.

Decoders return a picture for most damaged streams and fill what they could not decode with a
constant. Many true frames end in air or black as well, so only an end that the frames beside it
do not share counts, and never one of the frame's lowest value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray

CONSTANT_END: Final = 0.05
"""Share of rows that may suddenly be one value at the end of a decoded frame."""


def constant_rows(cells: NDArray[Any]) -> int:
    """Return how many rows at the end of (rows, columns) hold only the last value."""
    differs = (cells != cells[-1, -1]).any(axis=1)
    return int(differs[::-1].argmax()) if differs.any() else len(cells)


def ends_suddenly(cells: NDArray[Any], end: int, beside: Sequence[int]) -> bool:
    """Return whether a frame of (rows, columns) ends in a fill that its neighbours lack.

    Args:
        cells: The decoded frame.
        end: Its `constant_rows`.
        beside: Those of the frames before and after it; without any there is no verdict.
    """
    sudden = end - max(beside, default=end)
    return sudden > CONSTANT_END * len(cells) and bool(cells[-1, -1] != cells.min())
