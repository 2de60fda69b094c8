"""A tiny model for ultrasound: bright is nerve. Its network hands the picture through."""

from __future__ import annotations

from pathlib import Path

from node.models.card import Card
from node.models.parts import Network
from tests.models.builders import write_model
from tests.models.identity import identity_network

BRIGHT = """
schema = 1
name = "us-bright"
version = "1"
[about]
title = "Bright pieces on ultrasound"
intended_use = "For tests and research use only."
licence = "Apache-2.0"
[weights]
sha256 = "{sha256}"
[accepts]
Modality = "US"
[voxels]
size = [76, 100]
ratio = "keep"
{more}
[[steps]]
step = "scale"
from = [0, 250]
to = [0, 1]
[network]
architecture = "unet2d"
outputs = 2
widths = [2, 2, 2]
[inference]
mode = "frames"
batch = 4
{run}
[head]
kind = "classes"
[[postprocess]]
step = "keep_largest"
labels = [1]
[[postprocess]]
step = "fill_holes"
labels = [1]
[[segments]]
number = 1
label = "Nerve"
category = "91723000, SCT, Anatomical Structure"
type = "3057000, SCT, Nerve"
colour = [255, 220, 0]
[results]
series_description = "Nerve (research use)"
"""


def write_bright_model(folder: Path, *, more: str = "", run: str = "") -> Card:
    """Write the model into `folder` and return its card."""
    network = identity_network(Network("unet2d", 1, 2, {"widths": (2, 2, 2)}))
    return write_model(folder, BRIGHT.replace("{more}", more).replace("{run}", run), network)
