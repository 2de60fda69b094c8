"""Memory is predicted before a job begins, and a job that it is too short for steps down."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from node.errors import PassingError
from node.models.activations import activation_bytes
from node.models.budget import Free, Need, group_rest, needed
from node.models.ladder import is_out_of_memory, labels_that_fit
from node.models.loaded import LoadedModel
from node.models.prepare import Prepared, prepare
from node.models.scores import Work
from tests.models.builders import make_volume
from tests.models.test_blending import silent, window_model

PROGRAM = Path(__file__).with_name("limited_memory.py")
ROOT = Path(__file__).parents[2]


def wide_model(folder: Path) -> LoadedModel:
    return window_model(folder, outputs=40, more="overlap = 0.25\n", patch=(16, 64, 64), batch=8)


def need_of(model: LoadedModel, work: Work, patch: tuple[int, int, int] = (16, 64, 64)) -> Need:
    values = torch.zeros((24, 160, 160), dtype=torch.int16).numpy()
    activations = activation_bytes(model.network, (1, 1, *patch), (2, 2, 2))
    prepared = prepare(make_volume(values), model.card)
    return needed(prepared, model.card, work, activations=activations)


def run_in(folder: Path, *limits: str) -> list[dict[str, str]]:
    """Return what came of each limit, `MB:predicted` or `MB:tried`; each is a process."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *limits],
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
    return [json.loads(line) for line in done.stdout.splitlines()]


STEPS = [*(f"batch {n}" for n in (8, 4, 2, 1)), *(f"batch 1, {n} strips" for n in (2, 4, 8, 16))]


def test_a_job_that_memory_is_too_short_for_steps_down_and_gives_the_same_labels(
    tmp_path: Path,
) -> None:
    """Limits of address space make the kernel refuse: nothing is simulated."""
    model = wide_model(tmp_path)
    lower = need_of(model, Work(1, strips=4)).host // 2**20 + 8
    whole, short, nothing = run_in(tmp_path, "0:predicted", f"{lower}:predicted", "8:predicted")
    assert whole["ladder"] == "none"
    assert "batch 8 needs " in short["ladder"]
    assert "strips ran" in short["ladder"]
    labels, fewer = (np.load(tmp_path / f"predicted-{mb}.npy") for mb in (0, lower))
    assert np.mean(fewer != labels) < 1e-3
    assert nothing["code"] == "memory-short"
    smallest = need_of(model, Work(1, strips=16))
    assert f"24 x 160 x 160 voxels with 40 outputs needs at least {smallest}" in nothing["said"]
    assert "were free" in nothing["said"]


def rung_of(one: dict[str, str]) -> int:
    """Return how many steps ran out of memory; each was tried once, in order."""
    if "code" in one:
        assert one["code"] == "memory-short"
        steps = one["said"].partition("Tried: ")[2].partition(". (")[0].split("; ")
        assert steps == [f"{step} ran out of memory" for step in STEPS]
        return len(STEPS)
    *out, ran = one["ladder"].split("; ")
    if ran == "none":
        return 0
    assert out == [f"{step} ran out of memory" for step in STEPS[: len(out)]]
    assert ran == f"{STEPS[len(out)]} ran"
    return len(out)


def test_memory_that_really_runs_out_goes_down_each_step_once_and_gives_the_same_labels(
    tmp_path: Path,
) -> None:
    """Without a prediction. Between too little and plenty lies a limit that ends on the way."""
    wide_model(tmp_path)
    low, high = 16, 512
    nothing, all_of_it = run_in(tmp_path, f"{low}:tried", f"{high}:tried")
    assert (rung_of(nothing), rung_of(all_of_it)) == (len(STEPS), 0)
    while True:
        middle = (low + high) // 2
        assert low < middle < high, "no limit ended in a smaller batch or in strips"
        (found,) = run_in(tmp_path, f"{middle}:tried")
        if 0 < (rung := rung_of(found)) < len(STEPS):
            break
        low, high = (middle, high) if rung else (low, middle)
    fewer, whole = (np.load(tmp_path / f"tried-{limit}.npy") for limit in (middle, 512))
    assert np.mean(fewer != whole) < 1e-3


def test_fractions_step_down_too_and_stay_the_same(tmp_path: Path) -> None:
    model = window_model(
        tmp_path, outputs=1, head='kind = "occupancy"\n', patch=(16, 128, 128), batch=8
    )
    lower = need_of(model, Work(2), (16, 128, 128)).host // 2**20 + 8
    whole, short = run_in(tmp_path, "0:predicted", f"{lower}:predicted")
    assert whole["ladder"] == "none"
    assert short["ladder"].startswith("batch 8 needs ")
    assert " ran" in short["ladder"]
    one, other = (np.load(tmp_path / f"predicted-{mb}.npy") for mb in (0, lower))
    np.testing.assert_allclose(other, one, atol=1e-5)


def small_job(folder: Path) -> tuple[Prepared, LoadedModel]:
    model = window_model(folder)
    values = np.random.default_rng(4).integers(0, 1000, (9, 20, 18)).astype(np.int16)
    return prepare(make_volume(values), model.card), model


def test_where_the_gpu_is_too_small_the_cpu_takes_over_and_both_stand_in_the_result(
    tmp_path: Path,
) -> None:
    """Two places with their own free memory; here both are the CPU."""
    prepared, spare = small_job(tmp_path)
    model = dataclasses.replace(spare, spare=lambda: spare)
    plenty, nothing = Free(1 << 40, 1 << 40), Free(0, 0)
    free = iter((nothing, plenty, nothing, nothing))
    found = labels_that_fit(prepared, model, silent(), free_now=lambda _device: next(free))
    assert found.model is spare
    assert found.ladder.startswith("batch 2 needs ")
    assert found.ladder.endswith("; the CPU takes over; batch 2 ran")
    with pytest.raises(PassingError, match=r"batch 2 needs .*; the CPU takes over; batch 2 needs"):
        labels_that_fit(prepared, model, silent(), free_now=lambda _device: next(free))


def test_memory_that_ends_before_the_first_step_is_known_hands_over_too(tmp_path: Path) -> None:
    """As on a GPU that others have filled: not even two small images pass."""
    prepared, spare = small_job(tmp_path)

    class Full(nn.Module):
        def forward(self, _image: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    full = dataclasses.replace(spare, network=Full())
    found = labels_that_fit(prepared, dataclasses.replace(full, spare=lambda: spare), silent())
    assert found.model is spare
    assert "two small images through the network ran out of memory" in found.ladder
    assert found.ladder.endswith("; the CPU takes over; batch 2 ran")
    with pytest.raises(PassingError, match="needs more than there is"):
        labels_that_fit(prepared, full, silent())


def test_an_error_that_is_not_about_memory_is_told_as_it_is(tmp_path: Path) -> None:
    prepared, model = small_job(tmp_path)

    class Broken:
        facts, device = model.runner.facts, model.device

        def scores(self, _image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        labels_that_fit(prepared, dataclasses.replace(model, runner=Broken()), silent())


def test_a_job_fits_only_where_both_memories_hold_it() -> None:
    assert Free(10, 10).holds(Need(10, 10))
    assert not Free(9, 10).holds(Need(10, 10))
    assert not Free(10, 9).holds(Need(10, 10))


def test_a_limit_of_any_group_above_counts_and_copies_of_files_do_not(tmp_path: Path) -> None:
    group = tmp_path / "mounted" / "node.slice" / "work.scope"
    group.mkdir(parents=True)
    own = tmp_path / "cgroup"
    own.write_text("0::/node.slice/work.scope\n", encoding="ascii")

    def limit(folder: Path, most: str, used: int, kept: int) -> None:
        (folder / "memory.max").write_text(f"{most}\n", encoding="ascii")
        (folder / "memory.current").write_text(f"{used}\n", encoding="ascii")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {kept}\n", encoding="ascii")

    assert group_rest(tmp_path / "mounted", own) is None
    limit(group, "max", 100, 50)
    assert group_rest(tmp_path / "mounted", own) is None
    limit(group, "1000", 700, 300)
    assert group_rest(tmp_path / "mounted", own) == 600
    limit(group.parent, "2000", 1900, 200)
    assert group_rest(tmp_path / "mounted", own) == 300


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
    assert on_gpu.device == 4 * (4 * 81 + 1) * 16 * 64 * 64 + 6000
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
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("could not execute a primitive"), True),
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
