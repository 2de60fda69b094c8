"""One asymmetric patient, scanned with any order and direction of slices, rows and columns.

Written with pydicom alone: where a voxel lies follows from the attributes here and from no code
of the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage

from tests.imaging.build import save, set_pixels, slice_dataset

Floats = NDArray[np.float64]

SHAPE = (7, 12, 10)
STEPS = (3.0, 0.8, 1.25)
"""Slices, rows, columns and their distances in mm: all differ, so that no swap goes unseen."""

TILT = np.array(
    [
        [0.93629336, -0.27509585, 0.21835066],
        [0.28962948, 0.95642509, -0.03695701],
        [-0.19866933, 0.0978434, 0.97517033],
    ]
)
"""A rotation about all three axes."""

ALL_48 = tuple(
    (order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
)
"""To which patient axis slices, rows and columns run, and in which direction."""


@dataclass(frozen=True)
class Scan:
    """A scan of the patient.

    Attributes:
        directions: (3, 3): row a is where array axis a grows in the patient, LPS.
        origin: LPS mm of the first voxel of the first slice that was written.
    """

    directions: Floats
    origin: Floats

    @property
    def positions(self) -> Floats:
        """LPS mm of every voxel, shape (*SHAPE, 3)."""
        grid = np.indices(SHAPE).transpose(1, 2, 3, 0)  # (slices, rows, columns, 3)
        return self.origin + (grid * STEPS) @ self.directions

    @property
    def truth(self) -> NDArray[np.bool_]:
        """Whether each voxel is marked."""
        return marked(self.positions @ np.linalg.inv(_turn(self.directions)).T)


def _turn(directions: Floats) -> Floats:
    """Return the tilt of the scanner, so that the patient lies alike in every scan."""
    return TILT if np.abs(directions).max(axis=1).min() < 0.999 else np.eye(3)


def marked(points: Floats) -> NDArray[np.bool_]:
    """Say which points (..., 3) are marked: a block and a nose, alike under no mirror or swap."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    block = (x > -1.03) & (x < 3.51) & (y > -2.47) & (y < 3.33) & (z > -3.61) & (z < 1.71)
    nose = (x > 3.0) & (y < 0.21) & (z > -1.93)
    return block | nose


def scan(order: Sequence[int], signs: Sequence[int], *, tilted: bool) -> Scan:
    """Return a scan centred on the patient."""
    directions = np.zeros((3, 3))
    for axis in range(3):
        directions[axis, order[axis]] = signs[axis]
    if tilted:
        directions = directions @ TILT.T
    middle = ((np.array(SHAPE) - 1) / 2 * STEPS) @ directions
    return Scan(directions, np.array([0.13, -0.07, 0.11]) - middle)


def write_classic(folder: Path, taken: Scan) -> Path:
    """Write one CT file per slice, numbered as the slices were taken."""
    slices = []
    for index in range(SHAPE[0]):
        data = slice_dataset(index, _values(taken)[index])
        data.InstanceNumber = index + 1
        _put_place(data, taken, index)
        data.PixelSpacing = [STEPS[1], STEPS[2]]
        data.SliceThickness = STEPS[0]
        slices.append(data)
    return save(folder, slices)


def write_enhanced(folder: Path, taken: Scan) -> Path:
    """Write one enhanced MR whose frames stand in another order than the slices."""
    order = [(3 * index + 2) % SHAPE[0] for index in range(SHAPE[0])]
    values = _values(taken)
    data = slice_dataset(0, values[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, keyword)
    del data.RescaleSlope, data.RescaleIntercept, data.SliceThickness
    data.SOPClassUID, data.Modality = EnhancedMRImageStorage, "MR"
    data.NumberOfFrames = len(order)
    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [STEPS[1], STEPS[2]], STEPS[0]
    shared.PixelMeasuresSequence = Items([measures])
    data.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for index in order:
        place = Dataset()
        _put_place(place, taken, index)
        turn, position, frame, content = Dataset(), Dataset(), Dataset(), Dataset()
        turn.ImageOrientationPatient = place.ImageOrientationPatient
        position.ImagePositionPatient = place.ImagePositionPatient
        content.StackID, content.InStackPositionNumber = "1", index + 1
        frame.PlaneOrientationSequence = Items([turn])
        frame.PlanePositionSequence = Items([position])
        frame.FrameContentSequence = Items([content])
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    set_pixels(data, values[order])
    return save(folder, [data])


def _values(taken: Scan) -> NDArray[np.uint16]:
    """Return stored values: 2024 where marked, 1024 elsewhere."""
    return np.where(taken.truth, 2024, 1024).astype(np.uint16)


def _put_place(data: Dataset, taken: Scan, index: int) -> None:
    """Row cosines run along the columns' direction, column cosines along the rows' (C.7.6.2)."""
    cosines = [*taken.directions[2], *taken.directions[1]]
    data.ImageOrientationPatient = [f"{value:.10g}" for value in cosines]
    position = taken.origin + index * STEPS[0] * taken.directions[0]
    data.ImagePositionPatient = [f"{value:.10g}" for value in position]


def seg_positions(seg: Dataset) -> Floats:
    """Return LPS mm of every voxel of a SEG that is set, shape (n, 3), by its attributes alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = [float(one) for one in shared.PixelMeasuresSequence[0].PixelSpacing]
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    found = []
    for frame, mask in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(mask)
        along = (
            columns[:, None] * spacing[1] * cosines[:3] + rows[:, None] * spacing[0] * cosines[3:]
        )
        found.append(corner + along)
    return np.concatenate(found)
