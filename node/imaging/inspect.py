"""What a folder holds, as the JSON object of `limner inspect`: volumes and frames, or why not.

Every series is named with every part of it, usable or not. Minimum, median and maximum leave
padding out; with a mask they are those inside it. A field that does not exist is null. A usable
PET volume whose values could not be made SUVbw keeps its own units and says why in its reason. An
entry is of `kind` `volume` or `frames` (ultrasound), null where the headers promise neither.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.imaging.decode import FrameDecoder
from node.imaging.images import find_images
from node.imaging.inspect_frames import frames_entry
from node.imaging.nifti import Mask, read_mask, write_nifti
from node.imaging.read import list_folder
from node.imaging.values import FramesPlan, Refusal, Volume, VolumePlan
from node.imaging.volume import load_volume

SCHEMA: Final = 1
"""Version of the JSON; a reader that meets another number should stop."""


def inspect_folder(
    folder: Path, *, mask: Path | None = None, nifti: Path | None = None
) -> dict[str, Any]:
    """Say what volumes and frames a folder holds.

    Args:
        folder: A folder of DICOM files, or one file.
        mask: NIfTI or DICOM-SEG; minimum, median and maximum of a volume are then those inside
            it.
        nifti: A folder for one NIfTI file per usable volume; made if absent.

    Returns:
        `schema`, `volumes` and `summary`, ready for JSON.
    """
    listing = list_folder(folder)
    volumes: list[dict[str, Any]] = []
    with FrameDecoder() as decoder:
        # One volume, or a few frames, in memory at a time.
        for found in find_images(listing.instances):
            if isinstance(found, Refusal):
                volumes.append(_refused(found, None))
            elif isinstance(found, FramesPlan):
                said = frames_entry(found, decoder)
                volumes.append(_refused(said, "frames") if isinstance(said, Refusal) else said)
            else:
                volumes.append(_volume(found, decoder, mask, nifti))
    usable = sum(bool(volume["usable"]) for volume in volumes)
    summary = {
        "files": len(listing.instances),
        "ignored_files": listing.ignored,
        "volumes": len(volumes),
        "usable": usable,
        "refused": len(volumes) - usable,
    }
    return {"schema": SCHEMA, "volumes": volumes, "summary": summary}


def _volume(
    plan: VolumePlan, decoder: FrameDecoder, mask: Path | None, nifti: Path | None
) -> dict[str, Any]:
    read = load_volume(plan, decoder=decoder)
    if isinstance(read, Refusal):
        return _refused(read, "volume")
    return _usable(plan, read, mask, nifti)


def _refused(refusal: Refusal, kind: str | None) -> dict[str, Any]:
    nothing = ("shape", "spacing_mm", "affine", "units", "minimum", "median", "maximum")
    return {
        "kind": kind,
        "series_uid": refusal.series_uid or None,
        "part": refusal.part,
        "modality": refusal.modality or None,
        "usable": False,
        "reason": str(refusal.reason),
        "explanation": refusal.explanation,
        **dict.fromkeys(nothing),
        "instances": list(refusal.instances),
        "notes": [],
        "regions": None,
        "frame_time_ms": None,
        "frame_times_ms": None,
        "mask": None,
        "nifti": None,
    }


def _usable(
    plan: VolumePlan, volume: Volume, mask: Path | None, nifti: Path | None
) -> dict[str, Any]:
    inside = read_mask(mask, volume) if mask else None
    written = _write(volume, nifti) if nifti else None
    return {
        "kind": "volume",
        "series_uid": plan.series_uid,
        "part": plan.part,
        "modality": plan.modality or None,
        "usable": True,
        "reason": str(plan.suv.reason) if plan.suv else None,
        "explanation": plan.suv.explanation if plan.suv else None,
        "shape": list(plan.shape),
        "spacing_mm": list(plan.spacing_mm),
        "affine": plan.affine.tolist(),
        "units": plan.units,
        **_three_numbers(volume, inside),
        "instances": [instance.sop_instance_uid for instance in plan.instances],
        "notes": list(plan.notes),
        "regions": None,
        "frame_time_ms": None,
        "frame_times_ms": None,
        "mask": _said_of_mask(inside),
        "nifti": str(written) if written else None,
    }


def _said_of_mask(inside: Mask | str | None) -> dict[str, Any] | None:
    if inside is None:
        return None
    if isinstance(inside, str):
        return {"fits": False, "explanation": inside, "voxels": None}
    return {"fits": True, "explanation": None, "voxels": int(inside.sum())}


def _three_numbers(volume: Volume, inside: Mask | str | None) -> dict[str, float | None]:
    """Return minimum, median and maximum of what was measured, null where nothing was."""
    nothing: dict[str, float | None] = dict.fromkeys(("minimum", "median", "maximum"))
    if isinstance(inside, str):
        return nothing
    chosen = inside
    if volume.padding is not None:
        chosen = ~volume.padding if chosen is None else chosen & ~volume.padding
    values = volume.array.reshape(-1) if chosen is None else volume.array[chosen]
    if values.dtype == np.float32:
        values = values[np.isfinite(values)]
    if not values.size:
        return nothing
    return {
        "minimum": values.min().item(),
        "median": float(np.median(values)),
        "maximum": values.max().item(),
    }


def harmless_name(series_uid: str) -> str:
    """Return a UID that came from outside as a part of a file's name, which leads nowhere else."""
    return re.sub(r"[^0-9A-Za-z.-]", "_", series_uid).strip(".")[:64]


def _write(volume: Volume, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{harmless_name(volume.series_uid)}-{volume.part}.nii.gz"
    write_nifti(volume, path)
    return path
