"""From a volume to labels on its own grid with measurements and a verdict: the whole of a model.

The node, `limner segment`, evaluation and the tests all come through `segment_volume`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Final

import numpy as np

from node.imaging.values import Code, Labels, Measurement, Segmentation, Volume
from node.models.loaded import LoadedModel
from node.models.native import labels_from_scores
from node.models.postprocess import postprocess
from node.models.prepare import Prepared, prepare
from node.models.scores import Meter, score_planes
from node.models.verdict import figures_of, judge

VOLUME: Final = Code("118565006", "SCT", "Volume")
MILLILITRE: Final = Code("mL", "UCUM", "milliliter")


def segment_volume(
    volume: Volume, model: LoadedModel, *, progress: Callable[[float], None] = lambda _: None
) -> Segmentation:
    """Segment a volume.

    The same volume, card, weights and runtime give the same label bytes.

    Args:
        volume: A volume that `fit.refusal_of` does not refuse.
        model: A loaded model.
        progress: Called with the share 0..1 of the network's work that is done.

    Raises:
        ValueError: The volume is not in the card's units.
    """
    card = model.card
    begun = perf_counter()
    meter = Meter(progress)
    prepared = prepare(volume, card)
    meter.add("prepare", begun)
    since, before = perf_counter(), sum(meter.seconds.values())
    turned = labels_from_scores(
        score_planes(prepared, model, meter), prepared, head=card.head, back=card.voxels.back
    )
    # Planes are scored while labels are collected: what the meter has not seen is the way back.
    meter.add("back", since + sum(meter.seconds.values()) - before)
    labels: Labels = np.ascontiguousarray(prepared.turn.undo(turned))
    since = perf_counter()
    cleaned = postprocess(
        labels, card.postprocess, affine=volume.affine, spacing_mm=volume.spacing_mm
    )
    figures = figures_of(
        cleaned.labels,
        card.segments,
        affine=volume.affine,
        removed_ml=cleaned.removed_ml,
        window_cut=touches_window(prepared.turn.apply(cleaned.labels), prepared),
        notes=cleaned.notes,
    )
    meter.add("postprocess", since)
    return Segmentation(
        labels=cleaned.labels,
        segments=card.segments,
        measurements=_measurements(figures.volume_ml),
        verdict=judge(figures, card.quality, card.segments),
        model=card.identity,
        runtime=model.runtime,
        removed_ml=cleaned.removed_ml,
        seconds={**meter.seconds, "total": perf_counter() - begun},
    )


def touches_window(labels: Labels, prepared: Prepared) -> bool:
    """Say whether labels reach a border of the window beyond which there is more image.

    Args:
        labels: With the card's axes.
        prepared: The window.
    """
    for number, axis in enumerate(prepared.axes[1:], start=1):
        if not axis.crops:
            continue
        inside = axis.inside
        for edge, is_cut in (
            (inside.start, inside.start > 0),
            (inside.stop - 1, inside.stop < axis.native_count),
        ):
            if is_cut and np.take(labels, edge, axis=number).any():
                return True
    return False


def _measurements(volume_ml: Mapping[int, float]) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(segment=number, name=VOLUME, value=volume, unit=MILLILITRE)
        for number, volume in volume_ml.items()
    )
