"""Memory is predicted before a job begins, and a job that it is too short for steps down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from node.models.activations import activation_bytes
from node.models.budget import Need, needed
from node.models.ladder import is_out_of_memory
from node.models.loaded import LoadedModel
from node.models.prepare import prepare
from node.models.scores import Work
from tests.models.builders import make_volume
from tests.models.test_blending import window_model

PROGRAM = Path(__file__).with_name("limited_memory.py")
ROOT = Path(__file__).parents[2]


def wide_model(folder: Path) -> LoadedModel:
    return window_model(folder, outputs=40, more="overlap = 0.25\n", patch=(16, 64, 64), batch=4)


def need_of(model: LoadedModel, work: Work) -> Need:
    values = torch.zeros((24, 160, 160), dtype=torch.int16).numpy()
    activations = activation_bytes(model.network, (1, 1, 16, 64, 64), (2, 2, 2))
    prepared = prepare(make_volume(values), model.card)
    return needed(prepared, model.card, work, activations=activations)


def run_in(folder: Path, megabytes: int, how: str) -> dict[str, str]:
    command = [sys.executable, str(PROGRAM), str(folder), str(megabytes), how]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_job_that_memory_is_too_short_for_steps_down_and_gives_the_same_labels(
    tmp_path: Path,
) -> None:
    """Limits of address space make the kernel refuse: nothing is simulated."""
    model = wide_model(tmp_path)
    assert run_in(tmp_path, 0, "predicted")["ladder"] == "none"
    whole = np.load(tmp_path / "predicted-0.npy")
    lower = need_of(model, Work(1, strips=4)).host // 2**20 + 8
    ladder = run_in(tmp_path, lower, "predicted")["ladder"]
    assert "batch 4 needs " in ladder
    assert "strips ran" in ladder
    assert np.mean(np.load(tmp_path / f"predicted-{lower}.npy") != whole) < 1e-3


def test_memory_that_runs_out_in_spite_of_the_prediction_tries_no_size_twice(
    tmp_path: Path,
) -> None:
    wide_model(tmp_path)
    found = run_in(tmp_path, 24, "tried")  # a third of the slab
    assert found["code"] == "memory-short"
    steps = found["said"].partition("Tried: ")[2].partition(". (")[0].split("; ")
    assert steps[0] == "batch 4 ran out of memory"
    assert all(step.endswith(" ran out of memory") for step in steps)
    assert len(steps) == len(set(steps)) == 7


def test_a_job_that_nothing_fits_fails_with_the_numbers(tmp_path: Path) -> None:
    model = wide_model(tmp_path)
    said = run_in(tmp_path, 8, "predicted")
    assert said["code"] == "memory-short"
    smallest = need_of(model, Work(1, strips=16))
    assert f"24 x 160 x 160 voxels with 40 outputs needs at least {smallest}" in said["said"]
    assert "were free" in said["said"]


def test_the_slab_is_what_the_formula_says(tmp_path: Path) -> None:
    """One strip less by half is half of the slab less, but for the rows that strips share."""
    model = wide_model(tmp_path)
    whole, half = (need_of(model, Work(4, strips=count)).host for count in (1, 2))
    slab = 4 * 40 * 16 * 160 * 160
    assert whole - half == slab // 2 - 4 * 40 * 16 * 2 * 160
    on_gpu = needed(
        prepare(make_volume(torch.zeros((24, 160, 160), dtype=torch.int16).numpy()), model.card),
        model.card,
        Work(4, on_host=True),
        activations=1000,
        on_gpu=True,
    )
    assert on_gpu.device == 4 * 4 * 81 * 16 * 64 * 64 + 6000
    assert on_gpu.host > slab


def test_activations_are_counted_while_they_are_alive() -> None:
    layers = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Conv3d(4, 8, 1), nn.Conv3d(8, 2, 1))
    voxels = 8 * 10 * 12
    counted = activation_bytes(layers, (1, 1, 8, 10, 12), (1, 1, 1))
    assert counted == 4 * voxels * (1 + 4 + 8)  # the 4 are gone before the last 2 are made


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_a_want_of_memory_goes_down_the_ladder(error: Exception, *, out: bool) -> None:
    assert is_out_of_memory(error) is out


def test_activations_grow_with_the_image_only_where_the_network_lets_them() -> None:
    """What is pooled stays as it is, and a normalisation's copies count."""
    pooled = nn.Sequential(nn.Conv2d(1, 8, 1), nn.AdaptiveAvgPool2d(4), nn.Conv2d(8, 100, 1))
    for sides in ((40, 40), (64, 128)):
        counted = activation_bytes(pooled, (1, 1, *sides), (8, 8))
        voxels = sides[0] * sides[1]
        assert counted == 4 * (voxels * (1 + 8) + 16 * 8)


def test_memory_is_counted_without_importing_a_compiler() -> None:
    """torch's tensors without memory would bring 68 MB of sympy into each process."""
    script = (
        "import sys, torch; from node.models.activations import activation_bytes\n"
        "layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.InstanceNorm2d(2))\n"
        "print(activation_bytes(layers, (1, 1, 64, 64), (1, 2)), 'sympy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split()[1] == "False"
