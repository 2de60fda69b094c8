"""PET phantom: a warm trunk with hot balls, and how much of each voxel is ball beside it.

The image is standardised uptake value by body weight. Background and organs are warm, air is
cold, each ball is hot by a known factor; then the scanner blurs and adds noise. What a voxel holds
of the balls is known before both, from many points in it: the tissue fraction, which is what a
model of fractions learns. Frame: LPS mm, origin in the middle of the trunk, x to the patient's
left, y to the back, z up. Arrays are `[slice, row, column]`.

Right and left differ: the liver lies on the right, and a small capsule of known uptake is taped
to the right flank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from node.phantom.grid import AXIAL, Floats, Orientation, centred_grid

Image = NDArray[np.float64]
Fraction = NDArray[np.float32]

LESION: Final = 1
MARKER_MM: Final = (-150.0, 0.0, 0.0)
"""Centre of the capsule at the right flank."""

POINTS: Final = 8
"""Points along each axis of a voxel. The volume of a ball of 10 mm radius on 4 mm voxels comes
out within 0.1 %, each fraction within 0.01."""

_FWHM: Final = 2 * np.sqrt(2 * np.log(2))
_TRUNK_MM: Final = (150.0, 105.0, 260.0)
_GAP_MM: Final = 8.0
_CHUNK: Final = 512  # voxels at a time, 2 MB of points


@dataclass(frozen=True, slots=True)
class Blob:
    """An ellipsoid of even uptake.

    Attributes:
        centre_mm: Centre, LPS.
        radii_mm: Half axes along x, y, z.
        suv: Uptake inside.
    """

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    suv: float

    @property
    def volume_ml(self) -> float:
        """Its volume."""
        return float(4 / 3 * np.pi * np.prod(self.radii_mm)) / 1000


@dataclass(frozen=True, slots=True)
class TrunkPatient:
    """Everything that was drawn for one seed.

    Attributes:
        seed: The seed.
        body: The trunk.
        organs: Warm organs, painted in order over the body; the capsule is the last.
        lesions: Hot balls, apart from each other; their union is the truth.
        weight_kg: What the patient weighs.
        height_m: How tall the patient is.
    """

    seed: int
    body: Blob
    organs: tuple[Blob, ...]
    lesions: tuple[Blob, ...]
    weight_kg: float
    height_m: float

    @property
    def lesion_ml(self) -> float:
        """Volume of all lesions, from their shapes."""
        return sum(one.volume_ml for one in self.lesions)

    @classmethod
    def draw(cls, seed: int, *, lesion_mm: float | None = None) -> TrunkPatient:
        """Draw a patient: the same seed and size give the same patient.

        Args:
            seed: Seed of the patient.
            lesion_mm: Diameter of the one lesion; one to three of 16 to 60 mm when None.
        """
        anatomy, lesion = (
            np.random.Generator(np.random.PCG64(child))
            for child in np.random.SeedSequence((seed, 0x5054)).spawn(2)
        )
        size = float(anatomy.uniform(0.85, 1.1))
        warm = float(anatomy.uniform(0.6, 1.1))
        trunk = (_TRUNK_MM[0] * size, _TRUNK_MM[1] * size, _TRUNK_MM[2])
        liver = Blob((-65 * size, -10.0, 60.0), (60 * size, 65 * size, 60.0), 2.2 * warm)
        lung = Blob((60 * size, 5.0, 150.0), (48 * size, 60 * size, 80.0), 0.4 * warm)
        capsule = Blob(MARKER_MM, (9.0, 9.0, 14.0), 3.0)
        return cls(
            seed=seed,
            body=Blob((0.0, 0.0, 0.0), trunk, warm),
            organs=(liver, lung, capsule),
            lesions=_draw_lesions(lesion, size, warm, lesion_mm),
            weight_kg=round(float(anatomy.uniform(48, 110)), 1),
            height_m=round(float(anatomy.uniform(1.5, 1.95)), 2),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PetScan:
    """A measured trunk with its truth.

    Attributes:
        suv: float64, shape [slice, row, column]: SUVbw in g/ml.
        fraction: float32 of the same shape: share of each voxel that is lesion, 0 to 1.
        affine: float64 (4, 4), index [slice, row, column, 1] to LPS mm.
        spacing_mm: Distance of slices, rows, columns.
        patient: Who.
    """

    suv: Image
    fraction: Fraction
    affine: Floats
    spacing_mm: tuple[float, float, float]
    patient: TrunkPatient


def volume(
    seed: int,
    *,
    shape: tuple[int, int, int] = (40, 72, 72),
    spacing_mm: tuple[float, float, float] = (4.0, 4.5, 4.5),
    orientation: Orientation = AXIAL,
    blur_mm: float = 6.0,
    noise: float = 0.08,
    lesion_mm: float | None = None,
) -> PetScan:
    """Scan a trunk: uptake and tissue fraction, without a DICOM object in between.

    Args:
        seed: Seed of the patient and of the noise.
        shape: Slices, rows, columns.
        spacing_mm: Distance of slices, rows, columns.
        orientation: Directions of rows and columns.
        blur_mm: Full width at half maximum of the scanner's blur; 0 for none.
        noise: Standard deviation of the noise where SUV is 1; it grows with the root of SUV.
        lesion_mm: As in `TrunkPatient.draw`.
    """
    patient = TrunkPatient.draw(seed, lesion_mm=lesion_mm)
    grid = centred_grid(shape, spacing_mm, orientation=orientation)
    suv, fraction = sample(patient, grid.affine, shape, blur_mm=blur_mm, noise=noise)
    return PetScan(suv, fraction, grid.affine, grid.spacing_mm, patient)


def sample(
    patient: TrunkPatient,
    affine: Floats,
    shape: tuple[int, int, int],
    *,
    blur_mm: float = 0.0,
    noise: float = 0.0,
) -> tuple[Image, Fraction]:
    """Sample any grid; without blur and noise each voxel holds its mean uptake.

    Args:
        patient: Who.
        affine: Index [slice, row, column, 1] to LPS mm.
        shape: Slices, rows, columns.
        blur_mm: As in `volume`.
        noise: As in `volume`.

    Returns:
        SUVbw float64 and the share of each voxel that is lesion, float32, both of that shape.
    """
    suv = np.zeros(shape)
    for one in (patient.body, *patient.organs):
        box, covered = coverage(one, affine, shape)
        suv[box] += covered * (one.suv - suv[box])
    fraction = np.zeros(shape)
    for one in patient.lesions:
        box, covered = coverage(one, affine, shape)
        suv[box] += covered * (one.suv - suv[box])
        fraction[box] += covered  # they do not touch each other
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = blur_mm / _FWHM / spacing
    if blur_mm:
        suv = ndimage.gaussian_filter(suv, sigma, mode="nearest")
    if noise:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((patient.seed, 0x4E50))))
        grain = ndimage.gaussian_filter(rng.standard_normal(shape), 0.7)
        suv = np.maximum(suv + noise * np.sqrt(suv) * grain / grain.std(), 0.0)
    return suv, fraction.astype(np.float32)


def coverage(
    blob: Blob, affine: Floats, shape: tuple[int, int, int]
) -> tuple[tuple[slice, slice, slice], Image]:
    """Return the box of the grid that holds a blob, and the share of each voxel in it it covers."""
    to_index = np.linalg.inv(affine)
    centre = to_index[:3] @ (*blob.centre_mm, 1.0)
    reach = np.linalg.norm(to_index[:3, :3] * np.array(blob.radii_mm), axis=1) + 1
    first = np.clip(np.floor(centre - reach), 0, shape).astype(int)
    last = np.clip(np.ceil(centre + reach) + 1, 0, shape).astype(int)
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    # To units of the radii, in which the blob is a ball of radius 1 around 0.
    radii = np.array(blob.radii_mm)
    to_unit = affine[:3] / radii[:, None]
    to_unit[:, 3] -= np.array(blob.centre_mm) / radii
    indices = np.indices(tuple(last - first)).reshape(3, -1).T + first
    middles = indices @ to_unit[:, :3].T + to_unit[:, 3]
    distance = np.sqrt((middles**2).sum(axis=1))
    # A voxel whose middle lies further from the surface than its half diagonal is all or nothing.
    half = float(np.linalg.norm(to_unit[:, :3], axis=0).sum()) / 2
    covered: Image = (distance < 1).astype(np.float64)
    within = np.stack(
        np.meshgrid(*[(np.arange(POINTS) + 0.5) / POINTS - 0.5] * 3, indexing="ij"), axis=-1
    ).reshape(-1, 3)
    around = within @ to_unit[:, :3].T  # (points, 3)
    cut = np.flatnonzero(np.abs(distance - 1) <= half)
    for start in range(0, cut.size, _CHUNK):
        chosen = cut[start : start + _CHUNK]
        squared = np.zeros((chosen.size, len(around)))
        for axis in range(3):
            squared += (middles[chosen, None, axis] + around[None, :, axis]) ** 2
        covered[chosen] = (squared < 1).mean(axis=1)
    return (box[0], box[1], box[2]), covered.reshape(tuple(last - first))


def _draw_lesions(
    rng: np.random.Generator, size: float, warm: float, lesion_mm: float | None
) -> tuple[Blob, ...]:
    """Return balls inside the trunk that keep a distance from each other."""
    count = int(rng.integers(1, 4)) if lesion_mm is None else 1
    found: list[Blob] = []
    while len(found) < count:
        radius = float(rng.uniform(8, 30)) if lesion_mm is None else lesion_mm / 2
        reach = np.array([_TRUNK_MM[0] * size, _TRUNK_MM[1] * size, 95.0]) - radius - 12
        centre = rng.uniform(-1, 1, 3) * reach * (0.75, 0.7, 0.6)
        apart = [
            float(np.linalg.norm(centre - one.centre_mm)) - radius - one.radii_mm[0]
            for one in found
        ]
        suv = warm * float(rng.uniform(4, 12))
        if min(apart, default=np.inf) >= _GAP_MM:
            at = (float(centre[0]), float(centre[1]), float(centre[2]))
            found.append(Blob(at, (radius, radius, radius), suv))
    return tuple(found)
