"""Put the frames of one series on grids: one volume, or several complete stacks, or a refusal.

Frames that lie at the same positions are split only if one attribute, or two or three that name
what was measured, give complete stacks on one grid; anything else would be guessing which slice
belongs to which volume.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from node.imaging.attributes import text
from node.imaging.frames import MEASURED_KEYWORDS, SPLITTING_KEYWORDS, Frame
from node.imaging.grid import Grid, NotAGrid, Planes, find_grid, quantum_mm
from node.imaging.read import open_instance
from node.imaging.values import Refusal, SliceSource, SourceInstance, VolumePlan
from node.reasons import Reason

SHOWN_INSTANCES: Final = 20
"""A refusal names at most so many instances."""


@dataclass(frozen=True, slots=True)
class GridRules:
    """What a model asks of a grid.

    Attributes:
        min_slices: Fewer slices are refused.
        tilted: Whether a stack sheared by a tilted gantry is taken.
    """

    min_slices: int = 3
    tilted: bool = False


def volumes_of_frames(frames: list[Frame], rules: GridRules) -> list[VolumePlan | Refusal]:
    """Take each frame of reference for itself; some frames with and some without is none."""
    places = grouped(frames, lambda frame: frame.frame_of_reference)
    if len(places) > 1 and "" in places:
        return [
            refuse(
                Reason.NO_FRAME_OF_REFERENCE,
                f"{len(places[''])} of {len(frames)} images carry no Frame of Reference UID "
                f"where the others do.",
                [frame.instance for frame in places[""]],
            )
        ]
    parts: list[VolumePlan | Refusal] = []
    for group in places.values():
        parts += _in_one_place(group, rules)
    return parts


def _in_one_place(frames: list[Frame], rules: GridRules) -> list[VolumePlan | Refusal]:
    """Build the volumes of frames that share modality and frame of reference."""
    unplaced = [frame for frame in frames if not frame.placed]
    if unplaced:
        return [
            refuse(
                Reason.NO_GEOMETRY,
                f"{len(unplaced)} of {len(frames)} images lack ImagePositionPatient, "
                f"ImageOrientationPatient or PixelSpacing, or it is malformed; SliceLocation is "
                f"never used instead.",
                [frame.instance for frame in unplaced],
            )
        ]
    whole = _grid(frames, rules)
    if isinstance(whole, Grid):
        return [_plan(frames, whole, ())]
    stacks = grouped(frames, lambda frame: frame.stack)
    groups = list(stacks.values()) if len(stacks) > 1 else [frames]
    parts: list[VolumePlan | Refusal] = []
    for group in groups:
        parts += _at_repeated_positions(group, rules)
    return parts


def _at_repeated_positions(frames: list[Frame], rules: GridRules) -> list[VolumePlan | Refusal]:
    """Split frames that share positions by the first attribute that gives complete stacks."""
    grid = _grid(frames, rules)
    if isinstance(grid, Grid):
        return [_plan(frames, grid, ())]
    if grid.reason is not Reason.DUPLICATE_POSITION:
        return [_refuse_frames(frames, grid)]
    for keywords in _ways_to_split(frames):
        stacks = _complete_stacks(frames, keywords, rules)
        if stacks:
            note = f"Split by {' and '.join(keywords)} into {len(stacks)} complete stacks."
            return [_plan(group, found, (note,)) for group, found in stacks]
    kept = _without_copies(frames)
    if len(kept) < len(frames):
        found = _grid(kept, rules)
        note = f"{len(frames) - len(kept)} image(s) are copies of others at their position."
        if isinstance(found, Grid):
            return [_plan(kept, found, (note,))]
    return [_refuse_frames(frames, grid)]


def _keywords(frames: Sequence[Frame]) -> list[str]:
    """Return the names of keys that differ between frames, in the order of plainness."""
    names = list(SPLITTING_KEYWORDS)
    for frame in frames:
        names += [name for name in frame.keys if name not in names]
    return [name for name in names if len({frame.keys.get(name, "") for frame in frames}) > 1]


def _ways_to_split(frames: Sequence[Frame]) -> Iterator[tuple[str, ...]]:
    """Yield each key that differs, then pairs and triples of those that name a measurement.

    Two echoes of three phases, or directions of several b-values, are complete only together.
    Times and indices are left out of these: with enough of them any set can be cut into stacks.
    """
    names = _keywords(frames)
    yield from ((name,) for name in names)
    measured = [name for name in names if name in MEASURED_KEYWORDS]
    for count in (2, 3):
        yield from combinations(measured, count)


def _complete_stacks(
    frames: Sequence[Frame], keywords: tuple[str, ...], rules: GridRules
) -> list[tuple[list[Frame], Grid]]:
    """Return the stacks into which keys split frames if each is whole, else nothing."""
    groups: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[tuple(frame.keys.get(keyword, "") for keyword in keywords)].append(frame)
    if len({len(group) for group in groups.values()}) != 1:
        return []
    stacks: list[tuple[list[Frame], Grid]] = []
    for name in sorted(groups, key=lambda values: [_numeric(value) for value in values]):
        grid = _grid(groups[name], rules)
        if not isinstance(grid, Grid):
            return []
        stacks.append((groups[name], grid))
    first = stacks[0][1].affine
    if any(not np.allclose(grid.affine, first, rtol=0, atol=0.01) for _, grid in stacks):
        return []
    return stacks


def grouped(frames: Sequence[Frame], key: Callable[[Frame], str]) -> dict[str, list[Frame]]:
    """Group frames by a text, in the order of the text; numbers count as numbers."""
    groups: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return {name: groups[name] for name in sorted(groups, key=_numeric)}


def _numeric(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """Keep one of several single-frame images with the same position and the same pixels."""
    kept: list[Frame] = []
    seen: set[tuple[object, ...]] = set()
    for frame in frames:
        content: tuple[object, ...] = (id(frame),)
        if frame.number is None:
            content = (frame.position, *_rescale(frame), _pixel_digest(frame.instance))
        if content not in seen:
            kept.append(frame)
        seen.add(content)
    return kept


def _rescale(frame: Frame) -> tuple[str, str]:
    header = frame.instance.header
    return text(header, "RescaleSlope"), text(header, "RescaleIntercept")


def _pixel_digest(instance: SourceInstance) -> str:
    place = instance.pixels
    if place is None:
        return instance.sop_instance_uid
    with open_instance(instance.file) as stream:
        stream.seek(place.offset)
        return hashlib.sha256(stream.read(-1 if place.length is None else place.length)).hexdigest()


def _grid(frames: Sequence[Frame], rules: GridRules) -> Grid | NotAGrid:
    return find_grid(
        Planes(
            positions=np.array([frame.position for frame in frames]),
            orientations=np.array([frame.orientation for frame in frames]),
            spacings=np.array([frame.spacing for frame in frames]),
            matrices=[(frame.rows, frame.columns) for frame in frames],
            quantum_mm=quantum_mm(max(frame.decimals for frame in frames)),
            depths_mm=frames[0].depths_mm,
        ),
        min_slices=rules.min_slices,
        tilted=rules.tilted,
    )


def _plan(frames: Sequence[Frame], grid: Grid, notes: tuple[str, ...]) -> VolumePlan:
    ordered = [frames[index] for index in grid.order]
    instances: list[SourceInstance] = []
    index_of: dict[str, int] = {}
    slices: list[SliceSource] = []
    for frame in ordered:
        uid = frame.instance.sop_instance_uid
        if uid not in index_of:
            index_of[uid] = len(instances)
            instances.append(frame.instance)
        slices.append(SliceSource(index_of[uid], frame.number))
    header = ordered[0].instance.header
    return VolumePlan(
        series_uid=text(header, "SeriesInstanceUID"),
        study_uid=text(header, "StudyInstanceUID"),
        part=1,
        modality=text(header, "Modality"),
        shape=(len(ordered), ordered[0].rows, ordered[0].columns),
        spacing_mm=grid.spacing_mm,
        affine=grid.affine,
        units=_units(ordered),
        instances=tuple(instances),
        slices=tuple(slices),
        frame_of_reference_uid=ordered[0].frame_of_reference,
        notes=notes,
    )


def _units(frames: Sequence[Frame]) -> str:
    """Return what the values of a volume mean: `HU`, the unit of PET, `arbitrary`, `unknown`."""
    modality = text(frames[0].instance.header, "Modality")
    if modality == "MR":
        return "arbitrary"
    if modality == "PT":
        units = {text(frame.instance.header, "Units") for frame in frames}
        return units.pop() or "unknown" if len(units) == 1 else "unknown"
    if modality == "CT" and all(frame.rescale_type in ("", "HU") for frame in frames):
        return "HU"
    return "unknown"


def _refuse_frames(frames: Sequence[Frame], fault: NotAGrid) -> Refusal:
    chosen = [frames[index].instance for index in fault.planes] or [f.instance for f in frames]
    return refuse(fault.reason, fault.explanation, chosen)


def refuse(reason: Reason, explanation: str, instances: Sequence[SourceInstance]) -> Refusal:
    """Return a refusal that names the instances, each once; series and part come later."""
    uids = dict.fromkeys(instance.sop_instance_uid for instance in instances)
    return Refusal(reason=reason, explanation=explanation, instances=tuple(uids)[:SHOWN_INSTANCES])
