"""Weights files: safetensors only, believed only if their SHA-256 is the card's.

Numbers go into a network whose every key and shape is asked for; nothing is left over or made
up. Nothing here unpickles; `imports` turns other people's files into this form once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import nn

from node.errors import setup_error

_SHOWN = 5  # keys named in a message before it says how many more


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hex.

    Raises:
        SetupError: The file cannot be read.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def read_weights_file(path: Path, *, sha256: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file whose bytes have the digest `sha256`.

    Raises:
        SetupError: The file is absent, its digest is another one, or it is not safetensors.
    """
    data = _read(path)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise setup_error(
            "model-weights-digest",
            f"The weights file {path.name} has the SHA-256 {found}, its card wants {sha256}.",
            where=str(path),
            remedy="Put back the file that the card was written for; only if the new file is "
            "the intended one, write its digest into [weights] and raise the card's version.",
        )
    # The bytes that were digested are the bytes that are parsed: the file is not opened again.
    try:
        return parse_safetensors(data)
    except SafetensorError as error:
        raise setup_error(
            "model-weights-format",
            f"The weights file {path.name} is not safetensors: {error}.",
            where=str(path),
            remedy="Bring it with `limner models import FILE FOLDER`.",
        ) from error


def key_mistakes(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return a sentence for each way in which the weights do not fit the network."""
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in weights and not is_counter(key)]
    left_over = [key for key in weights if key not in wanted]
    shapes = [
        f"{key} is {_sides(weights[key])}, wanted {_sides(tensor)}"
        for key, tensor in wanted.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    broken = [
        key
        for key, tensor in weights.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    return tuple(
        f"{what}: {_some(keys)}."
        for what, keys in (
            ("The architecture wants tensors that the file does not have", missing),
            ("The file has tensors that the architecture does not know", left_over),
            ("Tensors have another shape than the architecture's", shapes),
            ("Tensors hold values that are not finite", broken),
        )
        if keys
    )


def put_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], *, where: Path) -> None:
    """Copy the weights into the network.

    Raises:
        SetupError: A tensor is missing, left over, of another shape or not finite.
    """
    if mistakes := key_mistakes(model, weights):
        raise setup_error(
            "model-weights-keys",
            " ".join(mistakes),
            where=str(where),
            remedy="The [network] table of the card must describe the network that was trained.",
        )
    counters = {key: value for key, value in model.state_dict().items() if is_counter(key)}
    model.load_state_dict({**counters, **weights}, strict=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise setup_error(
            "model-weights-missing",
            f"The weights file cannot be read: {error}.",
            where=str(path),
            remedy="Copy the weights into the model's folder, or name them in [weights] file.",
        ) from error


def is_counter(key: str) -> bool:
    """Say whether a key is BatchNorm's counter of training steps, which inference never reads."""
    return key.endswith("num_batches_tracked")


def _sides(tensor: torch.Tensor) -> str:
    return " x ".join(str(side) for side in tensor.shape) or "one number"


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
