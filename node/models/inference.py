"""From a volume to labels on its own grid with measurements and a verdict: the whole of a model.

The node, `limner segment`, evaluation and the tests all come through `segment_volume`; a model
with a stage before it comes through `stages.segment_in_stages`, which calls it for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from node.imaging.tilt import mirrored_affine
from node.imaging.values import Fractions, Labels, Segmentation, Volume
from node.models.agreement import disagreement
from node.models.features import features_of, unusual
from node.models.fields import AXES
from node.models.fractions import HALF, fractions_of_kept
from node.models.instances import split_instances
from node.models.ladder import fractions_that_fit, labels_that_fit
from node.models.loaded import LoadedModel
from node.models.measure import measure, volumes_ml, weighted
from node.models.plausible import implausible
from node.models.postprocess import postprocess
from node.models.prepare import Prepared, prepare
from node.models.region import Box, Region, cut_out
from node.models.scores import Meter
from node.models.verdict import Said, figures_of, judge


def segment_volume(
    volume: Volume,
    model: LoadedModel,
    *,
    region: Region | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Segmentation:
    """Segment a volume.

    The same volume, region, card, weights and runtime give the same label bytes.

    Args:
        volume: A volume that `fit.refusal_of` does not refuse.
        model: A loaded model.
        region: To what the model is limited, None for the whole volume.
        progress: Called with the share 0..1 of the network's work that is done.

    Raises:
        ValueError: The volume is not in the card's units.
    """
    card = model.card
    begun = perf_counter()
    passes = 1 + (len(card.quality.agreement.mirrors) if card.quality.agreement else 0)
    meter = Meter(lambda share: progress(share / passes))
    raw = _raw(volume, model, region, meter)
    since = perf_counter()
    cleaned = postprocess(
        raw.labels,
        card.postprocess,
        affine=volume.affine,
        spacing_mm=volume.spacing_mm,
        values=volume.array,
        region=None if region is None else region.mask,
    )
    split = split_instances(cleaned.labels, card.segments, card.postprocess, volume.affine)
    fractions = raw.fractions
    if fractions is not None:
        fractions = fractions_of_kept(
            fractions, before=raw.labels, after=split.labels, spacing_mm=volume.spacing_mm
        )
    found = weighted(split.pooled, fractions, volume.spacing_mm)
    figures = figures_of(
        split.pooled,
        card.segments,
        affine=volume.affine,
        volume_ml=volumes_ml(found, card.segments, volume.affine),
        removed_ml=cleaned.removed_ml,
        window_cut=touches_window(raw.prepared.from_native(split.pooled[raw.box]), raw.prepared),
        notes=(*cleaned.notes, *split.notes),
    )
    names = {segment.number: segment.label for segment in card.segments}
    said = [
        *implausible(split.pooled, volume, card.quality, names, body_above=card.voxels.body_above),
        *unusual(
            features_of(raw.prepared, model, raw.prepared.from_native(split.pooled[raw.box]))
            if model.features
            else None,
            model.features,
            card,
        ),
    ]
    measurements = measure(volume, split.labels, fractions, split.segments)
    meter.add("postprocess", since)
    said += _disagreement(volume, model, region, raw, progress)
    progress(1.0)
    return Segmentation(
        labels=split.labels,
        segments=split.segments,
        measurements=measurements,
        verdict=judge(figures, card.quality, card.segments, said),
        model=card.identity,
        runtime=raw.runtime,
        removed_ml=cleaned.removed_ml,
        seconds={**meter.seconds, "total": perf_counter() - begun},
        fractions=fractions,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Raw:
    """What the network said, on the native grid.

    Attributes:
        labels: The volume's shape.
        fractions: Likewise, for an occupancy head.
        prepared: What the network saw.
        box: Which part of the volume that was.
        runtime: Facts of the run.
    """

    labels: Labels
    fractions: Fractions | None
    prepared: Prepared
    box: Box
    runtime: Mapping[str, str]


def labels_of_volume(volume: Volume, model: LoadedModel) -> Labels:
    """Return the network's labels on the volume's own grid, before any post-processing."""
    return _raw(volume, model, None, Meter(lambda _share: None)).labels


def _raw(volume: Volume, model: LoadedModel, region: Region | None, meter: Meter) -> _Raw:
    card = model.card
    since = perf_counter()
    seen, box = volume, (slice(None), slice(None), slice(None))
    if region is not None:
        seen, box = cut_out(volume, region, card.backgrounds)
    prepared = prepare(seen, card)
    meter.add("prepare", since)
    since, before = perf_counter(), sum(meter.seconds.values())
    fractions: Fractions | None = None
    if card.head.kind == "occupancy":
        shares = fractions_that_fit(prepared, model, meter)
        runtime = {**shares.model.runtime, "ladder": shares.ladder}
        fractions = _placed(prepared.to_native(shares.made), volume, box)
        labels = (fractions >= HALF).view(np.uint8)
    else:
        fitted = labels_that_fit(prepared, model, meter)
        runtime = {**fitted.model.runtime, "ladder": fitted.ladder}
        labels = _placed(prepared.to_native(fitted.made), volume, box)
    # Planes are scored while labels are collected: what the meter has not seen is the way back.
    meter.add("back", since + sum(meter.seconds.values()) - before)
    return _Raw(labels, fractions, prepared, box, runtime)


def _disagreement(
    volume: Volume,
    model: LoadedModel,
    region: Region | None,
    raw: _Raw,
    progress: Callable[[float], None],
) -> Said:
    """Run the network over the mirrored image, once per axis, and compare; nothing if empty."""
    agreement = model.card.quality.agreement
    if agreement is None or not raw.labels.any():
        return []
    count = 1 + len(agreement.mirrors)
    passes = [raw.labels]
    for place, name in enumerate(agreement.mirrors, start=1):
        axis = raw.prepared.turn.order[AXES.index(name)]
        # Directions stay: the network sees the mirror image as if it were the patient.
        others = tuple(_mirrored(other, axis) for other in volume.others)
        mirrored = replace(_mirrored(volume, axis), others=others)
        seen = None if region is None else replace(region, mask=np.flip(region.mask, axis))
        meter = Meter(partial(_later_share, progress, place, count))
        passes.append(np.flip(_raw(mirrored, model, seen, meter).labels, axis))
    names = {segment.number: segment.label for segment in model.card.segments}
    return disagreement(passes, review_below=agreement.review_below, names=names)


def _mirrored(volume: Volume, axis: int) -> Volume:
    return replace(
        volume,
        array=np.flip(volume.array, axis),
        affine=mirrored_affine(volume.affine, axis),
        padding=None if volume.padding is None else np.flip(volume.padding, axis),
    )


def _later_share(progress: Callable[[float], None], done: int, count: int, share: float) -> None:
    progress((done + share) / count)


_Number = TypeVar("_Number", bound=np.generic)


def _placed(part: NDArray[_Number], volume: Volume, box: Box) -> NDArray[_Number]:
    """Return a part of the volume's grid within the whole of it, 0 around."""
    if part.shape == volume.array.shape:
        return np.ascontiguousarray(part)
    whole = np.zeros(volume.array.shape, part.dtype)
    whole[box] = part
    return whole


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
