"""Ultrasound phantoms: the truth fits the picture, and stages 6 to 8 find it again."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray

from node.imaging.content import tissue_box
from node.imaging.frame_reader import open_frames
from node.imaging.images import find_images
from node.imaging.read import read_folder
from node.imaging.values import FramesPlan, Refusal
from node.models.loaded import load_model
from node.phantom.pixels import Syntax
from node.phantom.study import make_study
from node.phantom.ultrasound import NERVE, Look, Screen, UltrasoundStudy, make_ultrasound
from node.reasons import Reason
from node.results.reader import read_frames_segmentation
from node.results.write import NodeFacts
from node.worker.segmenting import MadeBefore, Part, Progress, Segmented, segment_files
from tests.models.builders import CARD, VOXELS, write_model
from tests.models.frame_models import write_bright_model

NODE = NodeFacts(name="test", version="0")


def written(folder: Path, study: UltrasoundStudy) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, instance in enumerate(study.instances):
        (folder / f"{number}.dcm").write_bytes(instance.data)
    return folder


def plans_of(folder: Path) -> list[FramesPlan]:
    found = find_images(read_folder(folder))
    assert all(isinstance(one, FramesPlan) for one in found), found
    return [one for one in found if isinstance(one, FramesPlan)]


def dice(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum())


def segmented(folder: Path, model: Path, *, more: str = "", run: str = "") -> tuple[Part, ...]:
    card = write_bright_model(model, more=more, run=run)
    loaded = load_model(card, device="cpu", threads=1)
    return segment_files(read_folder(folder), loaded, NODE, Progress(lambda *_: None))


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    one, same, other = (make_ultrasound(seed) for seed in (3, 3, 4))
    assert [each.data for each in one.instances] == [each.data for each in same.instances]
    assert one.instances[0].data != other.instances[0].data


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_lies_where_the_picture_is_bright(seed: int, tmp_path: Path) -> None:
    study = make_ultrasound(seed)
    (plan,) = plans_of(written(tmp_path, study))
    with open_frames(plan, colour_accepted=False) as frames:
        grey = frames.read(range(plan.shape[0]))
    nerve = study.labels[0] == NERVE
    assert plan.regions[0].box == study.screen.box
    assert plan.spacing_mm == (None, pytest.approx(0.2), pytest.approx(0.2))
    assert grey[nerve].mean() > 3 * np.median(grey[0, 40:150, 30:200])
    area = nerve.sum(axis=(1, 2)).mean() * 0.04
    assert area == pytest.approx(study.nerve_mm2, rel=0.02)


SCREENS = {
    "grey": Screen(),
    "colour, run lengths": Screen(look=Look.COLOUR, syntax=Syntax.RLE),
    "no region": Screen(region=False),
    "longer than high": Screen(pixel_mm=(0.3, 0.2)),
    "with stills": Screen(shape=(5, 180, 240), stills=2),
}


@pytest.mark.parametrize("name", SCREENS)
def test_the_nerve_is_found_on_its_pixels_of_every_frame(name: str, tmp_path: Path) -> None:
    study = make_ultrasound(7, SCREENS[name])
    parts = segmented(written(tmp_path / "study", study), tmp_path / "model")
    assert len(parts) == len(study.instances)
    plans = plans_of(tmp_path / "study")
    for part, plan, truth in zip(parts, plans, study.labels, strict=True):
        assert isinstance(part, Segmented), part
        (result,) = part.results
        labels = read_frames_segmentation(result.data, plan)
        for found, wanted in zip(labels == NERVE, truth == NERVE, strict=True):
            assert dice(found, wanted) > 0.9
        assert len(part.pictures) == plan.shape[0]
        areas = [one.value for one in part.answer.measurements]
        if name == "no region":
            assert areas == []
        else:
            assert np.mean(areas) == pytest.approx(study.nerve_mm2, rel=0.15)


def test_what_is_shown_to_people_is_the_tissue_without_the_name_plate(tmp_path: Path) -> None:
    boxes = {}
    for name, screen in (("region", Screen()), ("content", Screen(region=False))):
        (plan,) = plans_of(written(tmp_path / name, make_ultrasound(9, screen)))
        with open_frames(plan, colour_accepted=False) as frames:
            boxes[name] = tissue_box(frames)
    top, left, bottom, right = Screen().box
    assert boxes["region"] == (top, left, bottom, right)
    assert np.abs(np.subtract(boxes["content"], boxes["region"])).max() <= 4
    assert boxes["content"][0] > 15  # the last row of the name plate is 14
    assert boxes["content"][3] < right + 6  # where the scale begins


def test_another_reader_finds_the_nerve_on_the_right_frames(tmp_path: Path) -> None:
    study = make_ultrasound(8, Screen(shape=(9, 180, 240)))
    (part,) = segmented(written(tmp_path / "study", study), tmp_path / "model", run="every = 4")
    assert isinstance(part, Segmented), part
    path = tmp_path / "result.dcm"
    path.write_bytes(part.results[0].data)
    seg = highdicom.seg.segread(path)
    read = seg.get_pixels_by_source_frame(
        study.instances[0].sop_instance_uid,
        range(1, 10),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert read.any(axis=(1, 2)).tolist() == [True, *[False] * 3, True, *[False] * 3, True]
    for index in (0, 4, 8):
        assert dice(read[index] == NERVE, study.labels[0][index] == NERVE) > 0.9


def test_doppler_is_refused_by_a_model_that_knows_grey_alone(tmp_path: Path) -> None:
    study = make_ultrasound(7, Screen(shape=(3, 180, 240), look=Look.DOPPLER))
    folder = written(tmp_path / "study", study)
    (refusal,) = segmented(folder, tmp_path / "model")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.COLOURED
    assert refusal.instances == (study.instances[0].sop_instance_uid,)
    (part,) = segmented(folder, tmp_path / "accepting", more="colour = true")
    assert isinstance(part, Segmented)


def test_a_model_for_frames_refuses_a_volume_and_one_for_volumes_frames(tmp_path: Path) -> None:
    ct = make_study(5)
    (tmp_path / "ct").mkdir()
    for number, instance in enumerate(ct.images):
        (tmp_path / "ct" / f"{number}.dcm").write_bytes(instance.data)
    (refusal,) = segmented(tmp_path / "ct", tmp_path / "frames")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NOT_FRAMES

    written(tmp_path / "us", make_ultrasound(5, Screen(shape=(4, 180, 240))))
    middle = (
        VOXELS.format(orientation="native", spacing=[0, 0, 0], more="")
        + '[network]\narchitecture = "unet2d"\noutputs = 2\nwidths = [2, 2]\n'
        + '[inference]\nmode = "slices"\n[head]\nkind = "classes"\n'
    )
    text = CARD.format(name="volumes", sha256="{sha256}", middle=middle).replace('"CT"', '"US"')
    model = load_model(write_model(tmp_path / "volumes", text), device="cpu", threads=1)
    (refusal,) = segment_files(read_folder(tmp_path / "us"), model, NODE, Progress(lambda *_: None))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.NO_GEOMETRY
    assert "works on volumes" in refusal.explanation


def test_a_result_that_exists_is_not_made_again(tmp_path: Path) -> None:
    folder = written(tmp_path / "study", make_ultrasound(7, Screen(shape=(3, 180, 240), stills=1)))
    model = load_model(write_bright_model(tmp_path / "model"), device="cpu", threads=1)
    tell = Progress(lambda *_: None)
    first = segment_files(read_folder(folder), model, NODE, tell)
    keys = {part.results[0].key for part in first if isinstance(part, Segmented)}
    assert len(keys) == 2
    again = segment_files(read_folder(folder), model, NODE, tell, exists=keys.__contains__)
    assert {key for part in again if isinstance(part, MadeBefore) for key in part.keys} == keys


def test_a_still_that_is_cut_short_is_refused_beside_its_cine(tmp_path: Path) -> None:
    study = make_ultrasound(7, Screen(shape=(3, 180, 240), stills=1))
    folder = written(tmp_path / "study", study)
    (folder / "1.dcm").write_bytes(study.instances[1].data[:-2000])
    refusal, part = segmented(folder, tmp_path / "model")
    assert isinstance(part, Segmented)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.TRUNCATED_FRAME
