"""What a card says of frames: `[inference] mode = "frames"`, for models of ultrasound.

Frames have no place in the patient, so such a card names no orientation and no distances: it says
which part of the picture the network sees and how large, and how a cine is gone through. The keys
stand in [voxels] and [inference], where a card for volumes has others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from node.models.parts import (
    ANY_COUNT,
    ANY_MM,
    ANY_SLICES,
    Close,
    DropSmall,
    FillHoles,
    Head,
    KeepLargest,
    PostStep,
    Quality,
    Stage,
    Voxels,
)
from node.strict_toml import Table

MODE: Final = "frames"
UNITS: Final = "grey"
HEADS: Final = ("classes", "probability")
_MOST_ML: Final = 1e6  # max_ml of [[quality.segments]] where the card says nothing


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """What of a frame the network sees, and which frames.

    Attributes:
        crop: `region`: tissue as the header names it, else as `content`; `content`: where the
            picture changes or is filled; `image`: the whole matrix.
        regions: Where there are several, as on a split screen: `first`, `largest` or `each`.
        ratio: `keep`: a millimetre is as long in both directions (a pixel, where nothing says
            how large it is) and the rest of the window is background; `stretch`: the crop fills
            the window.
        colour: Whether frames with colour, such as Doppler, are taken.
        every: Every how manieth frame of a cine is segmented, from the first.
        temporal_median: 3 takes the median of the scores of a frame and those before and after
            it, 1 takes the frame alone.
    """

    crop: str
    regions: str
    ratio: str
    colour: bool
    every: int
    temporal_median: int


def read_frame_grid(voxels: Table, inference: Table) -> FrameGrid | None:
    """Read what belongs to frames out of [voxels] and [inference]; None for another mode."""
    if inference.peek("mode") != MODE:
        return None
    median = inference.integer("temporal_median", 1, 3, 1)
    if median == 2:
        inference.note("temporal_median", "must be 1 or 3")
    return FrameGrid(
        crop=voxels.choice("crop", ("region", "content", "image"), "region"),
        regions=voxels.choice("regions", ("first", "largest", "each"), "first"),
        ratio=voxels.choice("ratio", ("keep", "stretch"), "keep"),
        colour=voxels.flag("colour", default=False),
        every=inference.integer("every", 1, 1000, 1),
        temporal_median=median,
    )


def read_frame_voxels(table: Table) -> Voxels:
    """Read the rest of [voxels] of a card for frames."""
    rows, columns = table.numbers("size", 2)
    if any(one != int(one) or not 8 <= one <= 4096 for one in (rows, columns)):
        table.note("size", f"must be [rows, columns] of 8 to 4096, is [{rows:g}, {columns:g}]")
        rows = columns = 8.0
    voxels = Voxels(
        orientation="native",
        spacing_mm=(0.0, 0.0, 0.0),
        size=(int(rows), int(columns)),
        centre="image",
        body_above=0.0,
        background=table.number("background", -1e9, 1e9, 0.0),
        units=table.choice("units", (UNITS,), UNITS),
        downsample=table.choice("downsample", ("area", "linear"), "area"),
        back=table.choice("back", ("linear", "nearest"), "linear"),
    )
    table.finish()
    return voxels


def frame_mistakes(
    postprocess: Sequence[PostStep], quality: Quality, head: Head, stage: Stage | None
) -> Iterator[str]:
    """Yield what a card for frames must not say because it needs a volume."""
    if head.kind not in HEADS:
        yield f'head.kind: frames know {" and ".join(HEADS)}, not "{head.kind}"'
    if stage is not None:
        yield "stage: a model for frames has no model before it"
    for place, step in enumerate(postprocess, start=1):
        if not isinstance(step, KeepLargest | DropSmall | FillHoles | Close):
            known = "keep_largest, drop_small, fill_holes and close"
            yield f"postprocess[{place}]: frames know {known} only"
        if isinstance(step, DropSmall) and step.min_ml > 0:
            yield f"postprocess[{place}]: a piece on a frame has no volume; give min_px or min_mm"
    yield from _quality_mistakes(quality)


def _quality_mistakes(quality: Quality) -> Iterator[str]:
    for limits in quality.segments:
        if limits.min_ml > 0 or limits.max_ml < _MOST_ML:
            yield f"quality: segment {limits.number} of a frame has no volume in ml"
        if limits.max_pieces or limits.side or limits.height is not None:
            yield f"quality: max_pieces, side and height of segment {limits.number} need a volume"
    if quality.ratios or quality.end_slice_cm2 > 0:
        yield "quality: ratios and end_slice_cm2 belong to volumes"
    if quality.outside_body < 1 or quality.agreement or quality.features:
        yield "quality: outside_body, agreement and features belong to volumes"
    if quality.input is not None and quality.input.slice_mm != ANY_MM:
        yield "quality.input.slice_mm: frames are no slices, nothing lies between them"
    if quality.input is not None and quality.input.slices != ANY_SLICES:
        yield "quality.input.slices: frames are counted by frames = [least, most]"


def pixel_mistakes(postprocess: Sequence[PostStep], quality: Quality) -> Iterator[str]:
    """Yield what a card for volumes must not say because it is counted in pixels or frames."""
    for place, step in enumerate(postprocess, start=1):
        if isinstance(step, DropSmall) and step.min_px > 0:
            yield f"postprocess[{place}]: min_px belongs to frames; a volume has min_ml and min_mm"
        if isinstance(step, Close) and step.radius_px > 0:
            yield f"postprocess[{place}]: radius_px belongs to frames; a volume has radius_mm"
    if quality.input is not None and quality.input.frames != ANY_COUNT:
        yield "quality.input.frames: belongs to frames; a volume has slices = [least, most]"
