"""Steps on single frames: in pixels anywhere, in millimetres only where the image has a scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.errors import SetupError
from node.imaging.values import FrameRegion, FramesPlan, Refusal
from node.models.card import Card, parse_card
from node.models.frame_cleaning import FrameCleaner
from node.models.frame_scale import pixel_sizes, refusal_of_frames
from node.models.frame_window import frame_windows, window_over
from node.models.frames import segment_frames
from node.models.parts import Close, DropSmall, KeepLargest, PostStep
from node.reasons import Reason
from tests.models.builders import UNKNOWN, documented_card
from tests.models.test_frames import BOX, COLUMNS, ROWS, card_text, frames_of, model_of

Plane = NDArray[np.uint8]
Scale = tuple[float, float] | None
LEFT, RIGHT = (0, 0, ROWS, 60), (0, 60, ROWS, COLUMNS)


def card_with(rest: str = "", *, more: str = "") -> Card:
    return parse_card(
        card_text(rest=rest, more=more).replace("{sha256}", UNKNOWN), Path("models/frames")
    )


def cleaned(
    plane: Plane, *steps: PostStep, crops: Sequence[tuple[tuple[int, int, int, int], Scale]]
) -> Plane:
    card = card_with()
    windows = [window_over(box, scale, card) for box, scale in crops]
    frame = plane[None].copy()
    removed = FrameCleaner(steps, windows, plane.shape).clean(frame)
    assert removed == np.count_nonzero((plane != 0) & (frame[0] == 0))
    return frame[0]


def empty() -> Plane:
    return np.zeros((ROWS, COLUMNS), np.uint8)


WHOLE = (0, 0, ROWS, COLUMNS)


def test_small_pieces_go_by_pixels_and_one_of_just_that_size_stays() -> None:
    plane = empty()
    plane[10:13, 10:13] = 1  # 9
    plane[30:32, 30:34] = 1  # 8
    plane[50, 50:52] = plane[51, 52] = 1  # 3, joined at a corner
    for least, left in ((3, 20), (4, 17), (8, 17), (9, 9), (10, 0)):
        done = cleaned(plane, DropSmall((1,), 0.0, min_px=least), crops=[(WHOLE, None)])
        assert np.count_nonzero(done) == left


def test_small_pieces_go_by_the_diameter_of_a_disc_of_their_area() -> None:
    plane = empty()
    plane[10:20, 10:20] = 1  # 100 pixels of 0.2 x 0.3 mm: 6 mm2
    same = 2 * math.sqrt(6 / math.pi)
    crops = [(WHOLE, (0.2, 0.3))]
    assert cleaned(plane, DropSmall((1,), 0.0, min_mm=same - 0.01), crops=crops).any()
    assert not cleaned(plane, DropSmall((1,), 0.0, min_mm=same + 0.01), crops=crops).any()


def test_closing_is_round_in_millimetres_and_in_pixels() -> None:
    plane = empty()
    plane[20:60, 20:50] = 1
    plane[20:60, 33:37] = 0  # four columns apart
    plane[38:42, 20:50] = 0  # four rows apart
    narrow = cleaned(plane, Close((1,), 0.5), crops=[(WHOLE, (0.5, 0.2))])
    assert narrow[30, 33:37].all()  # 0.8 mm of columns close, 2 mm of rows do not
    assert not narrow[39:41, 28].any()
    wide = cleaned(plane, Close((1,), 0.0, radius_px=3), crops=[(WHOLE, None)])
    assert wide[26:54, 26:44].all()  # the ends of the cuts stay dented, as a disc leaves them
    assert np.array_equal(
        cleaned(plane, Close((1,), 0.0, radius_px=1), crops=[(WHOLE, None)]), plane
    )


def test_closing_takes_no_other_label_and_leaves_the_border_alone() -> None:
    plane = empty()
    plane[20:60, 0:10] = 1
    plane[30:50, 2:6] = 0
    plane[38:40, 3:5] = 2
    done = cleaned(plane, Close((1,), 0.0, radius_px=12), crops=[(WHOLE, None)])
    assert (done == 2).sum() == 4
    assert (done[20:60, 0:10] != 0).all()
    assert np.count_nonzero(done) == 400
    edge = empty()
    edge[20:40, 3:9] = 1  # a disc that would reach over the border fills nothing there
    assert np.array_equal(cleaned(edge, Close((1,), 0.0, radius_px=6), crops=[(WHOLE, None)]), edge)
    cut = empty()
    cut[20:30, :20] = cut[34:44, :20] = 1
    done = cleaned(cut, Close((1,), 0.0, radius_px=3), crops=[(WHOLE, None)])
    assert done[30:34, 8:12].all()
    assert not done[31:33, 0].any()  # beyond the border lies background, not more of the same


def test_each_side_of_a_split_screen_is_measured_by_its_own_scale() -> None:
    plane = empty()
    plane[10:20, 10:20] = plane[10:20, 80:90] = 1
    step = DropSmall((1,), 0.0, min_mm=2.0)
    done = cleaned(plane, step, crops=[(LEFT, (0.1, 0.1)), (RIGHT, (0.4, 0.4))])
    assert not done[:, :60].any()  # 1.1 mm across
    assert done[:, 60:].sum() == 100  # 4.5 mm across


def test_nothing_is_bridged_from_one_side_of_a_split_screen_to_the_other() -> None:
    plane = empty()
    plane[10:40, 50:58] = plane[10:40, 62:70] = 1
    apart = cleaned(plane, Close((1,), 0.0, radius_px=4), crops=[(LEFT, None), (RIGHT, None)])
    assert not apart[:, 58:62].any()
    assert cleaned(plane, Close((1,), 0.0, radius_px=4), crops=[(WHOLE, None)])[16:34, 58:62].all()


def test_a_pixel_that_two_crops_cover_is_the_first_ones() -> None:
    plane = empty()
    plane[10:20, 40:60] = 1
    step = DropSmall((1,), 0.0, min_px=100)
    wide, over = (0, 0, ROWS, 70), (0, 55, ROWS, COLUMNS)
    assert cleaned(plane, step, crops=[(wide, None), (over, None)]).sum() == 200
    assert cleaned(plane, step, crops=[(over, None), (wide, None)]).sum() == 150


def test_steps_keep_their_order() -> None:
    plane = empty()
    plane[10:20, 10:20] = plane[10:20, 23:29] = plane[50:63, 60:70] = 1
    close, keep = (
        Close((1,), 0.0, radius_px=3),
        KeepLargest((1,), joint=False, count=1, also_over=1),
    )
    crops = [(WHOLE, None)]
    assert cleaned(plane, close, keep, crops=crops)[12, 25]
    assert cleaned(plane, keep, close, crops=crops)[55, 65]


DROP_MM = '[[postprocess]]\nstep = "drop_small"\nlabels = [1]\nmin_mm = 1\n'
CLOSE_MM = '[[postprocess]]\nstep = "close"\nlabels = [1]\nradius_mm = 1\n'
CLOSE_PX = '[[postprocess]]\nstep = "close"\nlabels = [1]\nradius_px = 3\n'


def plan_with(*regions: FrameRegion, spacing_mm: Scale = None) -> FramesPlan:
    return frames_of(np.zeros((2, ROWS, COLUMNS), np.uint8), *regions, spacing_mm=spacing_mm).plan


@pytest.mark.parametrize("rest", [DROP_MM, CLOSE_MM])
def test_millimetres_without_a_scale_are_refused_with_what_to_do(rest: str) -> None:
    card = card_with(rest)
    for plan in (plan_with(FrameRegion(BOX, None)), plan_with()):
        refused = refusal_of_frames(plan, card)
        assert isinstance(refused, Refusal)
        assert refused.reason is Reason.NOT_CALIBRATED
        assert "postprocess[1] of frames is in millimetres" in refused.explanation
        assert "Give the step in pixels" in refused.explanation
    assert refusal_of_frames(plan_with(FrameRegion(BOX, (0.2, 0.2))), card) is None
    assert refusal_of_frames(plan_with(spacing_mm=(0.2, 0.2)), card) is None
    assert refusal_of_frames(plan_with(), card_with(CLOSE_PX)) is None


def test_a_scale_counts_for_what_the_card_looks_at() -> None:
    known, other = FrameRegion(LEFT, (0.2, 0.2)), FrameRegion(RIGHT, None)
    plan = plan_with(known, other)
    sizes = {
        more: pixel_sizes(plan, grid)
        for more in ("", 'regions = "each"', 'regions = "largest"', 'crop = "image"')
        if (grid := card_with(more=more).frames)
    }
    assert sizes == {
        "": ((0.2, 0.2),),
        'regions = "each"': ((0.2, 0.2), None),
        'regions = "largest"': (None,),
        'crop = "image"': (None,),  # nothing says it of the other side
    }


def test_windows_have_the_scale_that_the_refusal_goes_by() -> None:
    regions = FrameRegion(LEFT, (0.2, 0.2)), FrameRegion(RIGHT, (0.3, 0.4))
    for more in ("", 'regions = "each"', 'regions = "largest"', 'crop = "image"'):
        frames = frames_of(np.zeros((2, ROWS, COLUMNS), np.uint8), *regions, spacing_mm=(0.2, 0.2))
        card = card_with(more=more)
        assert card.frames is not None
        windows = frame_windows(frames, card)
        assert tuple(one.spacing_mm for one in windows) == pixel_sizes(frames.plan, card.frames)


def test_the_whole_way_drops_and_closes(tmp_path: Path) -> None:
    array = np.full((2, ROWS, COLUMNS), 20, np.uint8)
    array[:, 30:50, 40:70] = 220
    array[:, 38:41, 40:70] = 20
    array[:, 60:62, 90:92] = 220
    rest = CLOSE_MM + DROP_MM
    frames = frames_of(array, FrameRegion(BOX, (0.5, 0.5)))
    found = segment_frames(frames, model_of(tmp_path, rest=rest)).labels
    assert found[:, 30:50, 44:66].all()  # what lay between is closed
    assert found[:, 60:62, 90:92].all()  # 1.1 mm across
    assert not found[:, :30].any()
    assert not found[:, 50:60].any()
    larger = model_of(tmp_path / "larger", rest=rest.replace("min_mm = 1", "min_mm = 1.2"))
    found = segment_frames(frames, larger).labels
    assert found[:, 30:50, 44:66].all()
    assert not found[:, 60:62, 90:92].any()
    with pytest.raises(ValueError, match="no scale"):
        segment_frames(frames_of(array, FrameRegion(BOX, None)), larger)


STEP = '[[postprocess]]\nstep = "{step}"\nlabels = [1]\n{keys}\n'
MISTAKES = {
    "no size": ("drop_small", "", "one of min_ml (volume), min_mm (diameter) and min_px"),
    "two sizes": ("drop_small", "min_px = 3\nmin_mm = 1", "one of min_ml"),
    "millilitres": ("drop_small", "min_ml = 1", "has no volume; give min_px or min_mm"),
    "no radius": ("close", "", "one of radius_mm and radius_px"),
    "two radii": ("close", "radius_px = 3\nradius_mm = 1", "one of radius_mm and radius_px"),
    "a size that all pieces have": ("drop_small", "min_px = 1", "a whole number from 2"),
    "no millimetre at all": ("drop_small", "min_mm = 0", "a number from 0.001"),
    "a radius of less than a pixel": ("close", "radius_px = 0.9", "a number from 1 to"),
    "sides": ("restrict_to", 'how = "touch"', "frames know keep_largest, drop_small"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_step_on_frames_cannot_say_is_a_mistake(name: str) -> None:
    step, keys, said = MISTAKES[name]
    with pytest.raises(SetupError) as caught:
        card_with(STEP.format(step=step, keys=keys))
    assert said in caught.value.fault.what


@pytest.mark.parametrize(
    ("step", "keys", "said"),
    [
        ("drop_small", "min_px = 3", "min_px belongs to frames"),
        ("close", "radius_px = 3", "radius_px belongs to frames"),
    ],
)
def test_pixels_are_a_mistake_in_a_card_for_volumes(step: str, keys: str, said: str) -> None:
    text = documented_card() + STEP.format(step=step, keys=keys)
    with pytest.raises(SetupError) as caught:
        parse_card(text, Path("models/lung-ct"))
    assert said in caught.value.fault.what


def test_what_a_step_says_in_pixels_is_part_of_the_digest() -> None:
    texts = ("", CLOSE_PX, CLOSE_PX.replace("3", "4"), CLOSE_MM, DROP_MM)
    assert len({card_with(text).settings_digest for text in texts}) == len(texts)
