"""Ultrasound: colour becomes the same grey however it is stored; regions are believed or not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.imaging.frame_reader import open_frames
from node.imaging.images import find_images
from node.imaging.inspect import inspect_folder
from node.imaging.planes import RefusedError
from node.imaging.read import read_folder
from node.imaging.regions import read_regions
from node.imaging.series import find_volumes
from node.imaging.values import FramesPlan, Refusal
from node.reasons import Reason

from .build import compressed, save, series
from .ultrasound_files import (
    COLUMNS,
    ROWS,
    grey_of,
    picture,
    plan_of,
    region,
    tissue,
    with_regions,
)

GREY = tissue()[0]
RGB = np.repeat(GREY[..., None], 3, axis=-1)
NEUTRAL = np.full_like(GREY, 128)
YBR = np.stack([GREY, NEUTRAL, NEUTRAL], axis=-1)


def jpeg(pixels: NDArray[Any], space: str) -> bytes:
    """Return a lossy stream whose components are the array's, whatever they mean."""
    stream = imagecodecs.jpeg8_encode(
        pixels, level=100, colorspace=space, outcolorspace=space, subsampling="444"
    )
    return bytes(stream)


def palette(data: Dataset) -> Dataset:
    """Give an image a palette that turns the grey round."""
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = ((255 - np.arange(256)) * 257).astype("<u2").tobytes()
        setattr(data, f"{colour}PaletteColorLookupTableData", table)
    return data


def halved(data: Dataset) -> Dataset:
    """Store one pair of differences for two pixels."""
    pairs = GREY.reshape(ROWS, COLUMNS // 2, 2)
    both = np.full((ROWS, COLUMNS // 2, 2), 128, np.uint8)
    data.PixelData = np.concatenate([pairs, both], axis=-1).tobytes()
    return data


def rle(data: Dataset) -> Dataset:
    data.compress(RLELossless, generate_instance_uid=False)
    return data


def j2k(pixels: NDArray[Any], *, mct: bool) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, mct=mct, codecformat="j2k"))


def big_endian(data: Dataset) -> Dataset:
    """Store the bytes of 8-bit pixels as big-endian words."""
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = np.frombuffer(data.PixelData, "<u2").byteswap().tobytes()
    data["PixelData"].VR = "OW"
    return data


STORED: dict[str, Callable[[], Dataset]] = {
    "grey": lambda: picture(GREY),
    "inverted grey": lambda: picture(255 - GREY, photometric="MONOCHROME1"),
    "big endian words": lambda: big_endian(picture(GREY)),
    "palette": lambda: palette(picture(255 - GREY, photometric="PALETTE COLOR")),
    "red, green, blue": lambda: picture(RGB, photometric="RGB"),
    "planes of red, green, blue": lambda: picture(RGB, photometric="RGB", planar=1),
    "luminance": lambda: picture(YBR, photometric="YBR_FULL"),
    "planes of luminance": lambda: picture(YBR, photometric="YBR_FULL", planar=1),
    "halved colour": lambda: halved(picture(YBR, photometric="YBR_FULL_422")),
    "run lengths of grey": lambda: rle(picture(GREY)),
    "run lengths of RGB": lambda: rle(picture(RGB, photometric="RGB")),
    "run lengths of YBR": lambda: rle(picture(YBR, photometric="YBR_FULL")),
    "run lengths of a palette": lambda: rle(
        palette(picture(255 - GREY, photometric="PALETTE COLOR"))
    ),
    "JPEG lossless RGB": lambda: compressed(
        picture(RGB, photometric="RGB"),
        JPEGLosslessSV1,
        bytes(imagecodecs.jpeg8_encode(RGB, lossless=True, colorspace="RGB", outcolorspace="RGB")),
    ),
    "JPEG-LS RGB": lambda: compressed(
        picture(RGB, photometric="RGB"), JPEGLSLossless, bytes(imagecodecs.jpegls_encode(RGB))
    ),
    "JPEG 2000 with transform": lambda: compressed(
        picture(RGB, photometric="YBR_RCT"), JPEG2000Lossless, j2k(RGB, mct=True)
    ),
    "JPEG 2000 without transform": lambda: compressed(
        picture(RGB, photometric="RGB"), JPEG2000Lossless, j2k(RGB, mct=False)
    ),
    "JPEG 2000 of luminance": lambda: compressed(
        picture(YBR, photometric="YBR_FULL"), JPEG2000Lossless, j2k(YBR, mct=False)
    ),
    "HTJ2K": lambda: compressed(
        picture(RGB, photometric="YBR_RCT"), HTJ2KLossless, bytes(imagecodecs.htj2k_encode(RGB))
    ),
    "RGB that is YBR": lambda: picture(YBR, photometric="RGB"),
    "YBR that is RGB": lambda: picture(RGB, photometric="YBR_FULL"),
    "JPEG 2000 that says YBR and is RGB": lambda: compressed(
        picture(RGB, photometric="YBR_FULL"), JPEG2000Lossless, j2k(RGB, mct=True)
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_a_picture_has_the_same_grey_however_it_is_stored(name: str, tmp_path: Path) -> None:
    grey = grey_of(plan_of(tmp_path, STORED[name]()))
    assert grey.dtype == np.uint8
    assert np.array_equal(grey, GREY[None])


LYING: dict[str, tuple[str, NDArray[Any], str]] = {
    "JFIF says YCbCr, the header RGB": ("RGB", YBR, "YCBCR"),
    "Adobe says RGB, the header YBR": ("YBR_FULL_422", RGB, "RGB"),
    "both say YCbCr": ("YBR_FULL_422", YBR, "YCBCR"),
    "both say RGB": ("RGB", RGB, "RGB"),
}


@pytest.mark.parametrize("name", LYING)
def test_the_markers_of_a_jpeg_stream_win_over_the_header(name: str, tmp_path: Path) -> None:
    photometric, pixels, space = LYING[name]
    # One half is strongly coloured, so that the pixels themselves decide nothing.
    pixels = pixels.copy()
    pixels[:, : COLUMNS // 2, 1:] = 60
    data = compressed(
        picture(pixels, photometric=photometric), JPEGBaseline8Bit, jpeg(pixels, space)
    )
    grey = grey_of(plan_of(tmp_path, data)).astype(int)
    weights = np.array([0.299, 0.587, 0.114])
    wanted = pixels[..., 0] if space == "YCBCR" else pixels @ weights
    assert np.abs(grey[0] - wanted).max() < 6


def test_more_than_eight_bits_stay_exact_as_float32(tmp_path: Path) -> None:
    wide = (GREY.astype(np.uint16) << 4) + 3
    grey = grey_of(plan_of(tmp_path, picture(wide)))
    assert grey.dtype == np.float32
    assert np.array_equal(grey[0], wide)


def test_frames_of_a_cine_come_in_any_choice_and_order(tmp_path: Path) -> None:
    cine = tissue(7)
    plan = plan_of(tmp_path, rle(picture(cine)))
    assert plan.frame_numbers == (1, 2, 3, 4, 5, 6, 7)
    assert plan.frame_time_ms == 40
    with open_frames(plan, colour_accepted=False) as frames:
        assert np.array_equal(frames.read([5, 0, 2]), cine[[5, 0, 2]])


def test_a_long_colour_cine_never_lies_whole_in_memory(tmp_path: Path) -> None:
    cine = np.zeros((300, 60, 80, 3), np.uint8)
    cine[:, 10:50, 10:70] = (np.arange(300) % 200)[:, None, None, None]
    plan = plan_of(tmp_path, picture(cine, photometric="RGB"))
    tracemalloc.start()
    with open_frames(plan, colour_accepted=False) as frames:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for first in range(0, 300, 4):
            assert frames.read(range(first, first + 4)).shape == (4, 60, 80)
        peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < cine.nbytes / 8


def test_doppler_is_refused_unless_the_model_takes_colour(tmp_path: Path) -> None:
    doppler = RGB.copy()
    doppler[10:30, 20:50] = (200, 30, 20)
    plan = plan_of(tmp_path, picture(doppler, photometric="RGB"))
    assert grey_of(plan).shape == (1, ROWS, COLUMNS)
    with pytest.raises(RefusedError, match="of the tissue of frame 1 is coloured") as refused:
        grey_of(plan, colour_accepted=False)
    assert refused.value.reason is Reason.COLOURED
    # A colour bar beside the tissue is none of it.
    beside = with_regions(picture(doppler, photometric="RGB"), region((51, 0, 69, 47)))
    assert grey_of(plan_of(tmp_path / "beside", beside), colour_accepted=False).any()


def test_doppler_is_seen_in_luminance_and_differences_as_well(tmp_path: Path) -> None:
    doppler = YBR.copy()
    doppler[10:30, 20:50, 1:] = (90, 230)
    plan = plan_of(tmp_path, picture(doppler, photometric="YBR_FULL"))
    with pytest.raises(RefusedError):
        grey_of(plan, colour_accepted=False)


def cut_native(data: Dataset) -> Dataset:
    data.PixelData = data.PixelData[:-200]
    return data


DAMAGED: dict[str, tuple[Callable[[], Dataset], str]] = {
    "native, cut": (lambda: cut_native(picture(tissue(3))), "truncated-frame"),
    "no end marker": (
        lambda: compressed(
            picture(YBR, photometric="YBR_FULL_422"), JPEGBaseline8Bit, jpeg(YBR, "YCBCR")[:-400]
        ),
        "truncated-frame",
    ),
    "other size": (
        lambda: compressed(
            picture(RGB, photometric="RGB"), JPEGBaseline8Bit, jpeg(RGB[:40], "RGB")
        ),
        "decode-mismatch",
    ),
    "one component instead of three": (
        lambda: compressed(
            picture(RGB, photometric="RGB"),
            JPEGBaseline8Bit,
            bytes(imagecodecs.jpeg8_encode(GREY, level=90)),
        ),
        "decode-mismatch",
    ),
    "fewer streams than frames": (
        lambda: compressed(
            picture(np.stack([YBR] * 3), photometric="YBR_FULL_422"),
            JPEGBaseline8Bit,
            *[jpeg(YBR, "YCBCR")] * 2,
        ),
        "truncated-frame",
    ),
    "no palette": (lambda: picture(GREY, photometric="PALETTE COLOR"), "bad-header"),
    "strange colour": (lambda: picture(RGB, photometric="CMYK"), "bad-header"),
    "two thousand million frames": (
        lambda: _told_frames(rle(picture(np.zeros((2, 1, 1), np.uint8))), 2_000_000_000),
        "bad-header",
    ),
    "more frames than bytes": (
        lambda: _told_frames(picture(tissue(2)), 5),
        "truncated-frame",
    ),
}


def _told_frames(data: Dataset, frames: int) -> Dataset:
    data.NumberOfFrames = frames
    return data


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_frames_are_refused_by_name(name: str, tmp_path: Path) -> None:
    make, reason = DAMAGED[name]
    (said,) = inspect_folder(save(tmp_path, [make()]))["volumes"]
    assert (said["usable"], said["reason"]) == (False, reason), said


@pytest.mark.parametrize("name", ["grey", "run lengths of RGB", "JPEG-LS RGB", "halved colour"])
def test_any_damage_is_read_or_refused(name: str, tmp_path: Path) -> None:
    file = next(save(tmp_path / "whole", [STORED[name]()]).glob("*.dcm"))
    whole = file.read_bytes()
    rng = np.random.default_rng(17)
    for round_ in range(12):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 6):
            data[place] = rng.integers(256)
        damaged = tmp_path / f"{round_}"
        damaged.mkdir()
        (damaged / "a.dcm").write_bytes(data[: rng.integers(300, len(data) + 1)])
        for each in inspect_folder(damaged)["volumes"]:
            assert each["usable"] or each["reason"]


def test_one_frame_that_a_decoder_filled_up_is_refused_beside_whole_ones(tmp_path: Path) -> None:
    good = jpeg(YBR, "YCBCR")
    cut = good[: len(good) * 2 // 3] + b"\xff\xd9"
    data = compressed(
        picture(np.stack([YBR] * 3), photometric="YBR_FULL_422"),
        JPEGBaseline8Bit,
        good,
        cut,
        good,
    )
    (said,) = inspect_folder(save(tmp_path, [data]))["volumes"]
    assert said["reason"] in ("truncated-frame", "decode-failed"), said


def test_an_image_of_a_series_that_is_damaged_takes_no_other_with_it(tmp_path: Path) -> None:
    stills = [picture(GREY), cut_native(picture(GREY)), picture(GREY)]
    for number, still in enumerate(stills):
        still.SOPInstanceUID, still.InstanceNumber = f"2.25.70{number}", 9 - number
    found = find_images(read_folder(save(tmp_path, stills)))
    assert [type(one) for one in found] == [FramesPlan, FramesPlan, Refusal]
    assert [one.part for one in found] == [1, 2, 3]
    uids = [one.instance.sop_instance_uid for one in found if isinstance(one, FramesPlan)]
    assert uids == ["2.25.702", "2.25.700"]  # by instance number


def test_volumes_and_frames_are_found_side_by_side(tmp_path: Path) -> None:
    save(tmp_path / "ct", series())
    save(tmp_path / "us", [picture(GREY)])
    said = inspect_folder(tmp_path)["volumes"]
    assert [each["kind"] for each in said] == ["volume", "frames"]
    assert said[0].keys() == said[1].keys()
    assert said[1]["spacing_mm"] == [None, None, None]
    assert (said[1]["minimum"], said[1]["maximum"]) == (int(GREY.min()), int(GREY.max()))
    assert said[1]["median"] == np.median(GREY)


def test_ultrasound_is_no_volume(tmp_path: Path) -> None:
    (refusal,) = find_volumes(read_folder(save(tmp_path, [picture(tissue(5))])))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NO_GEOMETRY
    assert "only a model that works on frames takes them" in refusal.explanation


MM = pytest.approx((0.2, 0.2))

REGIONS: dict[str, tuple[list[Dataset], tuple[int, int, int, int] | None, object]] = {
    "inclusive ends": ([region((5, 3, 60, 40))], (3, 5, 41, 61), MM),
    "ends behind the last": ([region((5, 3, 70, 48))], (3, 5, 48, 70), MM),
    "beyond the matrix": ([region((5, 3, 90, 40))], (3, 5, 41, 70), None),
    "before the matrix": ([region((2**32 - 5, 3, 60, 40))], (3, 0, 41, 61), None),
    "swapped ends": ([region((60, 40, 5, 3))], (3, 5, 41, 61), MM),
    "y grows upwards": ([region((5, 3, 60, 40), PhysicalDeltaY=-0.02)], (3, 5, 41, 61), MM),
    "seconds": ([region((5, 3, 60, 40), PhysicalUnitsXDirection=4)], (3, 5, 41, 61), None),
    "no scale": ([region((5, 3, 60, 40), delta=None)], (3, 5, 41, 61), None),
    "absurd scale": ([region((5, 3, 60, 40), delta=1.5)], (3, 5, 41, 61), None),
    "far from square": ([region((5, 3, 60, 40), PhysicalDeltaX=0.08)], (3, 5, 41, 61), None),
    "an M-mode strip": ([region((5, 3, 60, 40), RegionSpatialFormat=2)], None, None),
    "a colour bar": ([region((5, 3, 60, 40), RegionDataType=13)], None, None),
    "colour flow": ([region((5, 3, 60, 40), RegionDataType=2)], None, None),
    "outside altogether": ([region((500, 3, 600, 40))], None, None),
    "no end": ([region((5, 3, 60, 40), RegionLocationMaxX1=None)], None, None),
    "low priority behind high": (
        [region((0, 0, 30, 30), RegionFlags=3), region((5, 3, 60, 40), RegionFlags=2)],
        (3, 5, 41, 61),
        MM,
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_a_tissue_region_is_clipped_and_its_scale_believed_or_not(name: str) -> None:
    items, box, spacing = REGIONS[name]
    read = read_regions(with_regions(Dataset(), *items), ROWS, COLUMNS)
    if box is None:
        assert read.found == ()
        return
    assert read.found[0].box == box
    assert read.found[0].spacing_mm == spacing
    assert read.spacing_mm == spacing


def test_what_is_put_right_is_noted() -> None:
    items = [region((5, 3, 90, 40)), region((60, 40, 5, 3)), region((5, 3, 60, 40), delta=1.5)]
    notes = " ".join(read_regions(with_regions(Dataset(), *items), ROWS, COLUMNS).notes)
    for words in ("its scale is not trusted", "wrong order", "not believed"):
        assert words in notes


def test_both_sides_of_a_split_screen_are_regions() -> None:
    items = [region((0, 0, 34, 47)), region((35, 0, 69, 47), delta=0.03)]
    read = read_regions(with_regions(Dataset(), *items), ROWS, COLUMNS)
    assert [one.spacing_mm for one in read.found] == [MM, pytest.approx((0.3, 0.3))]
    assert read.spacing_mm == MM


def test_pixel_spacing_counts_where_no_region_is_named() -> None:
    header = Dataset()
    header.PixelSpacing = [0.25, 0.2]
    assert read_regions(header, ROWS, COLUMNS).spacing_mm == (0.25, 0.2)
    header.PixelSpacing = [25, 20]
    assert read_regions(header, ROWS, COLUMNS).spacing_mm is None


def test_pixels_of_different_height_and_width_keep_their_axes() -> None:
    item = region((5, 3, 60, 40), PhysicalDeltaX=0.03, PhysicalDeltaY=0.02)
    (found,) = read_regions(with_regions(Dataset(), item), ROWS, COLUMNS).found
    assert found.spacing_mm == pytest.approx((0.2, 0.3))  # rows, then columns
