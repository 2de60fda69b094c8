"""Which volumes of a set of instances a model shall run on, or why none; pure but for headers.

The card says what it accepts and whether one volume is meant or each. Two equally good volumes
for a model that wants one are refused: choosing silently would be guessing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.imaging.values import Refusal, VolumePlan
from node.models.card import Card
from node.reasons import Reason
from node.routing.conditions import all_unmet
from node.settings import Condition


@dataclass(frozen=True, slots=True)
class Selection:
    """The volumes to run on and what was refused."""

    plans: tuple[VolumePlan, ...]
    refused: tuple[Refusal, ...]


def select(found: Sequence[VolumePlan | Refusal], card: Card) -> Selection:
    """Return the volumes that the card accepts, and refusals for all others."""
    refused = [each for each in found if isinstance(each, Refusal)]
    by_series: dict[str, list[VolumePlan]] = defaultdict(list)
    for plan in found:
        if isinstance(plan, Refusal):
            continue
        unmet = _unmet(plan, card)
        if unmet:
            text = f"{card.name} does not accept it: " + "; ".join(unmet)
            refused.append(_refusal(plan, Reason.NOT_ACCEPTED, text))
        else:
            by_series[plan.series_uid].append(plan)
    chosen: list[VolumePlan] = []
    for plans in by_series.values():
        if len(plans) > 1 and card.volumes == "one":
            text = (
                f"The series holds {len(plans)} volumes that fit {card.name} equally well; "
                'a card with volumes = "each" would take them all.'
            )
            refused += [_refusal(plan, Reason.AMBIGUOUS_VOLUME, text) for plan in plans]
        else:
            chosen += plans
    return Selection(tuple(chosen), tuple(refused))


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


def _unmet(plan: VolumePlan, card: Card) -> tuple[str, ...]:
    header = header_values(plan.instances[0].header, card.accepts)
    header["NumberOfSeriesRelatedInstances"] = str(len(plan.instances))
    return all_unmet(card.accepts, header)


def _refusal(plan: VolumePlan, reason: Reason, text: str) -> Refusal:
    return Refusal(reason, text, plan.series_uid, plan.modality, plan.part)
