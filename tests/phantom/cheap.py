"""Studies for tests of objects and wires: a CT of the head phantom, made in milliseconds.

The drawn chest takes seconds whatever its size; what is written of it does not depend on what
is drawn.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.phantom import mr
from node.phantom.grid import centred_grid
from node.phantom.pixels import FORMATS, Cells, outside_circle
from node.phantom.study import (
    Part,
    PhantomStudy,
    Profile,
    Scan,
    Truth,
    study_of,
)

TINY_CT = Profile(shape=(6, 40, 48), spacing_mm=(20.0, 5.5, 4.25))
TINY_MR = replace(TINY_CT, part=Part.HEAD)


def cheap_scan(seed: int, profile: Profile) -> Scan:
    """Return the head of `seed` in arbitrary units for MR, in HU for CT."""
    patient = mr.HeadPatient.draw(seed)
    grid = centred_grid(
        profile.shape,
        profile.spacing_mm or (6.0, 5.0, 5.0),
        orientation=profile.orientation,
        centre_mm=(0.0, 0.0, -60.0),
    )
    values, labels = mr.sample(patient, grid.affine, profile.shape)
    if profile.part is Part.CHEST:
        values = (values.astype(np.float64) / patient.scale * 1500 - 1024).astype(np.int16)
        if FORMATS[profile.cells or Cells.SIGNED].padding is not None:
            outside = outside_circle(*profile.shape[1:])
            labels[:, outside] = 0
            values[:, outside] = -1024
    names = {mr.LESION: "lesion"}
    truth = Truth(labels, grid.affine, grid.spacing_mm, names, {}, mr.MARKER_MM)
    return Scan(values, grid, truth)


def cheap_study(seed: int, profile: Profile = TINY_CT) -> PhantomStudy:
    """Return the study that is written of `cheap_scan`."""
    return study_of(cheap_scan(seed, profile), seed, profile)


def datasets(study: PhantomStudy) -> list[Dataset]:
    """Return the image series as pydicom reads it."""
    return [dcmread(io.BytesIO(one.data)) for one in study.images]
