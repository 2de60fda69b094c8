"""From a segmentation to the objects that are stored and sent.

The one entry for the worker and for `limner segment`: both give the same bytes for the same
input, model, settings and node facts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    SegmentationStorage,
)

from node.imaging.attributes import tolerated
from node.imaging.values import (
    VOLUME,
    Answer,
    Classification,
    Code,
    FramesPlan,
    Measurement,
    Outcome,
    Refusal,
    ScoredFinding,
    Segment,
    Segmentation,
    Volume,
)
from node.results.frames_seg import frames_seg
from node.results.report import WrittenReport, classification_report
from node.results.seg import WrittenSeg, binary_seg
from node.results.template import NodeFacts
from node.results.uids import result_key, volume_inputs

__all__ = ["NodeFacts", "ResultObject", "ResultSummary", "SegmentSummary", "write_results"]


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """What one segment came to.

    Attributes:
        number: Segment Number.
        label: Segment Label.
        code: Segmented Property Type Code.
        voxels: How many voxels it has in the object.
        volume_ml: The same in mL, by the volume's affine, of tissue fractions their sum; None for
            frames, which have no depth.
        frames: On how many frames it is; None for a volume.
        area_mm2: Its largest area on one frame, where pixels have a size; None for a volume.
    """

    number: int
    label: str
    code: Code
    voxels: int
    volume_ml: float | None
    frames: int | None = None
    area_mm2: float | None = None

    def sizes(self) -> dict[str, int | float | None]:
        """Return what a row and `--json` say of its size."""
        return {
            "voxels": self.voxels,
            "volume_ml": None if self.volume_ml is None else round(self.volume_ml, 3),
            "frames": self.frames,
            "area_mm2": None if self.area_mm2 is None else round(self.area_mm2, 2),
        }


@dataclass(frozen=True, slots=True)
class ResultSummary:
    """What a page, a row and `--json` say of a result."""

    segments: tuple[SegmentSummary, ...]
    verdict: Outcome
    reasons: tuple[str, ...]
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[ScoredFinding, ...] = ()


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object, complete.

    Attributes:
        kind: `SEG` or `SR`.
        encoding: `BINARY`; empty for an SR.
        sop_class: SOP Class UID.
        sop_uid: SOP Instance UID; follows from the bytes.
        series_uid: Series Instance UID of the result.
        transfer_syntax: Transfer Syntax UID of `data`.
        data: The PS3.10 file.
        digest: SHA-256 of `data`, hex.
        key: What it was made from (`uids.result_key`), hex.
        summary: Segments or findings, and the verdict.
    """

    kind: str
    encoding: str
    sop_class: str
    sop_uid: str
    series_uid: str
    transfer_syntax: str
    data: bytes
    digest: str
    key: str
    summary: ResultSummary


def write_results(
    source: Volume | FramesPlan,
    answer: Answer,
    *,
    node: NodeFacts,
    kinds: Sequence[str] = ("SEG",),
    marks: Sequence[str] = (),
    empty_patient_id_allowed: bool = False,
) -> tuple[ResultObject, ...] | Refusal:
    """Write what a model gave as DICOM objects, one per kind.

    Args:
        source: A volume or frames, with the files they were read from.
        answer: Labels on its grid, or findings of a volume.
        node: Who makes the objects; part of their bytes.
        kinds: Which objects: `SEG` of a segmentation, `SR` of a classification.
        marks: Verdicts whose results say so in their series description; part of the key.
        empty_patient_id_allowed: Take a source without patient ID if it has a name and a birth
            date.

    Returns:
        The objects in the order of `kinds`, or why there is none: identity or orientation of the
        source is in doubt.

    Raises:
        ValueError: A kind is unknown, or labels and volume do not fit.
        SetupError: The card's segments cannot be written.
    """
    possible = "SEG" if isinstance(answer, Segmentation) else "SR"
    unknown = sorted(set(kinds) - {possible})
    if unknown:
        raise ValueError(f"a {type(answer).__name__} is not written as {', '.join(unknown)}")
    written = []
    for kind in kinds:
        key = result_key(
            volume_inputs(source),
            model_digest=answer.model.digest,
            settings_digest=answer.model.settings_digest,
            kind=kind,
            marks=marks,
        )
        with tolerated():
            if isinstance(answer, Classification):
                result = _report(
                    source,
                    answer,
                    key=key,
                    node=node,
                    marked=answer.verdict.outcome in marks,
                    empty_patient_id_allowed=empty_patient_id_allowed,
                )
            else:
                result = _seg(
                    source,
                    answer,
                    key=key,
                    node=node,
                    marked=answer.verdict.outcome in marks,
                    empty_patient_id_allowed=empty_patient_id_allowed,
                )
        if isinstance(result, Refusal):
            return result
        written.append(result)
    return tuple(written)


def _report(
    source: Volume | FramesPlan,
    answer: Classification,
    *,
    key: str,
    node: NodeFacts,
    marked: bool,
    empty_patient_id_allowed: bool,
) -> ResultObject | Refusal:
    if isinstance(source, FramesPlan):
        raise TypeError("a classification is one of a volume")
    made = classification_report(
        source,
        answer,
        key=key,
        node=node,
        marked=marked,
        empty_patient_id_allowed=empty_patient_id_allowed,
    )
    if isinstance(made, Refusal):
        return made
    summary = ResultSummary(
        (), answer.verdict.outcome, answer.verdict.reasons, findings=answer.findings
    )
    return _object("SR", "", str(Comprehensive3DSRStorage), made=made, key=key, summary=summary)


def _seg(
    source: Volume | FramesPlan,
    segmentation: Segmentation,
    *,
    key: str,
    node: NodeFacts,
    marked: bool,
    empty_patient_id_allowed: bool,
) -> ResultObject | Refusal:
    if isinstance(source, FramesPlan):
        made = frames_seg(
            source,
            segmentation,
            key=key,
            node=node,
            marked=marked,
            empty_patient_id_allowed=empty_patient_id_allowed,
        )
    else:
        made = binary_seg(
            source,
            segmentation,
            key=key,
            node=node,
            marked=marked,
            empty_patient_id_allowed=empty_patient_id_allowed,
        )
    if isinstance(made, Refusal):
        return made
    measured = None
    if segmentation.fractions is not None:
        measured = {m.segment: m.value for m in segmentation.measurements if m.name == VOLUME}
    ordered = sorted(segmentation.segments, key=lambda segment: segment.number)
    segments = tuple(
        _on_frames(segment, voxels, segmentation)
        if isinstance(source, FramesPlan)
        else SegmentSummary(
            number=segment.number,
            label=segment.label,
            code=segment.type,
            voxels=voxels,
            volume_ml=(
                voxels * (math.prod(source.spacing_mm) / 1000.0)
                if measured is None
                else measured[segment.number]
            ),
        )
        for segment, voxels in zip(ordered, made.voxels, strict=True)
    )
    summary = ResultSummary(
        segments,
        segmentation.verdict.outcome,
        segmentation.verdict.reasons,
        segmentation.measurements,
    )
    return _object("SEG", "BINARY", str(SegmentationStorage), made=made, key=key, summary=summary)


def _object(
    kind: str,
    encoding: str,
    sop_class: str,
    *,
    made: WrittenSeg | WrittenReport,
    key: str,
    summary: ResultSummary,
) -> ResultObject:
    return ResultObject(
        kind=kind,
        encoding=encoding,
        sop_class=sop_class,
        sop_uid=made.sop_uid,
        series_uid=made.series_uid,
        transfer_syntax=str(ExplicitVRLittleEndian),
        data=made.data,
        digest=hashlib.sha256(made.data).hexdigest(),
        key=key,
        summary=summary,
    )


def _on_frames(segment: Segment, pixels: int, segmentation: Segmentation) -> SegmentSummary:
    areas = [one.value for one in segmentation.measurements if one.segment == segment.number]
    on = int((segmentation.labels == segment.number).any(axis=(1, 2)).sum())
    return SegmentSummary(
        number=segment.number,
        label=segment.label,
        code=segment.type,
        voxels=pixels,
        volume_ml=None,
        frames=on,
        area_mm2=max(areas, default=None) if len(areas) == on else None,
    )
