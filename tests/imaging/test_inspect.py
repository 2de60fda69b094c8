"""The JSON of `limner inspect`, NIfTI files and masks."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import SegmentationStorage

from node.imaging import find_volumes, load_volume, read_folder
from node.imaging.inspect import inspect_folder
from node.imaging.nifti import read_mask
from node.imaging.values import Volume, VolumePlan

from .build import (
    AXIAL,
    DX,
    DY,
    GAP,
    OBLIQUE,
    SLICES,
    edited,
    phantom,
    place,
    save,
    series,
    slice_dataset,
)

HU = phantom().astype(np.int16) - 1024


def _volume(folder: Path) -> Volume:
    (plan,) = find_volumes(read_folder(folder))
    assert isinstance(plan, VolumePlan)
    volume = load_volume(plan)
    assert isinstance(volume, Volume)
    return volume


def test_every_series_is_named_with_its_numbers_or_its_reason(tmp_path: Path) -> None:
    save(tmp_path / "good", series())
    other = series()[:2]
    for index, data in enumerate(other):
        data.SeriesInstanceUID, data.SOPInstanceUID = "2.25.9", f"2.25.90{index}"
    save(tmp_path / "short", other)
    (tmp_path / "notes.txt").write_text("no DICOM")
    said = inspect_folder(tmp_path)
    json.dumps(said, allow_nan=False)
    assert said["schema"] == 1
    assert said["summary"] == {
        "files": 14,
        "ignored_files": 1,
        "volumes": 2,
        "usable": 1,
        "refused": 1,
    }
    good, short = said["volumes"]
    assert good["usable"] is True
    assert good["reason"] is None
    assert good["shape"] == [SLICES, 20, 24]
    assert good["spacing_mm"] == pytest.approx([GAP, DY, DX])
    assert np.array(good["affine"]).shape == (4, 4)
    assert (good["units"], good["modality"], good["part"]) == ("HU", "CT", 1)
    assert good["minimum"] == HU.min()
    assert good["median"] == np.median(HU)
    assert good["maximum"] == HU.max()
    assert short["usable"] is False
    assert short["reason"] == "too-few-slices"
    assert short["shape"] is None
    assert good.keys() == short.keys()


def test_the_three_numbers_leave_padding_out(tmp_path: Path) -> None:
    cells = phantom()
    cells[:, :5] = 0

    def change(_: int, data: Dataset) -> None:
        data.add_new("PixelPaddingValue", "US", 0)

    (volume,) = inspect_folder(save(tmp_path, edited(series(pixels=cells), change)))["volumes"]
    assert volume["minimum"] == HU[:, 5:].min()
    assert volume["median"] == np.median(HU[:, 5:])


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, (0, 1, 0, 0, 0, -1)])
def test_a_written_nifti_has_every_voxel_at_its_place_in_ras(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    folder = save(tmp_path / "series", series(orientation=orientation))
    (said,) = inspect_folder(folder, nifti=tmp_path / "out")["volumes"]
    image = nib.load(said["nifti"])
    values = np.asanyarray(image.dataobj)
    assert values.shape == (24, 20, SLICES)
    for k, r, c in ((0, 0, 0), (3, 0, 3), (11, 19, 23), (5, 7, 2)):
        assert values[c, r, k] == HU[k, r, c]
        lps = np.array(said["affine"]) @ [k, r, c, 1]
        np.testing.assert_allclose(image.affine @ [c, r, k, 1], lps * [-1, -1, 1, 1], atol=1e-4)


def test_a_uid_from_outside_cannot_leave_the_folder(tmp_path: Path) -> None:
    def change(_: int, data: Dataset) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom objects, as it should
            data.SeriesInstanceUID = "../../../evil"

    folder = save(tmp_path / "series", edited(series(), change))
    (said,) = inspect_folder(folder, nifti=tmp_path / "out")["volumes"]
    assert Path(said["nifti"]).parent == tmp_path / "out"


MASK = np.zeros((SLICES, 20, 24), np.uint8)
MASK[3, 0, 3] = MASK[7, 5, 11] = 2


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL"])
def test_a_nifti_mask_fits_in_whatever_axis_order_it_was_saved(
    tmp_path: Path, orientation: tuple[float, ...], codes: str
) -> None:
    volume = _volume(save(tmp_path / "series", series(orientation=orientation)))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    image = nib.Nifti1Image(MASK.transpose(2, 1, 0), affine)
    here = nib.orientations.io_orientation(affine)
    there = nib.orientations.axcodes2ornt(tuple(codes))
    image = image.as_reoriented(nib.orientations.ornt_transform(here, there))
    nib.save(image, tmp_path / "mask.nii.gz")
    mask = read_mask(tmp_path / "mask.nii.gz", volume)
    assert isinstance(mask, np.ndarray), mask
    np.testing.assert_array_equal(mask, MASK > 0)


def test_numbers_inside_a_mask_are_those_of_its_voxels(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", series())
    volume = _volume(folder)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(MASK.transpose(2, 1, 0), affine), tmp_path / "mask.nii")
    (said,) = inspect_folder(folder, mask=tmp_path / "mask.nii")["volumes"]
    assert said["mask"] == {"fits": True, "explanation": None, "voxels": 2}
    assert said["maximum"] == HU[3, 0, 3] == 3000 - 1024
    assert said["minimum"] == HU[7, 5, 11]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask, affine: (mask[:-1], affine), "another grid"),
        (lambda mask, affine: (mask, affine + np.eye(4, k=3) * 0.5), "corners off by"),
        (lambda mask, affine: (mask, affine @ np.diag([1.01, 1, 1, 1])), "corners off by"),
        (lambda mask, affine: (np.stack([mask, mask], -1), affine), "dimensions"),
    ],
)
def test_a_mask_on_another_grid_is_answered_with_a_sentence(
    tmp_path: Path, change: Callable[..., tuple[np.ndarray, np.ndarray]], words: str
) -> None:
    folder = save(tmp_path / "series", series())
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ _volume(folder).affine[:, [2, 1, 0, 3]]
    mask, moved = change(MASK.transpose(2, 1, 0), affine)
    nib.save(nib.Nifti1Image(mask, moved), tmp_path / "mask.nii")
    (said,) = inspect_folder(folder, mask=tmp_path / "mask.nii")["volumes"]
    assert said["usable"] is True
    assert said["mask"]["fits"] is False
    assert words in said["mask"]["explanation"]
    assert said["median"] is None


def _segmentation(slices: list[int], shift_mm: float = 0.0) -> Dataset:
    """Return a BINARY segmentation whose frames stand in a given order of slices."""
    data = slice_dataset(0, phantom()[0])
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, keyword)
    data.SOPClassUID, data.Modality, data.SeriesInstanceUID = SegmentationStorage, "SEG", "2.25.8"
    data.SegmentationType = "BINARY"
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit, data.NumberOfFrames = 0, len(slices)
    shared = Dataset()
    shared.PixelMeasuresSequence = Items([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [DY, DX]
    shared.PlaneOrientationSequence = Items([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    data.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for index in slices:
        frame = Dataset()
        frame.PlanePositionSequence = Items([Dataset()])
        position = place(index)
        position[0] += shift_mm
        frame.PlanePositionSequence[0].ImagePositionPatient = position
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    bits = np.packbits(MASK[slices].reshape(-1) > 0, bitorder="little").tobytes()
    data.PixelData = bits + bytes(len(bits) % 2)
    data["PixelData"].VR = "OB"
    return data


def test_frames_of_a_segmentation_are_placed_by_position(tmp_path: Path) -> None:
    volume = _volume(save(tmp_path / "series", series()))
    save(tmp_path, [_segmentation([7, 3, 4])], names=["seg.dcm"])
    mask = read_mask(tmp_path / "seg.dcm", volume)
    assert isinstance(mask, np.ndarray), mask
    np.testing.assert_array_equal(mask, MASK > 0)


def test_a_segmentation_beside_the_grid_is_answered_with_a_sentence(tmp_path: Path) -> None:
    volume = _volume(save(tmp_path / "series", series()))
    save(tmp_path, [_segmentation([7, 3], shift_mm=1.0)], names=["seg.dcm"])
    said = read_mask(tmp_path / "seg.dcm", volume)
    assert said == "seg.dcm: frame 1 does not lie on a slice of the volume."


@pytest.mark.parametrize("name", ["series/0000.dcm", "text.nii"])
def test_a_file_that_is_no_mask_is_answered_with_a_sentence(tmp_path: Path, name: str) -> None:
    volume = _volume(save(tmp_path / "series", series()))
    (tmp_path / "text.nii").write_text("no NIfTI")
    assert isinstance(read_mask(tmp_path / name, volume), str)
