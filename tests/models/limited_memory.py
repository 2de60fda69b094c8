"""Segments a drawn volume in processes whose address space is limited; says what came of it.

`python limited_memory.py FOLDER MB:HOW ...`: one process for each, one JSON object a line. MB above
what the process has when the model is loaded, 0 for no limit; HOW is `predicted`, or `tried`, which
leaves the prediction out, so that memory really runs out. Labels go to FOLDER/HOW-MB.npy.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from node.errors import LimnerError
from node.models.activations import activation_bytes
from node.models.budget import Free, free_memory
from node.models.card import load_card
from node.models.ladder import fractions_that_fit, labels_that_fit
from node.models.loaded import LoadedModel, load_model
from node.models.prepare import Prepared, prepare
from node.models.scores import Meter
from tests.models.builders import make_volume

PLENTY = Free(1 << 50, 1 << 50)


def limited(
    folder: Path, model: LoadedModel, prepared: Prepared, megabytes: int, how: str
) -> dict[str, str]:
    """Limit this process and segment; return the steps taken, or the code of the failure."""
    if megabytes:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    free_now = free_memory if how == "predicted" else lambda _device: PLENTY
    that_fit = fractions_that_fit if model.card.head.kind == "occupancy" else labels_that_fit
    try:
        found = that_fit(prepared, model, Meter(lambda _share: None), free_now=free_now)
    except LimnerError as error:
        return {"code": error.fault.code, "said": str(error)}
    np.save(folder / f"{how}-{megabytes}.npy", found.made)
    return {"ladder": found.ladder}


def main() -> None:
    """Run, and print one JSON object for each limit."""
    folder = Path(sys.argv[1])
    model = load_model(load_card(folder), device="cpu", threads=1)
    values = np.random.default_rng(4).integers(0, 1000, (24, 160, 160)).astype(np.int16)
    prepared = prepare(make_volume(values), model.card)
    sides = (16, 16, 16) if model.card.inference.patch else (16, 16)
    with torch.no_grad():  # what the first pass of a process makes once is not the case's
        model.network(torch.zeros(1, 1, *sides))
    activation_bytes(model.network, (1, 1, *sides), (2,) * len(sides))
    for said in sys.argv[2:]:
        megabytes, how = said.split(":")
        child = os.fork()
        if not child:
            line = json.dumps(limited(folder, model, prepared, int(megabytes), how))
            os.write(1, f"{line}\n".encode())
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{said} failed")


if __name__ == "__main__":
    main()
