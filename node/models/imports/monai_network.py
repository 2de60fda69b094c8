"""The networks of MONAI that are built here, from a bundle's `network_def`.

Each class has a table of the arguments that it may have; one that is not in it ends the import.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from node.models.imports.monai_config import refused
from node.models.parts import Network, Parameter

_TARGETS: Final = {
    "UNet": "monai_unet",
    "Unet": "monai_unet",
    "DynUNet": "dynunet",
    "DynUnet": "dynunet",
    "SegResNet": "segresnet",
    "BasicUNet": "basic_unet",
    "BasicUnet": "basic_unet",
}
_MODULES: Final = ("", "monai.networks.nets", "monai.networks.nets.")
_COMMON: Final = ("_target_", "spatial_dims", "in_channels", "out_channels")
_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "monai_unet": {
        "channels": "widths",
        "strides": "strides",
        "kernel_size": "kernel",
        "up_kernel_size": "up_kernel",
        "num_res_units": "residual_units",
        "bias": "bias",
    },
    "dynunet": {
        "filters": "widths",
        "kernel_size": "kernels",
        "strides": "strides",
        "upsample_kernel_size": "up_kernels",
        "res_block": "residual",
        "trans_bias": "up_bias",
    },
    "segresnet": {
        "init_filters": "width",
        "blocks_down": "blocks_down",
        "blocks_up": "blocks_up",
    },
    "basic_unet": {"features": "widths", "bias": "bias"},
}
"""Arguments that are taken over under our name."""
_IGNORED: Final = ("dropout", "dropout_prob", "deep_supervision", "deep_supr_num", "use_conv_final")
"""Arguments that say nothing when a volume is segmented."""
_OWN: Final = ("act", "act_name", "norm", "norm_name", "adn_ordering", "upsample", "upsample_mode")
_DEFAULTS: Final[Mapping[str, dict[str, Parameter]]] = {
    "monai_unet": {"norm": "instance_plain", "activation": "prelu"},
    "dynunet": {"norm": "instance", "activation": "leaky_relu", "slope": 0.01},
    "segresnet": {
        "width": 8,
        "blocks_down": (1, 2, 2, 4),
        "blocks_up": (1, 1, 1),
        "norm": "group",
        "groups": 8,
        "activation": "relu",
    },
    "basic_unet": {
        "widths": (32, 32, 64, 128, 256, 32),
        "norm": "instance",
        "activation": "leaky_relu",
        "slope": 0.1,
    },
}
_ACTIVATIONS: Final = {"relu": "relu", "leakyrelu": "leaky_relu", "prelu": "prelu"}
_UP: Final = {"deconv": "transpose", "nontrainable": "linear"}


def network_of(definition: Mapping[str, Any], path: Path) -> Network:
    """Return the network that `network_def` describes.

    Args:
        definition: With every reference followed.
        path: The configuration's file.

    Raises:
        SetupError: It names a class or an argument that is not in the tables.
    """
    architecture = _architecture(definition, path)
    parameters: dict[str, Parameter] = {"dimensions": int(definition.get("spatial_dims", 3))}
    parameters |= _DEFAULTS[architecture]
    for key, ours in _NAMES[architecture].items():
        if definition.get(key) is not None:
            parameters[ours] = _value(definition[key], key, path)
    parameters |= _activation(definition, path)
    parameters |= _norm(definition, path)
    parameters |= _order_and_up(definition, path)
    if architecture == "dynunet" and "widths" not in parameters:
        most = 320 if parameters["dimensions"] == 3 else 512
        levels = len(definition["strides"])
        parameters["widths"] = tuple(min(32 << level, most) for level in range(levels))
    return Network(
        architecture,
        int(definition.get("in_channels", 1)),
        int(definition.get("out_channels", 2)),
        parameters,
    )


def _architecture(definition: Mapping[str, Any], path: Path) -> str:
    """Return our name of the class, once class and arguments are known."""
    target = str(definition.get("_target_", ""))
    module, _, name = target.rpartition(".")
    if name not in _TARGETS or not (module in _MODULES or module.startswith(_MODULES[2])):
        raise refused(path, f"network_def is {target or 'nothing'}, which is not built here")
    architecture = _TARGETS[name]
    for key in definition:
        if key not in (*_COMMON, *_NAMES[architecture], *_IGNORED, *_OWN):
            raise refused(path, f"network_def#{key} is an argument that is not known here")
    if definition.get("use_conv_final") is False:
        raise refused(path, "network_def#use_conv_final = false gives features and no scores")
    return architecture


def _order_and_up(definition: Mapping[str, Any], path: Path) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    if "adn_ordering" in definition:
        order = str(definition["adn_ordering"]).upper().replace("D", "")
        if order not in ("NA", "AN"):
            raise refused(path, f"network_def#adn_ordering is {definition['adn_ordering']!r}")
        found["order"] = order
    upsample = definition.get("upsample", definition.get("upsample_mode"))
    if upsample is not None:
        if upsample not in _UP:
            raise refused(path, f"network_def enlarges by {upsample!r}, which is not built here")
        found["up"] = _UP[upsample]
    return found


def _activation(definition: Mapping[str, Any], path: Path) -> dict[str, Parameter]:
    given = definition.get("act", definition.get("act_name"))
    if given is None:
        return {}
    name, options = _split(given)
    if name not in _ACTIVATIONS or set(options) - {"inplace", "negative_slope"}:
        raise refused(path, f"network_def's activation {given!r} is not built here")
    found: dict[str, Parameter] = {"activation": _ACTIVATIONS[name]}
    if name == "leakyrelu":
        found["slope"] = float(options.get("negative_slope", 0.01))
    return found


def _norm(definition: Mapping[str, Any], path: Path) -> dict[str, Parameter]:
    given = definition.get("norm", definition.get("norm_name"))
    if given is None:
        return {}
    name, options = _split(given)
    known = {
        "instance": {"affine", "eps"},
        "batch": {"affine", "eps"},
        "group": {"num_groups", "eps"},
    }
    if name not in known or set(options) - known[name] or options.get("eps", 1e-5) != 1e-5:
        raise refused(path, f"network_def's normalisation {given!r} is not built here")
    if name == "group":
        return {"norm": "group", "groups": int(options.get("num_groups", 8))}
    if name == "batch":
        if options.get("affine", True) is not True:
            raise refused(path, f"network_def's normalisation {given!r} is not built here")
        return {"norm": "batch"}
    return {"norm": "instance" if options.get("affine") else "instance_plain"}


def _split(given: Any) -> tuple[str, Mapping[str, Any]]:
    """Return name and options of MONAI's `"name"` or `["name", {options}]`."""
    if isinstance(given, str):
        return given.lower(), {}
    if isinstance(given, list | tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        return str(given[0]).lower(), given[1]
    return str(given), {}


def _value(value: Any, key: str, path: Path) -> Parameter:
    if isinstance(value, list | tuple):
        levels: list[int | tuple[int, ...]] = []
        for one in value:
            if isinstance(one, list | tuple) and all(type(side) is int for side in one):
                levels.append(tuple(one))
            elif type(one) is int:
                levels.append(one)
            else:
                raise refused(path, f"network_def#{key} holds {one!r}, which is no whole number")
        return tuple(levels)
    if isinstance(value, bool | int):
        return value
    raise refused(path, f"network_def#{key} is {value!r}, which is no whole number")
