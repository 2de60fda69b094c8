"""Find the volumes that the instances of one or several series promise, from headers alone.

Instances are sorted into parts: images that may be voxels, and the rest by the reason it is
refused. The images become one volume, or several if they lie at the same positions and one
attribute splits them into complete stacks, or a refusal. Nothing is left out silently: every
instance is in a plan, in a refusal or in a note.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from node.imaging.attributes import text, tolerated
from node.imaging.enhanced import enhanced_frames, is_enhanced
from node.imaging.frames import Frame, classic_frame
from node.imaging.header_reader import HeaderReader
from node.imaging.kinds import is_derived, is_localizer, refuse_kind
from node.imaging.pet import in_suv
from node.imaging.pixel_format import refuse_format
from node.imaging.read import open_instance, read_header
from node.imaging.stacks import GridRules, grouped, refuse, volumes_of_frames
from node.imaging.values import InstanceFile, Refusal, SourceInstance, VolumePlan
from node.reasons import Reason


def find_volumes(
    files: Sequence[InstanceFile], *, min_slices: int = 3, tilted: bool = False
) -> tuple[VolumePlan | Refusal, ...]:
    """Find the volumes in `files`, whatever order they are in.

    Args:
        files: Instances of one or several series.
        min_slices: Fewer slices are refused; a card for single images sets 1.
        tilted: Whether a stack sheared by a tilted gantry is a volume, with a sheared affine; for
            a card that has it resampled.

    Returns:
        Plans and refusals, sorted by series UID and part; files without a readable header first.
    """
    damaged, by_series = read_series(files)
    found: list[VolumePlan | Refusal] = list(damaged)
    with tolerated():
        for instances in by_series:
            found += find_in_series(instances, GridRules(min_slices, tilted))
    return tuple(found)


def read_series(
    files: Sequence[InstanceFile],
) -> tuple[list[Refusal], list[list[SourceInstance]]]:
    """Return files without a readable header, and the instances of each series by its UID."""
    damaged: list[Refusal] = []
    by_series: dict[str, list[SourceInstance]] = defaultdict(list)
    reader = HeaderReader()
    with tolerated():
        for file in sorted(files, key=lambda file: (str(file.path), file.offset)):
            instance = read_header(file, reader)
            if isinstance(instance, Refusal):
                damaged.append(instance)
            else:
                by_series[text(instance.header, "SeriesInstanceUID")].append(instance)
    return damaged, [by_series[series_uid] for series_uid in sorted(by_series)]


def find_in_series(
    instances: Sequence[SourceInstance], rules: GridRules
) -> list[VolumePlan | Refusal]:
    """Find the volumes of one series; every instance carries the same Series Instance UID."""
    series_uid = text(instances[0].header, "SeriesInstanceUID")
    modality = text(instances[0].header, "Modality")
    identity = mixed_identity(instances)
    parts = [identity] if identity else _parts(instances, rules)
    parts.sort(key=lambda part: isinstance(part, Refusal))
    numbered: list[VolumePlan | Refusal] = []
    for number, part in enumerate(parts, start=1):
        if isinstance(part, Refusal):
            numbered.append(replace(part, series_uid=series_uid, modality=modality, part=number))
        else:
            suv = replace(part.suv, part=number) if part.suv else None
            numbered.append(replace(part, part=number, suv=suv))
    return numbered


def mixed_identity(instances: Sequence[SourceInstance]) -> Refusal | None:
    """Return the refusal of instances that name several studies or patients, or None."""
    identities = {
        (text(instance.header, "StudyInstanceUID"), text(instance.header, "PatientID"))
        for instance in instances
    }
    if len(identities) == 1:
        return None
    return refuse(
        Reason.MIXED_IDENTITY,
        f"The {len(instances)} instances of one series name {len(identities)} different "
        f"combinations of study and patient.",
        instances,
    )


def each_once(instances: Sequence[SourceInstance]) -> list[SourceInstance] | Refusal:
    """Return each SOP Instance UID once, sorted; equal copies collapse, other copies refuse."""
    by_uid: dict[str, list[SourceInstance]] = defaultdict(list)
    for instance in instances:
        by_uid[instance.sop_instance_uid].append(instance)
    for uid, copies in by_uid.items():
        if len(copies) > 1 and not _equal(copies):
            return refuse(
                Reason.DUPLICATE_POSITION,
                f"{len(copies)} different files carry the SOP Instance UID {uid}.",
                copies,
            )
    return [by_uid[uid][0] for uid in sorted(by_uid)]


def _equal(copies: Sequence[SourceInstance]) -> bool:
    """Return whether files hold the same bytes; the preamble says nothing and may differ."""
    digests = {copy.file.digest for copy in copies}
    if "" in digests:
        digests = {_file_digest(copy) for copy in copies}
    return len(digests) == 1


def _file_digest(instance: SourceInstance) -> str:
    with open_instance(instance.file) as stream:
        stream.seek(128)
        return hashlib.sha256(stream.read()).hexdigest()


def _parts(instances: Sequence[SourceInstance], rules: GridRules) -> list[VolumePlan | Refusal]:
    parts: list[VolumePlan | Refusal] = []
    refused: dict[tuple[Reason, str], list[SourceInstance]] = defaultdict(list)
    images: list[SourceInstance] = []
    for instance in instances:
        fault = refuse_kind(instance)
        if fault is None:
            images.append(instance)
        else:
            refused[fault].append(instance)
    once = each_once(images)
    if isinstance(once, Refusal):
        parts.append(once)
    else:
        parts += _of_images(once, refused, rules)
    for reason, explanation in sorted(refused):
        left_out = refused[reason, explanation]
        parts.append(refuse(reason, f"{len(left_out)} instance(s). {explanation}", left_out))
    return parts


def _of_images(
    images: Sequence[SourceInstance],
    refused: dict[tuple[Reason, str], list[SourceInstance]],
    rules: GridRules,
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
    by_modality = grouped(frames, lambda frame: text(frame.instance.header, "Modality"))
    parts: list[VolumePlan | Refusal] = []
    # A volume without its damaged slices would be a shorter one that looks whole.
    for group in [] if damaged else by_modality.values():
        parts += volumes_of_frames(group, rules)
    return _with_suv(parts, images)


def _with_suv(
    parts: list[VolumePlan | Refusal], images: Sequence[SourceInstance]
) -> list[VolumePlan | Refusal]:
    pet = [part for part in parts if isinstance(part, VolumePlan) and part.modality == "PT"]
    if not pet:
        return parts
    others = [part for part in parts if not any(part is one for one in pet)]
    return [*in_suv(pet, images), *others]


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
