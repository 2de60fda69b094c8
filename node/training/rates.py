"""Learning rates over a budget, as pure functions of where the training stands."""

from __future__ import annotations

import math
from typing import Final

_START: Final = 25.0  # a one-cycle begins at the peak over this
_END: Final = 1e4  # and ends at its beginning over this
_MOMENTUM: Final = (0.85, 0.95)
_POWER: Final = 0.9


def one_cycle(at: float, of: float, *, peak: float, warm_up: float) -> tuple[float, float]:
    """Return rate and first momentum: up to `peak` and down, momentum the other way.

    Args:
        at: Steps that are done.
        of: Steps in all.
        peak: Highest rate.
        warm_up: Share of the steps in which it rises.

    Source: Smith and Topin 2017; the same numbers as torch's OneCycleLR, which counts steps only.
    """
    top = warm_up * of - 1
    low, high = _MOMENTUM
    if at <= top:
        share = at / top if top else 1.0
        return _cosine(peak / _START, peak, share), _cosine(high, low, share)
    share = (at - top) / (of - 1 - top)
    return _cosine(peak, peak / _START / _END, share), _cosine(low, high, share)


def poly(at: float, of: float, *, peak: float, warm_up: float) -> tuple[float, float]:
    """Return rate and first momentum: straight up, then down with the power 0.9 of what is left.

    Args:
        at: Steps that are done.
        of: Steps in all.
        peak: Highest rate.
        warm_up: Share of the steps in which it rises.
    """
    rising = warm_up * of
    if at < rising:
        return peak * (at + 1) / (rising + 1), 0.9
    return peak * max(1 - (at - rising) / (of - rising), 0.0) ** _POWER, 0.9


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
