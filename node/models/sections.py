"""Read the tables of card.toml into the values of `parts.py`, noting every mistake.

What labels are and what becomes of them is read in `label_sections.py`, limits in
`quality_section.py`, what frames have instead of a grid in `frame_parts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from node.models.fields import AXES, FAR, LABELS_MAX, check_file, read_range
from node.models.parts import (
    ORIENTATION_LETTERS,
    Add,
    Channel,
    Clip,
    Head,
    Inference,
    LogOnePlus,
    Network,
    Normalise,
    OwnCase,
    Parameter,
    Percentiles,
    Results,
    Scale,
    Step,
    Voxels,
    Weights,
    WeightsFile,
    ZScore,
)
from node.settings import TAKES, read_conditions
from node.strict_toml import Table


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
    check_file(table, found.file, found.sha256)
    return found


def read_test_case(table: Table) -> OwnCase | None:
    """Read [test_case], which may be absent."""
    if not table.has("sha256") and not table.has("file"):
        table.finish()
        return None
    case = OwnCase(
        file=table.string("file", "test-case.safetensors"), sha256=table.string("sha256").lower()
    )
    check_file(table, case.file, case.sha256)
    table.finish()
    return case


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
        body_above=table.number("body_above", -FAR, FAR, -500.0),
        background=table.number("background", -FAR, FAR),
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
        "clip": lambda t: Clip(*read_range(t, "low", "high")),
        "add": lambda t: Add(t.number("value", -FAR, FAR)),
        "scale": _scale,
        "normalise": lambda t: Normalise(t.number("mean", -FAR, FAR), t.number("sd", 1e-8, FAR)),
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
            background=table.number("background", -FAR, FAR),
            steps=read_steps(table.tables("steps")),
        )
        if not channel.accepts:
            table.note("accepts", 'must hold at least one condition, such as Modality = "CT"')
        table.finish()
        channels.append(channel)
    return tuple(channels)


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
    outputs = table.integer("outputs", 1, LABELS_MAX)
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
