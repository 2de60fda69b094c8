"""A phantom scanner: sends a study over DICOM as a modality does, in no helpful order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from node.dicom.scu import OutgoingFile, SendOutcome, Target, send_instances
from node.phantom.study import PhantomInstance

AE_TITLE: Final = "PHANTOMSCANNER"


def _no_progress(_done: int, _all: int) -> None:
    return None


def send_study(
    target: Target,
    instances: Sequence[PhantomInstance],
    *,
    calling_ae: str = AE_TITLE,
    shuffle_seed: int | None = 0,
    on_progress: Callable[[int, int], None] = _no_progress,
) -> tuple[SendOutcome, ...]:
    """Send objects over one association.

    Args:
        target: Where to.
        instances: What, such as `PhantomStudy.instances` or a part of them.
        calling_ae: The scanner's AE title.
        shuffle_seed: Draws the order of sending; None keeps the order given.
        on_progress: Called with how many of how many have an answer.

    Returns:
        What became of each object, in the order of sending.

    Raises:
        PassingError: The node was not reached or did not accept an association.
    """
    order = list(instances)
    if shuffle_seed is not None:
        drawn = np.random.Generator(np.random.PCG64(shuffle_seed)).permutation(len(order))
        order = [order[int(index)] for index in drawn]
    done = 0

    def answered(_outcome: SendOutcome) -> None:
        nonlocal done
        done += 1
        on_progress(done, len(order))

    with tempfile.TemporaryDirectory(prefix="limner-phantom-") as folder:
        files = [
            _file(Path(folder) / f"{number:05d}.dcm", instance)
            for number, instance in enumerate(order)
        ]
        return tuple(send_instances(target, files, calling_ae=calling_ae, on_answer=answered))


def _file(path: Path, instance: PhantomInstance) -> OutgoingFile:
    """Write one object to `path` and describe it."""
    path.write_bytes(instance.data)
    return OutgoingFile(
        path=path,
        offset=0,
        length=len(instance.data),
        sop_class=instance.sop_class_uid,
        sop_uid=instance.sop_instance_uid,
        transfer_syntax=instance.transfer_syntax_uid,
    )
