"""MR phantom: a drawn head and neck with one bright lesion, and the truth beside it.

A T2-weighted, fat-suppressed look: fluid bright, muscle dark, air and bone black, a lobulated
venous malformation brighter than all. Intensities are arbitrary (a random scale and a smooth bias
field), as MR's are. Frame: LPS mm, origin in the middle of the head, x to the patient's left, y
to the back, z up. Arrays are `[slice, row, column]`; labels are 0 background, 1 lesion.

Shapes are functions of (x, y, z), so any plane can sample them. Right and left differ: the lesion
lies on one side, and a bright capsule is taped to the right temple.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
Values = NDArray[np.int16]
Labels = NDArray[np.uint8]
Coverage = NDArray[np.float32]
Box = tuple[slice, slice, slice]

LESION: Final = 1
MARKER_MM: Final = (-82.0, -20.0, 12.0)
"""Centre of the capsule at the right temple."""

_SITES: Final = (  # where lesions lie on the left: cheek, jaw angle, neck, nape, scalp
    (44.0, -62.0, -62.0),
    (50.0, -20.0, -78.0),
    (38.0, 0.0, -125.0),
    (30.0, 58.0, -120.0),
    (48.0, -40.0, -95.0),
)


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """One shape with its signal.

    Attributes:
        centre_mm: Centre, LPS.
        radii_mm: Half axes along x, y, z.
        signal: Signal inside, where 1 is the lesion's usual brightness.
    """

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    signal: float


@dataclass(frozen=True, slots=True)
class HeadPatient:
    """Everything that was drawn for one seed; sampling it needs nothing else.

    Attributes:
        seed: The seed.
        body: Outer shapes; their union is the patient.
        organs: Shapes painted in order over the body.
        lesion: Lobes of the lesion; their union is the truth.
        side: Where the lesion lies: `right` or `left`.
        diameter_mm: Diameter of the ball that has the lesion's volume.
        volume_ml: Volume of the lesion, from coverage on a 0.75 mm grid.
        scale: Stored value of signal 1.
        bias: Coefficients of the bias field: x, y, z, xy, zz.
        noise: Standard deviation of the noise in units of signal.
    """

    seed: int
    body: tuple[Ellipsoid, ...]
    organs: tuple[Ellipsoid, ...]
    lesion: tuple[Ellipsoid, ...]
    side: str
    diameter_mm: float
    volume_ml: float
    scale: float
    bias: tuple[float, ...]
    noise: float

    @classmethod
    def draw(cls, seed: int, *, lesion_mm: float | None = None) -> HeadPatient:
        """Draw a patient: the same seed and size give the same patient.

        Args:
            seed: Seed of the patient.
            lesion_mm: Diameter of the ball that has the lesion's volume; 26 to 46 mm, drawn,
                when None.
        """
        # One child per part, so that a new organ does not move the others.
        anatomy, lesion, image = (
            np.random.Generator(np.random.PCG64(child))
            for child in np.random.SeedSequence((seed, 0x4D52)).spawn(3)
        )
        wanted = float(lesion.uniform(26, 46)) if lesion_mm is None else lesion_mm
        sign = -1.0 if lesion.random() < 0.5 else 1.0
        lobes, volume_ml = _draw_lesion(lesion, sign, wanted)
        body, organs = _draw_anatomy(anatomy)
        return cls(
            seed=seed,
            body=body,
            organs=organs,
            lesion=lobes,
            side="right" if sign < 0 else "left",
            diameter_mm=wanted,
            volume_ml=volume_ml,
            scale=float(np.exp(image.uniform(np.log(250), np.log(1600)))),
            bias=tuple(float(value) for value in image.uniform(-0.18, 0.18, 5)),
            noise=float(image.uniform(0.015, 0.05)),
        )


def sample(
    patient: HeadPatient, affine: Affine, shape: tuple[int, int, int]
) -> tuple[Values, Labels]:
    """Sample any grid: axial, sagittal, coronal, oblique.

    Args:
        patient: Who.
        affine: Index [slice, row, column, 1] to LPS mm.
        shape: Slices, rows, columns.

    Returns:
        Arbitrary intensities as int16 in 0..4095, and labels uint8, both of that shape.
    """
    canvas = _Canvas(affine, shape)
    signal = np.zeros(shape, np.float32)
    marker = Ellipsoid(MARKER_MM, (5.0, 9.0, 5.0), 1.0)
    for one in (*patient.body, *patient.organs, marker):
        box, covered = canvas.coverage(one)
        signal[box] += covered * (np.float32(one.signal) - signal[box])
    lesion = canvas.union(patient.lesion)
    signal += lesion * (np.float32(patient.lesion[0].signal) - signal)
    return _image(patient, signal, canvas.points), _labelled(lesion)


def label(patient: HeadPatient, affine: Affine, shape: tuple[int, int, int]) -> Labels:
    """Return the labels that `sample` gives, without the image."""
    return _labelled(_Canvas(affine, shape).union(patient.lesion))


def _labelled(covered: Coverage) -> Labels:
    """Return the lesion's label where it covers more than half of a voxel."""
    return (covered > 0.5).astype(np.uint8) * np.uint8(LESION)


class _Canvas:
    """A grid on which shapes are laid; each is looked at in its own box only."""

    def __init__(self, affine: Affine, shape: tuple[int, int, int]) -> None:
        self.points = _points(affine, shape)
        self._shape = shape
        self._to_index = np.linalg.inv(affine)
        # The edge of a shape fades over the mean side of a voxel: partial volume.
        self._edge_mm = float(np.linalg.norm(affine[:3, :3]) / np.sqrt(3))

    def coverage(self, shape: Ellipsoid) -> tuple[Box, Coverage]:
        """Return the box that holds `shape`, and the part of each voxel in it that it covers."""
        box = self._box(shape)
        squared = np.zeros((1, 1, 1), np.float32)
        for points, centre, radius in zip(
            self.points, shape.centre_mm, shape.radii_mm, strict=True
        ):
            # A coordinate that does not change along an axis has length 1 there.
            varies = [length > 1 for length in points.shape]
            part = points[tuple(b if v else slice(None) for b, v in zip(box, varies, strict=True))]
            squared = squared + ((part - np.float32(centre)) / np.float32(radius)) ** 2
        # Distance to the surface is nearly (q - 1) r for the ball of equal volume.
        outside_mm = (np.sqrt(squared) - 1.0) * float(np.prod(shape.radii_mm)) ** (1 / 3)
        covered: Coverage = np.clip(0.5 - outside_mm / self._edge_mm, 0.0, 1.0).astype(np.float32)
        return box, covered

    def union(self, shapes: tuple[Ellipsoid, ...]) -> Coverage:
        """Return the part of each voxel of the grid that lies inside one of `shapes`."""
        whole = np.zeros(self._shape, np.float32)
        for shape in shapes:
            box, covered = self.coverage(shape)
            np.maximum(whole[box], covered, out=whole[box])
        return whole

    def _box(self, shape: Ellipsoid) -> Box:
        """Return the slices of the grid outside which `shape` covers nothing."""
        centre = self._to_index[:3] @ (*shape.centre_mm, 1.0)
        # Coverage ends half an edge beyond the surface; a whole one leaves room for rounding.
        factor = 1.0 + self._edge_mm / float(np.prod(shape.radii_mm)) ** (1 / 3)
        reach = np.linalg.norm(self._to_index[:3, :3] * np.array(shape.radii_mm) * factor, axis=1)
        first = np.clip(np.floor(centre - reach), 0, self._shape).astype(int)
        last = np.clip(np.ceil(centre + reach) + 1, 0, self._shape).astype(int)
        return (
            slice(int(first[0]), int(last[0])),
            slice(int(first[1]), int(last[1])),
            slice(int(first[2]), int(last[2])),
        )


def _points(affine: Affine, shape: tuple[int, int, int]) -> tuple[Coverage, Coverage, Coverage]:
    """Return x, y, z of every voxel in mm; constant axes stay of length 1."""
    indices = np.indices(shape, sparse=True)
    made = []
    for axis in range(3):
        terms = [
            (affine[axis, k] * indices[k]).astype(np.float32)
            for k in range(3)
            if abs(affine[axis, k]) > 1e-9
        ]
        made.append(np.float32(affine[axis, 3]) + sum(terms, np.zeros((1, 1, 1), np.float32)))
    return made[0], made[1], made[2]


def _image(
    patient: HeadPatient, signal: Coverage, points: tuple[Coverage, Coverage, Coverage]
) -> Values:
    """Return what the scanner stores: bias field, noise of a magnitude image, scale."""
    x, y, z = (p / np.float32(120) for p in points)
    a, b, c, d, e = patient.bias
    field = np.exp(np.clip(a * x + b * y + c * z + d * x * y + e * z * z, -0.7, 0.7))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((patient.seed, 0x4E4F))))
    real = signal * field + rng.standard_normal(signal.shape, np.float32) * patient.noise
    imaginary = rng.standard_normal(signal.shape, np.float32) * patient.noise
    magnitude = np.hypot(real, imaginary) * patient.scale
    stored: Values = np.clip(np.rint(magnitude), 0, 4095).astype(np.int16)
    return stored


def _draw_lesion(
    rng: np.random.Generator, sign: float, diameter_mm: float
) -> tuple[tuple[Ellipsoid, ...], float]:
    """Return two to four lobes around one site, scaled to the wanted volume, and the volume."""
    site = np.array(_SITES[int(rng.integers(len(_SITES)))]) * (sign, 1.0, 1.0)
    site = site + rng.uniform(-5, 5, 3)
    signal = float(rng.uniform(0.95, 1.15))
    radii = [np.full(3, 1.0) * rng.uniform(0.8, 1.25, 3)]
    offsets = [np.zeros(3)]
    for _ in range(int(rng.integers(1, 4))):
        direction = rng.standard_normal(3)
        offsets.append(direction / np.linalg.norm(direction) * rng.uniform(0.5, 0.8))
        radii.append(rng.uniform(0.5, 0.85, 3))
    wanted_ml = np.pi / 6 * diameter_mm**3 / 1000
    factor = diameter_mm / 2
    volume_ml = 0.0
    for _ in range(3):  # volume grows as the cube of the factor; the grid's error needs a repeat
        lobes = tuple(
            _lobe(site, o * factor, r * factor, signal) for o, r in zip(offsets, radii, strict=True)
        )
        volume_ml = _union_ml(lobes, site)
        factor *= float((wanted_ml / volume_ml) ** (1 / 3))
    return lobes, volume_ml


def _lobe(site: Affine, offset: Affine, radii: Affine, signal: float) -> Ellipsoid:
    """Return one lobe at `site + offset`."""
    centre = site + offset
    return Ellipsoid(
        (float(centre[0]), float(centre[1]), float(centre[2])),
        (float(radii[0]), float(radii[1]), float(radii[2])),
        signal,
    )


def _union_ml(lobes: tuple[Ellipsoid, ...], centre: Affine) -> float:
    """Return the volume of the union of `lobes`, from coverage on a 0.75 mm grid."""
    reach = max(
        float(np.linalg.norm(np.array(lobe.centre_mm) - centre)) + max(lobe.radii_mm)
        for lobe in lobes
    )
    step = 0.75
    count = int(np.ceil(2 * reach / step)) + 3
    affine = np.diag([step, step, step, 1.0])[[2, 1, 0, 3]]
    affine[:3, 3] = centre - step * (count - 1) / 2
    covered = _Canvas(affine, (count, count, count)).union(lobes)
    return float(covered.sum(dtype=np.float64)) * step**3 / 1000


def _draw_anatomy(
    rng: np.random.Generator,
) -> tuple[tuple[Ellipsoid, ...], tuple[Ellipsoid, ...]]:
    """Return the patient's outline and the organs, in the order of painting."""
    size = rng.uniform(0.93, 1.07, 3)
    fluid = float(rng.uniform(0.6, 0.8))
    muscle = float(rng.uniform(0.15, 0.28))
    fat = float(rng.uniform(0.08, 0.3))
    brain = float(rng.uniform(0.38, 0.52))

    def at(
        x: float, y: float, z: float, radii: tuple[float, float, float], signal: float
    ) -> Ellipsoid:
        centre = (x * size[0], y * size[1], z * size[2])
        half = (radii[0] * size[0], radii[1] * size[1], radii[2] * size[2])
        return Ellipsoid(centre, half, signal)

    body = (
        at(0, 0, 0, (76, 96, 105), fat),  # head
        at(0, -30, -65, (62, 70, 75), fat),  # face
        at(0, 22, -150, (62, 64, 130), fat),  # neck and shoulders
    )
    organs = [
        at(0, 22, -150, (55, 57, 126), muscle),
        at(0, -28, -68, (55, 62, 66), muscle),
        at(0, 0, 4, (71, 90, 97), 0.04),  # skull
        at(0, 2, 8, (65, 83, 88), fluid),  # fluid around the brain
        at(0, 2, 8, (62, 80, 85), brain),
        at(0, 38, -35, (38, 26, 22), brain * 0.9),  # cerebellum
        at(0, 35, -140, (20, 17, 120), 0.12),  # vertebrae
        at(0, 52, -140, (9, 8, 115), fluid),  # spinal fluid
        at(0, 52, -140, (5, 5, 115), brain),  # cord
        at(0, -70, -45, (16, 20, 22), 0.02),  # nose and sinuses
        at(0, -8, -110, (11, 9, 70), 0.02),  # airway
        at(0, -52, -82, (22, 28, 16), muscle * 1.4),  # tongue
    ]
    for sign in (-1.0, 1.0):
        organs += [
            at(sign * 12, -8, 18, (7, 26, 11), fluid),  # ventricle
            at(sign * 32, -76, -18, (12, 12, 12), fluid),  # eye
            at(sign * 22, -64, -42, (11, 13, 14), float(rng.choice([0.02, fluid * 0.8]))),  # antrum
            at(sign * 54, 2, -62, (9, 15, 20), float(rng.uniform(0.3, 0.45))),  # parotid
            at(sign * 30, 14, -120, (4, 4, 60), 0.02),  # carotid: flow void
            at(sign * 38, 22, -120, (6, 6, 60), float(rng.uniform(0.02, 0.5))),  # jugular
        ]
        for _ in range(4):  # lymph nodes
            z = float(rng.uniform(-150, -90))
            organs.append(at(sign * rng.uniform(32, 46), rng.uniform(0, 40), z, (3, 3, 5), 0.55))
    return body, tuple(organs)
