"""Cases small enough to train on in seconds: bright balls in noise, a patient for each."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from node.imaging.values import Volume
from node.training.cases import Case, case_of

RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def ball_volume(seed: int, shape: tuple[int, int, int] = (20, 24, 20)) -> tuple[Volume, np.ndarray]:
    """Return a noisy volume with one bright ball in two halves, and its labels 1 and 2."""
    rng = np.random.Generator(np.random.PCG64([seed, 5]))
    centre = np.array(shape) / 2 + rng.uniform(-2, 2, 3)
    away = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(shape), centre, strict=True)))
    inside = away < rng.uniform(4, 6)
    front = np.indices(shape)[1] < centre[1]
    labels = np.where(inside, np.where(front, 1, 2), 0).astype(np.uint8)
    array = (100 + 80 * inside + 20 * front * inside + rng.normal(0, 8, shape)).astype(np.float32)
    return (
        Volume(
            array=array,
            affine=np.array([[0, 0, -1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float),
            spacing_mm=(1.0, 1.0, 1.0),
            units="arbitrary",
            modality="MR",
            series_uid="",
            part=1,
            instances=(),
            slices=(),
        ),
        labels,
    )


def ball_case(seed: int, patient: str = "") -> Case:
    """Return a case; its own patient unless one is named."""
    volume, labels = ball_volume(seed)
    return case_of(f"case-{seed}", patient or f"patient-{seed}", volume, labels, 2)


def write_balls(folder: Path, count: int, *, empty: Collection[int] = ()) -> Path:
    """Write cases as the folder that the recipe `hippocampus` reads; some without a label."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for seed in range(count):
        volume, labels = ball_volume(seed)
        if seed in empty:
            labels = np.zeros_like(labels)
        for name, array in (("images", volume.array), ("labels", labels)):
            image = nib.Nifti1Image(array.transpose(2, 1, 0), RAS)
            nib.save(image, folder / name / f"ball_{seed:03}.nii.gz")
    return folder


def write_hot_balls(folder: Path, count: int) -> Path:
    """Write cases as the folder that the recipe `pet-tumour` reads: one hot ball in SUV."""
    spacing = np.diag([-4.0, -4.0, 3.27, 1.0])
    for seed in range(count):
        volume, labels = ball_volume(seed)
        patient = folder / f"hot_{seed:03}"
        patient.mkdir(parents=True)
        suv = np.maximum((volume.array - 90) / 12, 0).astype(np.float32)
        for name, array in (("PET_image", suv), ("PET_mask", (labels > 0).astype(np.uint8))):
            nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), spacing), patient / f"{name}.nii.gz")
    return folder


def write_bright_discs(folder: Path, subjects: int, frames: int = 3) -> Path:
    """Write pictures as the folder that the recipe `us-nerve` reads: a bright disc in speckle."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows, columns = np.indices((256, 256))
    for subject in range(subjects):
        for frame in range(frames):
            rng = np.random.Generator(np.random.PCG64([subject, frame, 9]))
            y, x = rng.uniform(90, 160), rng.uniform(80, 180)
            disc = (rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(15, 30) ** 2
            grey = np.clip((60 + 90 * disc) * rng.gamma(9, 1 / 9, disc.shape), 0, 255)
            grey[:36] = grey[221:] = 128  # the letterbox of the real pictures
            name = f"{subject:02}_{frame:03}"
            Image.fromarray(grey.astype(np.uint8)).save(folder / "images" / f"{name}.jpg")
            mask = Image.fromarray((255 * disc).astype(np.uint8))
            mask.convert("1").save(folder / "masks" / f"{name}.png")
    return folder
