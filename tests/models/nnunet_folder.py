"""A results folder as nnU-Net writes it, around networks of dynamic-network-architectures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

WIDTHS = [4, 6, 8]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]

ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": WIDTHS,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": KERNELS,
        "strides": STRIDES,
        "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
OLD: dict[str, Any] = {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 8,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": STRIDES,
    "conv_kernel_sizes": KERNELS,
}
"""What plans said of a network before nnU-Net 2.2."""


def make_network(
    outputs: int, *, widths: Sequence[int] = WIDTHS, residual: bool = False
) -> nn.Module:
    """Return the network that the plans describe, with deep supervision as in training."""
    common: dict[str, Any] = {
        "input_channels": 1,
        "n_stages": 3,
        "features_per_stage": list(widths),
        "conv_op": nn.Conv3d,
        "kernel_sizes": KERNELS,
        "strides": STRIDES,
        "num_classes": outputs,
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    if residual:
        return ResidualEncoderUNet(n_blocks_per_stage=[2, 2, 2], **common)
    return PlainConvUNet(n_conv_per_stage=[2, 2, 2], **common)


def write_results(
    folder: Path,
    *,
    folds: int = 1,
    old: bool = False,
    configuration: Mapping[str, Any] | None = None,
    plans: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    outputs: int = 3,
) -> Path:
    """Write TRAINER__PLANS__CONFIGURATION inside `folder` and return it.

    Args:
        configuration, plans, dataset: Keys that differ.
        extra: What a checkpoint holds beside what nnU-Net puts there.
    """
    trained = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    whole: dict[str, Any] = {
        "patch_size": [8, 16, 16],
        "spacing": [3.0, 1.0, 1.0],
        "batch_size": 2,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    }
    whole |= OLD if old else {"architecture": ARCHITECTURE}
    intensities = {"mean": 60.0, "std": 40.0, "percentile_00_5": -100.0, "percentile_99_5": 240.0}
    key = "foreground_intensity_properties_per_channel"
    about_plans = {
        "dataset_name": "Dataset001_Things",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "configurations": {"base": whole, "3d_fullres": {"inherits_from": "base"}},
        key.replace("per_channel", "by_modality") if old else key: {"0": intensities},
    }
    about_plans["configurations"]["3d_fullres"].update(configuration or {})
    about = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 1, "block": 2},
        "file_ending": ".nii.gz",
    }
    trained.mkdir(parents=True)
    (trained / "plans.json").write_text(json.dumps(about_plans | dict(plans or {})))
    (trained / "dataset.json").write_text(json.dumps(about | dict(dataset or {})))
    for fold in range(folds):
        torch.manual_seed(fold)
        network = make_network(outputs, widths=[4, 8, 8] if old else WIDTHS)
        (trained / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
            "grad_scaler_state": None,
            "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_end_timestamps": [1.0]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 3,
            "init_args": {
                "plans": about_plans,
                "configuration": "3d_fullres",
                "fold": fold,
                "dataset_json": about,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(
            checkpoint | dict(extra or {}), trained / f"fold_{fold}" / "checkpoint_final.pth"
        )
    return trained
