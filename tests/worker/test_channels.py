"""A model that sees two registered series: both are chosen by the card, referenced and keyed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import SetupError
from node.imaging.read import read_folder
from node.imaging.values import Refusal, Segmentation
from node.models.loaded import LoadedModel, load_model
from node.reasons import Reason
from node.results.write import NodeFacts
from node.worker.segmenting import Part, Progress, Segmented, segment_files
from tests.imaging.build import DX, DY, edited, place, save, series
from tests.models.builders import write_model
from tests.models.handing import write_handing
from tests.models.identity import identity_network

SECOND = """
[[channels]]
name = "second"
units = "HU"
background = -1024
[channels.accepts]
SeriesDescription = "second"
[[channels.steps]]
step = "scale"
from = [0, 1000]
to = [0, 1]
[[channels.steps]]
step = "clip"
low = 0
high = 1
"""


def two_channels(folder: Path, more: str = SECOND) -> LoadedModel:
    """Return a model that labels what is over 500 in either series."""
    card = write_handing(folder, name="both")
    text = card.text.replace(card.weights.sha256, "{sha256}")
    text = text.replace("outputs = 1", "channels = 2\noutputs = 1")
    text = text.replace('Modality = "CT"', 'SeriesDescription = "first"')
    text = text.replace("[[segments]]", more + "[[segments]]")
    card = write_model(folder / "both", text)
    network = identity_network(card.network)
    network.get_parameter("first.0.weight").data[0, 1, 1, 1] = 1.0
    return load_model(write_model(folder / "both", text, network), device="cpu", threads=1)


def first_series(folder: Path) -> None:
    """Write 12 x 20 x 24 voxels of 3 x 2 x 2.5 mm, bright in rows 2 to 5."""
    pixels = np.full((12, 20, 24), 1024, np.uint16)
    pixels[3:9, 2:6, 4:12] = 2024

    def named(_index: int, data: Dataset) -> None:
        data.SeriesDescription = "first"

    save(folder / "first", edited(series(pixels=pixels), named))


Change = Callable[[int, Dataset], None]


def second_series(folder: Path, name: str = "second", change: Change = lambda *_: None) -> None:
    """Write the same field of view with pixels half as long, bright where rows 12 to 17 are."""
    pixels = np.full((12, 40, 48), 1024, np.uint16)
    pixels[3:9, 24:36, 20:40] = 2024

    def other(index: int, data: Dataset) -> None:
        data.SeriesDescription = "second"
        data.SeriesInstanceUID = f"2.25.7{len(name)}"
        data.SOPInstanceUID = f"2.25.7{len(name)}{index:03d}"
        data.PixelSpacing = [DY / 2, DX / 2]
        x, y, z = place(index)
        data.ImagePositionPatient = [x - DX / 4, y - DY / 4, z]
        change(index, data)

    save(folder / name, edited(series(pixels=pixels), other))


def run(folder: Path, model: LoadedModel) -> tuple[Part, ...]:
    files = read_folder(folder)
    return segment_files(files, model, NodeFacts("n", "1"), Progress(lambda *_: None))


def test_both_series_reach_the_network_and_stand_in_the_result(tmp_path: Path) -> None:
    first_series(tmp_path / "study")
    second_series(tmp_path / "study")
    (part,) = run(tmp_path / "study", two_channels(tmp_path / "models"))
    assert isinstance(part, Segmented)
    assert isinstance(part.answer, Segmentation)
    labels = part.answer.labels
    assert labels.shape == (12, 20, 24)
    assert labels[3:9, 2:6, 4:12].all()
    assert labels[3:9, 13:17, 11:19].all()  # in the first series' voxels, its edge left out
    labels = labels.copy()
    labels[3:9, 2:6, 4:12] = 0
    labels[3:9, 12:18, 10:20] = 0
    assert not labels.any()
    seg = pydicom.dcmread(BytesIO(part.results[0].data))
    named = [each.SeriesInstanceUID for each in seg.ReferencedSeriesSequence]
    assert named == ["2.25.2", "2.25.76"]
    assert [len(each.ReferencedInstanceSequence) for each in seg.ReferencedSeriesSequence] == [
        12,
        12,
    ]
    path = tmp_path / "seg.dcm"
    path.write_bytes(part.results[0].data)
    said = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    before = _errors_of_one_series(tmp_path)
    assert _errors(said.stdout + said.stderr) == before


def _errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("Error")]


def _errors_of_one_series(tmp_path: Path) -> list[str]:
    """Return what dciodvfy says of a result of the first series alone: its header is bare."""
    first_series(tmp_path / "alone")
    card = write_handing(tmp_path / "one", name="one")
    (part,) = run(tmp_path / "alone", load_model(card, device="cpu", threads=1))
    assert isinstance(part, Segmented)
    path = tmp_path / "one.dcm"
    path.write_bytes(part.results[0].data)
    said = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    return _errors(said.stdout + said.stderr)


def test_other_pixels_in_the_second_series_give_another_key(tmp_path: Path) -> None:
    model = two_channels(tmp_path / "models")
    keys = []
    for name, value in (("one", 1100), ("other", 1101)):
        first_series(tmp_path / name)

        def noted(_index: int, data: Dataset, value: int = value) -> None:
            data.PixelData = data.PixelData[:-2] + value.to_bytes(2, "little")

        second_series(tmp_path / name, change=noted)
        (part,) = run(tmp_path / name, model)
        assert isinstance(part, Segmented)
        keys.append(part.results[0].key)
    assert keys[0] != keys[1]


def elsewhere(_index: int, data: Dataset) -> None:
    data.FrameOfReferenceUID = "2.25.99"


def somebody_else(_index: int, data: Dataset) -> None:
    data.PatientID = "OTHER"


def test_a_channel_that_is_missing_or_not_registered_is_refused_by_name(tmp_path: Path) -> None:
    model = two_channels(tmp_path / "models")
    first_series(tmp_path / "none")
    (missing,) = run(tmp_path / "none", model)
    assert isinstance(missing, Refusal)
    assert missing.reason is Reason.CHANNEL_MISSING
    for name, change, reason in (
        ("apart", elsewhere, Reason.CHANNEL_NOT_REGISTERED),
        ("patient", somebody_else, Reason.MIXED_IDENTITY),
    ):
        first_series(tmp_path / name)
        second_series(tmp_path / name, change=change)
        refused = [part for part in run(tmp_path / name, model) if isinstance(part, Refusal)]
        assert reason in [one.reason for one in refused]
        assert not any(isinstance(part, Segmented) for part in run(tmp_path / name, model))


def test_two_series_that_fit_one_channel_are_refused(tmp_path: Path) -> None:
    first_series(tmp_path / "study")
    second_series(tmp_path / "study")
    second_series(tmp_path / "study", "second-again")
    parts = run(tmp_path / "study", two_channels(tmp_path / "models"))
    assert Reason.AMBIGUOUS_VOLUME in [one.reason for one in parts if isinstance(one, Refusal)]
    assert not any(isinstance(part, Segmented) for part in parts)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", r"2 x inference.neighbours \+ 1 = 1, is 2"),
        (SECOND.replace('SeriesDescription = "second"', ""), "channels.accepts"),
        (SECOND + SECOND, "3 series x"),
    ],
)
def test_channels_that_cannot_be_are_mistakes(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        two_channels(tmp_path, more)
