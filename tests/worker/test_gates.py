"""What a card sets for its input is asked before any pixel is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import SetupError
from node.imaging.read import read_folder
from node.imaging.values import InstanceFile, Outcome, Refusal
from node.models.card import parse_card
from node.models.check import check_model
from node.models.loaded import load_model
from node.reasons import Reason
from node.results.write import NodeFacts
from node.worker.segmenting import Part, Progress, Segmented, segment_files
from tests.imaging.build import save
from tests.imaging.ultrasound_files import picture, region, tissue, with_regions
from tests.models.builders import documented_card
from tests.models.frame_models import write_bright_model
from tests.models.handing import write_handing
from tests.results.build import build_volume


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[InstanceFile, ...]:
    """Six slices 2.5 mm apart, 3 mm thick, pixels of 0.7 x 0.9 mm."""
    folder = tmp_path_factory.mktemp("source")
    build_volume(folder)
    return tuple(read_folder(folder))


def run(folder: Path, files: tuple[InstanceFile, ...], quality: str) -> Part:
    model = load_model(write_handing(folder, more=quality), device="cpu", threads=1)
    (part,) = segment_files(files, model, NodeFacts("n", "1"), Progress(lambda *_: None))
    return part


GRID = "[quality.input]\noutside = '{outside}'\n{limit}\n"


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("slice_mm = [0.5, 2.0]", "Slices lie 2.5 mm apart, expected are 0.5 to 2 mm."),
        ("pixel_mm = [0.4, 0.8]", "Pixels are 0.7 x 0.9 mm"),
        ("slices = [10, 900]", "There are 6 slices, expected are 10 to 900."),
    ],
)
def test_a_grid_outside_the_limits_is_told_or_refused(
    tmp_path: Path, files: tuple[InstanceFile, ...], limit: str, said: str
) -> None:
    part = run(tmp_path / "review", files, GRID.format(outside="review", limit=limit))
    assert isinstance(part, Segmented)
    assert part.answer.verdict.outcome is Outcome.REVIEW
    assert any(said in reason for reason in part.answer.verdict.reasons)
    refused = run(tmp_path / "reject", files, GRID.format(outside="reject", limit=limit))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.INPUT_REJECTED
    assert said in refused.explanation
    assert "handing did not run" in refused.explanation


def test_a_header_is_asked_before_pixels(tmp_path: Path, files: tuple[InstanceFile, ...]) -> None:
    thin = "[quality.input.review]\nSliceThickness = { at_most = 2 }\n"
    part = run(tmp_path / "review", files, thin)
    assert isinstance(part, Segmented)
    assert "SliceThickness is '3', wanted at most 2." in part.answer.verdict.reasons
    refused = run(tmp_path / "reject", files, thin.replace("review", "reject"))
    assert isinstance(refused, Refusal)
    good = run(tmp_path / "good", files, thin.replace("at_most = 2", "at_most = 3"))
    assert isinstance(good, Segmented)
    assert good.answer.verdict.outcome is Outcome.ACCEPT


FRAMES = "[quality.input]\noutside = '{outside}'\n{limit}\n"


def run_frames(folder: Path, quality: str, *, calibrated: bool = True, frames: int = 3) -> Part:
    cine = picture(tissue(frames))
    if calibrated:
        with_regions(cine, region((5, 4, 64, 43), delta=0.02))  # 0.2 mm
    card = write_bright_model(folder / "model", run=quality)
    model = load_model(card, device="cpu", threads=1)
    files = read_folder(save(folder / "cine", [cine]))
    (part,) = segment_files(files, model, NodeFacts("n", "1"), Progress(lambda *_: None))
    return part


@pytest.mark.parametrize(
    ("limit", "calibrated", "said"),
    [
        ("pixel_mm = [0.05, 0.15]", True, "Pixels are 0.2 x 0.2 mm, expected are 0.05 to 0.15"),
        ("pixel_mm = [0.05, 0.5]", False, "Nothing says reliably how large a pixel is"),
        ("frames = [10, 900]", True, "The number of frames is 3, expected are 10 to 900."),
    ],
)
def test_the_limits_of_a_card_for_frames_hold(
    tmp_path: Path, limit: str, calibrated: bool, said: str
) -> None:
    part = run_frames(
        tmp_path / "review", FRAMES.format(outside="review", limit=limit), calibrated=calibrated
    )
    assert isinstance(part, Segmented)
    assert part.answer.verdict.outcome is Outcome.REVIEW
    assert any(said in reason for reason in part.answer.verdict.reasons)
    refused = run_frames(
        tmp_path / "reject", FRAMES.format(outside="reject", limit=limit), calibrated=calibrated
    )
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.INPUT_REJECTED
    assert said in refused.explanation


def test_frames_inside_the_limits_are_not_told(tmp_path: Path) -> None:
    limits = FRAMES.format(outside="reject", limit="pixel_mm = [0.1, 0.3]\nframes = [1, 3]")
    assert isinstance(run_frames(tmp_path / "inside", limits), Segmented)
    free = FRAMES.format(outside="reject", limit="")
    assert isinstance(run_frames(tmp_path / "free", free, calibrated=False), Segmented)


def test_a_step_in_millimetres_keeps_the_model_from_frames_without_a_scale(tmp_path: Path) -> None:
    step = '[[postprocess]]\nstep = "close"\nlabels = [1]\nradius_mm = 0.6\n'
    refused = run_frames(tmp_path / "bare", step, calibrated=False)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.NOT_CALIBRATED
    assert isinstance(run_frames(tmp_path / "scaled", step), Segmented)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("slice_mm = [0.5, 2]", "quality.input.slice_mm: frames are no slices"),
        ("slices = [1, 40]", "quality.input.slices: frames are counted by frames ="),
    ],
)
def test_limits_that_frames_do_not_have_are_mistakes(tmp_path: Path, limit: str, said: str) -> None:
    card = write_bright_model(tmp_path)
    text = card.text + FRAMES.format(outside="review", limit=limit)
    (tmp_path / "card.toml").write_text(text)
    (fault,) = check_model(tmp_path)
    assert said in fault.what


def test_a_number_of_frames_is_a_mistake_in_a_card_for_volumes() -> None:
    text = documented_card() + FRAMES.format(outside="review", limit="frames = [1, 40]")
    with pytest.raises(SetupError) as caught:
        parse_card(text, Path("models/lung-ct"))
    assert "quality.input.frames: belongs to frames" in caught.value.fault.what
