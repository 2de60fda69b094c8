"""When the frames of a cine were taken, as its header says it; what cannot be is told.

FrameTime gives one distance for all frames, FrameTimeVector one for each; FrameIncrementPointer
names the one that counts. The rates at which a cine should be shown stand in where neither can be
believed. Times are for people: nothing of a result depends on them, so a wrong one refuses
nothing. Source: PS3.3 C.7.6.5, C.7.6.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.imaging.attributes import is_given, number, numbers, values

_FRAME_TIME: Final = Tag(0x0018, 0x1063)
_VECTOR: Final = Tag(0x0018, 0x1065)
_RATES: Final = ("CineRate", "RecommendedDisplayFrameRate")

_LONGEST_MS: Final = 1e10
"""Four months: no cine is longer, and sums stay numbers."""

_EVEN: Final = 0.01
"""Increments that differ by less than this share are one: writers round to a digit or two."""


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """What is known of the times of a cine.

    Attributes:
        each_ms: Time between frames where it is constant; None where it is not, or unknown.
        at_ms: Time of each frame since the first, where the increments differ; empty elsewhere.
        notes: Sentences on what is not believed.
    """

    each_ms: float | None
    at_ms: tuple[float, ...]
    notes: tuple[str, ...]


def read_frame_times(header: Dataset, frames: int) -> FrameTimes:
    """Read the times of the frames of an image.

    Args:
        header: A multi-frame instance.
        frames: NumberOfFrames (0028,0008); a single frame has no times.
    """
    if frames < 2:
        return FrameTimes(None, (), ())
    notes: list[str] = []
    increments = _increments(header, frames, notes)
    each_ms = _positive(header, "FrameTime", "ms", notes)
    named = values(header, "FrameIncrementPointer")
    # Without a pointer the vector says more than one number for all frames does.
    if increments and (_VECTOR in named or _FRAME_TIME not in named or each_ms is None):
        mean = sum(increments) / len(increments)
        if max(increments) - min(increments) <= _EVEN * mean:
            return FrameTimes(mean, (), tuple(notes))
        at_ms = [0.0]
        for increment in increments:
            at_ms.append(at_ms[-1] + increment)
        return FrameTimes(None, tuple(at_ms), tuple(notes))
    if each_ms is None:
        each_ms = _by_rate(header, notes)
    return FrameTimes(each_ms, (), tuple(notes))


def _increments(header: Dataset, frames: int, notes: list[str]) -> tuple[float, ...]:
    """Return the times from each frame to the next, or nothing."""
    if not is_given(header, "FrameTimeVector"):
        return ()
    found = values(header, "FrameTimeVector")
    vector = numbers(header, "FrameTimeVector", frames)
    if found and len(found) != frames:
        notes.append(
            f"FrameTimeVector has {len(found)} values for {frames} frames: it is not believed."
        )
        return ()
    if not vector:
        notes.append("FrameTimeVector holds something that is no number: it is not believed.")
        return ()
    if min(vector[1:]) < 0 or not 0 < sum(vector[1:]) < _LONGEST_MS:
        notes.append("FrameTimeVector does not run forward in time: it is not believed.")
        return ()
    if vector[0] != 0:
        notes.append(f"FrameTimeVector begins with {vector[0]:g} instead of 0, which is left out.")
    return vector[1:]


def _by_rate(header: Dataset, notes: list[str]) -> float | None:
    for keyword in _RATES:
        rate = _positive(header, keyword, "frames a second", notes)
        if rate is not None:
            return 1000.0 / rate
    return None


def _positive(header: Dataset, keyword: str, unit: str, notes: list[str]) -> float | None:
    """Return a number above 0, or None, with a note on one that is not."""
    value = number(header, keyword)
    if value is not None and value > 0:
        return value
    if is_given(header, keyword):
        said = f"{value:g} {unit}" if value is not None else "no number"
        notes.append(f"{keyword} is {said}: it is not believed.")
    return None
