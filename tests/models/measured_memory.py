"""Measures what segmenting takes, each case in a process of its own; prints a line per case.

`python measured_memory.py FOLDER`: FOLDER holds model folders, each with a `volume.json` beside the
card: the shape, and the distances in mm. The peak is what the kernel saw (VmHWM), above what the
process had when the model was loaded and the volume was there.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from node.models.memory import tune_allocator

tune_allocator()

import numpy as np  # noqa: E402  (the allocator is tuned before torch is imported, as at start)
import torch  # noqa: E402

from node.models.activations import activation_bytes  # noqa: E402
from node.models.architectures import size_multiples  # noqa: E402
from node.models.budget import needed  # noqa: E402
from node.models.card import load_card  # noqa: E402
from node.models.inference import labels_of_volume  # noqa: E402
from node.models.loaded import load_model  # noqa: E402
from node.models.prepare import prepare  # noqa: E402
from node.models.scores import Work  # noqa: E402
from tests.models.builders import make_volume  # noqa: E402


def measured(folder: Path) -> dict[str, int]:
    """Return the predicted and the real peak in bytes, and how many labels there were."""
    model = load_model(load_card(folder), device="cpu", threads=1)
    said = json.loads((folder / "volume.json").read_text(encoding="utf-8"))
    shape = tuple(said["shape"])
    made = np.random.default_rng(3)
    series = [
        make_volume(
            made.integers(0, 1000, shape).astype(np.int16), spacing_mm=tuple(said["spacing_mm"])
        )
        for _ in model.card.backgrounds
    ]
    volume = replace(series[0], others=tuple(series[1:]))
    # What a process does once, at its first pass: code is loaded, kernels are made.
    small = make_volume(volume.array[:2, :8, :8])
    labels_of_volume(replace(small, others=(small,) * (len(series) - 1)), model)
    card, prepared = model.card, prepare(volume, model.card)
    sides = card.inference.patch or prepared.shape[1:]
    activations = activation_bytes(
        model.network, (1, card.network.channels, *sides), size_multiples(card.network)
    )
    need = needed(prepared, card, Work(card.inference.batch), activations=activations)
    ctypes.CDLL(None).malloc_trim(0)
    base = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    labels = labels_of_volume(volume, model)
    return {
        "predicted": need.host,
        "peak": _memory("VmHWM") - base,
        "labels": len(np.unique(labels)),
    }


def _memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Fork for each case: what one leaves in the heap is not the next one's."""
    torch.set_num_threads(1)
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        child = os.fork()
        if not child:
            line = json.dumps({"name": folder.name, **measured(folder)})
            os.write(1, f"{line}\n".encode("ascii"))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{folder.name} failed")


if __name__ == "__main__":
    main()
