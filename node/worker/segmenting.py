"""Stages 6-8 of the line: read, infer, write. The worker and `limner segment` run this code.

What comes back is a value: for each volume or ultrasound image either result objects that passed
the gate, or the reason why there are none. Nothing is stored here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from node.errors import Fault, LimnerError
from node.faultpoints import reached
from node.imaging.content import tissue_box
from node.imaging.frame_reader import open_frames
from node.imaging.images import find_images
from node.imaging.inspect_frames import frames_refusal
from node.imaging.planes import RefusedError
from node.imaging.registered import load_registered
from node.imaging.values import (
    Answer,
    FramesPlan,
    InstanceFile,
    Refusal,
    Segmentation,
    Volume,
    VolumePlan,
)
from node.models.card import Card
from node.models.fit import refusal_of
from node.models.frame_scale import refusal_of_frames
from node.models.frames import segment_frames
from node.models.loaded import LoadedModel
from node.models.stages import run_in_stages
from node.models.verdict import joined
from node.results.frame_pictures import frame_pictures
from node.results.frames_gate import check_frames_result
from node.results.gate import check_result
from node.results.pictures import overlay_pictures
from node.results.report_gate import check_report
from node.results.uids import result_key, volume_inputs
from node.results.write import NodeFacts, ResultObject, write_results
from node.worker.companions import with_companions
from node.worker.gates import judge_input
from node.worker.selection import Plan, Selection, select


class GateError(LimnerError):
    """A result did not pass the gate; it is not stored and not sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """One volume or image on which a model ran: segmented, or classified.

    Attributes:
        plan: What was read.
        answer: Labels and measurements, or findings; with the verdict.
        results: The objects, each passed by the gate.
        pictures: One JPEG per slice or frame, in their order; none of a classification.
        seconds: Wall seconds of read, infer and write.
    """

    plan: Plan
    answer: Answer
    results: tuple[ResultObject, ...]
    pictures: tuple[bytes, ...]
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class MadeBefore:
    """One volume or image whose results exist already, under these keys."""

    plan: Plan
    keys: tuple[str, ...]


Part = Segmented | MadeBefore | Refusal
"""What became of one volume or image of the input."""


@dataclass(slots=True)
class Progress:
    """Where the work stands; `tell(stage, fraction)` may raise to stop it."""

    tell: Callable[[str, float], None]
    stage: str = ""
    _told_at: float = field(default=0.0)

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        self.stage = stage
        self.tell(stage, 0.0)

    def at(self, fraction: float) -> None:
        """Tell how much of the stage is done, at most four times a second."""
        now = time.monotonic()
        if now - self._told_at > 0.25:
            self._told_at = now
            self.tell(self.stage, fraction)


def segment_files(
    files: Sequence[InstanceFile],
    model: LoadedModel,
    node: NodeFacts,
    progress: Progress,
    *,
    exists: Callable[[str], bool] = lambda _key: False,
    marks: Sequence[str] = (),
    beside: Sequence[InstanceFile] = (),
) -> tuple[Part, ...]:
    """Find the model's volumes or frames among instances, segment each, and write its results.

    Args:
        files: Instances of one or more series.
        model: Loaded weights with their card.
        node: Name and version of this node, for provenance.
        progress: Told at each stage.
        exists: Whether a result with this key was made before; it is then not made again.
        beside: Instances of further series of the study, in which the card's channels are looked
            for; those of `files` are looked at too.
        marks: Verdicts that stand in the series description of what is written.

    Raises:
        GateError: A written object does not agree with its source.
        LimnerError: The model's weights or the surroundings are at fault.
    """
    progress.enter("read")
    tilted = model.card.voxels.tilt == "resample"
    found: Sequence[Plan | Refusal] = find_images(
        files, min_slices=model.card.min_slices, tilted=tilted
    )
    selection = select(found, model.card)
    if model.card.channels:
        further = find_images(beside, min_slices=model.card.min_slices, tilted=tilted)
        found = [*found, *further]
        selection = _with_channels(selection, found, model.card)
    done: list[Part] = list(selection.refused)
    for plan in selection.plans:
        keys = tuple(_key(plan, model, kind, marks) for kind in model.card.results.kinds)
        if all(exists(key) for key in keys):
            done.append(MadeBefore(plan, keys))
        elif isinstance(plan, FramesPlan):
            done.append(_segment_frames(plan, model, node, progress, marks))
        else:
            done.append(_segment(plan, model, node, progress, marks))
    return tuple(done)


def _with_channels(selection: Selection, found: Sequence[Plan | Refusal], card: Card) -> Selection:
    """Return the volumes with their further channels, which are not refused themselves then."""
    joined_plans: list[Plan] = []
    refused = []
    for plan in selection.plans:
        one = with_companions(plan, found, card) if isinstance(plan, VolumePlan) else plan
        if isinstance(one, Refusal):
            refused.append(one)
        else:
            joined_plans.append(one)
    used = {(other.series_uid, other.part) for plan in joined_plans for other in plan.others}
    left = [each for each in selection.refused if (each.series_uid, each.part) not in used]
    return Selection(tuple(joined_plans), (*left, *refused))


def _key(plan: Plan, model: LoadedModel, kind: str, marks: Sequence[str]) -> str:
    return result_key(
        volume_inputs(plan),
        model_digest=model.card.weights.sha256,
        settings_digest=model.card.settings_digest,
        kind=kind,
        marks=marks,
    )


def _segment(
    plan: VolumePlan,
    model: LoadedModel,
    node: NodeFacts,
    progress: Progress,
    marks: Sequence[str],
) -> Segmented | Refusal:
    started = time.monotonic()
    progress.enter("read")
    said = judge_input(plan, model.card)
    if isinstance(said, Refusal):
        return said
    backgrounds = [channel.background for channel in model.card.channels]
    volume = load_registered(plan, backgrounds)
    if isinstance(volume, Refusal):
        return volume
    if refusal := refusal_of(volume, model.card):
        return refusal
    read = time.monotonic()
    reached("read.after")
    progress.enter("infer")
    answer = run_in_stages(volume, model, progress=progress.at)
    if isinstance(answer, Refusal):
        return answer
    answer = replace(answer, verdict=joined(answer.verdict, said))
    inferred = time.monotonic()
    reached("infer.after")
    progress.enter("write")
    written = write_results(volume, answer, node=node, kinds=model.card.results.kinds, marks=marks)
    if isinstance(written, Refusal):
        return written
    for result in written:
        _pass_gate(result, volume.series_uid, _faults(result, volume, answer))
    pictures: tuple[bytes, ...] = ()
    if isinstance(answer, Segmentation):
        pictures = tuple(overlay_pictures(volume, answer))
    ended = time.monotonic()
    seconds = {"read": read - started, "infer": inferred - read, "write": ended - inferred}
    return Segmented(plan, answer, tuple(written), pictures, seconds)


def _faults(result: ResultObject, volume: Volume, answer: Answer) -> tuple[str, ...]:
    """Return what the gate of the object's kind finds."""
    if isinstance(answer, Segmentation):
        return check_result(result.data, volume, answer)
    return check_report(result.data, volume, answer)


def _segment_frames(
    plan: FramesPlan,
    model: LoadedModel,
    node: NodeFacts,
    progress: Progress,
    marks: Sequence[str],
) -> Segmented | Refusal:
    """Segment an image; it is read while it is segmented, so "read" is only its opening."""
    started = time.monotonic()
    progress.enter("read")
    said = refusal_of_frames(plan, model.card) or judge_input(plan, model.card)
    if isinstance(said, Refusal):
        return said
    colour_accepted = model.card.frames is not None and model.card.frames.colour
    try:
        with open_frames(plan, colour_accepted=colour_accepted) as frames:
            read = time.monotonic()
            reached("read.after")
            progress.enter("infer")
            segmentation = segment_frames(frames, model, progress=progress.at)
            segmentation = replace(segmentation, verdict=joined(segmentation.verdict, said))
            inferred = time.monotonic()
            reached("infer.after")
            progress.enter("write")
            written = write_results(
                plan, segmentation, node=node, kinds=model.card.results.kinds, marks=marks
            )
            if isinstance(written, Refusal):
                return written
            for result in written:
                found = check_frames_result(result.data, plan, segmentation)
                _pass_gate(result, plan.series_uid, found)
            pictures = tuple(frame_pictures(frames, segmentation, box=tissue_box(frames)))
    except RefusedError as refused:
        return frames_refusal(plan, refused)
    ended = time.monotonic()
    seconds = {"read": read - started, "infer": inferred - read, "write": ended - inferred}
    return Segmented(plan, segmentation, tuple(written), pictures, seconds)


def _pass_gate(result: ResultObject, series_uid: str, found: Sequence[str]) -> None:
    """Raise if the gate found anything."""
    if found:
        raise GateError(
            Fault(
                code="gate",
                what=f"The {result.kind} does not agree with its source: {'; '.join(found)}",
                where=f"series {series_uid}",
                remedy="Nothing was sent. Keep the study and report this: it is a fault of the "
                "node or of a header it should have refused.",
            )
        )
