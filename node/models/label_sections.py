"""Read what a card says of its labels: steps on them, what they are, and findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from node.imaging.values import Code, Finding, Segment
from node.models.fields import FAR, LABELS_MAX, read_label, read_labels
from node.models.parts import (
    Close,
    DropSmall,
    DropWrongSide,
    FillHoles,
    Instances,
    KeepLargest,
    PostStep,
    RestrictTo,
    SplitSides,
    Stage,
    Threshold,
)
from node.strict_toml import Table

_LEAST: Final = 0.001
"""Of a volume in ml or a diameter in mm, below which nothing is ever dropped."""


def read_postprocess(tables: Sequence[Table]) -> tuple[PostStep, ...]:
    """Read [[postprocess]]."""
    readers: dict[str, Callable[[Table], PostStep]] = {
        "keep_largest": lambda t: KeepLargest(
            labels=read_labels(t),
            joint=t.flag("joint", default=False),
            count=t.integer("count", 1, 1000, 1),
            also_over=t.number("also_over", 0.001, 1.0, 1.0),
        ),
        "drop_small": _drop_small,
        "fill_holes": lambda t: FillHoles(read_labels(t)),
        "close": _close,
        "split_sides": lambda t: SplitSides(
            read_label(t, "label"), read_label(t, "right"), read_label(t, "left")
        ),
        "drop_wrong_side": lambda t: DropWrongSide(read_label(t, "right"), read_label(t, "left")),
        "threshold": _threshold,
        "restrict_to": lambda t: RestrictTo(
            read_labels(t), t.choice("how", ("touch", "inside")), t.number("grow_mm", 0, 100, 0.0)
        ),
        "instances": lambda t: Instances(read_label(t, "label"), t.integer("at_most", 1, 250, 50)),
    }
    steps = []
    for table in tables:
        steps.append(readers[table.choice("step", tuple(readers))](table))
        table.finish()
    return tuple(steps)


def _drop_small(table: Table) -> DropSmall:
    if sum(table.has(key) for key in ("min_ml", "min_mm", "min_px")) != 1:
        table.note(
            "min_ml",
            "one of min_ml (volume), min_mm (diameter) and min_px (pixels, on frames) must be "
            "given",
        )
    return DropSmall(
        read_labels(table),
        min_ml=table.number("min_ml", _LEAST, 1e5) if table.has("min_ml") else 0.0,
        min_mm=table.number("min_mm", _LEAST, 1e3) if table.has("min_mm") else 0.0,
        min_px=table.integer("min_px", 2, 1 << 24) if table.has("min_px") else 0,
    )


def _close(table: Table) -> Close:
    if table.has("radius_mm") == table.has("radius_px"):
        table.note("radius_mm", "one of radius_mm and radius_px (pixels, on frames) must be given")
    return Close(
        read_labels(table),
        radius_mm=table.number("radius_mm", 0.1, 50) if table.has("radius_mm") else 0.0,
        radius_px=table.number("radius_px", 1, 200) if table.has("radius_px") else 0.0,
    )


def _threshold(table: Table) -> Threshold:
    if not (table.has("at_least") or table.has("at_most")):
        table.note("at_least", "one of at_least and at_most must be given")
    step = Threshold(
        read_labels(table),
        at_least=table.number("at_least", -FAR, FAR, -FAR),
        at_most=table.number("at_most", -FAR, FAR, FAR),
    )
    if step.at_least > step.at_most:
        table.note("at_most", f"must not be below at_least = {step.at_least:g}")
    return step


def read_stage(table: Table) -> Stage | None:
    """Read [stage]; None where the card has none."""
    if not table.has("model"):
        table.finish()
        return None
    stage = Stage(
        model=table.string("model", longest=32),
        labels=read_labels(table),
        margin_mm=table.number("margin_mm", 0, 500, 10.0),
        outside_mm=table.number("outside_mm", 0, 500, 5.0),
    )
    table.finish()
    return stage


def read_segments(tables: Sequence[Table]) -> tuple[Segment, ...]:
    """Read [[segments]]; numbers run from 1 and labels are unique (PS3.3 C.8.20.4)."""
    segments: list[Segment] = []
    for table in tables:
        label = table.string("label", longest=64)
        if not label.isascii():
            table.note("label", f"must be plain ASCII, is {label!r}")
        if label and label in [one.label for one in segments]:
            table.note("label", f"occurs twice: {label!r}")
        number = table.integer("number", 1, LABELS_MAX)
        if number != len(segments) + 1:
            table.note("number", f"segments are numbered from 1 in order, is {number}")
        region = _code(table, "region") if table.has("region") else None
        category, kind = _code(table, "category"), _code(table, "type")
        segments.append(
            Segment(
                number=number,
                label=label,
                category=category,
                type=kind,
                modifiers=tuple(
                    _as_code(table, "modifiers", text) for text in table.strings("modifiers", [])
                ),
                region=region,
                colour=_colour(table),
            )
        )
        table.finish()
    return tuple(segments)


def _code(table: Table, key: str) -> Code:
    text = table.string(key, longest=128)
    return _as_code(table, key, text) if text else Code("", "", "")  # said already


def _as_code(table: Table, key: str, text: str) -> Code:
    """Return `value, scheme, meaning` as a code; only the meaning may hold commas."""
    parts = [part.strip() for part in text.split(",", 2)]
    if len(parts) != 3 or not all(parts):
        table.note(
            key, f'must be "value, scheme, meaning", such as "39607008, SCT, Lung", is {text!r}'
        )
        return Code("", "", "")
    value, scheme, meaning = parts
    if len(value) > 16 or len(scheme) > 16 or len(meaning) > 64:  # VR SH, SH, LO (PS3.3 8.8)
        table.note(key, "value and scheme have at most 16, the meaning at most 64 characters")
    return Code(value, scheme, meaning)


def _colour(table: Table) -> tuple[int, int, int]:
    red, green, blue = table.numbers("colour", 3, [255, 160, 0])
    if any(one != int(one) or not 0 <= one <= 255 for one in (red, green, blue)):
        table.note("colour", "must be [red, green, blue] of 0 to 255")
    return int(red), int(green), int(blue)


def read_findings(tables: Sequence[Table]) -> tuple[Finding, ...]:
    """Read [[findings]]."""
    findings: list[Finding] = []
    for table in tables:
        label = table.string("label", longest=64)
        if not label.isascii() or label in [one.label for one in findings]:
            table.note("label", f"must be plain ASCII and occur once, is {label!r}")
        findings.append(
            Finding(
                label=label,
                code=_code(table, "code"),
                threshold=table.number("threshold", 0.001, 0.999, 0.5),
                review_within=table.number("review_within", 0, 0.5, 0.0),
            )
        )
        table.finish()
    return tuple(findings)
