"""What every route would say of a folder of DICOM files; nothing is stored."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from node.imaging.read import read_folder, read_header
from node.imaging.values import Refusal, SourceInstance
from node.models.card import find_cards
from node.routing.decide import ModelTerms, SeriesHeader, decide
from node.settings import Condition, load_settings
from node.worker.selection import header_values

ALWAYS = tuple(
    Condition(keyword, "present", True)  # noqa: FBT003  the condition's value
    for keyword in ("Modality", "Manufacturer", "NumberOfFrames")
)
"""What deciding looks at besides the conditions of routes and cards."""


def explain_folder(folder: Path, sender: str, config: Path) -> list[dict[str, Any]]:
    """Return one entry per series and route, as the scheduler would decide."""
    settings = load_settings(config)
    cards = find_cards(settings.worker.models)
    terms = {name: ModelTerms(card.accepts, card.min_slices) for name, card in cards.items()}
    conditions = [c for route in settings.routes for c in route.when]
    conditions += [c for card in cards.values() for c in card.accepts]
    by_series: dict[str, list[SourceInstance]] = defaultdict(list)
    for file in read_folder(folder):
        instance = read_header(file)
        if not isinstance(instance, Refusal):
            by_series[str(instance.header.get("SeriesInstanceUID", ""))].append(instance)
    senders = frozenset({sender} if sender else ())
    entries = []
    for uid, instances in sorted(by_series.items()):
        header = header_values(instances[0].header, (*conditions, *ALWAYS))
        series = SeriesHeader(uid, header, len(instances), senders)
        for said in decide(series, settings.routes, terms):
            entries.append(
                {
                    "series_uid": uid,
                    "route": said.route,
                    "model": said.model,
                    "outcome": said.said,
                    "reasons": list(said.reasons),
                }
            )
    return entries
