"""Real data as values: one chest CT and a published lung network."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from node.imaging.values import Volume
from node.models.card import Card, load_card
from node.models.imports.bring import import_model
from tests.models.builders import make_volume

LUNG_CARD = """
schema = 1
name = "lung-ct-unet"
version = "1"
[about]
title = "Lungs, published small U-Net"
intended_use = "For tests and research use only."
licence = "MIT, copyright 2023 William Knottenbelt"
[weights]
sha256 = "{sha256}"
[accepts]
Modality = "CT"
[voxels]
orientation = "HPL"
spacing_mm = [0, 0, 0]
background = -1024
units = "HU"
[[steps]]
step = "add"
value = {add}
[[steps]]
step = "clip"
low = {low}
high = 1e6
[network]
architecture = "unet2d_conv_transpose"
outputs = 1
widths = [16, 32, 64, 128]
[inference]
mode = "slices"
batch = 2
precision = "{precision}"
[head]
kind = "probability"
[[postprocess]]
step = "keep_largest"
labels = [1]
count = 2
[[postprocess]]
step = "split_sides"
label = 1
right = 1
left = 2
[[postprocess]]
step = "close"
labels = [1, 2]
radius_mm = 6
[[postprocess]]
step = "fill_holes"
labels = [1, 2]
[[segments]]
number = 1
label = "Right lung"
category = "91723000, SCT, Anatomical Structure"
type = "39607008, SCT, Lung"
modifiers = ["24028007, SCT, Right"]
[[segments]]
number = 2
label = "Left lung"
category = "91723000, SCT, Anatomical Structure"
type = "39607008, SCT, Lung"
modifiers = ["7771000, SCT, Left"]
[quality]
removed_fraction = 0.3
[[quality.segments]]
number = 1
min_ml = 300
when_empty = "reject"
[results]
series_description = "Lungs"
"""


@pytest.fixture(scope="session")
def thorax(shared_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """Return the real chest CT in HU, sorted by position."""
    archive = shared_data("ct-thorax/dicom.tar.xz")
    folder = tmp_path_factory.mktemp("thorax")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    slices = [pydicom.dcmread(path) for path in folder.rglob("*.dcm")]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    array = np.stack([one.pixel_array.astype(np.int16) for one in slices])
    array -= 1024
    rows, columns = (float(one) for one in slices[0].PixelSpacing)
    return make_volume(
        array,
        spacing_mm=(3.0, rows, columns),
        origin_mm=[float(one) for one in slices[0].ImagePositionPatient],
    )


@pytest.fixture(scope="session")
def lung_model(
    shared_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Card]:
    """Return a function that gives the published network's card with other steps or precision."""
    source = shared_data("weights/lung-ct-unet/UNet_wdk24.pt")
    folder = tmp_path_factory.mktemp("models") / "lung-ct-unet"
    converted = import_model(source, folder)

    def card(*, add: float = 1024, low: float = 0, precision: str = "fp32") -> Card:
        text = LUNG_CARD.format(sha256=converted.sha256[0], add=add, low=low, precision=precision)
        (folder / "card.toml").write_text(text, encoding="utf-8")
        return load_card(folder)

    return card
