"""The entry of an ultrasound image in the JSON of `limner inspect`.

Every frame is read once, a few at a time, so that what is called usable has been decoded whole.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.imaging.decode import FrameDecoder
from node.imaging.frame_reader import open_frames
from node.imaging.planes import RefusedError
from node.imaging.values import FramesPlan, Grey, Refusal

_AT_ONCE: Final = 8
"""Frames in memory at a time."""


def frames_entry(plan: FramesPlan, decoder: FrameDecoder) -> dict[str, Any] | Refusal:
    """Return what is said of the frames of one instance, or why they cannot be read.

    Minimum, median and maximum are those of the grey of all frames; the median of an image with
    more than 8 bits is null, because it would need every frame in memory.
    """
    range_of = _Range()
    try:
        with open_frames(plan, decoder=decoder, colour_accepted=True) as frames:
            for first in range(0, plan.shape[0], _AT_ONCE):
                range_of.add(frames.read(range(first, min(first + _AT_ONCE, plan.shape[0]))))
    except RefusedError as refused:
        return frames_refusal(plan, refused)
    return {
        "kind": "frames",
        "series_uid": plan.series_uid,
        "part": plan.part,
        "modality": plan.modality or None,
        "usable": True,
        "reason": None,
        "explanation": None,
        "shape": list(plan.shape),
        "spacing_mm": list(plan.spacing_mm),
        "affine": None,
        "units": plan.units,
        **range_of.numbers(),
        "instances": [plan.instance.sop_instance_uid],
        "notes": list(plan.notes),
        "regions": [
            {
                "box": list(region.box),
                "spacing_mm": list(region.spacing_mm) if region.spacing_mm else None,
            }
            for region in plan.regions
        ],
        "frame_time_ms": plan.frame_time_ms,
        "frame_times_ms": list(plan.frame_times_ms) or None,
        "mask": None,
        "nifti": None,
    }


def frames_refusal(plan: FramesPlan, refused: RefusedError) -> Refusal:
    """Return the refusal of frames that could not be read."""
    return Refusal(
        reason=refused.reason,
        explanation=refused.explanation,
        series_uid=plan.series_uid,
        modality=plan.modality,
        part=plan.part,
        instances=(refused.instance.sop_instance_uid,),
    )


class _Range:
    """Minimum, median and maximum of values that come in pieces."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        self._counts: NDArray[np.int64] | None = np.zeros(256, np.int64)

    def add(self, grey: Grey) -> None:
        """Count some frames."""
        self._low = min(self._low, float(grey.min()))
        self._high = max(self._high, float(grey.max()))
        if grey.dtype != np.uint8:
            self._counts = None
        elif self._counts is not None:
            self._counts += np.bincount(grey.ravel(), minlength=256)

    def numbers(self) -> dict[str, float | None]:
        """Return the three numbers."""
        return {"minimum": self._low, "median": self._median(), "maximum": self._high}

    def _median(self) -> float | None:
        if self._counts is None:
            return None
        below = np.cumsum(self._counts)
        total = int(below[-1])
        ends = [int(np.searchsorted(below, rank)) for rank in ((total + 1) // 2, total // 2 + 1)]
        return sum(ends) / 2
