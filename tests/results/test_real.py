"""A real chest CT with a real lung mask becomes a SEG that every judge accepts."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from pydicom import dcmread

from node.imaging.values import Refusal
from node.results.gate import check_result
from node.results.pictures import overlay_pictures
from node.results.reader import read_segmentation
from node.results.write import NodeFacts, write_results

from .build import affine_of, segmentation_of, volume_over
from .judges import dcentvfy, dciodvfy, dcmqi_labels


def test_a_real_chest_ct_becomes_a_valid_seg(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    with tarfile.open(shared_data("ct-thorax/dicom.tar.xz")) as packed:
        packed.extractall(tmp_path, filter="data")
    paths = sorted(
        (tmp_path / "dicom").iterdir(),
        key=lambda path: float(
            dcmread(path, specific_tags=["ImagePositionPatient"]).ImagePositionPatient[2]
        ),
    )
    headers = [dcmread(path) for path in (paths[0], paths[-1])]
    array = np.stack([dcmread(path).pixel_array.astype(np.int16) - 1024 for path in paths])
    spacing_mm = (3.0, 0.564453125, 0.564453125)
    affine = affine_of((1, 0, 0, 0, 1, 0), spacing_mm, headers[0].ImagePositionPatient)
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
