"""`limner segment --pictures` shows a person without a node where the labels lie."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from node.cli import cli
from node.phantom.ultrasound import Screen, make_ultrasound
from tests.models.frame_models import write_bright_model

SCREEN = Screen(shape=(2, 180, 240), stills=0)


def test_each_frame_has_a_picture_with_the_segments_on_it(tmp_path: Path) -> None:
    write_bright_model(tmp_path / "us-bright")
    (tmp_path / "study").mkdir()
    for number, instance in enumerate(make_ultrasound(11, SCREEN).instances):
        (tmp_path / "study" / f"{number}.dcm").write_bytes(instance.data)
    call = ["segment", str(tmp_path / "study"), "--model", str(tmp_path / "us-bright")]
    call += ["--out", str(tmp_path / "out"), "--device", "cpu", "--threads", "1"]
    said = CliRunner().invoke(cli, [*call, "--pictures"])
    assert said.exit_code == 0, said.output
    (folder,) = (tmp_path / "out").glob("pictures-*")
    assert f"Pictures: {folder}" in said.output
    pictures = sorted(folder.iterdir())
    assert [path.name for path in pictures] == ["0000.jpg", "0001.jpg"]
    pixels = np.asarray(Image.open(io.BytesIO(pictures[0].read_bytes())).convert("RGB"), np.int16)
    assert np.ptp(pixels, axis=-1).max() > 60, "something in colour is drawn over the grey"
