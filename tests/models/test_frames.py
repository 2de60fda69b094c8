"""Frames through a network: the right part is seen, and labels come back to their own pixels.

The network hands its input through, so the labels must be the native threshold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import SetupError
from node.imaging.content import content_box
from node.imaging.values import (
    FrameRegion,
    Frames,
    FramesPlan,
    InstanceFile,
    Outcome,
    Segmentation,
    SourceInstance,
)
from node.models.card import parse_card
from node.models.check import check_model
from node.models.fit import refusal_of
from node.models.frame_window import window_over
from node.models.frames import segment_frames
from node.models.loaded import LoadedModel, load_model
from node.models.parts import Network
from node.reasons import Reason
from tests.models.builders import CARD, DOCUMENT, UNKNOWN, make_volume, write_model
from tests.models.identity import identity_network

ROWS, COLUMNS = 90, 130
BOX = (11, 17, 75, 121)  # 64 x 104
NETWORK = """
[network]
architecture = "unet2d"
outputs = 2
widths = [2, 2, 2]
[head]
kind = "classes"
"""
STEPS = """
[[steps]]
step = "scale"
from = [0, 250]
to = [0, 1]
"""


def card_text(
    *, size: Sequence[int] = (64, 104), more: str = "", run: str = "", rest: str = ""
) -> str:
    middle = (
        f"[voxels]\nsize = {list(size)}\n{more}\n{STEPS}{NETWORK}"
        f'[inference]\nmode = "frames"\nbatch = 3\n{run}\n{rest}'
    )
    return CARD.format(name="frames", sha256="{sha256}", middle=middle).replace('"CT"', '"US"')


def model_of(folder: Path, **words: object) -> LoadedModel:
    network = identity_network(Network("unet2d", 1, 2, {"widths": (2, 2, 2)}))
    return load_model(
        write_model(folder, card_text(**words), network),  # type: ignore[arg-type]
        device="cpu",
        threads=1,
    )


def frames_of(
    array: NDArray[np.uint8],
    *regions: FrameRegion,
    spacing_mm: tuple[float, float] | None = None,
) -> Frames:
    header = Dataset()
    header.SOPInstanceUID = "2.25.1"
    first = regions[0].spacing_mm if regions else spacing_mm
    plan = FramesPlan(
        series_uid="2.25.2",
        study_uid="2.25.3",
        part=1,
        modality="US",
        shape=array.shape,
        spacing_mm=(None, *(first or (None, None))),
        units="grey",
        instance=SourceInstance(InstanceFile(Path("us.dcm")), header),
        frame_numbers=tuple(range(1, len(array) + 1)),
        regions=tuple(regions),
    )
    return Frames(plan, lambda indices: array[list(indices)])


def blobs(count: int = 5) -> NDArray[np.uint8]:
    """Return frames with a bright ellipse that wanders, and one that is brighter still outside."""
    r, c = np.indices((ROWS, COLUMNS))
    frames = np.full((count, ROWS, COLUMNS), 20, np.uint8)
    for index, frame in enumerate(frames):
        inside = ((r - 40 - index) / 14) ** 2 + ((c - 60 - 5 * index) / 25) ** 2 < 1
        frame[inside] = 220
        frame[:8, :12] = 255  # burned in, outside the tissue
    return frames


def dice(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum())


def test_the_documented_card_for_frames_is_a_card() -> None:
    (found,) = re.findall(r"```toml\n(\[accepts\].*?)```", DOCUMENT.read_text(), re.DOTALL)
    voxels = found[found.index("[voxels]") :]
    text = CARD.format(name="frames", sha256=UNKNOWN, middle=voxels + NETWORK)
    card = parse_card(text.replace('"CT"', '"US"'), Path("models/frames"))
    assert card.frames is not None
    assert (card.frames.crop, card.frames.every, card.frames.colour) == ("region", 1, False)
    assert (card.volumes, card.min_slices, card.voxels.units) == ("each", 1, "grey")


MISTAKES = {
    "no size": ("size = [64, 104]", "", "voxels.size"),
    "an unknown crop": ('ratio = "keep"', 'crop = "fan"', "one of region, content, image"),
    "distances": ('ratio = "keep"', "spacing_mm = [0, 1, 1]", "unknown key"),
    "neighbours": ("every = 1", "neighbours = 1", 'belongs to mode = "slices"'),
    "a median of two": ("every = 1", "temporal_median = 2", "must be 1 or 3"),
    "a slice mirror": ("every = 1", 'mirrors = ["slice"]', "no slice axis"),
    "tissue fractions": (
        'outputs = 2\nwidths = [2, 2, 2]\n[head]\nkind = "classes"',
        'outputs = 1\nwidths = [2, 2, 2]\n[head]\nkind = "occupancy"',
        "frames know classes and probability",
    ),
    "a model before it": (
        "every = 1",
        "[stage]\nmodel = 'lung-ct'\nlabels = [1]",
        "no model before it",
    ),
    "millilitres": (
        "every = 1",
        "[[quality.segments]]\nnumber = 1\nmin_ml = 3",
        "no volume in ml",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_needs_a_volume_is_a_mistake_in_a_card_for_frames(name: str) -> None:
    right, wrong, said = MISTAKES[name]
    text = card_text(more='ratio = "keep"', run="every = 1").replace("{sha256}", UNKNOWN)
    parse_card(text, Path("models/frames"))
    assert right in text
    with pytest.raises(SetupError) as caught:
        parse_card(text.replace(right, wrong), Path("models/frames"))
    assert said in caught.value.fault.what


def test_keys_of_frames_are_mistakes_in_other_cards() -> None:
    text = card_text(more='ratio = "keep"').replace("{sha256}", UNKNOWN)
    with pytest.raises(SetupError) as caught:
        parse_card(text.replace('mode = "frames"', 'mode = "slices"'), Path("models/frames"))
    assert "ratio: unknown key" in caught.value.fault.what


def test_a_card_for_frames_is_checked_and_its_sizes_are_judged(tmp_path: Path) -> None:
    write_model(tmp_path / "good", card_text())
    assert check_model(tmp_path / "good") == ()
    write_model(tmp_path / "bad", card_text(size=(63, 104)))
    (fault,) = check_model(tmp_path / "bad")
    assert "multiples of 4" in fault.what


def test_what_a_card_says_of_frames_is_part_of_its_digest() -> None:
    cards = [
        parse_card(card_text(**words).replace("{sha256}", UNKNOWN), Path("models/frames"))  # type: ignore[arg-type]
        for words in (
            {},
            {"run": "every = 2"},
            {"more": 'crop = "image"'},
            {"more": "colour = true"},
        )
    ]
    assert len({card.settings_digest for card in cards}) == 4


def test_a_window_of_the_size_of_the_crop_gives_every_pixel_back_exactly(tmp_path: Path) -> None:
    array = np.random.default_rng(3).integers(0, 250, (4, ROWS, COLUMNS)).astype(np.uint8)
    found = segment_frames(frames_of(array, FrameRegion(BOX, None)), model_of(tmp_path))
    wanted = np.zeros(array.shape, bool)
    top, left, bottom, right = BOX
    wanted[:, top:bottom, left:right] = array[:, top:bottom, left:right] / 250 > 0.5
    assert np.array_equal(found.labels > 0, wanted)


@pytest.mark.parametrize("corner", [(0, 0), (0, 103), (63, 0), (63, 103)])
def test_each_corner_pixel_of_the_crop_comes_back_to_itself(
    corner: tuple[int, int], tmp_path: Path
) -> None:
    array = np.zeros((1, ROWS, COLUMNS), np.uint8)
    array[0, BOX[0] + corner[0], BOX[1] + corner[1]] = 250
    found = segment_frames(frames_of(array, FrameRegion(BOX, None)), model_of(tmp_path))
    assert np.argwhere(found.labels).tolist() == [[0, BOX[0] + corner[0], BOX[1] + corner[1]]]


SIZES = {
    "half as large": ((32, 52), "keep"),
    "twice as large": ((128, 208), "keep"),
    "wider than the crop": ((64, 160), "keep"),
    "higher than the crop": ((160, 104), "keep"),
    "stretched": ((96, 96), "stretch"),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("spacing", [None, (0.2, 0.2), (0.3, 0.2)])
def test_labels_come_back_to_their_place_at_every_scale(
    name: str, spacing: tuple[float, float] | None, tmp_path: Path
) -> None:
    size, ratio = SIZES[name]
    array = blobs()
    model = model_of(tmp_path, size=size, more=f'ratio = "{ratio}"')
    found = segment_frames(frames_of(array, FrameRegion(BOX, spacing)), model)
    top, left, bottom, right = BOX
    inside = np.zeros(array.shape, bool)
    inside[:, top:bottom, left:right] = True
    wanted = (array > 125) & inside
    assert not (found.labels.astype(bool) & ~inside).any()
    for labels, truth in zip(found.labels > 0, wanted, strict=True):
        assert dice(labels, truth) > 0.97
        apart = np.argwhere(labels).mean(axis=0) - np.argwhere(truth).mean(axis=0)
        assert np.abs(apart).max() < 0.1  # pixels: no half-pixel shift


def test_the_ratio_of_millimetres_is_kept_where_they_are_known(tmp_path: Path) -> None:
    card = model_of(tmp_path, size=(64, 104)).card
    square = window_over(BOX, (0.2, 0.2), card)
    flat = window_over(BOX, (0.4, 0.2), card)  # rows lie twice as far apart as columns
    assert square.rows.ratio == square.columns.ratio == 1
    assert flat.columns.ratio == pytest.approx(2 * flat.rows.ratio)
    assert flat.rows.model_count * flat.rows.ratio >= BOX[2] - BOX[0]
    assert window_over(BOX, None, card).rows.ratio == 1


def test_a_mirrored_pass_is_brought_back(tmp_path: Path) -> None:
    array = blobs(1)
    plain = segment_frames(frames_of(array, FrameRegion(BOX, None)), model_of(tmp_path / "plain"))
    mirrored = segment_frames(
        frames_of(array, FrameRegion(BOX, None)),
        model_of(tmp_path / "mirrored", run='mirrors = ["row", "column"]'),
    )
    assert np.array_equal(plain.labels, mirrored.labels)


def test_every_second_frame_leaves_the_others_empty(tmp_path: Path) -> None:
    frames = frames_of(blobs(5), FrameRegion(BOX, None))
    found = segment_frames(frames, model_of(tmp_path, run="every = 2"))
    assert found.labels.any(axis=(1, 2)).tolist() == [True, False, True, False, True]
    assert found.runtime["frames"] == "3 of 5"


def test_a_flicker_of_one_frame_goes_by_the_median_of_three(tmp_path: Path) -> None:
    array = np.repeat(blobs(1), 6, axis=0)
    array[3][array[3] == 220] = 20  # the ellipse is gone for a moment
    frames = frames_of(array, FrameRegion(BOX, None))
    plain = segment_frames(frames, model_of(tmp_path / "plain"))
    calm = segment_frames(frames, model_of(tmp_path / "calm", run="temporal_median = 3"))
    assert plain.labels.any(axis=(1, 2)).tolist() == [True, True, True, False, True, True]
    assert all(np.array_equal(one, calm.labels[0]) for one in calm.labels)
    assert np.array_equal(calm.labels[0], plain.labels[0])


def areas(found: Segmentation) -> list[tuple[int | None, float]]:
    return [(one.frame, one.value) for one in found.measurements]


def test_areas_are_given_per_frame_where_pixels_have_a_size(tmp_path: Path) -> None:
    array = blobs(3)
    array[1] = 20
    model = model_of(tmp_path)
    found = segment_frames(frames_of(array, FrameRegion(BOX, (0.3, 0.2))), model)
    counts = found.labels.sum(axis=(1, 2))
    assert areas(found) == [
        (1, pytest.approx(counts[0] * 0.06)),
        (3, pytest.approx(counts[2] * 0.06)),
    ]
    assert found.measurements[0].unit.value == "mm2"
    assert not areas(segment_frames(frames_of(array, FrameRegion(BOX, None)), model))
    assert not areas(segment_frames(frames_of(array), model))


def test_no_area_is_given_for_labels_beyond_what_is_calibrated(tmp_path: Path) -> None:
    array = blobs(1)
    calibrated = FrameRegion((11, 17, 40, 60), (0.2, 0.2))  # a part of the ellipse
    model = model_of(tmp_path, size=(92, 132), more='crop = "image"')
    found = segment_frames(frames_of(array, calibrated), model)
    assert found.labels.any()
    assert areas(found) == []
    whole = segment_frames(frames_of(array, spacing_mm=(0.2, 0.2)), model)
    assert areas(whole) == [(1, pytest.approx(whole.labels.sum() * 0.04))]


def test_a_split_screen_is_seen_side_by_side(tmp_path: Path) -> None:
    array = blobs(1)
    left, right = FrameRegion((11, 0, 75, 60), None), FrameRegion((11, 60, 75, 130), None)
    sides = {}
    for choice in ("first", "largest", "each"):
        model = model_of(tmp_path / choice, size=(64, 72), more=f'regions = "{choice}"')
        found = segment_frames(frames_of(array, left, right), model).labels[0]
        sides[choice] = (bool(found[:, :60].any()), bool(found[:, 60:].any()))
    assert sides == {"first": (True, False), "largest": (False, True), "each": (True, True)}


def test_each_frame_is_cleaned_for_itself(tmp_path: Path) -> None:
    array = blobs(2)
    array[:, 20:24, 100:104] = 220  # a second, smaller piece on both frames
    rest = '[[postprocess]]\nstep = "keep_largest"\nlabels = [1]\n'
    found = segment_frames(frames_of(array, FrameRegion(BOX, None)), model_of(tmp_path, rest=rest))
    assert not found.labels[:, 20:24, 100:104].any()
    assert found.labels.any(axis=(1, 2)).all()
    assert found.verdict.outcome is Outcome.ACCEPT


def test_an_empty_cine_asks_a_person_where_the_card_says_so(tmp_path: Path) -> None:
    rest = '[[quality.segments]]\nnumber = 1\nwhen_empty = "reject"\n'
    array = np.full((2, ROWS, COLUMNS), 9, np.uint8)
    found = segment_frames(frames_of(array), model_of(tmp_path, rest=rest))
    assert found.verdict.outcome is Outcome.REJECT
    assert found.verdict.reasons == ("Thing is on no frame.",)


def test_a_cine_is_read_a_batch_at_a_time(tmp_path: Path) -> None:
    array = blobs(8)
    asked: list[int] = []

    def read(indices: Sequence[int]) -> NDArray[np.uint8]:
        asked.append(len(indices))
        return array[list(indices)]

    plan = frames_of(array, FrameRegion(BOX, None)).plan
    segment_frames(Frames(plan, read), model_of(tmp_path))
    assert asked == [3, 3, 2]


def test_statistics_are_those_of_each_frame(tmp_path: Path) -> None:
    array = blobs(2)
    array[1] = array[1] // 3  # less gain
    text = card_text().replace(STEPS, '[[steps]]\nstep = "percentiles"\nlow = 1\nhigh = 99\n')
    network = identity_network(Network("unet2d", 1, 2, {"widths": (2, 2, 2)}))
    model = load_model(write_model(tmp_path, text, network), device="cpu", threads=1)
    found = segment_frames(frames_of(array, FrameRegion(BOX, None)), model)
    for labels, truth in zip(found.labels > 0, (array[0] > 125, array[1] > 40), strict=True):
        truth[:8, :12] = False
        assert dice(labels, truth) > 0.99


def test_a_model_for_frames_refuses_a_volume(tmp_path: Path) -> None:
    card = write_model(tmp_path, card_text())
    refusal = refusal_of(make_volume(np.zeros((5, 8, 8), np.int16), units="grey"), card)
    assert refusal is not None
    assert refusal.reason is Reason.NOT_FRAMES


def test_a_picture_is_found_among_text_and_scales() -> None:
    rng = np.random.default_rng(5)
    array = np.zeros((6, ROWS, COLUMNS), np.uint8)
    array[:, 20:70, 30:100] = rng.integers(30, 200, (6, 50, 70))
    array[:, 5:9, 5:60:3] = 255  # text
    array[:, 10:80:5, 125:128] = 255  # a scale
    for frames in (array, array[:1]):
        top, left, bottom, right = content_box(frames_of(frames))
        assert np.abs(np.array([top, left, bottom, right]) - (20, 30, 70, 100)).max() <= 3
    assert content_box(frames_of(np.zeros((2, ROWS, COLUMNS), np.uint8))) == (0, 0, ROWS, COLUMNS)


def test_a_card_without_a_region_falls_back_to_the_content(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    array = np.zeros((6, ROWS, COLUMNS), np.uint8)
    array[:, 20:70, 30:100] = rng.integers(130, 240, (6, 50, 70))
    array[:, 1:8:2, 2:60:4] = 255  # text, as bright as the tissue
    found = segment_frames(frames_of(array), model_of(tmp_path, size=(64, 80)))
    assert found.labels[:, 24:66, 34:96].all()
    assert not found.labels[:, :10].any()
