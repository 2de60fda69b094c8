"""A real chest CT with a real lung mask becomes a SEG that every judge accepts."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from node.errors import PeerError
from node.imaging.values import Refusal
from node.results.gate import check_result
from node.results.pictures import overlay_pictures
from node.results.reader import open_segmentation, placed_frames, read_segmentation
from node.results.write import NodeFacts, write_results

from .build import affine_of, build_volume, segmentation_of, volume_over
from .judges import dcentvfy, dciodvfy, dcmqi_labels


def test_a_real_chest_ct_becomes_a_valid_seg(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    with tarfile.open(shared_data("ct-thorax/dicom.tar.xz")) as packed:
        packed.extractall(tmp_path, filter="data")
    read = [(path, dcmread(path)) for path in (tmp_path / "dicom").iterdir()]
    read.sort(key=lambda pair: float(pair[1].ImagePositionPatient[2]))
    paths = [path for path, _ in read]
    array = np.stack([header.pixel_array.astype(np.int16) - 1024 for _, header in read])
    spacing_mm = (3.0, 0.564453125, 0.564453125)
    origin = read[0][1].ImagePositionPatient
    affine = affine_of((1, 0, 0, 0, 1, 0), spacing_mm, origin)
    volume = volume_over(paths, array, affine, spacing_mm)
    image = nibabel.load(shared_data("ct-thorax/lung-mask.nii.gz"))
    mask = np.asanyarray(image.dataobj).astype(np.uint8).transpose(2, 1, 0)  # [k, j, i]
    np.testing.assert_allclose(
        image.affine @ [5, 7, 9, 1], (affine @ [9, 7, 5, 1]) * [-1, -1, 1, 1], atol=1e-3
    )
    segmentation = segmentation_of(np.ascontiguousarray(mask))
    results = write_results(volume, segmentation, node=NodeFacts("limner-test", "0.1.0"))
    assert not isinstance(results, Refusal), results
    result = results[0]
    assert [one.voxels for one in result.summary.segments] == [2_778_146, 1_976_763]
    assert [round(one.volume_ml) for one in result.summary.segments] == [2655, 1889]
    path = tmp_path / "result.dcm"
    path.write_bytes(result.data)
    assert dciodvfy(path) == []
    assert dcentvfy([*paths, path]) == []
    assert check_result(result.data, volume, segmentation) == ()
    np.testing.assert_array_equal(read_segmentation(path, volume), mask)
    labels, said = dcmqi_labels(path, volume, tmp_path / "dcmqi")
    np.testing.assert_array_equal(labels, mask)
    assert "SliceThickness is present" not in said
    seg = dcmread(path)
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 99
    assert len(seg.SourceImageSequence) == 99
    pictures = overlay_pictures(volume, segmentation)
    assert len(pictures) == 99


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("tiny-24x38x3", "seg-label.dcm"),
        ("ct-3slice", "seg-liver.dcm"),
        ("highdicom-ct", "seg_image_ct_binary.dcm"),
    ],
)
def test_segmentations_of_other_makers_are_read_as_dcmqi_reads_them(
    folder: str, name: str, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    path = shared_data(f"seg-examples/{folder}/{name}")
    planes = sorted(
        placed_frames(open_segmentation(path)),
        key=lambda frame: float(frame.affine[:3, 3] @ frame.affine[:3, 0]),
    )
    # The grid of the frames themselves: these sources are not all here.
    affine = planes[0].affine.copy()
    affine[:3, 0] = planes[1].affine[:3, 3] - planes[0].affine[:3, 3]
    shape = (len(planes), *planes[0].mask.shape)
    volume = replace(build_volume(tmp_path / "any"), affine=affine, array=np.zeros(shape, np.int16))
    labels = read_segmentation(path, volume)
    assert labels.any()
    theirs, _ = dcmqi_labels(path, volume, tmp_path / "dcmqi")
    np.testing.assert_array_equal(labels > 0, theirs > 0)


def test_what_is_no_binary_segmentation_is_refused_in_words(
    shared_data: Callable[[str], Path],
) -> None:
    for name in ("highdicom-ct/seg_image_ct_true_fractional.dcm", "ct-3slice/01.dcm"):
        with pytest.raises(PeerError, match="not a BINARY segmentation"):
            open_segmentation(shared_data(f"seg-examples/{name}"))
