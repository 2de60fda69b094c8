"""The whole line for one case: DICOM in, `limner segment`, SEG out, read back by others' code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
from click.testing import CliRunner
from numpy.typing import NDArray
from results.judges import dcmqi_labels

from node.cli import cli
from node.imaging.values import Volume
from node.training.cases import Case


def labels_of_the_line(study: Path, case: Case, model: Path, scratch: Path) -> NDArray[np.uint8]:
    """Return what an independent reader finds in the SEG that the command wrote for a volume."""
    assert isinstance(case.image, Volume)
    labels, _ = dcmqi_labels(_segmented(study, model, scratch), case.image, scratch / "read")
    return labels


def frames_of_the_line(
    study: Path, shape: tuple[int, int, int], model: Path, scratch: Path
) -> NDArray[np.uint8]:
    """Return what the SEG of an ultrasound image says of each of its frames, read by pydicom."""
    seg = pydicom.dcmread(_segmented(study, model, scratch))
    labels = np.zeros(shape, np.uint8)
    planes = seg.pixel_array.reshape(-1, *shape[1:])
    for plane, groups in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for derived in groups.get("DerivationImageSequence", ()):
            for source in derived.SourceImageSequence:
                frame = int(source.get("ReferencedFrameNumber", 1)) - 1
                labels[frame][plane > 0] = number
    return labels


def _segmented(study: Path, model: Path, scratch: Path) -> Path:
    """Run `limner segment` and return the BINARY SEG that it wrote."""
    out = scratch / "out"
    words = ["segment", str(study), "--model", str(model), "--out", str(out), "--json"]
    answer = CliRunner().invoke(cli, words)
    assert answer.exit_code == 0, answer.output
    (volume,) = json.loads(answer.stdout)["volumes"]
    (binary,) = [one for one in volume["results"] if one["encoding"] == "BINARY"]
    return Path(binary["path"])
