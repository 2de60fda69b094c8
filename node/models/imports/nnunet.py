"""An nnU-Net v2 results folder as a model folder: its plans, its folds as an ensemble.

`TRAINER__PLANS__CONFIGURATION/` holds plans.json, dataset.json and fold_N/checkpoint_final.pth.
The plans name Python objects in text; each name is looked up in a table here and never imported,
and a name outside the tables ends the import. The weights are then held against the network that
the plans describe, key by key.

Source: files that nnU-Net 2.0 to 2.8 write; Isensee et al., Nature Methods 18, 203-211 (2021).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from node.errors import SetupError, setup_error
from node.models.imports.draft import Draft, Value
from node.models.imports.foreign import Tensors, read_tensors
from node.models.imports.guess import fits
from node.models.imports.nnunet_network import network_of
from node.models.parts import Network

_CHECKPOINTS: Final = ("checkpoint_final.pth", "checkpoint_best.pth")
_LARGEST_JSON: Final = 64 << 20
_READERS: Final = {
    "SimpleITKIO": "native",
    "SimpleITKIOWithReorient": "HAR",
    "NibabelIO": "native",
    "NibabelIOWithReorient": "HAR",
    "Tiff3DIO": "native",
}
"""How each of nnU-Net's readers lays the axes, as [slice, row, column] of ours."""
_AXES: Final = ("slice", "row", "column")


def nnunet_folder(inside: Path) -> Path | None:
    """Return the folder that holds plans.json and dataset.json: this one, or a single one in it."""
    found = [
        path.parent
        for path in sorted(inside.glob("**/plans.json"))
        if (path.parent / "dataset.json").is_file()
    ]
    return found[0] if len(found) == 1 else None


def draft_of_nnunet(trained: Path, folder: Path, name: str, *, wall_s: float) -> Draft:
    """Write the folds' weights into `folder` and return what the plans say.

    Raises:
        SetupError: The plans want something that is not run here, by name; or a checkpoint is
            missing, refused, or not of the network that the plans describe.
    """
    plans = _json(trained / "plans.json")
    about = _json(trained / "dataset.json")
    try:
        return _draft(trained, folder, name, plans=plans, about=about, wall_s=wall_s)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _refused(trained, f"plans.json or dataset.json lacks or misstates {error}") from error


def _draft(
    trained: Path,
    folder: Path,
    name: str,
    *,
    plans: Mapping[str, Any],
    about: Mapping[str, Any],
    wall_s: float,
) -> Draft:
    chosen = trained.name.rpartition("__")[2]
    members: list[Tensors] = []
    if chosen not in plans["configurations"]:  # the folder was renamed: the checkpoint knows
        members = _members(trained, folder, wall_s)
        chosen = str((members[0].facts.get("init_args") or {}).get("configuration", chosen))
    configuration = _configuration(plans, chosen, trained)
    if configuration.get("previous_stage"):
        raise _refused(
            trained, f"{chosen} is the second stage of a cascade and wants the first's labels"
        )
    channels = about.get("channel_names") or about["modality"]
    if len(channels) > 1:
        seen = ", ".join(str(one) for one in channels.values())
        raise _refused(
            trained,
            f"it sees {len(channels)} series at once ({seen}), and volumes are prepared as nnU-Net "
            "does from one series only",
        )
    labels, regions = _labels(about)
    outputs = len(regions) if regions else len(labels) + 1
    network = network_of(configuration, len(channels), outputs, trained)
    draft = Draft(
        name=name,
        source=f"an nnU-Net v2 results folder, {trained.name}",
        weights=(),
        network=network,
        title=str(plans.get("dataset_name", ""))[:64],
        segments=labels,
    )
    _voxels(draft, plans, configuration, [str(one) for one in channels.values()])
    members = members or _members(trained, folder, wall_s)
    for member in members:
        if not fits(network, member.shapes):
            raise _refused(trained, f"{member.path.stem} is not of the network in plans.json")
    draft.weights = [(member.path.name, member.sha256) for member in members]
    _inference(draft, configuration, network, members[0].facts)
    if regions:
        draft.head = {"kind": "regions", "order": regions}
    (seen,) = channels.values()
    draft.todo.append(f"accepts: nnU-Net was trained on {seen}.")
    return draft


def _members(trained: Path, folder: Path, wall_s: float) -> list[Tensors]:
    """Read every fold's checkpoint; folds of a cross-validation stand before one of all data."""
    found: list[tuple[str, Path]] = []
    for fold in sorted(trained.glob("fold_*")):
        for checkpoint in _CHECKPOINTS:
            if (fold / checkpoint).is_file():
                found.append((fold.name, fold / checkpoint))
                break
    if not found:
        raise _refused(trained, "there is no fold_N/checkpoint_final.pth")
    numbered = [one for one in found if one[0] != "fold_all"] or found
    return [
        read_tensors("torch", path, folder / f"{fold.replace('_', '-')}.safetensors", wall_s=wall_s)
        for fold, path in numbered
    ]


def _configuration(plans: Mapping[str, Any], name: str, trained: Path) -> dict[str, Any]:
    """Return a configuration with what it inherits."""
    chain: list[dict[str, Any]] = []
    seen: set[str] = set()
    while name:
        if name in seen or name not in plans["configurations"]:
            raise _refused(trained, f"plans.json has no configuration {name} that ends")
        seen.add(name)
        chain.append(plans["configurations"][name])
        name = str(chain[-1].get("inherits_from") or "")
    merged: dict[str, Any] = {}
    for part in reversed(chain):
        merged |= part
    return merged


def _labels(about: Mapping[str, Any]) -> tuple[list[str], list[Value]]:
    """Return the labels in words, by number from 1, and the order of regions, if it has any."""
    given: Mapping[str, Any] = about["labels"]
    if all(str(key).isdigit() for key in given):  # the old form: number to word
        given = {str(word): int(number) for number, word in given.items()}
    named = {word: value for word, value in given.items() if word != "ignore" and value != 0}
    if any(isinstance(value, list) for value in named.values()):
        order = [int(one) for one in about["regions_class_order"]]
        words = dict(zip(order, named, strict=True))
        if sorted(order) != list(range(1, len(order) + 1)):
            raise ValueError(f"regions_class_order {order}")
        return [words[number] for number in sorted(order)], list(order)
    words = {int(value): word for word, value in named.items()}
    if sorted(words) != list(range(1, len(words) + 1)):
        raise ValueError(f"labels {sorted(words)}")
    return [words[number] for number in sorted(words)], []


def _voxels(
    draft: Draft, plans: Mapping[str, Any], configuration: Mapping[str, Any], channels: list[str]
) -> None:
    """Fill [voxels] and [[steps]]: what nnU-Net's preprocessor does, in its order."""
    reader = str(plans.get("image_reader_writer", "SimpleITKIO"))
    spacing = [float(one) for one in configuration["spacing"]]
    order = [int(one) for one in plans.get("transpose_forward", [0, 1, 2])]
    draft.voxels = {
        "orientation": _READERS.get(reader, ""),
        "spacing_mm": spacing if len(spacing) == 3 else [0, *spacing],
        "background": -1024 if channels[0].upper() == "CT" else 0,
        "units": "HU" if channels[0].upper() == "CT" else "",
        "downsample": "spline",
        "crop": "nonzero",
    }
    if order != [0, 1, 2]:
        draft.voxels["transpose"] = order
    if channels[0].upper() == "CT":
        draft.accepts = {"Modality": "CT"}
    if draft.voxels["orientation"] == "native":
        draft.todo.append(
            "voxels.orientation: nnU-Net took the axes of its training files as they were; "
            '"native" is right for files in the order of DICOM, "HAL" for what dcm2niix writes of '
            "axial ones."
        )
    scheme = str(configuration["normalization_schemes"][0])
    masked = bool(configuration["use_mask_for_norm"][0])
    draft.steps = _steps(scheme, plans, masked=masked)
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        default = "resample_data_or_seg_to_shape"
        if configuration.get(key, default) != default:
            draft.todo.append(
                f"voxels.downsample: nnU-Net used {configuration[key]}, the card's splines differ "
                "slightly; compare on a case."
            )


def _steps(scheme: str, plans: Mapping[str, Any], *, masked: bool) -> list[dict[str, Value]]:
    if scheme == "CTNormalization":
        properties = (
            plans.get("foreground_intensity_properties_per_channel")
            or plans["foreground_intensity_properties_by_modality"]
        )
        known = properties["0"]
        low, high = float(known["percentile_00_5"]), float(known["percentile_99_5"])
        return [
            {"step": "clip", "low": low, "high": high},
            {
                "step": "normalise",
                "mean": float(known["mean"]),
                "sd": max(float(known["std"]), 1e-8),
            },
        ]
    if scheme == "ZScoreNormalization":
        return [{"step": "zscore", "within": "nonzero"} if masked else {"step": "zscore"}]
    if scheme == "RescaleTo01Normalization":
        return [{"step": "percentiles", "low": 0, "high": 100, "to": [0, 1]}]
    if scheme == "RGBTo01Normalization":
        return [{"step": "scale", "from": [0, 255], "to": [0, 1]}]
    if scheme == "NoNormalization":
        return []
    raise ValueError(f"normalization_schemes {scheme}")


def _inference(
    draft: Draft, configuration: Mapping[str, Any], network: Network, facts: Mapping[str, Any]
) -> None:
    patch = [int(side) for side in configuration["patch_size"]]
    flat = network.parameters["dimensions"] == 2
    allowed: Sequence[int] = facts.get("inference_allowed_mirroring_axes") or ()
    mirrors = [_AXES[int(axis) + (1 if flat else 0)] for axis in allowed]
    draft.inference = {
        "mode": "window",
        "patch": [1, *patch] if flat else patch,
        "overlap": 0.5,
        "blending": "nnunet",
        "mirrors": mirrors,
    }
    if mirrors:
        draft.todo.append(
            f"inference.mirrors: {2 ** len(mirrors)} passes, as nnU-Net's own; [] is as many times "
            "faster and changes labels slightly."
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise _refused(path.parent, f"{path.name} has more than {_LARGEST_JSON} bytes")
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path.parent, f"{path.name} cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise _refused(path.parent, f"{path.name} holds no object")
    return read


def _refused(trained: Path, what: str) -> SetupError:
    return setup_error(
        "import-nnunet",
        f"This nnU-Net model is not taken: {what}.",
        where=str(trained),
        remedy="docs/models.md says what is run of nnU-Net; a state dict of its network can be "
        "imported alone.",
    )
