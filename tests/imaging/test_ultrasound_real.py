"""Every real ultrasound file becomes the grey that an independent path gives."""

from __future__ import annotations

import csv
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGBaseline8Bit, JPEGLosslessSV1

from node.imaging.frame_reader import open_frames
from node.imaging.images import find_images
from node.imaging.inspect import inspect_folder
from node.imaging.values import FramesPlan, InstanceFile

NAMES = [
    "examples_ybr_color.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "examples_jpeg2k.dcm",
    "ExplVR_BigEnd.dcm",
    "OBXXXX1A_rle_2frame.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "US1_J2KI.dcm",
    "color-px.dcm",
    "derived/nerve_subject01_cine_mono.dcm",
    "derived/nerve_subject04_cine_ybr.dcm",
    "derived/usgra_0000.dcm",
    "derived/usgra_0008.dcm",
    "derived/usgra_0015.dcm",
    "derived/usgra_0023.dcm",
    "derived/usgra_0032.dcm",
    "derived/usgra_0039.dcm",
    "derived/lung_alines_a.dcm",
]
UNCALIBRATED = {
    "examples_ybr_color.dcm",  # its region reaches beyond the matrix
    "examples_palette.dcm",  # likewise
    "examples_rgb_color.dcm",
    "examples_jpeg2k.dcm",
    "ExplVR_BigEnd.dcm",
    "US1_J2KI.dcm",
    "color-px.dcm",
}


def plan_of(path: Path) -> FramesPlan:
    (plan,) = find_images([InstanceFile(path)])
    assert isinstance(plan, FramesPlan), plan
    return plan


def luminance(colours: NDArray[np.generic]) -> NDArray[np.uint8]:
    weights = np.array([0.299, 0.587, 0.114])
    return np.floor(colours.astype(np.float64) @ weights + 0.5).astype(np.uint8)


def expected(data: Dataset) -> NDArray[np.uint8]:
    """Return frames as grey by pydicom and Pillow."""
    count = int(data.get("NumberOfFrames") or 1)
    photometric = data.PhotometricInterpretation
    if data.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
        grey = []
        for stream in generate_frames(data.PixelData, number_of_frames=count):
            image = Image.open(BytesIO(stream))
            image.draft("YCbCr", image.size)
            assert image.mode == "YCbCr"
            grey.append(np.asarray(image)[..., 0])
        return np.stack(grey)
    if data.file_meta.TransferSyntaxUID == JPEGLosslessSV1:
        (stream,) = generate_frames(data.PixelData, number_of_frames=1)
        return imagecodecs.ljpeg_decode(stream)[None]  # liblj92; ours is libjpeg-turbo
    pixels = data.pixel_array.reshape(count, data.Rows, data.Columns, -1)
    if photometric == "PALETTE COLOR":
        tables = []
        for colour in ("Red", "Green", "Blue"):
            entries, first, bits = data[f"{colour}PaletteColorLookupTableDescriptor"].value
            words = np.frombuffer(data[f"{colour}PaletteColorLookupTableData"].value, "<u2")
            assert (int(entries), int(first), int(bits)) == (256, 0, 16)
            assert len(words) == 256
            tables.append(words >> 8)
        return luminance(np.stack([table[pixels[..., 0]] for table in tables], axis=-1))
    return pixels[..., 0] if pixels.shape[-1] == 1 else luminance(pixels)


def test_the_table_names_every_real_file(shared_data: Callable[[str], Path]) -> None:
    with shared_data("us-dicom/manifest.csv").open() as stream:
        assert sorted(row["file"] for row in csv.DictReader(stream)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_real_file_gives_the_grey_of_an_independent_path(
    name: str, shared_data: Callable[[str], Path]
) -> None:
    path = shared_data(f"us-dicom/{name}")
    data = pydicom.dcmread(path)
    plan = plan_of(path)
    count = min(plan.shape[0], 4)  # the first and the last frames of a long cine
    wanted = [*range(count - 2), plan.shape[0] - 2, plan.shape[0] - 1][-count:]
    with open_frames(plan, colour_accepted=True) as frames:
        grey = frames.read(wanted)
    other = expected(data)[wanted]
    assert grey.dtype == np.uint8
    assert grey.shape == other.shape
    # Halves are rounded up by both; products differ by a rounding of the weights.
    assert np.abs(grey.astype(int) - other).max() <= int(data.SamplesPerPixel == 3 or "PAL" in name)
    assert (grey != other).mean() < 1e-3
    assert plan.shape == (int(data.get("NumberOfFrames") or 1), data.Rows, data.Columns)
    assert (plan.spacing_mm[1] is None) == (name in UNCALIBRATED)


def test_the_folder_of_real_files_is_told_as_frames(shared_data: Callable[[str], Path]) -> None:
    said = inspect_folder(shared_data("us-dicom/derived"))
    assert {each["kind"] for each in said["volumes"]} == {"frames"}
    assert said["summary"]["usable"] == said["summary"]["volumes"] == 9
    (cine,) = [each for each in said["volumes"] if each["shape"][0] == 42]
    assert cine["spacing_mm"] == [None, pytest.approx(0.224), pytest.approx(0.224)]
    assert cine["affine"] is None
    assert cine["regions"][0]["box"] == [110, 562, 641, 715]
