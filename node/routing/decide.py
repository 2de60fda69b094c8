"""Which series goes to which model and to which peers, with the reasons; pure.

Every series gets one decision per route, so that "why did nothing come back?" always has an
answer in the rows. A route runs its model on a series when the series came from one of the
route's peers, meets all of the route's conditions and all that the model's card accepts, and has
enough images. Objects that this node made are never routed back into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from node.routing.conditions import Header, all_unmet
from node.settings import Condition, Route

OWN_MANUFACTURER: Final = "Limner"
"""Manufacturer (0008,0070) of everything we make; `results` writes the same word."""


class Said(StrEnum):
    """What a route said of a series; the values are stored."""

    RUN = "run"  # a job is queued
    NO_MATCH = "no-match"  # the route's own conditions are not met
    NOT_ACCEPTED = "not-accepted"  # the route wants it, the model's card does not
    DONE_BEFORE = "done-before"  # the same images, route and model had a job already


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """What routing knows of one series.

    Attributes:
        uid: Series Instance UID.
        header: DICOM keyword -> value or values, from the first instance.
        instances: How many instances the revision holds.
        senders: Names of the peers that sent them.
    """

    uid: str
    header: Header
    instances: int
    senders: frozenset[str]


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """What routing must know of a model's card.

    Attributes:
        accepts: The card's conditions.
        min_slices: Fewest images.
    """

    accepts: tuple[Condition, ...]
    min_slices: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What one route said of one series. `route` is empty where no route is configured."""

    series_uid: str
    route: str
    model: str
    said: Said
    reasons: tuple[str, ...]


def decide(
    series: SeriesHeader, routes: Sequence[Route], models: Mapping[str, ModelTerms]
) -> tuple[Decision, ...]:
    """Return one decision per route, or a single one without a route if there is none."""
    if not routes:
        text = "No routes are configured; add a [[routes]] table to limner.toml."
        return (Decision(series.uid, "", "", Said.NO_MATCH, (text,)),)
    return tuple(_one(series, route, models.get(route.model)) for route in routes)


def _one(series: SeriesHeader, route: Route, model: ModelTerms | None) -> Decision:
    def said(what: Said, reasons: Sequence[str]) -> Decision:
        return Decision(series.uid, route.name, route.model, what, tuple(reasons))

    own = str(series.header.get("Manufacturer", "")).strip() == OWN_MANUFACTURER
    if own and str(series.header.get("Modality", "")) in ("SEG", "SR"):
        return said(Said.NO_MATCH, ["The series was made by this kind of node itself."])
    reasons: list[str] = []
    if route.peers_from and not series.senders & frozenset(route.peers_from):
        came = ", ".join(sorted(series.senders)) or "an unknown peer"
        reasons.append(f"It came from {came}, wanted {' or '.join(route.peers_from)}.")
    counted = {**series.header, "NumberOfSeriesRelatedInstances": str(series.instances)}
    reasons += all_unmet(route.when, counted)
    if reasons:
        return said(Said.NO_MATCH, reasons)
    if model is None:
        text = f"The model '{route.model}' is not among the models of this node."
        return said(Said.NOT_ACCEPTED, [text])
    refused = list(all_unmet(model.accepts, counted))
    multi_frame = "NumberOfFrames" in series.header
    if series.instances < model.min_slices and not multi_frame:
        refused.append(f"It has {series.instances} images, the model wants {model.min_slices}.")
    if refused:
        return said(Said.NOT_ACCEPTED, [f"{route.model}: {text}" for text in refused])
    return said(Said.RUN, ["All conditions of the route and of the model are met."])


def study_sentence(decisions: Sequence[Decision]) -> str:
    """Return the sentence for a study after its decisions, where no job was queued."""
    if not decisions:
        return "The study holds no series."
    if any(decision.said is Said.NOT_ACCEPTED for decision in decisions):
        first = next(d for d in decisions if d.said is Said.NOT_ACCEPTED)
        return f"A route wants this study but its model does not accept it: {first.reasons[0]}"
    if all(not decision.route for decision in decisions):
        return decisions[0].reasons[0]
    return "No route fits any series of this study; the decisions say why, route by route."
