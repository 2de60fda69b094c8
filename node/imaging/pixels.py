"""From stored cells to physical values: the value chain of one image plane.

The order is fixed: cell, high bit, mask, sign, padding, modality LUT or rescale, background.
Presentation never enters: MONOCHROME1 is not inverted and no window is applied. Values stay
int16 where that is exact, else they are computed in float64 and cast once to float32.

Three traps decide the details. Old scanners keep overlays in the bits above BitsStored, so cells
are masked. With HighBit 15 and 12 bits stored the value sits in the upper bits (pydicom 3.0.2
returns 80 for a 5). And some writers pad with a value that does not fit into BitsStored, so
padding is looked for before the mask as well. Source: PS3.5 8.1, PS3.3 C.7.6.3, C.11.1.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.imaging.pixel_format import PixelFormat, ValueRule

Cells = NDArray[np.unsignedinteger[Any]]
"""Stored cells of one plane before any interpretation, shape (rows, columns)."""

_INT16: Final = np.iinfo(np.int16)


def stored_range(form: PixelFormat) -> tuple[int, int]:
    """Return the lowest and highest stored value that BitsStored allows."""
    if form.signed:
        return -(1 << (form.bits_stored - 1)), (1 << (form.bits_stored - 1)) - 1
    return 0, (1 << form.bits_stored) - 1


def stored_values(cells: Cells, form: PixelFormat, *, high_bit: int) -> NDArray[np.integer[Any]]:
    """Interpret cells in place: take BitsStored bits below `high_bit`, with their sign.

    Args:
        cells: Unsigned cells; their memory is overwritten.
        form: How the pixels are written.
        high_bit: HighBit of native cells; BitsStored - 1 for what a decoder returned.
    """
    width = cells.dtype.itemsize * 8
    if not form.signed:
        if high_bit >= form.bits_stored:
            np.right_shift(cells, high_bit + 1 - form.bits_stored, out=cells)
        if form.bits_stored < width:
            np.bitwise_and(cells, (1 << form.bits_stored) - 1, out=cells)
        return cells
    signed: NDArray[np.integer[Any]] = cells.view(f"i{cells.dtype.itemsize}")
    if form.bits_stored < width:
        np.left_shift(signed, width - 1 - high_bit, out=signed)
        np.right_shift(signed, width - form.bits_stored, out=signed)
    return signed


def find_padding(
    cells: Cells, form: PixelFormat, padding: tuple[float, float]
) -> NDArray[np.bool_] | None:
    """Return where whole cells are padding that does not fit into BitsStored, or None."""
    low, high = stored_range(form)
    if low <= padding[0] and padding[1] <= high:
        return None
    whole = cells.view(f"i{cells.dtype.itemsize}") if form.signed else cells
    return _between(whole, padding)


def _between(
    stored: NDArray[np.integer[Any]], padding: tuple[float, float]
) -> NDArray[np.bool_] | None:
    low, high = int(padding[0]), int(padding[1])
    limits = np.iinfo(stored.dtype)
    if high < limits.min or low > limits.max:
        return None
    low, high = max(low, int(limits.min)), min(high, int(limits.max))
    found = stored == low if low == high else (stored >= low) & (stored <= high)
    return found if found.any() else None


def _not_measured(values: NDArray[Any], rule: ValueRule) -> NDArray[np.bool_]:
    """Return where floating-point values are padding, or no number at all."""
    found: NDArray[np.bool_] = ~np.isfinite(values)
    if rule.padding is not None:
        found |= (values >= rule.padding[0]) & (values <= rule.padding[1])
    return found


def convert_plane(
    cells: Cells,
    form: PixelFormat,
    rule: ValueRule,
    out: NDArray[np.int16] | NDArray[np.float32],
    *,
    high_bit: int,
) -> tuple[bool, NDArray[np.bool_] | None]:
    """Turn the cells of one plane into physical values.

    Args:
        cells: Unsigned cells, or floating-point values; overwritten. May share memory with `out`.
        form: How the pixels are written.
        rule: How values are made of them.
        out: Where values go, shape (rows, columns); int16 only if `rule.integral`.
        high_bit: As for `stored_values`.

    Returns:
        Whether every value fitted into `out` (only int16 can fail, and then its content is
        undefined), and where padding was found, or None.
    """
    pad: NDArray[np.bool_] | None = None
    stored: NDArray[Any] = cells
    if form.floating:
        pad = _not_measured(cells, rule)
        cells[pad] = 0  # a NaN would go through every step behind it
        pad = pad if pad.any() else None
    else:
        if rule.padding is not None:
            pad = find_padding(cells, form, rule.padding)
        stored = stored_values(cells, form, high_bit=high_bit)
        if rule.padding is not None and pad is None:
            pad = _between(stored, rule.padding)
    if out.dtype == np.int16:
        if not _shift(stored, form, rule, out, pad):
            return False, pad
    else:
        _rescale(stored, rule, out)
    return True, _fill(out, form, rule, pad)


def _shift(
    stored: NDArray[Any],
    form: PixelFormat,
    rule: ValueRule,
    out: NDArray[Any],
    pad: NDArray[np.bool_] | None,
) -> bool:
    """Add the whole intercept; return whether everything that is no padding fits int16."""
    intercept = int(rule.intercept)
    low, high = stored_range(form)
    if low + intercept < _INT16.min or high + intercept > _INT16.max:
        if pad is not None:
            stored[pad] = min(max(-intercept, low), high)
        if int(stored.min()) + intercept < _INT16.min or int(stored.max()) + intercept > _INT16.max:
            return False
    if stored.dtype.itemsize == 2:
        # Two's complement: adding modulo 2^16 is right whenever the sum fits.
        cells = stored.view(np.uint16)
        if intercept:
            np.add(cells, np.uint16(intercept & 0xFFFF), out=out.view(np.uint16))
        elif not np.shares_memory(cells, out):
            out.view(np.uint16)[...] = cells
    else:
        out[...] = stored.astype(np.int64) + intercept
    return True


def _rescale(stored: NDArray[Any], rule: ValueRule, out: NDArray[Any]) -> None:
    if rule.table is not None:
        index = stored.astype(np.int64) - rule.table_start
        out[...] = rule.table[np.clip(index, 0, len(rule.table) - 1)]
        return
    out[...] = stored.astype(np.float64) * rule.slope + rule.intercept


def _fill(
    out: NDArray[Any], form: PixelFormat, rule: ValueRule, pad: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Set padding to the background; return where it is, the undeclared with the declared."""
    if rule.floor is not None and not _cannot_fall_below(rule.floor, form, rule):
        below = out < rule.floor
        if below.any():
            pad = below if pad is None else pad | below
    if pad is not None:
        out[pad] = rule.background
    return pad


def _cannot_fall_below(floor: int, form: PixelFormat, rule: ValueRule) -> bool:
    if form.floating or not rule.integral:
        return False
    return stored_range(form)[0] + int(rule.intercept) >= floor
