"""The other series of a study that a model wants as channels, chosen by its card or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from node.imaging.pet import in_units
from node.imaging.values import Refusal, VolumePlan
from node.models.card import Card
from node.models.parts import Channel
from node.reasons import Reason
from node.routing.conditions import all_unmet
from node.worker.selection import Plan, header_values


def with_companions(
    plan: VolumePlan, found: Sequence[Plan | Refusal], card: Card
) -> VolumePlan | Refusal:
    """Return a plan with one plan of the same study for each further channel of the card.

    Args:
        plan: What the card accepts as its first channel.
        found: Everything the study holds.
        card: Names its channels.

    Returns:
        The plan with its `others`; or why one is missing, lies in another frame of reference, or
        could be one of several.
    """
    others = []
    for channel in card.channels:
        one = _companion(plan, found, card, channel)
        if isinstance(one, Refusal):
            return one
        others.append(one)
    return replace(plan, others=tuple(others))


def _companion(
    plan: VolumePlan, found: Sequence[Plan | Refusal], card: Card, channel: Channel
) -> VolumePlan | Refusal:
    fitting = [
        each
        for each in found
        if isinstance(each, VolumePlan)
        and each is not plan
        and (each.series_uid, each.part) != (plan.series_uid, plan.part)
        and each.study_uid == plan.study_uid
        and not _unmet(each, channel)
    ]
    registered = [
        each
        for each in fitting
        if each.frame_of_reference_uid
        and each.frame_of_reference_uid == plan.frame_of_reference_uid
    ]
    if len(registered) == 1:
        return in_units(registered[0], channel.units)
    if registered:
        return _refusal(
            plan,
            Reason.AMBIGUOUS_VOLUME,
            f"{len(registered)} series of the study fit the channel {channel.name} of {card.name} "
            "equally well; its conditions must name one.",
        )
    if fitting:
        return _refusal(
            plan,
            Reason.CHANNEL_NOT_REGISTERED,
            f"The series for the channel {channel.name} of {card.name} has another Frame of "
            "Reference UID, so nothing says how both lie to each other.",
        )
    return _refusal(
        plan,
        Reason.CHANNEL_MISSING,
        f"The study holds no series for the channel {channel.name} of {card.name}.",
    )


def _unmet(plan: VolumePlan, channel: Channel) -> tuple[str, ...]:
    header = header_values(plan.instances[0].header, channel.accepts)
    header["NumberOfSeriesRelatedInstances"] = str(len(plan.instances))
    return all_unmet(channel.accepts, header)


def _refusal(plan: VolumePlan, reason: Reason, text: str) -> Refusal:
    return Refusal(reason, text, plan.series_uid, plan.modality, plan.part)
