"""How large the pixels are that a card for frames looks at, and whether it needs to know.

A millimetre counts only where the header gives it reliably (`node.imaging.regions`): a card whose
steps are in millimetres refuses an image that gives none, because a guessed scale would remove a
nerve and keep a shadow.
"""

from __future__ import annotations

from node.imaging.values import FrameRegion, FramesPlan, Refusal
from node.models.card import Card
from node.models.frame_parts import FrameGrid
from node.models.parts import Close, DropSmall, PostStep
from node.reasons import Reason

Scale = tuple[float, float]
"""Millimetres between rows and between columns."""


def chosen_regions(plan: FramesPlan, grid: FrameGrid) -> tuple[FrameRegion, ...]:
    """Return the regions that a card looks at; none where it takes the picture or its content."""
    if grid.crop != "region" or not plan.regions:
        return ()
    if grid.regions == "largest":
        # The first of equally large ones: max keeps the order.
        return (max(plan.regions, key=_area),)
    return plan.regions[:1] if grid.regions == "first" else plan.regions


def pixel_sizes(plan: FramesPlan, grid: FrameGrid) -> tuple[Scale | None, ...]:
    """Return the size of the pixels of each part that a card looks at; None where it is unknown.

    Of the whole picture it is known where the header names no region, or gives all the same one.
    """
    chosen = chosen_regions(plan, grid)
    if chosen:
        return tuple(region.spacing_mm for region in chosen)
    if len({region.spacing_mm for region in plan.regions}) > 1:
        return (None,)
    _, row_mm, column_mm = plan.spacing_mm
    return ((row_mm, column_mm) if row_mm and column_mm else None,)


def needs_scale(step: PostStep) -> bool:
    """Return whether a step is told in millimetres."""
    return (isinstance(step, DropSmall) and step.min_mm > 0) or (
        isinstance(step, Close) and step.radius_mm > 0
    )


def refusal_of_frames(plan: FramesPlan, card: Card) -> Refusal | None:
    """Return why a model does not take these frames, or None if it does."""
    if card.frames is None or all(pixel_sizes(plan, card.frames)):
        return None
    steps = [place for place, step in enumerate(card.postprocess, start=1) if needs_scale(step)]
    if not steps:
        return None
    return Refusal(
        Reason.NOT_CALIBRATED,
        f"postprocess[{steps[0]}] of {card.name} is in millimetres, and the image does not say "
        "reliably how large its pixels are. Give the step in pixels, or have the scale written "
        "where the image is made.",
        plan.series_uid,
        plan.modality,
        plan.part,
    )


def _area(region: FrameRegion) -> int:
    top, left, bottom, right = region.box
    return (bottom - top) * (right - left)
