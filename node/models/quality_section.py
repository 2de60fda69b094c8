"""Read [quality] of a card: when a person should look, and what may come in."""

from __future__ import annotations

from node.models.fields import AXES, check_file, read_label, read_range, read_span
from node.models.parts import (
    ANY_COUNT,
    ANY_MM,
    ANY_SLICES,
    Agreement,
    FeatureLimits,
    InputLimits,
    Quality,
    RatioLimits,
    SegmentLimits,
)
from node.settings import read_conditions
from node.strict_toml import Table


def read_quality(table: Table) -> Quality:
    """Read [quality]."""
    removed = table.number("removed_fraction", 0, 1, 0.1)
    end_slice = table.number("end_slice_cm2", 0, 1e5, 0.0)
    segments = []
    for each in table.tables("segments"):
        limits = SegmentLimits(
            number=read_label(each, "number"),
            min_ml=each.number("min_ml", 0, 1e6, 0.0),
            max_ml=each.number("max_ml", 0, 1e6, 1e6),
            when_empty=each.choice("when_empty", ("accept", "review", "reject"), "review"),
            max_pieces=each.integer("max_pieces", 0, 10_000, 0),
            side=each.choice("side", ("", "right", "left"), ""),
            height=read_span(each, "height", 0, 1) if each.has("height") else None,
        )
        if limits.min_ml > limits.max_ml:
            each.note("max_ml", f"must not be below min_ml = {limits.min_ml:g}")
        each.finish()
        segments.append(limits)
    ratios = []
    for each in table.tables("ratios"):
        ratios.append(
            RatioLimits(
                read_label(each, "of"), read_label(each, "to"), *read_range(each, "low", "high")
            )
        )
        each.finish()
    quality = Quality(
        removed,
        end_slice,
        tuple(segments),
        tuple(ratios),
        outside_body=table.number("outside_body", 0, 1, 1.0),
        input=_input_limits(table.table("input")) if table.has("input") else None,
        agreement=_agreement(table.table("agreement")) if table.has("agreement") else None,
        features=_features(table.table("features")) if table.has("features") else None,
    )
    table.finish()
    return quality


def _input_limits(table: Table) -> InputLimits:
    limits = InputLimits(
        slice_mm=read_span(table, "slice_mm", *ANY_MM, ANY_MM),
        pixel_mm=read_span(table, "pixel_mm", *ANY_MM, ANY_MM),
        slices=read_span(table, "slices", *ANY_SLICES, ANY_SLICES),
        frames=read_span(table, "frames", *ANY_COUNT, ANY_COUNT),
        outside=table.choice("outside", ("review", "reject"), "review"),
        review=read_conditions(table.table("review")),
        reject=read_conditions(table.table("reject")),
    )
    table.finish()
    return limits


def _agreement(table: Table) -> Agreement:
    agreement = Agreement(
        mirrors=table.strings("mirrors", choices=AXES),
        review_below=table.number("review_below", 0, 1, 0.9),
    )
    if not agreement.mirrors:
        table.note("mirrors", "must name at least one axis that was mirrored in training")
    table.finish()
    return agreement


def _features(table: Table) -> FeatureLimits:
    limits = FeatureLimits(
        file=table.string("file", "features.safetensors"),
        sha256=table.string("sha256").lower(),
        review_above=table.number("review_above", 0, 1e6),
    )
    check_file(table, limits.file, limits.sha256)
    table.finish()
    return limits
