"""A case: a volume with its reference, and whose it is.

The name and the patient stay with the owner of the data: cards and reports name cases by digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.errors import setup_error
from node.imaging.values import Volume

Reference = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One case of a data set.

    Attributes:
        name: What its owner calls it.
        patient: Whose it is: cases of one patient are never in two sets.
        volume: As the node would read it from DICOM; a frame of ultrasound is a volume of one.
        reference: uint8 labels on the grid of the volume.
        digest: SHA-256 over voxels and reference, hex.
    """

    name: str
    patient: str
    volume: Volume = field(repr=False)
    reference: Reference = field(repr=False)
    digest: str


def case_of(name: str, patient: str, volume: Volume, reference: Reference, labels: int) -> Case:
    """Return a case.

    Args:
        name: What its owner calls it.
        patient: Whose it is.
        volume: The volume.
        reference: On its grid.
        labels: How many labels there are, from 1.

    Raises:
        SetupError: The reference has another shape, or labels that nobody declared.
    """
    if reference.shape != volume.array.shape:
        raise setup_error(
            "label-grid",
            f"The reference is {reference.shape}, the image {volume.array.shape}.",
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
    for array in (volume.array, reference):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return Case(name, patient, volume, reference, digest.hexdigest())
