"""Stages 6-8 of the line: read, infer, write. The worker and `limner segment` run this code.

What comes back is a value: for each volume either result objects that passed the gate, or the
reason why there are none. Nothing is stored here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from node.errors import Fault, LimnerError
from node.faultpoints import reached
from node.imaging.series import find_volumes
from node.imaging.values import InstanceFile, Refusal, Segmentation, Volume, VolumePlan
from node.imaging.volume import load_volume
from node.models.fit import refusal_of
from node.models.loaded import LoadedModel
from node.models.stages import segment_in_stages
from node.results.gate import check_result
from node.results.pictures import overlay_pictures
from node.results.uids import result_key, volume_inputs
from node.results.write import NodeFacts, ResultObject, write_results
from node.worker.selection import select


class GateError(LimnerError):
    """A result did not pass the gate; it is not stored and not sent."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """One volume that was segmented.

    Attributes:
        plan: What was read.
        segmentation: Labels, measurements, verdict.
        results: The objects, each passed by the gate.
        pictures: One JPEG per slice, in the order of the volume.
        seconds: Wall seconds of read, infer and write.
    """

    plan: VolumePlan
    segmentation: Segmentation
    results: tuple[ResultObject, ...]
    pictures: tuple[bytes, ...]
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class MadeBefore:
    """One volume whose results exist already, under these keys."""

    plan: VolumePlan
    keys: tuple[str, ...]


Part = Segmented | MadeBefore | Refusal
"""What became of one volume of the input."""


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
) -> tuple[Part, ...]:
    """Find the model's volumes among instances, segment each, and write its results.

    Args:
        files: Instances of one or more series.
        model: Loaded weights with their card.
        node: Name and version of this node, for provenance.
        progress: Told at each stage.
        exists: Whether a result with this key was made before; it is then not made again.

    Raises:
        GateError: A written object does not agree with its source.
        LimnerError: The model's weights or the surroundings are at fault.
    """
    progress.enter("read")
    selection = select(find_volumes(files, min_slices=model.card.min_slices), model.card)
    done: list[Part] = list(selection.refused)
    for plan in selection.plans:
        keys = tuple(_key(plan, model, kind) for kind in model.card.results.kinds)
        if all(exists(key) for key in keys):
            done.append(MadeBefore(plan, keys))
        else:
            done.append(_segment(plan, model, node, progress))
    return tuple(done)


def _key(plan: VolumePlan, model: LoadedModel, kind: str) -> str:
    return result_key(
        volume_inputs(plan),
        model_digest=model.card.weights.sha256,
        settings_digest=model.card.settings_digest,
        kind=kind,
    )


def _segment(
    plan: VolumePlan, model: LoadedModel, node: NodeFacts, progress: Progress
) -> Segmented | Refusal:
    started = time.monotonic()
    progress.enter("read")
    volume = load_volume(plan)
    if isinstance(volume, Refusal):
        return volume
    if refusal := refusal_of(volume, model.card):
        return refusal
    read = time.monotonic()
    reached("read.after")
    progress.enter("infer")
    segmentation = segment_in_stages(volume, model, progress=progress.at)
    if isinstance(segmentation, Refusal):
        return segmentation
    inferred = time.monotonic()
    reached("infer.after")
    progress.enter("write")
    written = write_results(volume, segmentation, node=node, kinds=model.card.results.kinds)
    if isinstance(written, Refusal):
        return written
    for result in written:
        _pass_gate(result, volume, segmentation)
    pictures = tuple(overlay_pictures(volume, segmentation))
    ended = time.monotonic()
    seconds = {"read": read - started, "infer": inferred - read, "write": ended - inferred}
    return Segmented(plan, segmentation, tuple(written), pictures, seconds)


def _pass_gate(result: ResultObject, volume: Volume, segmentation: Segmentation) -> None:
    found = check_result(result.data, volume, segmentation)
    if found:
        raise GateError(
            Fault(
                code="gate",
                what=f"The {result.kind} does not agree with its source: {'; '.join(found)}",
                where=f"series {volume.series_uid}",
                remedy="Nothing was sent. Keep the study and report this: it is a fault of the "
                "node or of a header it should have refused.",
            )
        )
