"""A MONAI bundle as a model folder: its network, its transforms as far as a card can say them.

A bundle is a folder (or a zip file of it) with configs/metadata.json, configs/inference.json or
.yaml, and models/model.pt, a state dict. Its configuration is read by `monai_config` without
running anything. Transforms that prepare and clean up are looked up in tables; one that is not in
them ends the import with its name, because leaving it out would give other labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from node.models.imports.draft import Draft, Value
from node.models.imports.foreign import read_tensors
from node.models.imports.guess import fits
from node.models.imports.monai_config import Config, read_config, refused
from node.models.imports.monai_network import network_of
from node.models.imports.state_dict import WEIGHTS_FILE

_CONFIGS: Final = ("inference.json", "inference.yaml", "inference.yml")
_HARMLESS: Final = (
    "LoadImaged",
    "EnsureChannelFirstd",
    "EnsureTyped",
    "CastToTyped",
    "ToTensord",
    "ToDeviced",
    "SaveImaged",
    "Invertd",
)
"""Transforms that read, move or write and change no number that a network sees."""
_LETTERS: Final = {"R": "R", "L": "L", "A": "A", "P": "P", "S": "H", "I": "F"}
"""MONAI's letters for where an axis points to, and ours."""


def bundle_folder(inside: Path) -> Path | None:
    """Return the folder that holds configs/: this one, or a single one in it."""
    found = [
        path.parent.parent
        for name in _CONFIGS
        for path in sorted(inside.glob(f"**/configs/{name}"))
    ]
    return found[0] if found else None


def draft_of_bundle(bundle: Path, folder: Path, name: str, *, wall_s: float) -> Draft:
    """Write the bundle's weights into `folder` and return what its configuration says.

    Raises:
        SetupError: The configuration wants something that is not run here, by name; or the
            weights are missing, refused, or not of the network that it describes.
    """
    path = next(p for p in (bundle / "configs" / one for one in _CONFIGS) if p.is_file())
    config = Config(path)
    about = _metadata(bundle)
    definition = config.literal("network_def" if config.has("network_def") else "network")
    if not isinstance(definition, Mapping):
        raise refused(path, "there is no network_def")
    network = network_of(definition, path)
    draft = Draft(
        name=name,
        source=f"a MONAI bundle, {bundle.name}",
        weights=(),
        network=network,
        title=str(about.get("name", about.get("task", "")))[:64],
        voxels={"background": 0, "downsample": "linear"},
    )
    before = "preprocessing" if config.has("preprocessing") else "pre_transforms"
    for transform in _transforms(config, before, path):
        _prepare(draft, transform, path)
    _inferer(draft, config, path)
    behind = "postprocessing" if config.has("postprocessing") else "post_transforms"
    for transform in _transforms(config, behind, path):
        _clean(draft, transform, path)
    _describe(draft, about)
    weights = bundle / "models" / "model.pt"
    if not weights.is_file():
        raise refused(path, "there is no models/model.pt beside it; a TorchScript is not run")
    tensors = read_tensors("torch", weights, folder / WEIGHTS_FILE, wall_s=wall_s)
    if not fits(network, tensors.shapes):
        raise refused(path, "network_def describes another network than models/model.pt holds")
    draft.weights = [(tensors.path.name, tensors.sha256)]
    return draft


def _metadata(bundle: Path) -> dict[str, Any]:
    path = bundle / "configs" / "metadata.json"
    return read_config(path) if path.is_file() else {}


def _transforms(config: Config, key: str, path: Path) -> list[Mapping[str, Any]]:
    """Return the transforms of a Compose, with every reference followed."""
    if not config.has(key):
        return []
    composed = config.literal(key)
    if isinstance(composed, Mapping):
        if _name(composed) != "Compose":
            raise refused(path, f"{key} is {composed.get('_target_')}, which is not read here")
        composed = composed.get("transforms")
    if not isinstance(composed, list) or not all(isinstance(one, Mapping) for one in composed):
        raise refused(path, f"{key} holds no list of transforms")
    return [one for one in composed if one.get("_disabled_") is not True]


def _name(transform: Mapping[str, Any]) -> str:
    """Return the class that a transform names; of MONAI's modules, or without any."""
    module, _, name = str(transform.get("_target_", "")).rpartition(".")
    return name if not module or module.startswith("monai.transforms") else f"{module}.{name}"


def _prepare(draft: Draft, transform: Mapping[str, Any], path: Path) -> None:
    name = _name(transform)
    if name in _HARMLESS:
        return
    known: dict[str, Callable[[], None]] = {
        "Orientationd": lambda: _orientation(draft, transform, path),
        "Spacingd": lambda: _spacing(draft, transform),
        "ScaleIntensityRanged": lambda: _range(draft, transform),
        "ScaleIntensityd": lambda: draft.steps.append(
            {"step": "percentiles", "low": 0, "high": 100, "to": [0, 1]}
        ),
        "NormalizeIntensityd": lambda: _normalise(draft, transform, path),
        "CropForegroundd": lambda: draft.todo.append(
            "voxels: the bundle crops to the foreground (CropForegroundd), the card does not; "
            "labels can differ near the crop's border."
        ),
    }
    if name not in known:
        raise refused(path, f"preprocessing has {name}, which is not read here")
    known[name]()


def _orientation(draft: Draft, transform: Mapping[str, Any], path: Path) -> None:
    code = str(transform.get("axcodes", ""))
    if len(code) != 3 or any(letter not in _LETTERS for letter in code):
        raise refused(path, f"Orientationd has axcodes {code!r}")
    # A bundle's arrays are [x, y, z], so a 3D network has x where others have slices.
    x, y, z = (_LETTERS[letter] for letter in code)
    draft.voxels["orientation"] = f"{z}{x}{y}" if _is_flat(draft) else f"{x}{y}{z}"


def _spacing(draft: Draft, transform: Mapping[str, Any]) -> None:
    pixdim = [float(one) for one in transform["pixdim"]]
    flat = _is_flat(draft)
    draft.voxels["spacing_mm"] = [0, *pixdim[:2]] if flat else [max(0.0, one) for one in pixdim]
    draft.todo.append(
        "voxels.spacing_mm: the bundle's grid (Spacingd) begins at the first voxel's centre, the "
        "card's is centred on the image: up to half a voxel apart. Compare on a case."
    )


def _range(draft: Draft, transform: Mapping[str, Any]) -> None:
    low, high = float(transform["a_min"]), float(transform["a_max"])
    to = [float(transform.get("b_min", 0.0)), float(transform.get("b_max", 1.0))]
    if transform.get("clip"):
        draft.steps.append({"step": "clip", "low": low, "high": high})
    draft.steps.append({"step": "scale", "from": [low, high], "to": to})
    draft.voxels["background"] = low


def _normalise(draft: Draft, transform: Mapping[str, Any], path: Path) -> None:
    mean, sd = transform.get("subtrahend"), transform.get("divisor")
    if mean is not None and sd is not None:
        draft.steps.append({"step": "normalise", "mean": float(mean), "sd": float(sd)})
        return
    if transform.get("nonzero"):
        raise refused(path, "NormalizeIntensityd with nonzero = true is not read here")
    draft.steps.append({"step": "zscore"})


def _inferer(draft: Draft, config: Config, path: Path) -> None:
    inferer = config.literal("inferer") if config.has("inferer") else {}
    name = str(inferer.get("_target_", "")).rpartition(".")[2]
    flat = _is_flat(draft)
    if name in ("", "SimpleInferer"):
        return
    if name != "SlidingWindowInferer":
        raise refused(path, f"inferer is {name}, which is not read here")
    roi = [int(side) for side in inferer["roi_size"]]
    if len(roi) != (2 if flat else 3) or min(roi) < 1:
        raise refused(path, f"inferer#roi_size is {roi}")
    patch = [1, *roi] if flat else roi
    overlap = inferer.get("overlap", 0.25)
    draft.inference = {
        "mode": "window",
        "patch": patch,
        "overlap": float(overlap),
        "tiling": "clipped",
    }
    if inferer.get("mode", "constant") != "gaussian":
        draft.inference["blending"] = "constant"


def _is_flat(draft: Draft) -> bool:
    return draft.network is not None and draft.network.parameters["dimensions"] == 2


def _clean(draft: Draft, transform: Mapping[str, Any], path: Path) -> None:
    name = _name(transform)
    if name in _HARMLESS:
        return
    if name == "Activationsd":
        if transform.get("other"):
            raise refused(path, "Activationsd has a function of its own")
        return
    if name == "AsDiscreted":
        if transform.get("threshold") is not None:
            draft.head = {"kind": "probability", "threshold": float(transform["threshold"])}
        return
    if name == "KeepLargestConnectedComponentd":
        labels = transform.get("applied_labels")
        draft.postprocess.append(
            {
                "step": "keep_largest",
                "labels": _labels(labels) if labels is not None else _all_labels(draft),
                "count": int(transform.get("num_components", 1)),
            }
        )
        return
    raise refused(path, f"postprocessing has {name}, which is not read here")


def _labels(labels: Any) -> list[Value]:
    return [int(one) for one in (labels if isinstance(labels, list | tuple) else [labels])]


def _all_labels(draft: Draft) -> list[Value]:
    outputs = draft.network.outputs if draft.network else 2
    return list(range(1, max(2, outputs)))


def _describe(draft: Draft, about: Mapping[str, Any]) -> None:
    """Take labels and modality from metadata.json's description of inputs and outputs."""
    network = draft.network
    described = about.get("network_data_format", {})
    outputs = described.get("outputs", {}).get("pred", {}).get("channel_def", {})
    if network is not None and len(outputs) == network.outputs and network.outputs > 1:
        draft.segments = [str(outputs[str(n)]) for n in range(1, network.outputs)]
    image = described.get("inputs", {}).get("image", {})
    modality = str(image.get("modality", "")).upper()
    if modality in ("CT", "MR", "MRI", "PT", "PET"):
        draft.accepts = {"Modality": {"MRI": "MR", "PET": "PT"}.get(modality, modality)}
        units = {"CT": "HU", "MR": "arbitrary"}
        draft.voxels["units"] = units.get(str(draft.accepts["Modality"]), "")
    if not draft.steps:
        draft.todo.append("steps: the bundle has no intensity transform; is that right?")
    if network is not None and network.channels > 1:
        draft.todo.append(
            f"network.channels: the model wants {network.channels} registered series at once; "
            "write a [[channels]] table for each after the first (docs/models.md, Several series)."
        )
    for key in ("intended_use", "copyright", "references", "data_source"):
        if about.get(key):
            draft.todo.append(f"metadata.json says of {key}: {str(about[key])[:200]}")
