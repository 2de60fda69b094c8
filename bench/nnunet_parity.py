"""The same network on the same case through nnU-Net's predictor and through ours.

`python -m bench.nnunet_parity WORK` makes an environment with nnunetv2 under WORK (once), draws
phantoms, has nnU-Net plan, train and predict (`nnunet_train.py`, minutes on a processor), imports
the results folder with `limner models import`'s own code, and compares the labels: Dice per class
and volume. Wanted: Dice of 0.999 and volumes within 0.2 %. WORK may be used again; what is there
is not made twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NNUNET: Final = "nnunetv2==2.8.1"
WANTED_DICE: Final = 0.999
WANTED_VOLUME: Final = 0.002

TASKS: Final[Mapping[str, dict[str, Any]]] = {
    "mr-thick": {
        "channel": "MR",
        "labels": {"background": 0, "ball": 1, "block": 2},
        "spacing_mm": (3.5, 1.0, 1.0),
        "shape": (22, 66, 60),
        "configuration": "3d_fullres",
        "planner": "ExperimentPlanner",
        "patch": [16, 32, 32],
        "widths": [8, 16, 24],
        "folds": [0, 1],
    },
    "ct": {
        "channel": "CT",
        "labels": {"background": 0, "ball": 1, "block": 2},
        "spacing_mm": (1.5, 1.2, 1.2),
        "shape": (40, 50, 46),
        "configuration": "3d_fullres",
        "planner": "nnUNetPlannerResEncM",
        "patch": [24, 24, 24],
        "widths": [8, 16, 24],
        "folds": [0],
    },
    "ct-2d": {
        "channel": "CT",
        "labels": {"background": 0, "ball": 1, "block": 2},
        "spacing_mm": (1.5, 1.2, 1.2),
        "shape": (30, 70, 66),
        "configuration": "2d",
        "planner": "ExperimentPlanner",
        "patch": [32, 32],
        "widths": [8, 16, 24],
        "folds": [0],
    },
    "regions": {
        "channel": "MR",
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
        "spacing_mm": (1.5, 1.2, 1.2),
        "shape": (40, 50, 46),
        "configuration": "3d_fullres",
        "planner": "ExperimentPlanner",
        "patch": [24, 24, 24],
        "widths": [8, 16, 24],
        "folds": [0],
    },
}
"""Cases that differ in what nnU-Net does with them: thick slices (two steps of resampling, an
ensemble, z-score), a residual encoder on CT, slices, and overlapping regions."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two label volumes agree, for one label."""

    task: str
    case: str
    label: int
    dice: float
    volume_off: float
    voxels: int


def draw_case(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...], channel: str
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return values and labels: a ball and a block in a noisy body with an empty border."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).astype(float)
    mm = grid * np.array(spacing)[:, None, None, None]
    extent = np.array(shape) * np.array(spacing)
    middle = extent / 2
    inside = (((mm - middle[:, None, None, None]) / (extent / 2.3)[:, None, None, None]) ** 2).sum(
        0
    )
    body = inside < 1.0
    labels = np.zeros(shape, np.uint8)
    ball = middle + rng.uniform(-0.16, 0.16, 3) * extent
    labels[((mm - ball[:, None, None, None]) ** 2).sum(0) < rng.uniform(9, 12) ** 2] = 1
    block = middle + rng.uniform(-0.16, 0.16, 3) * extent
    labels[(np.abs(mm - block[:, None, None, None]) < rng.uniform(5, 8)).all(0)] = 2
    labels[~body] = 0
    noise = ndimage.gaussian_filter(rng.normal(0, 1, shape), 0.7)
    values = np.where(body, 300.0 + 150.0 * labels.astype(float) + 60 * noise, 0.0)
    if channel == "CT":
        values = np.where(body, values - 250, -1000.0) + rng.normal(0, 5, shape)
    return values.astype(np.float32), labels


def prepare_task(work: Path, name: str, *, epochs: int, iterations: int) -> dict[str, Any]:
    """Write the cases and `task.json` for nnU-Net, and return the task."""
    task = dict(TASKS[name])
    (work / "cases").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    names = [f"case{number}" for number in range(7)]
    for number, case in enumerate(names):
        # Other distances and sizes than the plans', so that every case is resampled.
        factor = 1.0 + 0.12 * (number % 3)
        spacing = tuple(round(one * factor, 3) for one in task["spacing_mm"])
        shape = tuple(int(n - 2 * (number % 2)) for n in task["shape"])
        values, labels = draw_case(rng, shape, spacing, task["channel"])
        np.savez(work / "cases" / f"{case}.npz", values=values, labels=labels, spacing_mm=spacing)
    task |= {"training": names[:5], "kept_back": names[5:]}
    task |= {"epochs": epochs, "iterations": iterations}
    (work / "task.json").write_text(json.dumps(task))
    return task


def environment(work: Path, index: str) -> Path:
    """Return the Python of an environment that holds nnU-Net, made once."""
    python = work / "nnunet" / "bin" / "python"
    done = work / "nnunet" / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "nnunet")], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *index.split()]
        subprocess.run([*pip, "torch", NNUNET], check=True)
        done.touch()
    return python


def train(python: Path, work: Path, task: Mapping[str, Any]) -> None:
    """Let nnU-Net train and predict, if it has not."""
    if all((work / "predicted" / f"{case}.npy").exists() for case in task["kept_back"]):
        return
    script = Path(__file__).with_name("nnunet_train.py")
    # As few processes as nnU-Net allows: it would start a dozen of them.
    few = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    with (work / "nnunet.log").open("w") as log:
        subprocess.run(
            [str(python), str(script), str(work)],
            env=os.environ | few | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


def compare(work: Path, task: Mapping[str, Any], name: str) -> list[Agreement]:
    """Import the results folder, segment the cases that were kept back, compare the labels."""
    import shutil

    from node.models.imports.bring import import_model
    from node.models.inference import segment_volume
    from node.models.loaded import load_model

    (trained,) = (work / "results" / "Dataset001_Phantom").iterdir()
    folder = work / "ours"
    shutil.rmtree(folder, ignore_errors=True)
    made = import_model(trained, folder)
    model = load_model(_filled_in(made.folder), device="cpu", threads=1)
    found = []
    for case in task["kept_back"]:
        stored = np.load(work / "cases" / f"{case}.npz")
        volume = _volume(stored["values"], tuple(float(one) for one in stored["spacing_mm"]), model)
        ours = segment_volume(volume, model).labels
        theirs = np.load(work / "predicted" / f"{case}.npy")
        for label in range(1, max(2, len(model.card.segments)) + 1):
            found.append(_agreement(name, case, label, ours == label, theirs == label))
    return found


def _agreement(
    task: str, case: str, label: int, ours: NDArray[np.bool_], theirs: NDArray[np.bool_]
) -> Agreement:
    mine, their = int(ours.sum()), int(theirs.sum())
    both = int((ours & theirs).sum())
    dice = 2 * both / (mine + their) if mine + their else float("nan")
    off = abs(mine - their) / their if their else float("nan")
    return Agreement(task, case, label, dice, off, their)


def _volume(values: NDArray[Any], spacing: tuple[float, ...], model: Any) -> Any:
    from node.imaging.values import Volume

    affine = np.zeros((4, 4))
    for axis, (row, distance) in enumerate(zip((2, 1, 0), spacing, strict=True)):
        affine[row, axis] = distance
    affine[3, 3] = 1.0
    return Volume(
        array=values.astype(np.float32),
        affine=affine,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        units=model.card.voxels.units,
        modality="MR",
        series_uid="1.2.3",
        part=1,
        instances=(),
        slices=(),
    )


def _filled_in(folder: Path) -> Any:
    """Write what an import leaves to a person, with words that mean nothing."""
    import re

    from node.models.card import load_card

    path = folder / "card.toml"
    text = path.read_text(encoding="utf-8")
    words = {
        "intended_use": "Research use only: a benchmark.",
        "licence": "none",
        "units": "arbitrary",
        "series_description": "benchmark",
        "category": "91723000, SCT, Anatomical Structure",
        "type": "39607008, SCT, Lung",
    }
    for key, value in words.items():
        text = re.sub(rf'^{key} = ""$', f'{key} = "{value}"', text, flags=re.MULTILINE)
    text = text.replace("[accepts]\n\n", '[accepts]\nModality = "MR"\n\n')
    path.write_text(text, encoding="utf-8")
    return load_card(folder)


def main() -> None:
    """Run every task and print one line per label."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="a folder for everything that is made")
    parser.add_argument("--task", action="append", choices=list(TASKS), help="only this one")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=40, help="per epoch")
    parser.add_argument("--index", default="", help="options for pip, such as torch's index")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    python = environment(args.work.resolve(), args.index)
    print(f"{'task':10} {'case':6} {'label':5} {'voxels':>7} {'Dice':>8} {'volume off':>10}")
    good = True
    for name in args.task or TASKS:
        work = args.work.resolve() / name
        task = prepare_task(work, name, epochs=args.epochs, iterations=args.iterations)
        train(python, work, task)
        for one in compare(work, task, name):
            good &= one.dice >= WANTED_DICE and one.volume_off <= WANTED_VOLUME
            print(
                f"{one.task:10} {one.case:6} {one.label:5} {one.voxels:7} {one.dice:8.5f} "
                f"{one.volume_off:10.5f}"
            )
    print("as wanted" if good else f"NOT as wanted: Dice {WANTED_DICE}, volume {WANTED_VOLUME}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
