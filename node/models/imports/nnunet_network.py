"""The network that nnU-Net's plans describe, in the new form or the old one.

Plans name classes in text, such as `torch.nn.modules.conv.Conv3d`. The last word of each name is
looked up in a table; nothing is imported by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from node.errors import SetupError, setup_error
from node.models.parts import Network, Parameter

_CLASSES: Final = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "resenc_unet"}
_BLOCKS: Final = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
_CONVOLUTIONS: Final = {"Conv2d": 2, "Conv3d": 3}
_NORMS: Final = {
    "InstanceNorm2d": "instance",
    "InstanceNorm3d": "instance",
    "BatchNorm2d": "batch",
    "BatchNorm3d": "batch",
}
_ACTIVATIONS: Final = {"LeakyReLU": ("leaky_relu", 0.01), "ReLU": ("relu", 0.0)}
_KNOWN: Final = {
    "n_stages",
    "features_per_stage",
    "conv_op",
    "kernel_sizes",
    "strides",
    "n_conv_per_stage",
    "n_blocks_per_stage",
    "n_conv_per_stage_decoder",
    "conv_bias",
    "norm_op",
    "norm_op_kwargs",
    "dropout_op",
    "dropout_op_kwargs",
    "nonlin",
    "nonlin_kwargs",
    "deep_supervision",
}


def network_of(
    configuration: Mapping[str, Any], channels: int, outputs: int, trained: Path
) -> Network:
    """Return the network of a configuration whose inheritance is resolved.

    Raises:
        SetupError: It names a class or an argument that is not in the tables.
        KeyError: A key is missing.
    """
    if "architecture" not in configuration:
        return _old(configuration, channels, outputs, trained)
    architecture = configuration["architecture"]
    name = _word(architecture["network_class_name"])
    if name not in _CLASSES:
        raise _unknown(trained, "network_class_name", architecture["network_class_name"])
    given: Mapping[str, Any] = architecture["arch_kwargs"]
    for key in given:
        if key not in _KNOWN:
            raise _unknown(trained, "an argument of the network", key)
    for key, table in (("conv_op", _CONVOLUTIONS), ("norm_op", _NORMS), ("nonlin", _ACTIVATIONS)):
        if _word(given[key]) not in table:
            raise _unknown(trained, key, given[key])
    _check_norm(given.get("norm_op_kwargs") or {}, trained)
    activation, slope = _ACTIVATIONS[_word(given["nonlin"])]
    slope = float((given.get("nonlin_kwargs") or {}).get("negative_slope", slope))
    parameters: dict[str, Parameter] = {
        "dimensions": _CONVOLUTIONS[_word(given["conv_op"])],
        "widths": _tuples(given["features_per_stage"]),
        "kernels": _tuples(given["kernel_sizes"]),
        "strides": _tuples(given["strides"]),
        "convs" if name == "PlainConvUNet" else "blocks": _tuples(given[_BLOCKS[name]]),
        "decoder_convs": _tuples(given["n_conv_per_stage_decoder"]),
        "norm": _NORMS[_word(given["norm_op"])],
        "activation": activation,
        "bias": bool(given.get("conv_bias", False)),
    }
    if activation == "leaky_relu":
        parameters["slope"] = slope
    return Network(_CLASSES[name], channels, outputs, parameters)


def _old(configuration: Mapping[str, Any], channels: int, outputs: int, trained: Path) -> Network:
    """Read plans from before nnU-Net 2.2, which say less and mean the defaults."""
    name = str(configuration["UNet_class_name"])
    if name not in _CLASSES:
        raise _unknown(trained, "UNet_class_name", name)
    encoder = configuration["n_conv_per_stage_encoder"]
    first = int(configuration["UNet_base_num_features"])
    most = int(configuration["unet_max_num_features"])
    return Network(
        _CLASSES[name],
        channels,
        outputs,
        {
            "dimensions": len(configuration["patch_size"]),
            "widths": tuple(min(first << stage, most) for stage in range(len(encoder))),
            "kernels": _tuples(configuration["conv_kernel_sizes"]),
            "strides": _tuples(configuration["pool_op_kernel_sizes"]),
            "convs" if name == "PlainConvUNet" else "blocks": _tuples(encoder),
            "decoder_convs": _tuples(configuration["n_conv_per_stage_decoder"]),
            "norm": "instance",
            "activation": "leaky_relu",
            "slope": 0.01,
            "bias": True,
        },
    )


def _check_norm(given: Mapping[str, Any], trained: Path) -> None:
    if given.get("affine", True) is not True or float(given.get("eps", 1e-5)) != 1e-5:
        raise _unknown(trained, "norm_op_kwargs", given)


def _tuples(value: Any) -> Parameter:
    """Return whole numbers and lists of them as tuples.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(value, list | tuple):
        return tuple(_whole(one) for one in value)
    if type(value) is int:
        return value
    raise TypeError(f"{value!r}, which is no whole number")


def _whole(value: Any) -> int | tuple[int, ...]:
    if isinstance(value, list | tuple):
        return tuple(int(side) for side in value)
    if type(value) is int:
        return value
    raise TypeError(f"{value!r}, which is no whole number")


def _word(name: object) -> str:
    return str(name).rpartition(".")[2]


def _unknown(trained: Path, what: str, value: object) -> SetupError:
    return setup_error(
        "import-nnunet",
        f"This nnU-Net model is not taken: plans.json wants {what} = {value!s}, which is not run "
        "here.",
        where=str(trained),
        remedy="PlainConvUNet and ResidualEncoderUNet with instance or batch normalisation are.",
    )
