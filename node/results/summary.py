"""How large a segment is, in words of pages and commands, from the summary in a result's row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def size_text(segment: Mapping[str, Any]) -> str:
    """Return the size of a segment in words.

    Args:
        segment: As in a result's summary: `volume_ml` of a volume; of frames `frames` that have
            it, and `area_mm2`, the largest area on one of them where pixels have a size.
    """
    if segment.get("volume_ml") is not None:
        return f"{float(segment['volume_ml']):,.1f} mL"
    frames = int(segment.get("frames") or 0)
    where = f"on {frames} frame" + ("" if frames == 1 else "s")
    area = segment.get("area_mm2")
    return where if area is None else f"{where}, at most {float(area):,.0f} mm2"
