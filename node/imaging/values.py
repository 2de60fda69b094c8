"""The values that cross between rooms: what was read, what was found, what is said of it.

Arrays are `[slice, row, column]`; slices ascend along row x column (the normal). `affine` maps
an index (slice, row, column, 1) to LPS millimetres (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.reasons import Reason

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]
Fractions = NDArray[np.float32]
Grey = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """Where one instance's PS3.10 bytes lie: a region of a local file.

    Attributes:
        path: A local file.
        offset: First byte of the PS3.10 preamble.
        length: Bytes of the whole instance; 0 means to the end of the file.
        digest: SHA-256 of the dataset as received (the bytes behind the file meta group), hex;
            empty if not computed yet.
    """

    path: Path
    offset: int = 0
    length: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the pixel element of one instance lies, and how it is written.

    Attributes:
        keyword: `PixelData`, `FloatPixelData` or `DoubleFloatPixelData`.
        transfer_syntax: UID of the file meta group, or what the encoding of the dataset implies.
        vr: VR of the element as written; empty with implicit VR.
        big_endian: True in Explicit VR Big Endian.
        offset: First byte of the value, counted from the first byte of the instance; in a
            deflated file from the first byte of the inflated dataset.
        length: Bytes of the value; None if it is a sequence of fragments.
    """

    keyword: str
    transfer_syntax: str
    vr: str
    big_endian: bool
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class SourceInstance:
    """One instance of a series as read for imaging: header and place.

    Attributes:
        file: Its bytes.
        header: The dataset without pixel data, as pydicom read it; never modified.
        pixels: Its pixel element, or None where it has none.
    """

    file: InstanceFile
    header: Dataset = field(repr=False)  # a log line must not show a patient
    pixels: PixelPlace | None = None

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return str(self.header.SOPInstanceUID)

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016)."""
        return str(self.header.SOPClassUID)


@dataclass(frozen=True, slots=True)
class SliceSource:
    """Which instance, and which frame of it, one slice of a volume came from.

    Attributes:
        instance: Index into `Volume.instances`.
        frame: Frame number from 1 in a multi-frame instance, None for a single-frame one.
    """

    instance: int
    frame: int | None


@dataclass(frozen=True, slots=True, eq=False)
class VolumePlan:
    """A volume that headers promise: its grid and where each slice lies; no pixel is read yet.

    Attributes:
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        part: Number from 1 among the parts of the series.
        modality: Modality (0008,0060) as the series spells it.
        shape: Slices, rows, columns.
        spacing_mm: Distance between slices, rows, columns in mm.
        affine: float64 (4, 4), index [slice, row, column, 1] to LPS mm.
        units: As in `Volume`.
        instances: Every instance of this volume, each once, in the order of its first slice.
        slices: The source of each slice, ascending along row x column.
        frame_of_reference_uid: Frame of Reference UID (0020,0052), empty if there is none.
        notes: Sentences on what was put right, such as a slice that arrived twice.
        factors: Per slice, what rescaled values are multiplied by to be in `units`; empty for 1.
        suv: Why the values of a PET volume are not in SUVbw; None where they are, and elsewhere.
        others: Volumes of other series that a model sees as further channels.
        stored_units: Of a PET volume in SUVbw, what its values are in without `factors`, in
            capitals of Units (0054,1001); empty elsewhere.
    """

    series_uid: str
    study_uid: str
    part: int
    modality: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: Floats
    units: str
    instances: tuple[SourceInstance, ...] = field(repr=False)
    slices: tuple[SliceSource, ...] = field(repr=False)
    frame_of_reference_uid: str
    notes: tuple[str, ...] = ()
    factors: tuple[float, ...] = ()
    suv: Refusal | None = None
    others: tuple[VolumePlan, ...] = ()
    stored_units: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A regular grid of voxels in physical units, with what every voxel came from.

    Attributes:
        array: int16 or float32, shape [slices, rows, columns], in `units`; padding already set
            to the modality's background.
        affine: float64 (4, 4), index [slice, row, column, 1] to LPS mm.
        spacing_mm: Distance between slices, rows, columns in mm.
        units: `HU`, `SUVbw`, `BQML`, `CNTS`, ..., `arbitrary` (MR) or `unknown`.
        modality: Modality (0008,0060) as the series spells it.
        series_uid: Series Instance UID.
        part: Number from 1 among the volumes that one series splits into.
        instances: Every instance of this volume, each once, in the order of its first slice.
        slices: The source of each slice, same order as `array`.
        padding: True where the pixel was padding (not measured), or None where none was.
        suv: As in `VolumePlan`.
        others: Volumes of other series on the grid of this one; their `slices` are those of the
            series as it was read.
    """

    array: NDArray[np.int16] | NDArray[np.float32]
    affine: Floats
    spacing_mm: tuple[float, float, float]
    units: str
    modality: str
    series_uid: str
    part: int
    instances: tuple[SourceInstance, ...]
    slices: tuple[SliceSource, ...]
    padding: NDArray[np.bool_] | None = None
    suv: Refusal | None = None
    others: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True)
class FrameRegion:
    """A part of every frame of an ultrasound image that shows tissue.

    Attributes:
        box: First row, first column, and the row and column behind the last, inside the matrix.
        spacing_mm: Distance between rows, columns in mm; None where nothing says it reliably.
    """

    box: tuple[int, int, int, int]
    spacing_mm: tuple[float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class FramesPlan:
    """Frames that the header of one instance promises; no pixel is read yet.

    Frames have no place in the patient: there is no affine, and they are never stacked.

    Attributes:
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        part: Number from 1 among the parts of the series.
        modality: Modality (0008,0060) as the series spells it.
        shape: Frames, rows, columns.
        spacing_mm: None, then the distance between rows and columns in mm where it holds for
            the first region (for the whole image if there is none), else None.
        units: Always `grey`.
        instance: The image.
        frame_numbers: Number from 1 of each frame, or (None,) of a single-frame instance.
        regions: Tissue, the most important first; empty where the header names none.
        frame_time_ms: Time between frames where it is constant and known.
        frame_times_ms: Time of each frame since the first where it is not; empty elsewhere.
        notes: Sentences on what was put right or is not trusted.
    """

    series_uid: str
    study_uid: str
    part: int
    modality: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[None, float | None, float | None]
    units: str
    instance: SourceInstance = field(repr=False)
    frame_numbers: tuple[int | None, ...] = field(repr=False)
    regions: tuple[FrameRegion, ...]
    frame_time_ms: float | None = None
    frame_times_ms: tuple[float, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def instances(self) -> tuple[SourceInstance, ...]:
        """The one instance, as a volume names its many."""
        return (self.instance,)

    @property
    def others(self) -> tuple[Sourced, ...]:
        """Frames have no further channels."""
        return ()

    @property
    def slices(self) -> tuple[SliceSource, ...]:
        """The source of each frame."""
        return tuple(SliceSource(0, number) for number in self.frame_numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Frames that can be read a few at a time.

    Attributes:
        plan: What they are.
        read: Takes indices from 0 and returns those frames, (n, rows, columns), as grey of
            display polarity: uint8, or float32 where more than 8 bits are stored. Raises
            `planes.RefusedError` for a frame that cannot be had.
    """

    plan: FramesPlan
    read: Callable[[Sequence[int]], Grey] = field(repr=False)


class Sourced(Protocol):
    """What a volume, its plan and frames have in common: where they come from."""

    @property
    def series_uid(self) -> str: ...  # noqa: D102
    @property
    def modality(self) -> str: ...  # noqa: D102
    @property
    def part(self) -> int: ...  # noqa: D102
    @property
    def instances(self) -> tuple[SourceInstance, ...]: ...  # noqa: D102
    @property
    def slices(self) -> tuple[SliceSource, ...]: ...  # noqa: D102
    @property
    def others(self) -> tuple[Sourced, ...]: ...  # noqa: D102


def every_source(source: Sourced) -> tuple[Sourced, ...]:
    """Return a source and those of its further channels."""
    return (source, *source.others)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a set of instances is not a usable volume; a result, not an error.

    Attributes:
        reason: Stable code.
        explanation: One sentence with what was found and where (UIDs, positions in mm).
        series_uid: Series Instance UID, empty if there is none.
        modality: As the series spells it, empty if there is none.
        part: Number from 1 among the parts of the series.
        instances: Offending SOP Instance UIDs, at most 20.
    """

    reason: Reason
    explanation: str
    series_uid: str = ""
    modality: str = ""
    part: int = 1
    instances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: value, scheme, meaning (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str


VOLUME: Final = Code("118565006", "SCT", "Volume")
"""The measurement that every segment has, in mL."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment as the model's card describes it.

    Attributes:
        number: Label value in the array and Segment Number in the SEG, from 1.
        label: Segment Label, unique in the card, at most 64 ASCII characters.
        category: Segmented Property Category Code.
        type: Segmented Property Type Code.
        modifiers: Type modifiers, such as (7771000, SCT, Left).
        region: Anatomic region, or None.
        colour: Recommended display colour, sRGB 0..255.
    """

    number: int
    label: str
    category: Code
    type: Code
    modifiers: tuple[Code, ...] = ()
    region: Code | None = None
    colour: tuple[int, int, int] = (255, 160, 0)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number about one segment.

    Attributes:
        segment: The segment's number.
        name: What was measured, such as Volume.
        value: The number, in `unit`.
        unit: As UCUM code.
        derivation: Which number of many it is, such as Maximum or Mean; None where there is one.
        method: How it was measured, in words.
        frame: Number from 1 of the frame it holds for; None for the whole result.
    """

    segment: int
    name: Code
    value: float
    unit: Code
    derivation: Code | None = None
    method: str = ""
    frame: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a classification says yes or no to.

    Attributes:
        label: What people read, unique in the card.
        code: What it is.
        threshold: Present from this probability on.
        review_within: A probability closer to the threshold than this is for a person.
    """

    label: str
    code: Code
    threshold: float
    review_within: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoredFinding:
    """A finding with the probability 0..1 that a model gives it."""

    finding: Finding
    probability: float

    @property
    def present(self) -> bool:
        """Whether the probability reaches the threshold."""
        return self.probability >= self.finding.threshold


class Outcome(StrEnum):
    """What the verdict says of a segmentation or a classification."""

    ACCEPT = "accept"  # within the card's limits
    REVIEW = "review"  # a person should look; delivered unless the route says otherwise
    REJECT = "reject"  # a hard rule is broken; not delivered unless the route says otherwise


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accept, review or reject, with a sentence for each rule that spoke."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What made a segmentation, for provenance and for identity of results.

    Attributes:
        name: The card's name, such as `lung-ct`.
        version: The card's version.
        digest: SHA-256 of the weights, hex.
        settings_digest: SHA-256 over everything else in the card that can change labels or
            bytes, hex.
        intended_use: One sentence of the card; shipped models say "research use".
        research: True unless the site's card is cleared for more.
        series_description: What the card wants its result series to be called; may be empty.
        series_number: Series Number from which result series count; the source's is added.
        first: The model whose mask limited this one, None where there is none.
    """

    name: str
    version: str
    digest: str
    settings_digest: str
    intended_use: str
    research: bool = True
    series_description: str = ""
    series_number: int = 9000
    first: ModelIdentity | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Labels on the source grid, and what is said of them.

    Attributes:
        labels: uint8, shape of the volume's array, or [frames, rows, columns]; 0 is background.
        segments: Every segment of the card, present in the labels or not; where the card splits
            a label into instances, one for each instance.
        measurements: At least the volume of each segment in mL; of frames the area of each
            segment in mm2 on each frame that has it, none where nothing says how large a pixel is.
        verdict: Accept, review or reject.
        model: What made it.
        runtime: Facts of the run: engine, version, precision, threads, device.
        removed_ml: What post-processing took away, in mL.
        seconds: Wall seconds by step.
        fractions: float32, shape of the volume's array: the share 0..1 of each voxel that is
            tissue, where the model's head is `occupancy`; labels are where it is at least a
            half. None for other heads.
    """

    labels: Labels
    segments: tuple[Segment, ...]
    measurements: tuple[Measurement, ...]
    verdict: Verdict
    model: ModelIdentity
    runtime: Mapping[str, str]
    removed_ml: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    fractions: Fractions | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """What a model says of a whole volume.

    Attributes:
        findings: Every finding of the card, in its order.
        verdict: Accept, review or reject.
        model: What made it.
        runtime: Facts of the run.
        seconds: Wall seconds by step.
    """

    findings: tuple[ScoredFinding, ...]
    verdict: Verdict
    model: ModelIdentity
    runtime: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)


Answer = Segmentation | Classification
"""What a model of either kind gives; each kind of result object is written from one of them."""
