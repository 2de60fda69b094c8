"""What a card sets for its input is asked before any pixel is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.imaging.read import read_folder
from node.imaging.values import InstanceFile, Outcome, Refusal
from node.models.loaded import load_model
from node.reasons import Reason
from node.results.write import NodeFacts
from node.worker.segmenting import Part, Progress, Segmented, segment_files
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
