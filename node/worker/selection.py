"""Which volumes or frames a model shall run on, or why none; pure but for headers.

The card says what it accepts and whether one volume is meant or each. Two equally good volumes
for a model that wants one are refused: choosing silently would be guessing. A model for volumes
takes no frames, and one for frames no volume. PET is read in SUV where that is possible; a card
that wants what was stored instead, such as BQML, gets that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.imaging.pet import in_units
from node.imaging.values import FramesPlan, Refusal, VolumePlan
from node.models.card import Card
from node.reasons import Reason
from node.routing.conditions import all_unmet
from node.settings import Condition

Plan = VolumePlan | FramesPlan


@dataclass(frozen=True, slots=True)
class Selection:
    """The volumes or frames to run on, and what was refused."""

    plans: tuple[Plan, ...]
    refused: tuple[Refusal, ...]


def select(found: Sequence[Plan | Refusal], card: Card) -> Selection:
    """Return the volumes or frames that the card accepts, in its units, and refusals for others."""
    refused = [each for each in found if isinstance(each, Refusal)]
    by_series: dict[str, list[Plan]] = defaultdict(list)
    for plan in found:
        if isinstance(plan, Refusal):
            continue
        if isinstance(plan, FramesPlan) is (card.frames is None):
            refused.append(_other_kind(plan, card))
            continue
        unmet = _unmet(plan, card)
        if unmet:
            text = f"{card.name} does not accept it: " + "; ".join(unmet)
            refused.append(_refusal(plan, Reason.NOT_ACCEPTED, text))
        else:
            by_series[plan.series_uid].append(_as_wanted(plan, card))
    chosen: list[Plan] = []
    for plans in by_series.values():
        if len(plans) > 1 and card.volumes == "one":
            kind = "volumes" if card.frames is None else "images"
            text = (
                f"The series holds {len(plans)} {kind} that fit {card.name} equally well; "
                'a card with volumes = "each" would take them all.'
            )
            refused += [_refusal(plan, Reason.AMBIGUOUS_VOLUME, text) for plan in plans]
        else:
            chosen += plans
    return Selection(tuple(chosen), tuple(refused))


def _as_wanted(plan: Plan, card: Card) -> Plan:
    return in_units(plan, card.voxels.units) if isinstance(plan, VolumePlan) else plan


def _other_kind(plan: Plan, card: Card) -> Refusal:
    if isinstance(plan, FramesPlan):
        text = (
            f"It is an ultrasound image, whose pixels have no position in the patient, and "
            f"{card.name} works on volumes."
        )
        return _refusal(plan, Reason.NO_GEOMETRY, text)
    text = f"{card.name} works on frames, and this is a volume of {plan.shape[0]} slices."
    return _refusal(plan, Reason.NOT_FRAMES, text)


def header_values(dataset: Dataset, conditions: Sequence[Condition]) -> dict[str, str | list[str]]:
    """Return the values that the conditions ask for, as texts."""
    values: dict[str, str | list[str]] = {}
    for keyword in {condition.keyword for condition in conditions}:
        value = _value(dataset, keyword)
        if isinstance(value, MultiValue | list):
            values[keyword] = [str(each) for each in value]
        elif value is not None:
            values[keyword] = str(value)
    return values


def _value(dataset: Dataset, keyword: str) -> Any:
    """Return an attribute, of a multi-frame object also from its shared functional groups."""
    if keyword in dataset:
        return dataset.get(keyword)
    for groups in dataset.get("SharedFunctionalGroupsSequence", ())[:1]:
        for group in groups:
            if group.VR == "SQ" and group.value and keyword in group.value[0]:
                return group.value[0].get(keyword)
    return None


def _unmet(plan: Plan, card: Card) -> tuple[str, ...]:
    header = header_values(plan.instances[0].header, card.accepts)
    header["NumberOfSeriesRelatedInstances"] = str(len(plan.instances))
    return all_unmet(card.accepts, header)


def _refusal(plan: Plan, reason: Reason, text: str) -> Refusal:
    return Refusal(reason, text, plan.series_uid, plan.modality, plan.part)
