"""Score a model folder: on drawn chests, or on a real series with a reference mask.

The model runs through the node's own pipeline; only the post-processing is taken apart, so that
the score before it is seen too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np

from node.errors import setup_error
from node.imaging.pet import in_units
from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.transform import turn_along
from node.imaging.values import Floats, Refusal, Volume
from node.imaging.volume import load_volume
from node.models.card import load_card
from node.models.inference import segment_volume
from node.models.loaded import LoadedModel, load_model
from node.models.postprocess import postprocess
from node.phantom import chest
from node.training.scores import Labels, StudyScore, overlap_of

TEST_SEEDS: Final = range(1000, 1020)
"""Seeds of the chests that no training sees."""

HARD_SEEDS: Final = range(2000, 2020)
"""Seeds of the hard set: disease, gas, plates, wide fields of view, noise."""

_RAS_FROM_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def open_model(folder: Path) -> LoadedModel:
    """Load a model for scoring, on the CPU by the reference runtime: scores are the card's."""
    return load_model(load_card(folder), device="cpu", threads=1, runtime="torch")


def score_volume(model: LoadedModel, name: str, volume: Volume, reference: Labels) -> StudyScore:
    """Score one volume.

    Args:
        model: The model.
        name: What the study is called in the score.
        volume: The volume.
        reference: uint8, shape of the volume.
    """
    bare = dataclasses.replace(model, card=dataclasses.replace(model.card, postprocess=()))
    raw = segment_volume(volume, bare).labels
    final = postprocess(
        raw, model.card.postprocess, affine=volume.affine, spacing_mm=volume.spacing_mm
    ).labels
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    count = len(model.card.segments)
    upright = slice(None, None, 1 if volume.affine[2, 0] >= 0 else -1)
    before, after = (
        overlap_of(labels[upright], reference[upright], voxel_ml=voxel_ml, count=count)
        for labels in (raw, final)
    )
    return StudyScore(name, before, after, int((reference > 0).sum()) * voxel_ml)


def score_phantoms(
    model: LoadedModel,
    seeds: Iterable[int],
    *,
    hard: bool = False,
    slices: int = 32,
    side: int = 256,
    progress: Callable[[StudyScore], None] = lambda _: None,
) -> tuple[StudyScore, ...]:
    """Score drawn chests.

    Args:
        model: The model.
        seeds: Patients.
        hard: Draw them with the hard profile.
        slices: Slices of each.
        side: Rows and columns.
        progress: Called with each score.
    """
    found = []
    for seed in seeds:
        study = chest.volume(seed, slices=slices, rows=side, columns=side, hard=hard)
        score = score_volume(model, f"phantom {seed}", volume_of(study), study.labels)
        progress(score)
        found.append(score)
    return tuple(found)


def score_series(model: LoadedModel, folder: Path, reference: Path) -> StudyScore:
    """Score a real series against a NIfTI label file on its grid.

    Args:
        model: The model.
        folder: DICOM files with one usable volume.
        reference: NIfTI with the model's label numbers.

    Raises:
        SetupError: No volume can be used, or the reference lies on another grid.
    """
    volume = _only_volume(folder, model.card.voxels.units)
    return score_volume(model, folder.name, volume, _read_labels(reference, volume))


def volume_of(study: chest.ChestStudy) -> Volume:
    """Return a drawn study as the node's own volume, without files."""
    return Volume(
        array=np.maximum(study.hu, np.int16(-1024)),  # as the node reads padding
        affine=study.affine,
        spacing_mm=study.spacing_mm,
        units="HU",
        modality="CT",
        series_uid="",
        part=1,
        instances=(),
        slices=(),
    )


def _only_volume(folder: Path, units: str) -> Volume:
    plans = [p for p in find_volumes(read_folder(folder)) if not isinstance(p, Refusal)]
    loaded: Sequence[Volume | Refusal] = [load_volume(in_units(plan, units)) for plan in plans]
    usable = [volume for volume in loaded if isinstance(volume, Volume)]
    if len(usable) != 1:
        raise setup_error(
            "evaluate-volumes",
            f"Scoring wants one usable volume and found {len(usable)}.",
            where=str(folder),
            remedy="Give a folder with one series; `limner inspect` tells what is in it.",
        )
    return usable[0]


def _read_labels(path: Path, volume: Volume) -> Labels:
    image: Any = nib.load(path)  # nibabel is typed in part
    values = np.asanyarray(image.dataobj)
    affine: Floats = _RAS_FROM_LPS @ np.asarray(image.affine, np.float64)
    axes = turn_along(volume.affine[:3, :3], values.shape, affine)
    if axes.shape != volume.array.shape or not np.allclose(
        axes.affine(affine), volume.affine, atol=0.05
    ):
        raise setup_error(
            "evaluate-grid",
            "The reference does not lie on the grid of the series.",
            where=str(path),
            remedy="Give labels on the series' own grid; they are never resampled for a score.",
        )
    labels: Labels = np.ascontiguousarray(axes.apply(values)).astype(np.uint8)
    return labels
