"""Volumes, cards and networks for these tests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from node.imaging.values import Volume
from node.models.architectures import build_network
from node.models.card import Card, load_card

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"
UNKNOWN = "0" * 64

AXIAL = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Patient directions of slice, row and column of an axial series, feet first in the array."""


def documented_card() -> str:
    """Return the example of docs/models.md."""
    text = DOCUMENT.read_text(encoding="utf-8").split("\n## The card\n", 1)[1]
    found = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def make_volume(
    array: NDArray[np.int16] | NDArray[np.float32],
    *,
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0),
    directions: Sequence[Sequence[float]] = AXIAL,
    origin_mm: Sequence[float] = (-50.0, -60.0, -70.0),
    units: str = "HU",
) -> Volume:
    """Return a volume without sources."""
    affine = np.eye(4)
    for axis in range(3):
        affine[:3, axis] = np.array(directions[axis]) * spacing_mm[axis]
    affine[:3, 3] = origin_mm
    return Volume(
        array=array,
        affine=affine,
        spacing_mm=spacing_mm,
        units=units,
        modality="CT",
        series_uid="1.2.3",
        part=1,
        instances=(),
        slices=(),
    )


CARD = """
schema = 1
name = "{name}"
version = "1"
min_slices = 1
[about]
title = "Test"
intended_use = "For research use only."
licence = "Apache-2.0"
[weights]
sha256 = "{sha256}"
[accepts]
Modality = "CT"
{middle}
[[segments]]
number = 1
label = "Thing"
category = "91723000, SCT, Anatomical Structure"
type = "39607008, SCT, Lung"
[results]
series_description = "Test"
"""

VOXELS = """
[voxels]
orientation = "{orientation}"
spacing_mm = {spacing}
background = -1000
units = "HU"
{more}
"""


def write_model(folder: Path, text: str, network: torch.nn.Module | None = None) -> Card:
    """Write a model folder whose weights are those of `network`, or random ones; load its card."""
    folder.mkdir(parents=True, exist_ok=True)
    card_file = folder / "card.toml"
    card_file.write_text(text.replace("{sha256}", UNKNOWN), encoding="utf-8")
    card = load_card(folder)
    torch.manual_seed(7)
    built = build_network(card.network) if network is None else network
    save_file(
        {key: value.contiguous() for key, value in built.state_dict().items()}, card.weights_path
    )
    digest = hashlib.sha256(card.weights_path.read_bytes()).hexdigest()
    card_file.write_text(text.replace("{sha256}", digest), encoding="utf-8")
    return load_card(folder)
