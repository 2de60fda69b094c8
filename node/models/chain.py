"""Models that run one behind the other: the card of the second names the first.

A card with a [stage] is complete only together with the card that it names: labels of both, and
so the identity of every result, follow from the weights and settings of both. Found by name, and
checked here; nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from node.errors import setup_error
from node.models.parts import Instances

if TYPE_CHECKING:
    from node.models.card import Card


def with_stage(card: Card, named: Callable[[str], Card | None]) -> Card:
    """Return a card with the card of its stage, and of that one's stage, and so on.

    Args:
        card: The card that was read.
        named: Gives the card of a name, or None.

    Raises:
        SetupError: There is no such model, the models name each other in a circle, or the first
            does not give what the second wants.
    """
    return _with_stage(card, named, (card.name,))


def stage_card(card: Card) -> Card:
    """Return the card of a card's stage.

    Raises:
        SetupError: It was not looked for: the card comes from text alone.
    """
    if card.first is None:
        raise _fault(card, "The model of its stage was not looked for.")
    return card.first


def _with_stage(card: Card, named: Callable[[str], Card | None], chain: tuple[str, ...]) -> Card:
    stage = card.stage
    if stage is None:
        return card
    if stage.model in chain:
        raise _fault(card, f"Models name each other: {' -> '.join((*chain, stage.model))}.")
    first = named(stage.model)
    if first is None:
        raise _fault(card, f"The model '{stage.model}' of its stage is not among the models.")
    if first.kind != "segmentation":
        raise _fault(card, f"{first.name} gives no mask: it is a {first.kind}.")
    if first.channels:
        raise _fault(card, f"{first.name} sees several series; the model of a stage sees one.")
    numbers = {segment.number for segment in first.segments}
    if absent := sorted(set(stage.labels) - numbers):
        raise _fault(card, f"{first.name} gives the labels {sorted(numbers)}, not {absent}.")
    if any(isinstance(step, Instances) for step in first.postprocess):
        raise _fault(card, f"{first.name} splits labels into instances, so it has no fixed mask.")
    if first.voxels.units != card.voxels.units:
        raise _fault(
            card,
            f"{first.name} takes volumes in {first.voxels.units}, {card.name} in "
            f"{card.voxels.units}; both see the same volume.",
        )
    return replace(card, first=_with_stage(first, named, (*chain, first.name)))


def _fault(card: Card, what: str) -> Exception:
    return setup_error(
        "stage-invalid",
        what,
        where=f"{card.folder}, [stage]",
        remedy="Put the model it names into the same folder of models, or change [stage].",
    )
