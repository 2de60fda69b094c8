"""Give the volumes of a PET series their unit: SUVbw where headers allow it, else why not.

A model may have learned activity instead, so the unit that was stored is not forgotten: it is
given back to whom wants it, as the scanner wrote it, corrected to whatever time that was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from node.imaging.attributes import text
from node.imaging.suv import suv_scale
from node.imaging.suv_enhanced import suv_headers
from node.imaging.values import Refusal, SourceInstance, VolumePlan

SUV: Final = "SUVbw"
"""`units` of a volume whose values are standardised uptake values by body weight, g/ml."""


def in_suv(plans: Sequence[VolumePlan], images: Sequence[SourceInstance]) -> list[VolumePlan]:
    """Return the plans of PET volumes with their factors, or with the reason for none.

    Args:
        plans: The volumes of one series.
        images: Every image of that series, in a volume or not; the earliest acquisition counts.
    """
    headers = suv_headers(images)
    series = list(headers.values())
    done = []
    for plan in plans:
        slices = [
            headers[plan.instances[part.instance].sop_instance_uid, part.frame]
            for part in plan.slices
        ]
        said = {text(header, "Units").upper() for header in slices}
        stored = said.pop() if len(said) == 1 else ""
        scale = suv_scale(series, slices)
        if isinstance(scale, Refusal):
            done.append(
                replace(
                    plan,
                    units=stored or plan.units,
                    suv=replace(scale, series_uid=plan.series_uid, modality=plan.modality),
                )
            )
        else:
            done.append(
                replace(
                    plan,
                    units=SUV,
                    factors=scale.factors,
                    notes=(*plan.notes, *scale.notes),
                    stored_units=stored,
                )
            )
    return done


def in_units(plan: VolumePlan, units: str) -> VolumePlan:
    """Return a plan whose values are in these units, if they are the ones that were stored.

    Args:
        plan: Of any modality.
        units: `Volume.units` that somebody wants, such as BQML.

    Returns:
        The plan without its factors; or the plan as it is, where nothing else can be had.
    """
    if units != plan.stored_units or not units:
        return plan
    return replace(plan, units=units, factors=(), stored_units="")
