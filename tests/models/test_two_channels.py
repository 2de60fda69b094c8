"""A network that sees two series: planes or patches of both, mirrored and cut out alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.imaging.values import Outcome
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel, load_model
from node.models.parts import Stage
from node.models.region import Region
from tests.models.builders import make_volume, write_model
from tests.models.handing import NETWORK, write_handing
from tests.models.identity import identity_network

CHANNEL = """
[[channels]]
name = "other"
units = "HU"
background = 0
[channels.accepts]
Modality = "CT"
[[channels.steps]]
step = "scale"
from = [0, 100]
to = [0, 1]
[[channels.steps]]
step = "clip"
low = 0
high = 1
"""
WINDOW = (
    'architecture = "unet3d"\noutputs = 1\nwidths = [2, 2]\n'
    '[inference]\nmode = "window"\npatch = [8, 16, 16]\nbatch = 2\n'
)


def model(folder: Path, mode: str) -> LoadedModel:
    """Return a model that labels what is over 500 in the first or over 50 in the other series."""
    card = write_handing(folder, name="both", more='[quality.agreement]\nmirrors = ["column"]\n')
    text = card.text.replace(card.weights.sha256, "{sha256}")
    if mode == "window":
        text = text.replace(NETWORK.format(outputs=1), WINDOW)
    text = text.replace("outputs = 1", "channels = 2\noutputs = 1")
    text = text.replace("[[segments]]", CHANNEL + "[[segments]]")
    card = write_model(folder / "both", text)
    network = identity_network(card.network)
    weight = network.get_parameter("first.0.weight").data
    weight[(0, 1, *(1 for _ in weight.shape[2:]))] = 1.0
    return load_model(write_model(folder / "both", text, network), device="cpu", threads=1)


@pytest.mark.parametrize("mode", ["slices", "window"])
def test_either_series_decides_on_its_voxels(tmp_path: Path, mode: str) -> None:
    one, two = np.zeros((2, 12, 24, 32), np.float32)
    one[2:5, 3:8, 4:9] = 1000
    two[6:10, 12:20, 20:27] = 100
    volume = replace(make_volume(one), others=(make_volume(two),))
    loaded = model(tmp_path, mode)
    found = segment_volume(volume, loaded)
    np.testing.assert_array_equal(found.labels == 1, (one > 500) | (two > 50))
    assert found.verdict.outcome is Outcome.ACCEPT  # the mirrored passes see both mirrored
    mask = np.zeros(one.shape, bool)
    mask[5:11, 10:22, 18:30] = True
    limited = segment_volume(volume, loaded, region=Region(mask, Stage("a", (1,), 0.0, 0.0)))
    np.testing.assert_array_equal(limited.labels == 1, two > 50)
