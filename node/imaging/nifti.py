"""Volumes as NIfTI files, and masks from NIfTI or DICOM-SEG on a volume's grid.

NIfTI counts x (columns) first and is RAS: the first two world axes change sign. A mask is taken
only where its voxels are the volume's voxels, in whatever axis order it was saved; it is never
resampled, and a mask on another grid is answered with a sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from node.imaging.attributes import DAMAGE, integer, text, tolerated
from node.imaging.enhanced import enhanced_frames
from node.imaging.frames import Frame
from node.imaging.read import looks_like_dicom, open_instance, read_header
from node.imaging.syntaxes import DEFLATED, NATIVE
from node.imaging.transform import turn, turn_along
from node.imaging.values import Floats, InstanceFile, Refusal, SourceInstance, Volume

Mask = NDArray[np.bool_]

OFF_GRID: Final = 0.1
"""A mask whose corners lie further than this part of a voxel from the volume's is another grid."""

_Image: Any = nib.Nifti1Image  # nibabel is typed in part, and its images are not

_RAS_FROM_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_SEGMENTATIONS: Final = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume as NIfTI with axes x, y, z and its affine turned to RAS.

    Args:
        volume: Any volume; values are written as they are.
        path: A name that ends in `.nii` or `.nii.gz`.
    """
    slices, rows, columns = volume.array.shape
    axes = turn((slices, rows, columns), (2, 1, 0), (False, False, False))
    image = _Image(axes.apply(volume.array), _RAS_FROM_LPS @ axes.affine(volume.affine))
    image.header.set_xyzt_units("mm")
    # Code 1, scanner coordinates, for both: some readers look at one only.
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    nib.save(image, path)


def read_mask(path: Path, volume: Volume) -> Mask | str:
    """Return the mask in a file on a volume's grid.

    Args:
        path: NIfTI, or a DICOM segmentation whose frames all lie on slices of the volume.
        volume: The volume it is meant for.

    Returns:
        True inside, shape of the volume's array; or one sentence on why it does not fit.
    """
    if looks_like_dicom(path):
        with tolerated():
            return _read_segmentation(path, volume)
    return _read_nifti(path, volume)


def _read_nifti(path: Path, volume: Volume) -> Mask | str:
    try:
        image: Any = nib.load(path)
        labels = np.asanyarray(image.dataobj)
        affine: Floats = _RAS_FROM_LPS @ np.asarray(image.affine, dtype=np.float64)
    except (*DAMAGE, nib.filebasedimages.ImageFileError):
        return f"{path.name} is neither NIfTI nor DICOM."
    labels = labels.reshape(labels.shape[:3]) if labels.ndim > 3 and 1 in labels.shape else labels
    if labels.ndim != 3:
        return f"{path.name} has {labels.ndim} dimensions where a mask has 3."
    first, second, third = labels.shape
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        return f"{path.name} has no usable affine."
    axes = turn_along(volume.affine[:3, :3], (first, second, third), affine)
    off = _off_grid(axes.affine(affine), volume)
    if axes.shape != volume.array.shape or off > OFF_GRID:
        return (
            f"{path.name} lies on another grid: {' x '.join(map(str, axes.shape))} voxels, "
            f"corners off by {off:.2f} voxels, where the volume has "
            f"{' x '.join(map(str, volume.array.shape))}."
        )
    return np.asarray(axes.apply(labels) > 0)


def _off_grid(affine: Floats, volume: Volume) -> float:
    """Return how far, in voxels, the corners of a grid lie from the same corners of a volume."""
    far = np.array(volume.array.shape) - 1.0
    corners = np.array(np.meshgrid(*[(0.0, end) for end in far])).reshape(3, 8)
    corners = np.vstack([corners, np.ones(8)])
    off = np.linalg.solve(volume.affine, affine @ corners) - corners
    return float(np.abs(off).max())


def _read_segmentation(path: Path, volume: Volume) -> Mask | str:
    instance = read_header(InstanceFile(path))
    if isinstance(instance, Refusal):
        return instance.explanation
    if instance.sop_class_uid not in _SEGMENTATIONS or instance.pixels is None:
        return f"{path.name} is DICOM, but not a segmentation."
    if instance.pixels.transfer_syntax not in NATIVE - {DEFLATED} or instance.pixels.big_endian:
        return f"{path.name} is compressed; only uncompressed segmentations are read as masks."
    frames = enhanced_frames(instance)
    if not isinstance(frames, list):
        return f"{path.name}: {frames[1]}"
    pixels = _segmentation_pixels(instance, len(frames))
    if isinstance(pixels, str):
        return f"{path.name}: {pixels}"
    mask: Mask = np.zeros(volume.array.shape, dtype=np.bool_)
    for frame, inside in zip(frames, pixels, strict=True):
        index = _slice_of(frame, volume)
        if index is None:
            return f"{path.name}: frame {frame.number} does not lie on a slice of the volume."
        mask[index] |= inside
    return mask


def _segmentation_pixels(instance: SourceInstance, frames: int) -> Mask | str:
    """Return where each frame labels anything, shape (frames, rows, columns)."""
    header, place = instance.header, instance.pixels
    rows, columns = integer(header, "Rows") or 0, integer(header, "Columns") or 0
    bits = integer(header, "BitsAllocated") or 0
    count = frames * rows * columns
    if place is None or bits not in (1, 8, 16) or count == 0:
        return f"segmentations of {bits} bits are not read."
    with open_instance(instance.file) as stream:
        stream.seek(place.offset)
        data = stream.read(-(-count * bits // 8))
    if len(data) * 8 < count * bits:
        return "the pixels end before the last frame."
    if bits == 1:
        flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
    else:
        flat = np.frombuffer(data, f"<u{bits // 8}", count)
    inside = flat > 0
    if text(header, "SegmentationType") == "FRACTIONAL":
        inside = flat * 2.0 >= (integer(header, "MaximumFractionalValue") or 255)
    unlabelled = integer(header, "PixelPaddingValue")
    if unlabelled is not None and bits > 1:
        inside &= flat != unlabelled
    return np.asarray(inside.reshape(frames, rows, columns))


def _slice_of(frame: Frame, volume: Volume) -> int | None:
    """Return the slice on which a frame lies pixel on pixel, or None."""
    if not frame.placed or (frame.rows, frame.columns) != volume.array.shape[1:]:
        return None
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    plane: Floats = np.eye(4)
    plane[:3, 0] = volume.affine[:3, 0]
    plane[:3, 1] = column * frame.spacing[0]
    plane[:3, 2] = row * frame.spacing[1]
    plane[:3, 3] = frame.position
    # Index in the frame to index in the volume: on the grid it is a shift along the slices.
    change = np.linalg.solve(volume.affine, plane)
    index = round(float(change[0, 3]))
    far = np.array([[frame.rows - 1.0], [frame.columns - 1.0]])
    ends = np.hstack([change[:3, 3:], change[:3, 3:] + change[:3, 1:3] @ far])
    wanted = np.array([[index, index], [0, frame.rows - 1], [0, frame.columns - 1]], float)
    if np.abs(ends - wanted).max() > OFF_GRID or not 0 <= index < volume.array.shape[0]:
        return None
    return index
