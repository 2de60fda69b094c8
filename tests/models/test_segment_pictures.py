"""`limner segment --pictures` shows a person without a node where the labels lie."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
from click.testing import CliRunner, Result
from PIL import Image

from node.cli import cli
from node.phantom.ultrasound import Screen, make_ultrasound
from tests.models.frame_models import write_bright_model

SCREEN = Screen(shape=(2, 180, 240), stills=0)


def _segment(folder: Path, instances: list[bytes]) -> Result:
    write_bright_model(folder / "us-bright")
    (folder / "study").mkdir()
    for number, data in enumerate(instances):
        (folder / "study" / f"{number}.dcm").write_bytes(data)
    call = ["segment", str(folder / "study"), "--model", str(folder / "us-bright")]
    call += ["--out", str(folder / "out"), "--device", "cpu", "--threads", "1"]
    return CliRunner().invoke(cli, [*call, "--pictures"])


def test_a_series_uid_that_names_another_folder_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    instances = []
    for instance in make_ultrasound(11, SCREEN).instances:
        data = pydicom.dcmread(io.BytesIO(instance.data))
        uid = str(data.SeriesInstanceUID)
        hostile = "/../../../away".rjust(len(uid), "1").encode()
        instances.append(instance.data.replace(uid.encode(), hostile))
    said = _segment(tmp_path / "in", instances)
    assert said.exit_code == 0, said.output
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (pictures,) = (tmp_path / "in" / "out").glob("pictures-*")
    assert len(list(pictures.iterdir())) == 2


def test_each_frame_has_a_picture_with_the_segments_on_it(tmp_path: Path) -> None:
    said = _segment(tmp_path, [one.data for one in make_ultrasound(11, SCREEN).instances])
    assert said.exit_code == 0, said.output
    (folder,) = (tmp_path / "out").glob("pictures-*")
    assert f"Pictures: {folder}" in said.output
    (result,) = (tmp_path / "out").glob("*.dcm")
    assert folder.name == f"pictures-{result.stem}"  # of this result, whatever else lies there
    pictures = sorted(folder.iterdir())
    assert [path.name for path in pictures] == ["0000.jpg", "0001.jpg"]
    pixels = np.asarray(Image.open(io.BytesIO(pictures[0].read_bytes())).convert("RGB"), np.int16)
    assert np.ptp(pixels, axis=-1).max() > 60, "something in colour is drawn over the grey"
