"""Values that several tables of a card hold: files beside it, labels, ranges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from node.strict_toml import Table

AXES: Final = ("slice", "row", "column")
LABELS_MAX: Final = 255  # labels are uint8
FAR: Final = 1e9  # larger than any intensity or volume


def check_file(table: Table, file: str, sha256: str) -> None:
    """Note what is no name of a file beside the card, and no digest."""
    if PurePath(file).name != file or not file.endswith(".safetensors"):
        table.note("file", f"must be the name of a .safetensors file in this folder, is {file!r}")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        table.note("sha256", "must be the 64 hexadecimal digits that sha256sum prints")


def read_range(table: Table, low_key: str, high_key: str) -> tuple[float, float]:
    """Return two numbers, the first below the second."""
    low = table.number(low_key, -FAR, FAR)
    high = table.number(high_key, -FAR, FAR)
    if low >= high and high != -FAR:
        table.note(high_key, f"must be above {low_key} = {low:g}, is {high:g}")
    return low, high


def read_span(
    table: Table, key: str, low: float, high: float, default: Sequence[float] | None = None
) -> tuple[float, float]:
    """Return [least, most] within low..high."""
    least, most = table.numbers(key, 2, default)
    if not low <= least <= most <= high:
        table.note(
            key, f"must be [least, most] within {low:g} to {high:g}, is [{least:g}, {most:g}]"
        )
    return least, most


def read_label(table: Table, key: str) -> int:
    """Return one label value."""
    return table.integer(key, 1, LABELS_MAX)


def read_labels(table: Table) -> tuple[int, ...]:
    """Return the list `labels`."""
    labels = table.numbers("labels", 0)
    if not labels or any(one != int(one) or not 1 <= one <= LABELS_MAX for one in labels):
        table.note("labels", "must be a list of label values from 1")
        return (1,)
    return tuple(int(one) for one in labels)
