"""Find the volumes that the instances of one or several series promise, from headers alone.

Instances are sorted into parts: images that may be voxels, and the rest by the reason it is
refused. The images become one volume, or several if they lie at the same positions and one
attribute splits them into complete stacks, or a refusal. Nothing is left out silently: every
instance is in a plan, in a refusal or in a note.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from node.imaging.attributes import text, tolerated
from node.imaging.enhanced import enhanced_frames, is_enhanced
from node.imaging.frames import SPLITTING_KEYWORDS, Frame, classic_frame
from node.imaging.grid import Grid, NotAGrid, Planes, find_grid, quantum_mm
from node.imaging.kinds import is_derived, is_localizer, refuse_kind
from node.imaging.pixels import refuse_format
from node.imaging.read import open_instance, read_header
from node.imaging.values import (
    InstanceFile,
    Refusal,
    SliceSource,
    SourceInstance,
    VolumePlan,
)
from node.reasons import Reason

SHOWN_INSTANCES = 20
"""A refusal names at most so many instances."""

_Found = tuple[list[Frame], Grid] | NotAGrid


def find_volumes(
    files: Sequence[InstanceFile], *, min_slices: int = 3
) -> tuple[VolumePlan | Refusal, ...]:
    """Find the volumes in `files`, whatever order they are in.

    Args:
        files: Instances of one or several series.
        min_slices: Fewer slices are refused; a card for single images sets 1.

    Returns:
        Plans and refusals, sorted by series UID and part; files without a readable header first.
    """
    damaged: list[Refusal] = []
    by_series: dict[str, list[SourceInstance]] = defaultdict(list)
    with tolerated():
        for file in sorted(files, key=lambda file: (str(file.path), file.offset)):
            instance = read_header(file)
            if isinstance(instance, Refusal):
                damaged.append(instance)
            else:
                by_series[text(instance.header, "SeriesInstanceUID")].append(instance)
        found: list[VolumePlan | Refusal] = list(damaged)
        for series_uid in sorted(by_series):
            found += find_in_series(by_series[series_uid], min_slices=min_slices)
    return tuple(found)


def find_in_series(
    instances: Sequence[SourceInstance], *, min_slices: int = 3
) -> list[VolumePlan | Refusal]:
    """Find the volumes of one series; every instance carries the same Series Instance UID."""
    series_uid = text(instances[0].header, "SeriesInstanceUID")
    modality = text(instances[0].header, "Modality")
    identity = _mixed_identity(instances)
    parts = [identity] if identity else _parts(instances, min_slices)
    parts.sort(key=lambda part: isinstance(part, Refusal))
    numbered: list[VolumePlan | Refusal] = []
    for number, part in enumerate(parts, start=1):
        if isinstance(part, Refusal):
            numbered.append(replace(part, series_uid=series_uid, modality=modality, part=number))
        else:
            numbered.append(replace(part, part=number))
    return numbered


def _mixed_identity(instances: Sequence[SourceInstance]) -> Refusal | None:
    identities = {
        (text(instance.header, "StudyInstanceUID"), text(instance.header, "PatientID"))
        for instance in instances
    }
    if len(identities) == 1:
        return None
    return _refusal(
        Reason.MIXED_IDENTITY,
        f"The {len(instances)} instances of one series name {len(identities)} different "
        f"combinations of study and patient.",
        instances,
    )


def _each_once(instances: Sequence[SourceInstance]) -> list[SourceInstance] | Refusal:
    """Return each SOP Instance UID once, sorted; equal copies collapse, other copies refuse."""
    by_uid: dict[str, list[SourceInstance]] = defaultdict(list)
    for instance in instances:
        by_uid[instance.sop_instance_uid].append(instance)
    for uid, copies in by_uid.items():
        if len(copies) > 1 and len({_file_digest(copy) for copy in copies}) > 1:
            return _refusal(
                Reason.DUPLICATE_POSITION,
                f"{len(copies)} different files carry the SOP Instance UID {uid}.",
                copies,
            )
    return [by_uid[uid][0] for uid in sorted(by_uid)]


def _file_digest(instance: SourceInstance) -> str:
    if instance.file.digest:
        return instance.file.digest
    with open_instance(instance.file) as stream:
        stream.seek(128)  # the preamble says nothing
        return hashlib.sha256(stream.read()).hexdigest()


def _parts(instances: Sequence[SourceInstance], min_slices: int) -> list[VolumePlan | Refusal]:
    parts: list[VolumePlan | Refusal] = []
    refused: dict[tuple[Reason, str], list[SourceInstance]] = defaultdict(list)
    images: list[SourceInstance] = []
    for instance in instances:
        fault = refuse_kind(instance)
        if fault is None:
            images.append(instance)
        else:
            refused[fault].append(instance)
    once = _each_once(images)
    if isinstance(once, Refusal):
        parts.append(once)
    else:
        parts += _of_images(once, refused, min_slices)
    for reason, explanation in sorted(refused):
        left_out = refused[reason, explanation]
        parts.append(_refusal(reason, f"{len(left_out)} instance(s). {explanation}", left_out))
    return parts


def _of_images(
    images: Sequence[SourceInstance],
    refused: dict[tuple[Reason, str], list[SourceInstance]],
    min_slices: int,
) -> list[VolumePlan | Refusal]:
    """Build the volumes of images; what cannot be used is added to `refused`."""
    damaged = False
    frames: list[Frame] = []
    for instance in images:
        fault = refuse_format(instance)
        if fault is not None:
            damaged = True
            refused[fault].append(instance)
            continue
        for item in _frames(instance):
            if isinstance(item, Frame):
                frames.append(item)
            else:
                refused[item].append(instance)
                damaged = damaged or item[0] is Reason.BAD_HEADER
    by_modality = _by(frames, lambda frame: text(frame.instance.header, "Modality"))
    parts: list[VolumePlan | Refusal] = []
    # A volume without its damaged slices would be a shorter one that looks whole.
    for group in [] if damaged else by_modality.values():
        parts += _of_one_modality(group, min_slices)
    return parts


def _frames(instance: SourceInstance) -> Iterable[Frame | tuple[Reason, str]]:
    """Yield the frames of an image, or why it, or some of its frames, cannot be used."""
    if not is_enhanced(instance):
        yield classic_frame(instance)
        return
    frames = enhanced_frames(instance)
    if not isinstance(frames, list):
        yield frames
        return
    localizers = [frame for frame in frames if is_localizer(frame.kind)]
    derived = [frame for frame in frames if is_derived(frame.kind)]
    if localizers:
        yield Reason.LOCALIZER, "FrameType says LOCALIZER."
    if derived:
        yield Reason.DERIVED, "FrameType says that they are no measured slices."
    left_out = {id(frame) for frame in localizers + derived}
    yield from (frame for frame in frames if id(frame) not in left_out)


def _of_one_modality(frames: list[Frame], min_slices: int) -> list[VolumePlan | Refusal]:
    """Take each frame of reference for itself; some frames with and some without is none."""
    places = _by(frames, lambda frame: frame.frame_of_reference)
    if len(places) > 1 and "" in places:
        return [
            _refusal(
                Reason.NO_FRAME_OF_REFERENCE,
                f"{len(places[''])} of {len(frames)} images carry no Frame of Reference UID "
                f"where the others do.",
                [frame.instance for frame in places[""]],
            )
        ]
    parts: list[VolumePlan | Refusal] = []
    for group in places.values():
        parts += _in_one_place(group, min_slices)
    return parts


def _in_one_place(frames: list[Frame], min_slices: int) -> list[VolumePlan | Refusal]:
    """Build the volumes of frames that share modality and frame of reference."""
    unplaced = [frame for frame in frames if not frame.placed]
    if unplaced:
        return [
            _refusal(
                Reason.NO_GEOMETRY,
                f"{len(unplaced)} of {len(frames)} images lack ImagePositionPatient, "
                f"ImageOrientationPatient or PixelSpacing, or it is malformed; SliceLocation is "
                f"never used instead.",
                [frame.instance for frame in unplaced],
            )
        ]
    whole = _grid(frames, min_slices)
    if isinstance(whole, Grid):
        return [_plan(frames, whole, ())]
    stacks = _by(frames, lambda frame: frame.stack)
    groups = list(stacks.values()) if len(stacks) > 1 else [frames]
    parts: list[VolumePlan | Refusal] = []
    for group in groups:
        parts += _at_repeated_positions(group, min_slices)
    return parts


def _at_repeated_positions(frames: list[Frame], min_slices: int) -> list[VolumePlan | Refusal]:
    """Split frames that share positions by the first attribute that gives complete stacks."""
    grid = _grid(frames, min_slices)
    if isinstance(grid, Grid):
        return [_plan(frames, grid, ())]
    if grid.reason is not Reason.DUPLICATE_POSITION:
        return [_refuse_frames(frames, grid)]
    for keyword in _keywords(frames):
        stacks = _complete_stacks(frames, keyword, min_slices)
        if stacks:
            note = f"Split by {keyword} into {len(stacks)} complete stacks."
            return [_plan(group, found, (note,)) for group, found in stacks]
    kept = _without_copies(frames)
    if len(kept) < len(frames):
        found = _grid(kept, min_slices)
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


def _complete_stacks(
    frames: Sequence[Frame], keyword: str, min_slices: int
) -> list[tuple[list[Frame], Grid]]:
    """Return the stacks into which one key splits frames if each is whole, else nothing."""
    groups = _by(frames, lambda frame: frame.keys.get(keyword, ""))
    if len({len(group) for group in groups.values()}) != 1:
        return []
    stacks: list[tuple[list[Frame], Grid]] = []
    for group in groups.values():
        grid = _grid(group, min_slices)
        if not isinstance(grid, Grid):
            return []
        stacks.append((group, grid))
    first = stacks[0][1].affine
    if any(not np.allclose(grid.affine, first, rtol=0, atol=0.01) for _, grid in stacks):
        return []
    return stacks


def _by(frames: Sequence[Frame], key: Callable[[Frame], str]) -> dict[str, list[Frame]]:
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


def _grid(frames: Sequence[Frame], min_slices: int) -> Grid | NotAGrid:
    return find_grid(
        Planes(
            positions=np.array([frame.position for frame in frames]),
            orientations=np.array([frame.orientation for frame in frames]),
            spacings=np.array([frame.spacing for frame in frames]),
            matrices=[(frame.rows, frame.columns) for frame in frames],
            quantum_mm=quantum_mm(max(frame.decimals for frame in frames)),
            depths_mm=frames[0].depths_mm,
        ),
        min_slices=min_slices,
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
    return _refusal(fault.reason, fault.explanation, chosen)


def _refusal(reason: Reason, explanation: str, instances: Sequence[SourceInstance]) -> Refusal:
    uids = dict.fromkeys(instance.sop_instance_uid for instance in instances)
    return Refusal(reason=reason, explanation=explanation, instances=tuple(uids)[:SHOWN_INSTANCES])
