"""How long to wait before the next try; pure."""

from __future__ import annotations

import random


def wait_ms(failures: int, *, first_s: float, longest_s: float, rng: random.Random) -> int:
    """Return a wait that doubles from `first_s` to `longest_s`, half of it spread at random.

    Args:
        failures: Failures so far, from 1.
        first_s: The first full wait.
        longest_s: No full wait is longer.
        rng: Source of the spread, so that ten workers that lost one peer come back one by one.
    """
    full = min(first_s * 2.0 ** min(max(failures, 1) - 1, 30), longest_s)
    return round(1000 * (full / 2 + rng.random() * full / 2))
