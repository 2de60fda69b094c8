"""The formula of docs/models.md against the real peak of a process.

Never below it; above it by at most a third and a little more than the 128 MB that are held back for
the allocator, which holds another amount in every run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models.builders import CARD, VOXELS, write_model
from tests.models.test_blending import SEGMENT
from tests.models.test_two_channels import CHANNEL

PROGRAM = Path(__file__).with_name("measured_memory.py")
ROOT = Path(__file__).parents[2]
HELD = 160 << 20
FACTOR = 4 / 3
SPREAD = 100 << 20
"""Between runs of one large case, for the holes in the heap differ: 397 to 524 MB were seen."""


@dataclass(frozen=True)
class Case:
    """A model with random weights, and the volume that it is given."""

    shape: tuple[int, int, int]
    outputs: int
    patch: tuple[int, int, int] | None = None
    batch: int = 1
    spacing: str = "[0, 0, 0]"
    native_mm: tuple[float, float, float] = (2.0, 1.0, 1.0)
    head: str = "classes"
    series: int = 1
    orientation: str = "HPL"
    widths: str = "[2, 2]"
    more: str = ""

    def write(self, folder: Path) -> None:
        """Write the model folder and what its volume is."""
        mode = "slices" if self.patch is None else "window"
        patch = f"patch = {list(self.patch)}\noverlap = 0.0\n" if self.patch else ""
        channels = "" if self.series == 1 else f"channels = {self.series}\n"
        middle = (
            VOXELS.format(orientation=self.orientation, spacing=self.spacing, more="")
            + '[[steps]]\nstep = "scale"\nfrom = [0, 1000]\nto = [0, 1]\n'
            + f'[network]\narchitecture = "unet{2 if self.patch is None else 3}d"\n{channels}'
            + f'outputs = {self.outputs}\nwidths = {self.widths}\nnorm = "instance"\n'
            + f'[inference]\nmode = "{mode}"\nbatch = {self.batch}\n{patch}{self.more}\n'
            + f'[head]\nkind = "{self.head}"\n'
        )
        text = CARD.replace("{name}", "measured").replace("{middle}", middle)
        if self.series > 1:
            text = text.replace("[[segments]]", CHANNEL + "[[segments]]")
        text += "".join(SEGMENT.format(number=number) for number in range(2, self.outputs))
        write_model(folder, text)
        said = {"shape": self.shape, "spacing_mm": self.native_mm}
        (folder / "volume.json").write_text(json.dumps(said), encoding="utf-8")


CASES = {
    "slices": Case((12, 384, 384), 3, batch=4),
    "slices-resampled": Case((6, 192, 192), 25, batch=2, spacing="[0, 1.7, 1.3]"),
    "slices-two-series": Case((8, 384, 384), 3, batch=4, series=2),
    "slices-fractions": Case((48, 192, 192), 1, spacing="[3, 0, 0]", head="occupancy"),
    "window": Case((32, 256, 256), 3, patch=(24, 64, 64)),
    "window-25": Case((24, 128, 128), 25, patch=(16, 64, 64)),
    "window-resampled": Case((16, 96, 96), 25, patch=(16, 48, 48), spacing="[2.5, 1.5, 1.7]"),
    "window-two-series": Case((40, 320, 320), 2, patch=(32, 64, 64), series=2),
}
"""Small enough for every run: what is held is some 20 to 50 MB."""

LARGE = {
    "slices": Case((24, 512, 512), 3, batch=8, widths="[8, 16]"),
    "slices-25": Case((8, 512, 512), 25, batch=4, widths="[8, 16]"),
    "slices-thin": Case(
        (200, 256, 256), 3, batch=4, spacing="[5.0, 1.5, 1.5]", native_mm=(0.5, 1, 1)
    ),
    "slices-fractions": Case((96, 384, 384), 1, batch=2, spacing="[3, 1.5, 0]", head="occupancy"),
    "window": Case((120, 320, 320), 3, patch=(96, 96, 96)),
    "window-25": Case((64, 256, 256), 25, patch=(48, 96, 96)),
    "window-25-batch": Case((40, 192, 192), 25, patch=(24, 64, 64), batch=4),
    "window-finer": Case((24, 160, 160), 25, patch=(24, 48, 48), spacing="[1.5, 0.6, 0.6]"),
    "window-thin": Case(
        (240, 256, 256), 3, patch=(24, 64, 64), spacing="[4, 2, 2]", native_mm=(0.5, 1, 1)
    ),
    "window-mirrors": Case(
        (40, 160, 160), 25, patch=(32, 96, 96), more='mirrors = ["row", "column"]'
    ),
    "window-turned": Case((96, 256, 256), 3, patch=(32, 64, 64), orientation="PLF"),
    "window-fractions": Case(
        (64, 256, 256), 1, patch=(32, 64, 64), spacing="[1.5, 1.2, 1.2]", head="occupancy"
    ),
    "window-wide": Case((64, 128, 128), 3, patch=(64, 128, 128), widths="[24, 32]"),
}


def measured(folder: Path, cases: Mapping[str, Case]) -> dict[str, dict[str, int]]:
    for name, case in cases.items():
        case.write(folder / name)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {found.pop("name"): found for found in map(json.loads, done.stdout.splitlines())}


def test_the_peak_is_never_above_what_was_predicted_and_not_far_below(tmp_path: Path) -> None:
    check(measured(tmp_path, CASES))


@pytest.mark.accept
def test_the_peak_of_large_volumes_is_what_was_predicted(tmp_path: Path) -> None:
    check(measured(tmp_path, LARGE), spread=SPREAD)


def check(found: Mapping[str, Mapping[str, int]], *, spread: int = 0) -> None:
    wrong = []
    for name, one in found.items():
        predicted, peak = one["predicted"], one["peak"]
        if not peak - spread <= predicted <= FACTOR * peak + HELD + spread:
            wrong.append(f"{name}: {peak >> 20} MB for a predicted {predicted >> 20} MB")
    assert not wrong
