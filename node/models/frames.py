"""From frames to labels on their own pixels: a 2D network over a still or a cine.

A few frames are read, seen by the network and forgotten again; what stays is one byte per pixel
of labels. Each frame is segmented and cleaned up for itself. Lengths are measured only where the
image says how large a pixel is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from node.imaging.values import (
    Code,
    Frames,
    FramesPlan,
    Labels,
    Measurement,
    Outcome,
    Segment,
    Segmentation,
    Verdict,
)
from node.models.card import Card
from node.models.choice import best_class
from node.models.frame_cleaning import FrameCleaner
from node.models.frame_window import FrameWindow, frame_windows
from node.models.loaded import LoadedModel
from node.models.parts import Quality
from node.models.scores import Meter

AREA: Final = Code("42798000", "SCT", "Area")
SQUARE_MILLIMETRE: Final = Code("mm2", "UCUM", "square millimeter")


def segment_frames(
    frames: Frames, model: LoadedModel, *, progress: Callable[[float], None] = lambda _: None
) -> Segmentation:
    """Segment frames one by one.

    The same frames, card, weights and runtime give the same label bytes. Frames that the card
    leaves out (`every`) are background.

    Args:
        frames: Opened frames.
        model: A loaded model whose card is one for frames.
        progress: Called with the share 0..1 of the network's work that is done.

    Raises:
        RefusedError: A frame cannot be read (from `node.imaging.planes`).
        ValueError: The card is not one for frames, or works in millimetres where there are none.
    """
    card = model.card
    if card.frames is None:
        raise ValueError(f"{card.name} is no card for frames")
    begun = perf_counter()
    meter = Meter(progress)
    windows = frame_windows(frames, card)
    cleaner = FrameCleaner(card.postprocess, windows, frames.plan.shape[1:])
    indices = range(0, frames.plan.shape[0], card.frames.every)
    labels: Labels = np.zeros(frames.plan.shape, np.uint8)
    removed = 0
    scored = _scores(frames, windows, model, indices, meter)
    if card.frames.temporal_median == 3:
        scored = _median_of_three(scored)
    for index, scores in zip(indices, scored, strict=True):
        since = perf_counter()
        _paste(labels[index], scores, windows, card)
        removed += cleaner.clean(labels[index : index + 1])
        meter.add("back", since)
    counts = np.stack([np.bincount(frame.ravel(), minlength=256) for frame in labels])
    found = {segment.number: int(counts[:, segment.number].sum()) for segment in card.segments}
    return Segmentation(
        labels=labels,
        segments=card.segments,
        measurements=tuple(_areas(labels, counts, card.segments, frames.plan)),
        verdict=_verdict(found, removed, card.quality, card.segments),
        model=card.identity,
        runtime={**model.runtime, "frames": f"{len(indices)} of {frames.plan.shape[0]}"},
        seconds={**meter.seconds, "total": perf_counter() - begun},
    )


def _scores(
    frames: Frames,
    windows: Sequence[FrameWindow],
    model: LoadedModel,
    indices: Sequence[int],
    meter: Meter,
) -> Iterator[list[Tensor]]:
    """Yield for each frame the scores (outputs, rows, columns) of each window."""
    size = model.card.inference.batch
    for first in range(0, len(indices), size):
        some = indices[first : first + size]
        since = perf_counter()
        grey = frames.read(some)
        batches = [
            torch.from_numpy(np.stack([window.to_network(frame) for frame in grey])[:, None])
            for window in windows
        ]  # (n, 1, rows, columns) each
        meter.add("prepare", since)
        since = perf_counter()
        scores = [model.scores(batch) for batch in batches]
        meter.add("network", since)
        for place in range(len(some)):
            yield [of_window[place] for of_window in scores]
        meter.report((first + len(some)) / len(indices))


def _median_of_three(scored: Iterable[list[Tensor]]) -> Iterator[list[Tensor]]:
    """Yield the median of the scores before, of and after each frame; ends stay as they are."""
    before: list[Tensor] | None = None
    here: list[Tensor] | None = None
    for after in scored:
        if here is not None:
            yield _median(before, here, after)
        before, here = here, after
    if here is not None:
        yield here


def _median(before: list[Tensor] | None, here: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    if before is None:
        return here
    return [
        torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
        for a, b, c in zip(before, here, after, strict=True)
    ]


def _paste(
    frame: Labels, scores: Sequence[Tensor], windows: Sequence[FrameWindow], card: Card
) -> None:
    """Put the labels of all windows into a frame (rows, columns); the first one stays."""
    for window, of_window in zip(windows, scores, strict=True):
        top, left, bottom, right = window.box
        found = best_class(window.to_native(of_window), card.head)
        part = frame[top:bottom, left:right]
        np.copyto(part, found, where=part == 0)


def _pixel_mm2(plan: FramesPlan) -> NDArray[np.float64]:
    """Return the area of each pixel (rows, columns) in mm2; NaN where nothing says it."""
    mm2 = np.full(plan.shape[1:], np.nan)
    _, row_mm, column_mm = plan.spacing_mm
    if not plan.regions and row_mm and column_mm:
        mm2[:] = row_mm * column_mm
    for region in reversed(plan.regions):  # the most important one last
        top, left, bottom, right = region.box
        height, width = region.spacing_mm or (np.nan, np.nan)
        mm2[top:bottom, left:right] = height * width
    return mm2


def _areas(
    labels: Labels, counts: NDArray[np.int64], segments: Sequence[Segment], plan: FramesPlan
) -> Iterator[Measurement]:
    """Yield the area of each segment on each frame that has it, where pixels have a size."""
    mm2 = _pixel_mm2(plan)
    if np.isnan(mm2).all():
        return
    for index in np.flatnonzero(counts[:, 1:].any(axis=1)):
        for segment in segments:
            area = float(mm2[labels[index] == segment.number].sum())
            if counts[index, segment.number] and np.isfinite(area):
                yield Measurement(
                    segment.number, AREA, area, SQUARE_MILLIMETRE, frame=int(index) + 1
                )


def _verdict(
    found: Mapping[int, int], removed: int, quality: Quality, segments: Sequence[Segment]
) -> Verdict:
    """Judge what frames can be judged by: segments that are empty, and how much was removed."""
    names = {segment.number: segment.label for segment in segments}
    said = [
        (Outcome(limits.when_empty), f"{names[limits.number]} is on no frame.")
        for limits in quality.segments
        if not found[limits.number] and limits.when_empty != Outcome.ACCEPT
    ]
    left = sum(found.values())
    if removed > quality.removed_fraction * (left + removed):
        said.append(
            (
                Outcome.REVIEW,
                f"Post-processing removed {removed} pixels beside {left} that stayed: the network "
                "saw something it does not know.",
            )
        )
    reasons = tuple(sentence for _, sentence in said)
    outcomes = {outcome for outcome, _ in said}
    for outcome in (Outcome.REJECT, Outcome.REVIEW):
        if outcome in outcomes:
            return Verdict(outcome, reasons)
    return Verdict(Outcome.ACCEPT)
