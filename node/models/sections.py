"""Read the tables of card.toml into the values of `parts.py`, noting every mistake."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Final

from node.imaging.values import Code, Finding, Segment
from node.models.parts import (
    ORIENTATION_LETTERS,
    Add,
    Agreement,
    Channel,
    Clip,
    Close,
    DropSmall,
    DropWrongSide,
    FeatureLimits,
    FillHoles,
    Head,
    Inference,
    InputLimits,
    Instances,
    KeepLargest,
    LogOnePlus,
    Network,
    Normalise,
    OwnCase,
    Parameter,
    Percentiles,
    PostStep,
    Quality,
    RatioLimits,
    RestrictTo,
    Results,
    Scale,
    SegmentLimits,
    SplitSides,
    Stage,
    Step,
    Threshold,
    Voxels,
    Weights,
    WeightsFile,
    ZScore,
)
from node.settings import TAKES, read_conditions
from node.strict_toml import Table

AXES: Final = ("slice", "row", "column")
_LABELS_MAX: Final = 255  # labels are uint8
_FAR: Final = 1e9  # larger than any intensity or volume


def read_weights(table: Table) -> Weights:
    """Read [weights]: `file` with `sha256`, or `files`, a list of such tables."""
    if not table.has("files"):
        weights = Weights((_weights_file(table, "weights.safetensors"),))
        table.finish()
        return weights
    files = []
    for each in table.tables("files"):
        files.append(_weights_file(each))
        each.finish()
    if len({each.file for each in files}) != len(files) or not files:
        table.note("files", "must name at least one file, and each once")
    table.finish()
    return Weights(tuple(files) or (WeightsFile("", ""),))


def _weights_file(table: Table, default: str | None = None) -> WeightsFile:
    found = WeightsFile(file=table.string("file", default), sha256=table.string("sha256").lower())
    _check_file(table, found.file, found.sha256)
    return found


def read_test_case(table: Table) -> OwnCase | None:
    """Read [test_case], which may be absent."""
    if not table.has("sha256") and not table.has("file"):
        table.finish()
        return None
    case = OwnCase(
        file=table.string("file", "test-case.safetensors"), sha256=table.string("sha256").lower()
    )
    _check_file(table, case.file, case.sha256)
    table.finish()
    return case


def _check_file(table: Table, file: str, sha256: str) -> None:
    if PurePath(file).name != file or not file.endswith(".safetensors"):
        table.note("file", f"must be the name of a .safetensors file in this folder, is {file!r}")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        table.note("sha256", "must be the 64 hexadecimal digits that sha256sum prints")


def read_voxels(table: Table) -> Voxels:
    """Read [voxels]."""
    spacing = table.numbers("spacing_mm", 3)
    if any(not 0 <= one <= 50 for one in spacing):
        table.note("spacing_mm", f"must be three distances of 0 (native) to 50 mm, is {spacing}")
    size = table.numbers("size", 0, [])
    if size and (len(size) != 2 or any(one != int(one) or not 8 <= one <= 4096 for one in size)):
        table.note("size", f"must be [rows, columns] of 8 to 4096, is {list(size)}")
        size = ()
    voxels = Voxels(
        orientation=_orientation(table),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        size=(int(size[0]), int(size[1])) if size else None,
        centre=table.choice("centre", ("image", "body"), "image"),
        body_above=table.number("body_above", -_FAR, _FAR, -500.0),
        background=table.number("background", -_FAR, _FAR),
        units=table.string("units", longest=16),
        downsample=table.choice("downsample", ("area", "linear", "spline"), "area"),
        back=table.choice("back", ("linear", "nearest"), "linear"),
        tilt=table.choice("tilt", ("refuse", "resample"), "refuse"),
        transpose=_transpose(table),
        crop=table.choice("crop", ("none", "nonzero"), "none"),
    )
    table.finish()
    return voxels


def _transpose(table: Table) -> tuple[int, int, int]:
    order = [int(axis) for axis in table.numbers("transpose", 3, [0, 1, 2])]
    if sorted(order) != [0, 1, 2]:
        table.note("transpose", f"must hold 0, 1 and 2, each once, is {order}")
        return (0, 1, 2)
    return (order[0], order[1], order[2])


def _orientation(table: Table) -> str:
    orientation = table.string("orientation")
    if orientation in ("", "native"):
        return orientation
    axes = [min(letter, ORIENTATION_LETTERS.get(letter, "")) for letter in orientation]
    if sorted(axes) != ["A", "F", "L"]:
        table.note(
            "orientation",
            'must be "native" or three letters, where the index grows along slice, row and '
            'column: one of H F, one of A P, one of L R, such as "HPL" (axial), '
            f"is {orientation!r}",
        )
    return orientation


def read_steps(tables: Sequence[Table]) -> tuple[Step, ...]:
    """Read [[steps]]."""
    readers: dict[str, Callable[[Table], Step]] = {
        "clip": lambda t: Clip(*_range(t, "low", "high")),
        "add": lambda t: Add(t.number("value", -_FAR, _FAR)),
        "scale": _scale,
        "normalise": lambda t: Normalise(t.number("mean", -_FAR, _FAR), t.number("sd", 1e-8, _FAR)),
        "zscore": lambda t: ZScore(t.choice("within", ("image", "nonzero"), "image")),
        "percentiles": _percentiles,
        "log1p": lambda _: LogOnePlus(),
    }
    steps = []
    for table in tables:
        steps.append(readers[table.choice("step", tuple(readers))](table))
        table.finish()
    return tuple(steps)


def read_channels(tables: Sequence[Table]) -> tuple[Channel, ...]:
    """Read [[channels]]: the second channel and those after it."""
    channels = []
    for table in tables:
        channel = Channel(
            name=table.string("name", longest=32),
            accepts=read_conditions(table.table("accepts")),
            units=table.string("units", longest=16),
            background=table.number("background", -_FAR, _FAR),
            steps=read_steps(table.tables("steps")),
        )
        if not channel.accepts:
            table.note("accepts", 'must hold at least one condition, such as Modality = "CT"')
        table.finish()
        channels.append(channel)
    return tuple(channels)


def _range(table: Table, low_key: str, high_key: str) -> tuple[float, float]:
    low = table.number(low_key, -_FAR, _FAR)
    high = table.number(high_key, -_FAR, _FAR)
    if low >= high and high != -_FAR:
        table.note(high_key, f"must be above {low_key} = {low:g}, is {high:g}")
    return low, high


def _pair(table: Table, key: str, default: Sequence[float] | None = None) -> tuple[float, float]:
    low, high = table.numbers(key, 2, default)
    if low >= high and (low, high) != (0.0, 0.0):
        table.note(key, f"must be [low, high] with low below high, is [{low:g}, {high:g}]")
    return low, high


def _scale(table: Table) -> Scale:
    low, high = _pair(table, "from")
    to_low, to_high = _pair(table, "to")
    return Scale(low, high, to_low, to_high)


def _percentiles(table: Table) -> Percentiles:
    low = table.number("low", 0, 100)
    high = table.number("high", 0, 100)
    if low >= high:
        table.note("high", f"must be above low = {low:g}, is {high:g}")
    return Percentiles(low, high, *_pair(table, "to", [0.0, 1.0]))


def read_network(table: Table) -> Network:
    """Read [network]; the parameters are judged by the architecture itself."""
    architecture = table.string("architecture", longest=64)
    channels = table.integer("channels", 1, 64, 1)
    outputs = table.integer("outputs", 1, _LABELS_MAX)
    parameters: dict[str, Parameter] = {}
    for key, value in table.rest().items():
        if isinstance(value, int | float | str | bool):
            parameters[key] = value
        elif (levels := _levels(value)) is not None:
            parameters[key] = levels
        else:
            table.note(
                key,
                "must be a number, text, flag, list of whole numbers or list of such lists, "
                f"is {value!r}",
            )
    return Network(architecture, channels, outputs, parameters)


def _levels(value: object) -> tuple[int | tuple[int, ...], ...] | None:
    """Return a list of whole numbers, or of lists of them, as tuples; None for anything else."""
    if not isinstance(value, list):
        return None
    levels: list[int | tuple[int, ...]] = []
    for one in value:
        if type(one) is int:
            levels.append(one)
        elif isinstance(one, list) and all(type(side) is int for side in one):
            levels.append(tuple(one))
        else:
            return None
    return tuple(levels)


def read_inference(table: Table) -> Inference:
    """Read [inference]."""
    mode = table.choice("mode", ("slices", "window", "frames"))
    neighbours = table.integer("neighbours", 0, 8, 0)
    patch = table.numbers("patch", 0, [])
    if mode == "window":
        # One slice is a window of a 2D network.
        sides = patch[1:] if len(patch) == 3 and patch[0] == 1 else patch
        if len(patch) != 3 or any(one != int(one) or not 8 <= one <= 2048 for one in sides):
            table.note(
                "patch", "must be [slices, rows, columns] of 8 to 2048, or 1 slice for a 2D network"
            )
            patch = (8.0, 8.0, 8.0)
    elif patch:
        table.note("patch", 'belongs to mode = "window"')
    if neighbours and mode != "slices":
        table.note("neighbours", 'belongs to mode = "slices"')
    inference = Inference(
        mode=mode,
        neighbours=neighbours,
        patch=(int(patch[0]), int(patch[1]), int(patch[2])) if mode == "window" else None,
        overlap=table.number("overlap", 0, 0.875, 0.5),
        tiling=table.choice("tiling", ("even", "clipped"), "even"),
        blending=table.choice("blending", ("gaussian", "constant", "nnunet"), "gaussian"),
        weight_floor=table.number("weight_floor", 1e-6, 1.0, 0.03),
        batch=table.integer("batch", 1, 256, 1),
        mirrors=table.strings("mirrors", [], choices=AXES),
        precision=table.choice("precision", ("fp32", "bf16"), "fp32"),
        threads=table.integer("threads", 0, 256, 0),
        mirrored=table.strings("mirrored", [], choices=AXES) if table.has("mirrored") else None,
    )
    if inference.mirrored is not None and not set(inference.mirrors) <= set(inference.mirrored):
        table.note(
            "mirrors",
            f"must be axes over which training mirrored, {list(inference.mirrored)}, "
            f"is {list(inference.mirrors)}",
        )
    if mode != "window" and "slice" in inference.mirrors:
        table.note("mirrors", "a 2D network has no slice axis to mirror")
    table.finish()
    return inference


def read_head(table: Table, card_kind: str) -> Head:
    """Read [head] of a card of this kind."""
    kinds = ("classes", "probability", "occupancy", "regions")
    kind = table.choice("kind", kinds if card_kind == "segmentation" else kinds[:2])
    if table.has("pool") and card_kind == "segmentation":
        table.note("pool", 'belongs to cards of kind = "classification"')
    for key in ("logit_scale", "logit_offset", "support_voxels"):
        if table.has(key) and kind != "occupancy":
            table.note(key, 'belongs to kind = "occupancy"')
    if table.has("threshold") and kind == "occupancy":
        table.note("threshold", "labels of an occupancy head are where the fraction is a half")
    head = Head(
        kind=kind,
        threshold=table.number("threshold", 0.001, 0.999, 0.5),
        logit_scale=table.number("logit_scale", 0.01, 100, 1.0),
        logit_offset=table.number("logit_offset", -100, 100, 0.0),
        support_voxels=table.integer("support_voxels", 0, 100, 2),
        pool=table.choice("pool", ("mean", "max"), "mean"),
        order=tuple(int(label) for label in table.numbers("order", 0, [])),
    )
    if (head.kind == "regions") != bool(head.order):
        table.note("order", 'a head of kind "regions" has one label per output, others have none')
    elif sorted(head.order) != list(range(1, len(head.order) + 1)):
        table.note("order", f"must hold the labels from 1, each once, is {list(head.order)}")
    table.finish()
    return head


def read_postprocess(tables: Sequence[Table]) -> tuple[PostStep, ...]:
    """Read [[postprocess]]."""
    readers: dict[str, Callable[[Table], PostStep]] = {
        "keep_largest": lambda t: KeepLargest(
            labels=_labels(t),
            joint=t.flag("joint", default=False),
            count=t.integer("count", 1, 1000, 1),
            also_over=t.number("also_over", 0.001, 1.0, 1.0),
        ),
        "drop_small": _drop_small,
        "fill_holes": lambda t: FillHoles(_labels(t)),
        "close": lambda t: Close(_labels(t), t.number("radius_mm", 0.1, 50)),
        "split_sides": lambda t: SplitSides(
            _label(t, "label"), _label(t, "right"), _label(t, "left")
        ),
        "drop_wrong_side": lambda t: DropWrongSide(_label(t, "right"), _label(t, "left")),
        "threshold": _threshold,
        "restrict_to": lambda t: RestrictTo(
            _labels(t), t.choice("how", ("touch", "inside")), t.number("grow_mm", 0, 100, 0.0)
        ),
        "instances": lambda t: Instances(_label(t, "label"), t.integer("at_most", 1, 250, 50)),
    }
    steps = []
    for table in tables:
        steps.append(readers[table.choice("step", tuple(readers))](table))
        table.finish()
    return tuple(steps)


def _drop_small(table: Table) -> DropSmall:
    if table.has("min_ml") == table.has("min_mm"):
        table.note("min_ml", "one of min_ml (volume) and min_mm (diameter) must be given")
    return DropSmall(
        _labels(table),
        min_ml=table.number("min_ml", 0, 1e5, 0.0),
        min_mm=table.number("min_mm", 0, 1e3, 0.0),
    )


def _threshold(table: Table) -> Threshold:
    if not (table.has("at_least") or table.has("at_most")):
        table.note("at_least", "one of at_least and at_most must be given")
    step = Threshold(
        _labels(table),
        at_least=table.number("at_least", -_FAR, _FAR, -_FAR),
        at_most=table.number("at_most", -_FAR, _FAR, _FAR),
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
        labels=_labels(table),
        margin_mm=table.number("margin_mm", 0, 500, 10.0),
        outside_mm=table.number("outside_mm", 0, 500, 5.0),
    )
    table.finish()
    return stage


def _label(table: Table, key: str) -> int:
    return table.integer(key, 1, _LABELS_MAX)


def _labels(table: Table) -> tuple[int, ...]:
    labels = table.numbers("labels", 0)
    if not labels or any(one != int(one) or not 1 <= one <= _LABELS_MAX for one in labels):
        table.note("labels", "must be a list of label values from 1")
        return (1,)
    return tuple(int(one) for one in labels)


def read_segments(tables: Sequence[Table]) -> tuple[Segment, ...]:
    """Read [[segments]]; numbers run from 1 and labels are unique (PS3.3 C.8.20.4)."""
    segments: list[Segment] = []
    for table in tables:
        label = table.string("label", longest=64)
        if not label.isascii():
            table.note("label", f"must be plain ASCII, is {label!r}")
        if label in [one.label for one in segments]:
            table.note("label", f"occurs twice: {label!r}")
        number = table.integer("number", 1, _LABELS_MAX)
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
    return _as_code(table, key, table.string(key, longest=128))


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


def read_quality(table: Table) -> Quality:
    """Read [quality]."""
    removed = table.number("removed_fraction", 0, 1, 0.1)
    end_slice = table.number("end_slice_cm2", 0, 1e5, 0.0)
    segments = []
    for each in table.tables("segments"):
        limits = SegmentLimits(
            number=_label(each, "number"),
            min_ml=each.number("min_ml", 0, 1e6, 0.0),
            max_ml=each.number("max_ml", 0, 1e6, 1e6),
            when_empty=each.choice("when_empty", ("accept", "review", "reject"), "review"),
            max_pieces=each.integer("max_pieces", 0, 10_000, 0),
            side=each.choice("side", ("", "right", "left"), ""),
            height=_span(each, "height", 0, 1) if each.has("height") else None,
        )
        if limits.min_ml > limits.max_ml:
            each.note("max_ml", f"must not be below min_ml = {limits.min_ml:g}")
        each.finish()
        segments.append(limits)
    ratios = []
    for each in table.tables("ratios"):
        ratios.append(
            RatioLimits(_label(each, "of"), _label(each, "to"), *_range(each, "low", "high"))
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


def _span(
    table: Table, key: str, low: float, high: float, default: Sequence[float] | None = None
) -> tuple[float, float]:
    """Return [least, most] within low..high."""
    least, most = table.numbers(key, 2, default)
    if not low <= least <= most <= high:
        table.note(
            key, f"must be [least, most] within {low:g} to {high:g}, is [{least:g}, {most:g}]"
        )
    return least, most


def _input_limits(table: Table) -> InputLimits:
    limits = InputLimits(
        slice_mm=_span(table, "slice_mm", 0, 1000, (0, 1000)),
        pixel_mm=_span(table, "pixel_mm", 0, 1000, (0, 1000)),
        slices=_span(table, "slices", 1, 100_000, (1, 100_000)),
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
    _check_file(table, limits.file, limits.sha256)
    table.finish()
    return limits


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


RESULTS: Final = {"segmentation": "SEG", "classification": "SR"}
"""What a card of each kind writes."""


def read_results(table: Table, card_kind: str) -> Results:
    """Read [results] of a card of this kind."""
    results = Results(
        kinds=table.strings("kinds", [RESULTS[card_kind]], choices=TAKES),
        series_description=table.string("series_description", longest=64),
        series_number=table.integer("series_number", 1, 2**31 - 1, 9001),
    )
    if any(kind in TAKES and kind != RESULTS[card_kind] for kind in results.kinds):
        table.note("kinds", f"a {card_kind} is written as {RESULTS[card_kind]}")
    table.finish()
    return results
