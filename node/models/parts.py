"""The parts of a model's card as frozen values: what each table of card.toml may say.

Axes are [slice, row, column] everywhere. Lengths are millimetres, volumes millilitres, areas
square centimetres, so that a card means the same on every grid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from node.settings import Condition

KINDS: Final = ("segmentation", "classification")
"""What a model may give; the first is the default."""

ORIENTATION_LETTERS: Final = {"L": "R", "R": "L", "P": "A", "A": "P", "H": "F", "F": "H"}
"""Each direction of PS3.3 C.7.6.1.1.1 with its opposite."""

Parameter = int | float | str | bool | tuple[int | tuple[int, ...], ...]
"""What a network's parameter may be; a list of lists has one list per level."""


LATER: Final[Mapping[str, bool]] = {"later": True}
"""Marks a field that cards in use did not have when they were written: at its default it is left
out of the settings digest, so that a card that does not use it keeps the keys of its results."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A weights file beside the card and the SHA-256 that it must have."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Weights:
    """[weights]: one file, or the members of an ensemble whose scores are averaged."""

    files: tuple[WeightsFile, ...]

    @property
    def file(self) -> str:
        """Name of the (first) file."""
        return self.files[0].file

    @property
    def sha256(self) -> str:
        """Digest of the weights: the file's, or of several one over all their digests."""
        if len(self.files) == 1:
            return self.files[0].sha256
        digests = "".join(each.sha256 for each in self.files)
        return hashlib.sha256(digests.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class OwnCase:
    """[test_case]: a volume beside the card to try runtimes on, and the SHA-256 of its file."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Voxels:
    """[voxels]: the grid that the network sees.

    Attributes:
        orientation: Where the index grows along slice, row, column, as three letters of L R A P
            H F; `HPL` is axial with slice 0 at the feet; `native` takes the volume as it is.
        spacing_mm: Distance between slices, rows and columns; 0 keeps the native distance.
        size: Rows and columns of the window; empty means the whole plane.
        centre: `image` or `body`: on what the window is centred where the plane is larger.
        body_above: What is body, in `units`; used with `centre = "body"` only.
        background: What lies outside the image, in `units`, before the steps.
        units: `Volume.units` that the steps expect.
        downsample: `area` averages over the coarser voxel, `linear` takes the nearest two;
            `spline` prepares the whole volume as nnU-Net does.
        back: `linear` brings scores, `nearest` labels back to the native grid.
        tilt: `refuse` takes no stack sheared by a tilted gantry, `resample` straightens it.
        transpose: Which axis of the turned volume becomes slice, row and column.
        crop: `nonzero` cuts to the box of what is not zero, with `downsample = "spline"`.
    """

    orientation: str
    spacing_mm: tuple[float, float, float]
    size: tuple[int, int] | None
    centre: str
    body_above: float
    background: float
    units: str
    downsample: str
    back: str
    tilt: str = field(default="refuse", metadata=LATER)
    transpose: tuple[int, int, int] = field(default=(0, 1, 2), metadata=LATER)
    crop: str = field(default="none", metadata=LATER)


@dataclass(frozen=True, slots=True)
class Clip:
    """Limit values to low..high."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Add:
    """Add one value."""

    value: float


@dataclass(frozen=True, slots=True)
class Scale:
    """Map the range low..high linearly to to_low..to_high."""

    low: float
    high: float
    to_low: float
    to_high: float


@dataclass(frozen=True, slots=True)
class Normalise:
    """Subtract a fixed mean and divide by a fixed standard deviation."""

    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class ZScore:
    """Subtract the volume's own mean and divide by its own standard deviation.

    Attributes:
        within: `image`, or `nonzero`: over what is not zero, and only there.
    """

    within: str = field(default="image", metadata=LATER)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Clip to two percentiles of the volume and map them to to_low..to_high."""

    low: float
    high: float
    to_low: float
    to_high: float


@dataclass(frozen=True, slots=True)
class LogOnePlus:
    """Replace each value by the logarithm of one plus it; values below 0 count as 0."""


Step = Clip | Add | Scale | Normalise | ZScore | Percentiles | LogOnePlus


@dataclass(frozen=True, slots=True)
class Network:
    """[network]: a named architecture of ours with its parameters.

    Attributes:
        architecture: A name that `architectures.py` knows.
        channels: Input channels.
        outputs: Output channels.
        parameters: What else that architecture wants, such as `widths`.
    """

    architecture: str
    channels: int
    outputs: int
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Inference:
    """[inference]: how the network is run over the volume.

    Attributes:
        mode: `slices` (2D, each plane with `neighbours` planes on either side as channels),
            `window` (3D patches) or `frames` (2D, each frame of an ultrasound image).
        neighbours: Planes on either side; channels = 2 x neighbours + 1.
        patch: Slices, rows, columns of a 3D patch; None for `slices`.
        overlap: Share of a patch that it has in common with the next one.
        tiling: `even` spreads patches evenly (nnU-Net), `clipped` sets them at one distance and
            moves the last one inside (MONAI).
        blending: How patches are weighted, `gaussian`, `constant`, or `nnunet` (its own Gaussian).
        weight_floor: Smallest Gaussian weight along an axis; without it a corner that one patch
            alone covers counts as nothing.
        batch: Planes or patches per call of the network; fixed, because it may change rounding.
        mirrors: Axes over which mirrored passes are averaged.
        mirrored: Axes over which training mirrored; where it is given, `mirrors` may hold no
            other, because a network that never saw a mirrored image is lost in one.
        precision: `fp32` or `bf16`.
        threads: Threads of one pass; 0 takes the worker's setting.
    """

    mode: str
    neighbours: int
    patch: tuple[int, int, int] | None
    overlap: float
    batch: int
    mirrors: tuple[str, ...]
    precision: str
    threads: int
    mirrored: tuple[str, ...] | None = field(default=None, metadata=LATER)
    tiling: str = field(default="even", metadata=LATER)
    blending: str = field(default="gaussian", metadata=LATER)
    weight_floor: float = field(default=0.03, metadata=LATER)


@dataclass(frozen=True, slots=True)
class Head:
    """[head]: what the output channels mean.

    Attributes:
        kind: `classes`: one score per class, background first, the highest wins.
            `probability`: one logit; label 1 where its sigmoid is above `threshold`.
            `occupancy`: one logit; its sigmoid is the share of the voxel that is tissue.
            `regions`: one logit per region, which may overlap; where its sigmoid is above a half
            it writes its label of `order`, later ones over earlier ones.
        threshold: Between 0 and 1, for `probability`.
        logit_scale: For `occupancy`: what the logit is multiplied with (Platt scaling).
        logit_offset: For `occupancy`: what is added then.
        support_voxels: For `occupancy`: fractions further than this from every voxel of the
            network's grid with at least a half are 0.
        pool: For a classification: `mean` or `max` of each output over the image.
        order: Label of each output, for `regions`.
    """

    kind: str
    threshold: float
    logit_scale: float = field(default=1.0, metadata=LATER)
    logit_offset: float = field(default=0.0, metadata=LATER)
    support_voxels: int = field(default=2, metadata=LATER)
    pool: str = field(default="mean", metadata=LATER)
    order: tuple[int, ...] = field(default=(), metadata=LATER)


@dataclass(frozen=True, slots=True)
class Channel:
    """[[channels]]: another series of the same study, which the network sees beside the first.

    Attributes:
        name: What refusals call it, such as CT.
        accepts: Conditions on its header; exactly one registered series must meet them.
        units: `Volume.units` that its steps expect.
        background: What lies outside it, before the steps.
        steps: Its intensity steps, in order.
    """

    name: str
    accepts: tuple[Condition, ...]
    units: str
    background: float
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class KeepLargest:
    """Keep the largest 3D pieces (faces, edges and corners touch).

    Attributes:
        labels: Label values concerned.
        joint: True takes their union as one thing; False treats each label on its own.
        count: Pieces that are always kept.
        also_over: Further pieces are kept if larger than this share of the largest.
    """

    labels: tuple[int, ...]
    joint: bool
    count: int
    also_over: float


@dataclass(frozen=True, slots=True)
class DropSmall:
    """Remove small pieces: of a volume 3D ones, of a frame those of its plane.

    Attributes:
        labels: Label values concerned, each on its own.
        min_ml: Smallest volume.
        min_mm: Smallest diameter of a sphere of the piece's volume; on a frame, of a disc of its
            area.
        min_px: Fewest pixels, on a frame.
    """

    labels: tuple[int, ...]
    min_ml: float
    min_mm: float = field(default=0.0, metadata=LATER)
    min_px: int = field(default=0, metadata=LATER)


@dataclass(frozen=True, slots=True)
class FillHoles:
    """Fill what a label encloses in its own plane (background only)."""

    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Close each plane, or frame, with a disc (background only is taken).

    Attributes:
        labels: Label values concerned.
        radius_mm: Of the disc; 0 where it is given in pixels.
        radius_px: Likewise, on a frame.
    """

    labels: tuple[int, ...]
    radius_mm: float
    radius_px: float = field(default=0.0, metadata=LATER)


@dataclass(frozen=True, slots=True)
class SplitSides:
    """Give the pieces of one label to the patient's right and left."""

    label: int
    right: int
    left: int


@dataclass(frozen=True, slots=True)
class DropWrongSide:
    """Remove pieces of a sided label that lie on the other side of the midline."""

    right: int
    left: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """Remove a label where the source's own value lies outside at_least..at_most."""

    labels: tuple[int, ...]
    at_least: float
    at_most: float


@dataclass(frozen=True, slots=True)
class RestrictTo:
    """Bind labels to the mask of the stage before.

    Attributes:
        labels: Label values concerned.
        how: `touch` keeps 3D pieces that have a voxel in the mask or next to it; `inside` removes
            every voxel outside it.
        grow_mm: The mask is grown by this much before.
    """

    labels: tuple[int, ...]
    how: str
    grow_mm: float


@dataclass(frozen=True, slots=True)
class Instances:
    """Make each 3D piece of a label a segment of its own, the largest first; the last steps.

    Attributes:
        label: Label value concerned.
        at_most: Pieces that become segments; smaller ones are removed and the verdict says so.
    """

    label: int
    at_most: int


PostStep = (
    KeepLargest
    | DropSmall
    | FillHoles
    | Close
    | SplitSides
    | DropWrongSide
    | Threshold
    | RestrictTo
    | Instances
)

REMOVING: Final = (KeepLargest, DropSmall, Threshold, RestrictTo, Instances)
"""Steps that only take labels away; the others may label voxels whose fraction is below a half."""


@dataclass(frozen=True, slots=True)
class Stage:
    """[stage]: another model that runs before this one and whose mask limits it.

    Attributes:
        model: Its name.
        labels: Which of its labels are the mask.
        margin_mm: This model sees the box of the mask with so much around it.
        outside_mm: Voxels further than this from the mask are set to the card's background.
    """

    model: str
    labels: tuple[int, ...]
    margin_mm: float
    outside_mm: float


def labels_used(step: PostStep) -> set[int]:
    """Return the label values that a step expects to find."""
    if isinstance(step, SplitSides | Instances):
        return {step.label}
    if isinstance(step, DropWrongSide):
        return {step.right, step.left}
    return set(step.labels)


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """[[quality.segments]]: what one segment's volume may be.

    Attributes:
        number: The segment.
        min_ml: Below it: review.
        max_ml: Above it: review.
        when_empty: `accept`, `review` or `reject` if no voxel has the label.
        max_pieces: More 3D pieces than this: review; 0: any number.
        side: `right` or `left`: its centre lies there of the middle of the image; else review.
        height: Where its centre lies between the feet end (0) and the head end (1) of the image;
            outside: review. None: anywhere.
    """

    number: int
    min_ml: float
    max_ml: float
    when_empty: str
    max_pieces: int = field(default=0, metadata=LATER)
    side: str = field(default="", metadata=LATER)
    height: tuple[float, float] | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True)
class RatioLimits:
    """[[quality.ratios]]: volume of one segment over another's; outside the range: review."""

    of: int
    to: int
    low: float
    high: float


ANY_MM: Final = (0.0, 1000.0)
"""Limits of a distance that limit nothing."""

ANY_COUNT: Final = (1.0, 1e6)
"""Limits of a number of frames that limit nothing."""

ANY_SLICES: Final = (1.0, 1e5)
"""Limits of a number of slices that limit nothing."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """[quality.input]: what the volume must be before anything runs.

    Attributes:
        slice_mm: Smallest and largest distance between slices.
        pixel_mm: Smallest and largest distance between rows and between columns.
        slices: Fewest and most slices.
        frames: Fewest and most frames, of a model of frames.
        outside: `review` or `reject` for what lies outside these.
        review: Conditions on the header; one that does not hold asks a person to look.
        reject: Likewise; one that does not hold keeps the model from running.
    """

    slice_mm: tuple[float, float]
    pixel_mm: tuple[float, float]
    slices: tuple[float, float]
    outside: str
    review: tuple[Condition, ...]
    reject: tuple[Condition, ...]
    frames: tuple[float, float] = field(default=ANY_COUNT, metadata=LATER)


@dataclass(frozen=True, slots=True)
class Agreement:
    """[quality.agreement]: passes over the mirrored image that must give the same labels.

    Attributes:
        mirrors: Axes, each mirrored in a pass of its own; the network was trained with these.
        review_below: Review if the mean Dice of all pairs of passes is lower for a class.
    """

    mirrors: tuple[str, ...]
    review_below: float


@dataclass(frozen=True, slots=True)
class FeatureLimits:
    """[quality.features]: how far the network's view of a case may be from the training set's.

    Attributes:
        file: Beside the card, made by `features.write_features`.
        sha256: Of the file, hex.
        review_above: Review if the distance is larger.
    """

    file: str
    sha256: str
    review_above: float


@dataclass(frozen=True, slots=True)
class Quality:
    """[quality]: when a person should look.

    Attributes:
        removed_fraction: Review if post-processing removed more than this share of the result.
        end_slice_cm2: Review if labels cover more than this on the first or last slice; 0: off.
        segments: Limits per segment.
        ratios: Limits between segments.
        outside_body: Reject if more than this share of the labels lies outside the body; 1: off.
        input: Limits on what comes in.
        agreement: Passes over the mirrored image.
        features: Distance to the training set.
    """

    removed_fraction: float
    end_slice_cm2: float
    segments: tuple[SegmentLimits, ...]
    ratios: tuple[RatioLimits, ...]
    outside_body: float = field(default=1.0, metadata=LATER)
    input: InputLimits | None = field(default=None, metadata=LATER)
    agreement: Agreement | None = field(default=None, metadata=LATER)
    features: FeatureLimits | None = field(default=None, metadata=LATER)


@dataclass(frozen=True, slots=True)
class Results:
    """[results]: what is written.

    Attributes:
        kinds: Result kinds, such as SEG.
        series_description: Series Description (0008,103E) of what is written.
        series_number: Series Number (0020,0011) from which result series count: high, so that no
            hanging protocol is hijacked; the source's own number is added.
    """

    kinds: tuple[str, ...]
    series_description: str
    series_number: int
