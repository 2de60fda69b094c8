"""Ultrasound phantom: a drawn cine of a forearm with one nerve and one vessel, and the truth.

A screen as scanners send it: a tissue region with its scale, and around it a name plate, a depth
scale and a logo that are no tissue. The nerve is a bright ellipse that wanders as a probe does, the
vessel a dark one that beats; fasciae lie above, bone with its shadow below. Speckle multiplies
everything. Nerve and vessel never lie on the same side, so nothing maps onto its mirror image.

Labels are [frame, row, column] of the whole screen: 0 background, 1 nerve, 2 vessel, drawn from the
shapes and not found in the picture. The same seed gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RLELossless
from scipy import ndimage

from node.phantom.headers import Header, make_header
from node.phantom.objects import STUDY_DATE, STUDY_TIME, decimal, new_dataset
from node.phantom.pixels import Syntax
from node.phantom.study import PhantomInstance, instance_of
from node.phantom.uids import derive_uid

ULTRASOUND: Final = "1.2.840.10008.5.1.4.1.1.6.1"
ULTRASOUND_MULTI_FRAME: Final = "1.2.840.10008.5.1.4.1.1.3.1"
NERVE: Final = 1
VESSEL: Final = 2

_TISSUE: Final = 70.0
_NERVE: Final = 205.0
_VESSEL: Final = 12.0
_FASCIA: Final = 150.0
_BONE: Final = 160.0
_MARGINS: Final = (26, 14, 8, 30)
"""Pixels above, left of, below and right of the tissue."""

_SPECKLE: Final = 9.0
"""Shape of the gamma distribution that multiplies the picture: smaller is coarser."""


class Look(StrEnum):
    """How the screen is written."""

    GREY = "grey"  # one sample per pixel
    COLOUR = "colour"  # red, green, blue, with a coloured logo beside the tissue
    DOPPLER = "doppler"  # the same, with a flow box painted over the vessel


@dataclass(frozen=True, slots=True)
class Screen:
    """How an ultrasound study is recorded.

    Attributes:
        shape: Frames, rows, columns of the cine.
        pixel_mm: Distance between rows, columns of the tissue.
        look: Grey or colour.
        stills: Single frames recorded after the cine, in the same series.
        region: Whether the header names the tissue region with its scale.
        syntax: `EXPLICIT` or `RLE`.
    """

    shape: tuple[int, int, int] = (12, 180, 240)
    pixel_mm: tuple[float, float] = (0.2, 0.2)
    look: Look = Look.GREY
    stills: int = 0
    region: bool = True
    syntax: Syntax = Syntax.EXPLICIT

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First row, first column of the tissue, and the row and column behind the last."""
        top, left, bottom, right = _MARGINS
        return top, left, self.shape[1] - bottom, self.shape[2] - right


@dataclass(frozen=True, slots=True, eq=False)
class UltrasoundStudy:
    """A study and what is known of it.

    Attributes:
        seed: Its seed.
        screen: How it was recorded.
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        instances: The cine, then the stills.
        labels: Truth of each instance, uint8 [frame, row, column].
        nerve_mm2: Area of the nerve, from its shape.
    """

    seed: int
    screen: Screen
    study_uid: str
    series_uid: str
    instances: tuple[PhantomInstance, ...]
    labels: tuple[NDArray[np.uint8], ...]
    nerve_mm2: float


def make_ultrasound(seed: int, screen: Screen | None = None) -> UltrasoundStudy:
    """Return the ultrasound study that `seed` has on a screen.

    Args:
        seed: Anatomy, speckle, names, UIDs.
        screen: How it is recorded.

    Raises:
        ValueError: The transfer syntax is neither `EXPLICIT` nor `RLE`.
    """
    screen = screen or Screen()
    if screen.syntax not in (Syntax.EXPLICIT, Syntax.RLE):
        raise ValueError(f"an ultrasound phantom is not written in {screen.syntax.name}")
    arm = _Arm.draw(seed, screen)
    header = make_header(seed)
    series_uid = derive_uid(seed, "ultrasound", "series")
    counts = [screen.shape[0], *[1] * screen.stills]
    instances, labels = [], []
    moment = 0
    for number, count in enumerate(counts, start=1):
        pixels, truth = arm.record(moment, count)
        multiple = number == 1
        dataset = _dataset(seed, screen, header, number, multiple=multiple)
        _put_picture(dataset, screen, pixels if multiple else pixels[0], multiple=multiple)
        instances.append(instance_of(dataset))
        labels.append(truth)
        moment += count
    return UltrasoundStudy(
        seed=seed,
        screen=screen,
        study_uid=derive_uid(seed, "ultrasound"),
        series_uid=series_uid,
        instances=tuple(instances),
        labels=tuple(labels),
        nerve_mm2=float(np.pi * arm.nerve_mm[0] * arm.nerve_mm[1]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Arm:
    """What was drawn for one seed."""

    screen: Screen
    nerve_at: tuple[float, float]  # row, column as shares of the tissue
    nerve_mm: tuple[float, float]  # half axes along rows, columns
    vessel_at: tuple[float, float]
    vessel_mm: float
    phase: float
    rng: np.random.Generator

    @classmethod
    def draw(cls, seed: int, screen: Screen) -> _Arm:
        anatomy, speckle = (
            np.random.Generator(np.random.PCG64(child))
            for child in np.random.SeedSequence((seed, 0x5553)).spawn(2)
        )
        side = 0.3 if anatomy.random() < 0.5 else 0.7
        high = screen.shape[1] * screen.pixel_mm[0] / 36.0  # structures scale with the depth
        return cls(
            screen=screen,
            nerve_at=(
                float(anatomy.uniform(0.36, 0.46)),
                side + float(anatomy.uniform(-0.04, 0.04)),
            ),
            nerve_mm=(2.6 * high, float(anatomy.uniform(3.8, 5.0)) * high),
            vessel_at=(float(anatomy.uniform(0.4, 0.5)), 1.0 - side),
            vessel_mm=float(anatomy.uniform(2.2, 2.9)) * high,
            phase=float(anatomy.uniform(0, 2 * np.pi)),
            rng=speckle,
        )

    def record(self, first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the screens (n, rows, columns[, 3]) of some moments, and their labels."""
        frames = [self._frame(first + index) for index in range(count)]
        return np.stack([one for one, _ in frames]), np.stack([two for _, two in frames])

    def _frame(self, moment: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        screen = self.screen
        _, rows, columns = screen.shape
        top, left, bottom, right = screen.box
        deep, wide = bottom - top, right - left
        row_mm, column_mm = screen.pixel_mm
        y, x = np.indices((deep, wide), dtype=np.float64)
        beat = np.sin(0.9 * moment + self.phase)
        nerve = _ellipse(
            (y - self.nerve_at[0] * deep) * row_mm,
            (x - (self.nerve_at[1] + 0.02 * np.sin(0.4 * moment)) * wide) * column_mm,
            self.nerve_mm,
        )
        radius = self.vessel_mm * (1.0 + 0.12 * beat)
        vessel = _ellipse(
            (y - self.vessel_at[0] * deep) * row_mm,
            (x - self.vessel_at[1] * wide) * column_mm,
            (radius, radius),
        )
        tissue = _TISSUE * np.exp(-0.6 * y / deep)
        for share, tilt in ((0.08, 0.02), (0.2, -0.03)):
            line = np.abs(y - deep * share - tilt * x) < 1.2
            tissue[line] = _FASCIA
        bone = deep * (0.86 + 0.04 * np.sin(2.5 * x / wide))
        tissue[np.abs(y - bone) < 1.6] = _BONE
        tissue[y > bone + 2] *= 0.25
        tissue[nerve] = _NERVE
        tissue[vessel] = _VESSEL
        speckle = ndimage.gaussian_filter(self.rng.gamma(_SPECKLE, 1 / _SPECKLE, y.shape), 0.8)
        grey = np.zeros((rows, columns))
        grey[top:bottom, left:right] = ndimage.gaussian_filter(tissue, 0.6) * speckle
        _paint_around(grey, screen)
        labels = np.zeros((rows, columns), np.uint8)
        labels[top:bottom, left:right][nerve] = NERVE
        labels[top:bottom, left:right][vessel] = VESSEL
        cells = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        if screen.look is Look.GREY:
            return cells, labels
        colours = np.repeat(cells[..., None], 3, axis=-1)
        colours[4:18, columns - 24 : columns - 8] = (30, 90, 200)  # the maker's logo
        if screen.look is Look.DOPPLER:
            flow = np.zeros((rows, columns), bool)
            middle = round(self.vessel_at[1] * wide)
            flow[top + deep // 4 : top + deep * 3 // 4, left + max(0, middle - wide // 6) :] = True
            flow[:, left + middle + wide // 6 :] = False
            colours[flow] = (190, 40, 30)
        return colours, labels


def _ellipse(
    y_mm: NDArray[np.float64], x_mm: NDArray[np.float64], half_mm: tuple[float, float]
) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (y_mm / half_mm[0]) ** 2 + (x_mm / half_mm[1]) ** 2 < 1
    return inside


def _paint_around(grey: NDArray[np.float64], screen: Screen) -> None:
    """Paint what is no tissue: a name plate of strokes, and a scale at the right."""
    top, left, bottom, right = screen.box
    grey[6:9, left : right - 40 : 3] = 255
    grey[12:15, left : left + 60 : 4] = 230
    grey[top:bottom:10, right + 6 : right + 12] = 255


def _dataset(seed: int, screen: Screen, header: Header, number: int, *, multiple: bool) -> Dataset:
    """Return one object without its pixels."""
    dataset = new_dataset(
        header,
        sop_class=ULTRASOUND_MULTI_FRAME if multiple else ULTRASOUND,
        sop_uid=derive_uid(seed, "ultrasound", number),
        syntax=screen.syntax,
    )
    dataset.StudyInstanceUID = derive_uid(seed, "ultrasound")
    dataset.SeriesInstanceUID = derive_uid(seed, "ultrasound", "series")
    dataset.Modality = "US"
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = "PHANTOM FOREARM"
    dataset.BodyPartExamined = "FOREARM"
    dataset.SeriesDate = dataset.ContentDate = STUDY_DATE
    dataset.SeriesTime = dataset.ContentTime = STUDY_TIME
    dataset.InstanceNumber = number
    dataset.PatientOrientation = ""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "SMALL PARTS", "0001"]
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.QualityControlImage = "YES"
    if screen.region:
        dataset.SequenceOfUltrasoundRegions = Items([_region(screen)])
    return dataset


def _region(screen: Screen) -> Dataset:
    """Return the tissue region (PS3.3 C.8.5.5); its ends are included."""
    top, left, bottom, right = screen.box
    region = Dataset()
    region.RegionSpatialFormat = 1
    region.RegionDataType = 1
    region.RegionFlags = 2
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right - 1, bottom - 1
    region.ReferencePixelX0 = (right - left) // 2
    region.ReferencePixelY0 = 0
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.ReferencePixelPhysicalValueX = region.ReferencePixelPhysicalValueY = 0.0
    region.PhysicalDeltaX = screen.pixel_mm[1] / 10
    region.PhysicalDeltaY = screen.pixel_mm[0] / 10
    return region


def _put_picture(
    dataset: Dataset, screen: Screen, pixels: NDArray[np.uint8], *, multiple: bool
) -> None:
    """Write the image pixel module, and the cine module of a cine."""
    colour = screen.look is not Look.GREY
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
        dataset.UltrasoundColorDataPresent = int(screen.look is Look.DOPPLER)
    if multiple:
        dataset.NumberOfFrames = len(pixels)
        dataset.FrameTime = decimal(40.0)
        dataset.FrameIncrementPointer = 0x00181063
        dataset.StartTrim, dataset.StopTrim = 1, len(pixels)
    dataset.Rows, dataset.Columns = screen.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    data = pixels.tobytes()
    dataset.add_new(0x7FE00010, "OB", data + b"\0" * (len(data) % 2))
    if screen.syntax is Syntax.RLE:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
