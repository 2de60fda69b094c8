"""Find everything that a model could work on: volumes, and frames that are no volume.

The one look at a set of files for whoever takes both; `series.find_volumes` knows volumes alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from node.imaging.attributes import integer, text, tolerated
from node.imaging.series import each_once, find_in_series, mixed_identity, read_series
from node.imaging.stacks import GridRules, refuse
from node.imaging.ultrasound import is_frames, plan_frames
from node.imaging.values import FramesPlan, InstanceFile, Refusal, SourceInstance, VolumePlan
from node.reasons import Reason

Found = VolumePlan | FramesPlan | Refusal


def find_images(
    files: Sequence[InstanceFile], *, min_slices: int = 3, tilted: bool = False
) -> tuple[Found, ...]:
    """Find volumes and frames in `files`, whatever order they are in.

    Args:
        files: Instances of one or several series.
        min_slices: Fewer slices make no volume; a card for single images sets 1.
        tilted: As in `find_volumes`.

    Returns:
        Plans and refusals, sorted by series UID and part; files without a readable header first.
    """
    rules = GridRules(min_slices, tilted)
    damaged, by_series = read_series(files)
    found: list[Found] = list(damaged)
    with tolerated():
        for instances in by_series:
            found += _in_series(instances, rules)
    return tuple(found)


def _in_series(instances: Sequence[SourceInstance], rules: GridRules) -> list[Found]:
    frames = [instance for instance in instances if is_frames(instance)]
    slices = [instance for instance in instances if not is_frames(instance)]
    if not frames:
        return list(find_in_series(instances, rules))
    parts: list[Found] = []
    identity = mixed_identity(instances)
    if identity is not None:
        parts.append(identity)
    else:
        parts += _planned(frames)
        parts += find_in_series(slices, rules) if slices else []
    parts.sort(key=lambda part: isinstance(part, Refusal))
    series_uid = text(instances[0].header, "SeriesInstanceUID")
    modality = text(instances[0].header, "Modality")
    return [
        replace(part, series_uid=series_uid, modality=modality, part=number)
        if isinstance(part, Refusal)
        else replace(part, part=number)
        for number, part in enumerate(parts, start=1)
    ]


def _place(instance: SourceInstance) -> tuple[int, str]:
    return integer(instance.header, "InstanceNumber") or 0, instance.sop_instance_uid


def _planned(instances: Sequence[SourceInstance]) -> list[Found]:
    """Return a plan for each image, and one refusal for all that share a reason.

    Images do not depend on each other: one that is damaged takes no other with it.
    """
    parts: list[Found] = []
    refused: dict[tuple[Reason, str], list[SourceInstance]] = defaultdict(list)
    by_uid: dict[str, list[SourceInstance]] = defaultdict(list)
    for instance in sorted(instances, key=_place):
        by_uid[instance.sop_instance_uid].append(instance)
    for copies in by_uid.values():
        once = each_once(copies)
        if isinstance(once, Refusal):
            parts.append(once)
            continue
        (instance,) = once
        plan = plan_frames(instance)
        if isinstance(plan, FramesPlan):
            parts.append(plan)
        else:
            refused[plan].append(instance)
    for reason, explanation in sorted(refused):
        left_out = refused[reason, explanation]
        parts.append(refuse(reason, f"{len(left_out)} instance(s). {explanation}", left_out))
    return parts
