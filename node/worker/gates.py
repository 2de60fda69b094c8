"""What the card sets for its input, asked of headers and grid before any pixel is read."""

from __future__ import annotations

from collections.abc import Iterator

from node.imaging.values import FramesPlan, Outcome, Refusal, VolumePlan
from node.models.card import Card
from node.models.frame_parts import FrameGrid
from node.models.frame_scale import pixel_sizes
from node.models.parts import ANY_MM, InputLimits
from node.models.verdict import Said
from node.reasons import Reason
from node.routing.conditions import all_unmet
from node.worker.selection import Plan, header_values


def judge_input(plan: Plan, card: Card) -> Refusal | Said:
    """Return what the limits of a card, and of the models before it, say of a volume.

    Returns:
        A sentence for each limit that asks a person to look; or a refusal, because a limit
        keeps a model from running.
    """
    said = [(each.name, *one) for each in _chain(card) for one in _said(plan, each)]
    rejected = [f"{name}: {text}" for name, outcome, text in said if outcome is Outcome.REJECT]
    if rejected:
        return Refusal(
            Reason.INPUT_REJECTED,
            f"{card.name} did not run, because its input is outside what its card sets. "
            + " ".join(rejected),
            plan.series_uid,
            plan.modality,
            plan.part,
        )
    return [(outcome, text) for _, outcome, text in said]


def _chain(card: Card) -> Iterator[Card]:
    """Yield the cards in the order in which the models run."""
    if card.first is not None:
        yield from _chain(card.first)
    yield card


def _said(plan: Plan, card: Card) -> Said:
    limits = card.quality.input
    if limits is None:
        return []
    outside = Outcome(limits.outside)
    said: list[tuple[Outcome, str]] = []
    if isinstance(plan, VolumePlan):
        said = [(outside, text) for text in _grid(plan, limits)]
    elif card.frames is not None:
        said = [(outside, text) for text in _frames(plan, limits, card.frames)]
    for outcome, conditions in (
        (Outcome.REVIEW, limits.review),
        (Outcome.REJECT, limits.reject),
    ):
        header = header_values(plan.instances[0].header, conditions)
        header["NumberOfSeriesRelatedInstances"] = str(len(plan.instances))
        said += [(outcome, f"{text}.") for text in all_unmet(conditions, header)]
    return said


def _frames(plan: FramesPlan, limits: InputLimits, grid: FrameGrid) -> Iterator[str]:
    """Yield what lies outside the limits; a size that is not known is outside any limit."""
    least, most = limits.pixel_mm
    wanted = f"expected are {least:g} to {most:g} mm."
    for size in pixel_sizes(plan, grid):
        if size is not None and not all(least <= one <= most for one in size):
            yield f"Pixels are {size[0]:g} x {size[1]:g} mm, {wanted}"
        elif size is None and limits.pixel_mm != ANY_MM:
            yield f"Nothing says reliably how large a pixel is, {wanted}"
    least, most = limits.frames
    if not least <= plan.shape[0] <= most:
        yield f"The number of frames is {plan.shape[0]}, expected are {least:g} to {most:g}."


def _grid(plan: VolumePlan, limits: InputLimits) -> Iterator[str]:
    slice_mm, row_mm, column_mm = plan.spacing_mm
    least, most = limits.slice_mm
    if not least <= slice_mm <= most:
        yield f"Slices lie {slice_mm:g} mm apart, expected are {least:g} to {most:g} mm."
    least, most = limits.pixel_mm
    if not (least <= row_mm <= most and least <= column_mm <= most):
        yield (f"Pixels are {row_mm:g} x {column_mm:g} mm, expected are {least:g} to {most:g} mm.")
    least, most = limits.slices
    if not least <= plan.shape[0] <= most:
        yield f"There are {plan.shape[0]} slices, expected are {least:g} to {most:g}."
