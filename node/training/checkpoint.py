"""Where a training stands, on disk: tensors as safetensors, the rest as JSON, nothing pickled.

Order of writing: the tensors under a name of their own, synced and renamed; then `state.json`,
which names them, the same way; then older tensors are removed. A kill at any point leaves the old
state or the new one, whole. A state that was made by another recipe, seed, budget or other
examples is not taken up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save

from node.errors import setup_error
from node.training.sampling import Place

_STATE: Final = "state.json"
_REMEDY: Final = "Remove the folder to begin again; nothing else depends on it."


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Everything that a training needs to go on as if it had never stopped.

    Attributes:
        made_from: Digest of recipe, seed, budget and examples.
        step: Steps that are done.
        elapsed_s: Wall seconds that were spent.
        loss: Running mean of the loss.
        place: Where the sampler stands.
        rng: State of the source of randomness.
        tensors: Weights, their running mean, the optimiser's moments.
    """

    made_from: str
    step: int
    elapsed_s: float
    loss: float
    place: Place
    rng: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


def store(folder: Path, standing: Standing) -> None:
    """Write where a training stands; durable when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{standing.step}.safetensors"
    data = save({key: value.contiguous() for key, value in standing.tensors.items()})
    _write(folder / name, data)
    facts = {
        "schema": 1,
        "made_from": standing.made_from,
        "step": standing.step,
        "elapsed_s": standing.elapsed_s,
        "loss": standing.loss,
        "order": standing.place.order,
        "at": standing.place.at,
        "rng": standing.rng,
        "tensors": name,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    _write(folder / _STATE, json.dumps(facts).encode())
    for older in folder.glob("step-*.safetensors"):
        if older.name != name:
            older.unlink()


def taken_up(folder: Path, made_from: str) -> Standing | None:
    """Return where a training stood, or None where none has begun.

    Raises:
        SetupError: The state is of another training, or damaged.
    """
    path = folder / _STATE
    if not path.exists():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts["made_from"] != made_from:
        raise setup_error(
            "training-other",
            "A training with another recipe, seed, budget or other cases was begun here.",
            where=str(folder),
            remedy=_REMEDY,
        )
    tensors = folder / facts["tensors"]
    if hashlib.sha256(tensors.read_bytes()).hexdigest() != facts["sha256"]:
        raise setup_error(
            "training-damaged",
            "The stored tensors are not those that the state names.",
            where=str(tensors),
            remedy=_REMEDY,
        )
    return Standing(
        made_from=made_from,
        step=facts["step"],
        elapsed_s=facts["elapsed_s"],
        loss=facts["loss"],
        place=Place(tuple(facts["order"]), facts["at"]),
        rng=facts["rng"],
        tensors=load_file(tensors),
    )


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
