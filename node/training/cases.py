"""A case: a volume or a frame with its reference, and whose it is.

The name and the patient stay with the owner of the data: cards and reports name cases by digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.errors import setup_error
from node.imaging.values import Frames, Grey, Volume

Reference = NDArray[np.uint8]
Voxels = NDArray[np.int16] | NDArray[np.float32] | Grey


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One case of a data set.

    Attributes:
        name: What its owner calls it.
        patient: Whose it is: cases of one patient are never in two sets.
        image: As the node would read it from DICOM.
        reference: uint8 labels on the grid of the image, [slice or frame, row, column].
        digest: SHA-256 over voxels and reference, hex.
    """

    name: str
    patient: str
    image: Volume | Frames = field(repr=False)
    reference: Reference = field(repr=False)
    digest: str

    @property
    def array(self) -> Voxels:
        """The voxels, shape of the reference."""
        return voxels_of(self.image)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel; of a frame, which has none, a pixel counts as one."""
        if isinstance(self.image, Frames):
            return 1.0
        return float(np.prod(self.image.spacing_mm)) / 1000


def voxels_of(image: Volume | Frames) -> Voxels:
    """Return all voxels of a volume, or all frames."""
    if isinstance(image, Volume):
        return image.array
    return image.read(range(image.plan.shape[0]))


def case_of(
    name: str, patient: str, image: Volume | Frames, reference: Reference, labels: int
) -> Case:
    """Return a case.

    Args:
        name: What its owner calls it.
        patient: Whose it is.
        image: The volume or frames.
        reference: On its grid.
        labels: How many labels there are, from 1.

    Raises:
        SetupError: The reference has another shape, or labels that nobody declared.
    """
    array = voxels_of(image)
    if reference.shape != array.shape:
        raise setup_error(
            "label-grid",
            f"The reference is {reference.shape}, the image {array.shape}.",
            where=name,
            remedy="Give references on the grid of their image; they are never resampled.",
        )
    if reference.size and int(reference.max()) > labels:
        raise setup_error(
            "label-values",
            f"The reference holds the value {int(reference.max())}; the labels are 1 to {labels}.",
            where=name,
            remedy="Give the labels that the card of the recipe declares, and 0 for background.",
        )
    digest = hashlib.sha256()
    for voxels in (array, reference):
        digest.update(f"{voxels.dtype.str}{voxels.shape}".encode())
        digest.update(np.ascontiguousarray(voxels).tobytes())
    return Case(name, patient, image, reference, digest.hexdigest())
