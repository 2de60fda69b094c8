"""From a segmentation to the objects that are stored and sent.

The one entry for the worker and for `limner segment`: both give the same bytes for the same
input, model, settings and node facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from node.imaging.attributes import tolerated
from node.imaging.values import (
    VOLUME,
    Code,
    Measurement,
    Outcome,
    Refusal,
    Segmentation,
    Volume,
)
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
        volume_ml: The same in mL, by the volume's affine; of tissue fractions their sum.
    """

    number: int
    label: str
    code: Code
    voxels: int
    volume_ml: float


@dataclass(frozen=True, slots=True)
class ResultSummary:
    """What a page, a row and `--json` say of a result."""

    segments: tuple[SegmentSummary, ...]
    verdict: Outcome
    reasons: tuple[str, ...]
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object, complete.

    Attributes:
        kind: `SEG`.
        encoding: `BINARY`.
        sop_class: SOP Class UID.
        sop_uid: SOP Instance UID; follows from the bytes.
        series_uid: Series Instance UID of the result.
        transfer_syntax: Transfer Syntax UID of `data`.
        data: The PS3.10 file.
        digest: SHA-256 of `data`, hex.
        key: What it was made from (`uids.result_key`), hex.
        summary: Segments and verdict.
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
    volume: Volume,
    segmentation: Segmentation,
    *,
    node: NodeFacts,
    kinds: Sequence[str] = ("SEG",),
    empty_patient_id_allowed: bool = False,
) -> tuple[ResultObject, ...] | Refusal:
    """Write a segmentation as DICOM objects, one per kind.

    Args:
        volume: The source, with the files it was read from.
        segmentation: Labels on its grid.
        node: Who makes the objects; part of their bytes.
        kinds: Which objects; so far `SEG`.
        empty_patient_id_allowed: Take a source without patient ID if it has a name and a birth
            date.

    Returns:
        The objects in the order of `kinds`, or why there is none: identity or orientation of the
        source is in doubt.

    Raises:
        ValueError: A kind is unknown, or labels and volume do not fit.
        SetupError: The card's segments cannot be written.
    """
    unknown = sorted(set(kinds) - {"SEG"})
    if unknown:
        raise ValueError(f"unknown kinds of result: {', '.join(unknown)}")
    written = []
    for kind in kinds:
        key = result_key(
            volume_inputs(volume),
            model_digest=segmentation.model.digest,
            settings_digest=segmentation.model.settings_digest,
            kind=kind,
        )
        with tolerated():
            made = binary_seg(
                volume,
                segmentation,
                key=key,
                node=node,
                empty_patient_id_allowed=empty_patient_id_allowed,
            )
        if isinstance(made, Refusal):
            return made
        written.append(_result(kind, key, made, volume, segmentation))
    return tuple(written)


def _result(
    kind: str, key: str, made: WrittenSeg, volume: Volume, segmentation: Segmentation
) -> ResultObject:
    slice_mm, row_mm, column_mm = volume.spacing_mm
    voxel_ml = slice_mm * row_mm * column_mm / 1000.0
    measured = None
    if segmentation.fractions is not None:
        measured = {m.segment: m.value for m in segmentation.measurements if m.name == VOLUME}
    ordered = sorted(segmentation.segments, key=lambda segment: segment.number)
    segments = tuple(
        SegmentSummary(
            number=segment.number,
            label=segment.label,
            code=segment.type,
            voxels=voxels,
            volume_ml=voxels * voxel_ml if measured is None else measured[segment.number],
        )
        for segment, voxels in zip(ordered, made.voxels, strict=True)
    )
    return ResultObject(
        kind=kind,
        encoding="BINARY",
        sop_class=str(SegmentationStorage),
        sop_uid=made.sop_uid,
        series_uid=made.series_uid,
        transfer_syntax=str(ExplicitVRLittleEndian),
        data=made.data,
        digest=hashlib.sha256(made.data).hexdigest(),
        key=key,
        summary=ResultSummary(
            segments,
            segmentation.verdict.outcome,
            segmentation.verdict.reasons,
            segmentation.measurements,
        ),
    )
