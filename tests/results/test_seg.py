"""A SEG lies on the voxels it was computed for, and other people's programs agree."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.imaging.values import Refusal, Segmentation, Volume
from node.reasons import Reason
from node.results.write import NodeFacts, ResultObject, write_results

from .build import (
    ORIENTATIONS,
    asymmetric_labels,
    build_enhanced,
    build_volume,
    segmentation_of,
)
from .judges import dcentvfy, dciodvfy, dcmqi_labels

NODE = NodeFacts(name="limner-test", version="0.1.0")


def written(volume: Volume, segmentation: Segmentation) -> ResultObject:
    results = write_results(volume, segmentation, node=NODE)
    assert not isinstance(results, Refusal), results
    return results[0]


def stored(result: ResultObject, folder: Path) -> Path:
    path = folder / "result.dcm"
    path.write_bytes(result.data)
    return path


def judged(volume: Volume, segmentation: Segmentation, folder: Path) -> Dataset:
    """Write a SEG, hold it against every judge, and return it as read."""
    result = written(volume, segmentation)
    path = stored(result, folder)
    assert dciodvfy(path) == []
    sources = [instance.file.path for instance in volume.instances]
    assert dcentvfy([*sources, path]) == []
    labels, said = dcmqi_labels(path, volume, folder / "dcmqi")
    np.testing.assert_array_equal(labels, segmentation.labels)
    assert "SliceThickness is present" not in said
    assert "CIELab" not in said
    counts = np.bincount(segmentation.labels.ravel(), minlength=256)
    assert [one.voxels for one in result.summary.segments] == [
        counts[one.number] for one in result.summary.segments
    ]
    return dcmread(BytesIO(result.data))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_is_where_it_was_in_every_orientation(orientation: str, tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source", orientation=orientation)
    judged(volume, segmentation_of(asymmetric_labels(volume.array.shape)), tmp_path)


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((1, 8, 8), 1),  # one slice, one segment, one frame
        ((1, 7, 9), 3),
        ((2, 1, 1), 1),
        ((3, 5, 7), 2),  # rows x columns is no multiple of 8: frames do not end on bytes
        ((19, 3, 11), 1),
        ((4, 40, 33), 5),
        ((3, 30, 30), 100),
    ],
)
def test_every_size_and_number_of_segments_is_read_back_equal(
    shape: tuple[int, int, int], count: int, tmp_path: Path
) -> None:
    volume = build_volume(tmp_path / "source", shape=shape)
    labels = asymmetric_labels(shape, count)
    judged(volume, segmentation_of(labels, count=count), tmp_path)


def test_one_voxel_alone_is_read_back_where_it_was(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source", orientation="sagittal")
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[4, 2, 11] = 2
    seg = judged(volume, segmentation_of(labels), tmp_path)
    assert seg.NumberOfFrames == 1


def test_nothing_found_is_one_empty_frame_per_segment_with_all_references(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    labels = np.zeros(volume.array.shape, np.uint8)
    seg = judged(volume, segmentation_of(labels, count=5), tmp_path)
    assert seg.NumberOfFrames == 5
    assert not any(seg.PixelData)
    assert len(seg.SourceImageSequence) == len(volume.instances)


def test_255_segments_can_be_written(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source", shape=(3, 32, 32))
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[1].ravel()[:255] = np.arange(1, 256)
    result = written(volume, segmentation_of(labels, count=255))
    assert [one.voxels for one in result.summary.segments] == [1] * 255
    assert dciodvfy(stored(result, tmp_path)) == []


def test_multi_frame_sources_with_measures_per_frame_name_the_true_frame(tmp_path: Path) -> None:
    for name, per_frame_only in (("own", True), ("shared", False)):
        folder = tmp_path / name
        volume = build_enhanced(folder / "source", per_frame_only=per_frame_only)
        labels = asymmetric_labels(volume.array.shape)
        seg = judged(volume, segmentation_of(labels), folder)
        source = volume.instances[0].header
        for group in seg.PerFrameFunctionalGroupsSequence:
            reference = group.DerivationImageSequence[0].SourceImageSequence[0]
            own = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
            assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
            assert (
                own.PlanePositionSequence[0].ImagePositionPatient
                == group.PlanePositionSequence[0].ImagePositionPatient
            )


def test_a_wrong_spacing_in_the_source_does_not_reach_the_reader(tmp_path: Path) -> None:
    def lie(header: Dataset, index: int) -> None:
        del index
        header.SpacingBetweenSlices = "5.0"
        header.SliceThickness = "1.25"

    volume = build_volume(tmp_path / "source", shape=(10, 8, 8), spacing_mm=(0.7, 1, 1), change=lie)
    seg = judged(volume, segmentation_of(asymmetric_labels(volume.array.shape)), tmp_path)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == pytest.approx(0.7)
    assert measures.SliceThickness == 1.25


@pytest.mark.parametrize("thickness", [None, "", "0"])
def test_a_slice_thickness_that_is_no_thickness_becomes_the_distance(
    thickness: str | None, tmp_path: Path
) -> None:
    def thin(header: Dataset, index: int) -> None:
        del index
        if thickness is None:
            del header.SliceThickness
        else:
            header.SliceThickness = thickness

    volume = build_volume(tmp_path / "source", change=thin)
    seg = judged(volume, segmentation_of(asymmetric_labels(volume.array.shape)), tmp_path)
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5


def test_orientation_jitter_is_snapped_and_more_than_jitter_is_refused(tmp_path: Path) -> None:
    def turned(by: float) -> Volume:
        def jitter(header: Dataset, index: int) -> None:
            header.ImageOrientationPatient = [1, f"{by * index:.3g}", 0, 0, 1, 0]

        return build_volume(tmp_path / f"{by}", change=jitter)

    small = turned(1e-7)
    judged(small, segmentation_of(asymmetric_labels(small.array.shape)), tmp_path)
    large = turned(1e-3)
    segmentation = segmentation_of(asymmetric_labels(large.array.shape))
    refusal = write_results(large, segmentation, node=NODE)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.MIXED_ORIENTATION


def test_labels_that_do_not_fit_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    with pytest.raises(ValueError, match="on a grid"):
        written(volume, segmentation_of(np.zeros((2, 3, 4), np.uint8)))
    with pytest.raises(ValueError, match="no segment describes"):
        written(volume, segmentation_of(np.full(volume.array.shape, 9, np.uint8)))
