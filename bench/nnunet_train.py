"""Train small networks with nnU-Net's own code and predict with its own predictor.

Runs inside an environment that holds nnunetv2 and nothing of ours; `nnunet_parity.py` makes that
environment, draws the cases and starts this file. Called with one folder that holds
`cases/NAME.npz` (values [slice, row, column], spacing_mm, labels) and `task.json`; leaves
`results/` as nnU-Net writes it, and `predicted/NAME.npy`.

The plans are nnU-Net's, with fewer features and a smaller patch, so that a processor can train
them in minutes; what is compared is inference, not how well it learned.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

_PROCESSES = "nnUNet_n_proc_DA"


def main(work: Path) -> None:
    """Plan, preprocess, train the folds, predict the cases that were kept back."""
    task = json.loads((work / "task.json").read_text())
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir(exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(work / name)
    dataset = "Dataset001_Phantom"
    _write_raw(work, work / "raw" / dataset, task)
    plans = _plan(work / "preprocessed" / dataset, task)
    for fold in task["folds"]:
        _train(plans, work / "preprocessed" / dataset, task, fold)
    _predict(work, dataset, task)


def _write_raw(work: Path, folder: Path, task: dict[str, Any]) -> None:
    import SimpleITK

    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in task["training"]:
        case = np.load(work / "cases" / f"{name}.npz")
        for part, key, ending in (("imagesTr", "values", "_0000"), ("labelsTr", "labels", "")):
            image = SimpleITK.GetImageFromArray(case[key])
            image.SetSpacing([float(one) for one in case["spacing_mm"][::-1]])
            SimpleITK.WriteImage(image, str(folder / part / f"{name}{ending}.nii.gz"))
    about = {
        "channel_names": {"0": task["channel"]},
        "labels": task["labels"],
        "numTraining": len(task["training"]),
        "file_ending": ".nii.gz",
    }
    if "regions_class_order" in task:
        about["regions_class_order"] = task["regions_class_order"]
    (folder / "dataset.json").write_text(json.dumps(about))


def _plan(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    extract_fingerprints([1], num_processes=1)
    name = plan_experiments([1], experiment_planner_class_name=task["planner"])
    file = folder / f"{name}.json"
    plans: dict[str, Any] = json.loads(file.read_text())
    kept = plans["configurations"][task["configuration"]]
    kept["patch_size"] = task["patch"]
    kept["batch_size"] = 2
    network = kept["architecture"]["arch_kwargs"]
    stages = len(task["widths"])
    network["n_stages"] = stages
    network["features_per_stage"] = task["widths"]
    for key in ("kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
        if key in network:
            network[key] = network[key][:stages]
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: stages - 1]
    file.write_text(json.dumps(plans))
    preprocess([1], name, configurations=[task["configuration"]], num_processes=[1])
    return plans


def _train(plans: dict[str, Any], folder: Path, task: dict[str, Any], fold: int) -> None:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(fold)
    os.environ[_PROCESSES] = "0"  # everything in this process; the planner wants one at least
    about = json.loads((folder / "dataset.json").read_text())
    plans = plans | {"continue_training": False}
    trainer = nnUNetTrainer(plans, task["configuration"], fold, about, torch.device("cpu"))
    trainer.num_epochs = task["epochs"]
    trainer.num_iterations_per_epoch = task["iterations"]
    trainer.num_val_iterations_per_epoch = 2
    trainer.run_training()


def _predict(work: Path, dataset: str, task: dict[str, Any]) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=True,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
    )
    (trained,) = (work / "results" / dataset).iterdir()
    predictor.initialize_from_trained_model_folder(str(trained), tuple(task["folds"]))
    (work / "predicted").mkdir(exist_ok=True)
    for name in task["kept_back"]:
        case = np.load(work / "cases" / f"{name}.npz")
        found = predictor.predict_single_npy_array(
            case["values"][None].astype(np.float32),
            {"spacing": [float(one) for one in case["spacing_mm"]]},
            None,
            None,
            save_or_return_probabilities=False,
        )
        np.save(work / "predicted" / f"{name}.npy", found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
