"""The one place of `node` that reads the time of day; everything else is handed it."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Return the time of day as milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
