"""Segments a drawn volume in a process whose address space is limited; says what came of it.

`python limited_memory.py FOLDER MB predicted|tried`: MB above what the process has when the model
is loaded; `tried` leaves the prediction out, so that memory really runs out.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from node.errors import LimnerError
from node.models.activations import activation_bytes
from node.models.budget import Free, free_memory
from node.models.card import load_card
from node.models.ladder import labels_that_fit
from node.models.loaded import load_model
from node.models.prepare import prepare
from node.models.scores import Meter
from tests.models.builders import make_volume

PLENTY = Free(1 << 50, 1 << 50)


def main() -> None:
    """Run, and print one JSON object."""
    folder, megabytes, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    model = load_model(load_card(folder), device="cpu", threads=1)
    values = np.random.default_rng(4).integers(0, 1000, (24, 160, 160)).astype(np.int16)
    prepared = prepare(make_volume(values), model.card)
    with torch.no_grad():  # what the first pass of a process makes once is not the case's
        model.network(torch.zeros(1, 1, 16, 16, 16), (2, 2, 2))
    activation_bytes(model.network, (1, 1, 16, 16, 16), (2, 2, 2))
    if megabytes:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    free_now = free_memory if how == "predicted" else lambda _device: PLENTY
    try:
        found = labels_that_fit(prepared, model, Meter(lambda _share: None), free_now=free_now)
    except LimnerError as error:
        sys.stdout.write(json.dumps({"code": error.fault.code, "said": str(error)}))
        return
    np.save(folder / f"{how}-{megabytes}.npy", found.labels)
    sys.stdout.write(json.dumps({"ladder": found.ladder}))


if __name__ == "__main__":
    main()
