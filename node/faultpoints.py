"""Named points in the line at which a test can stop a process, look, and kill.

With `LIMNER_HOLD_AT=name` and `LIMNER_HOLD_DIR=folder` in its environment, the first process
that reaches `name` writes `name.reached` (its process id inside) into the folder and waits until
`name.go` appears there, at most 60 s. Each point holds once. Without both variables a point costs
one look at a module constant. The names are listed in `POINTS`; a test cannot misspell one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

POINTS: Final = (
    "receive.before-sync",  # wire: an instance is complete, nothing of it written, no answer sent
    "receive.after-sync",  # wire: durable, the keeper not yet told, no answer sent
    "index.before-commit",  # listener: rows are about to be committed
    "index.after-commit",  # listener: rows are committed
    "settle.before-commit",  # scheduler: a revision is about to be committed
    "decide.before-commit",  # scheduler: decisions and jobs are about to be committed
    "claim.after",  # segment worker: holds a lease, has read nothing
    "read.after",  # segment worker: voxels in memory
    "infer.after",  # segment worker: labels in memory
    "write.before-commit",  # segment worker: result bytes stored, rows not yet committed
    "write.after-commit",  # segment worker: job is done, deliveries are owed
    "deliver.before-store",  # network worker: association up, C-STORE not yet sent
    "deliver.after-store",  # network worker: the peer answered, row still says owed
    "confirm.after-ask",  # network worker: commitment asked, answer not yet there
    "confirm.before-rows",  # listener: N-EVENT-REPORT received, rows not yet written
)

_HOLD_AT: Final = os.environ.get("LIMNER_HOLD_AT", "")
_HOLD_DIR: Final = os.environ.get("LIMNER_HOLD_DIR", "")
_LONGEST_HOLD_S: Final = 60.0


def reached(name: str) -> None:
    """Wait here if the environment asks for it, the first time only."""
    if name != _HOLD_AT or not _HOLD_DIR:
        return
    mark = Path(_HOLD_DIR) / f"{name}.reached"
    try:
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    until = time.monotonic() + _LONGEST_HOLD_S
    while not (Path(_HOLD_DIR) / f"{name}.go").exists() and time.monotonic() < until:
        time.sleep(0.02)
