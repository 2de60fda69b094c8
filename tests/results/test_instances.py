"""Segments that the labels decide: each instance is tracked, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom

from node.imaging.values import Refusal, Segmentation, Volume
from node.models.instances import split_instances
from node.models.parts import Instances
from node.results.gate import check_result
from node.results.write import NodeFacts, ResultObject, write_results
from tests.results.build import MODEL, build_volume, segmentation_of, segments
from tests.results.judges import dciodvfy

NODE = NodeFacts("node", "1")


def split(volume: Volume) -> Segmentation:
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[0:2, 1:3, 1:3] = 1
    labels[3:6, 5:9, 7:12] = 1
    labels[2, 8, 1] = 2
    found = split_instances(labels, segments(2), [Instances(1, 9)], volume.affine)
    first = replace(MODEL, name="organ", version="3")
    made = segmentation_of(found.labels, model=replace(MODEL, first=first))
    return replace(made, segments=found.segments)


def written(volume: Volume, segmentation: Segmentation) -> ResultObject:
    made = write_results(volume, segmentation, node=NODE)
    assert not isinstance(made, Refusal)
    return made[0]


def test_each_instance_is_a_segment_with_its_own_tracking(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    segmentation = split(volume)
    result = written(volume, segmentation)
    assert check_result(result.data, volume, segmentation) == ()
    seg = pydicom.dcmread(BytesIO(result.data))
    said = [
        (item.SegmentNumber, item.SegmentLabel, item.TrackingID) for item in seg.SegmentSequence
    ]
    assert said == [
        (1, "part 1 1", "lung-ct part 1 1"),
        (2, "part 1 2", "lung-ct part 1 2"),
        (3, "part 2", "lung-ct part 2"),
    ]
    uids = {item.TrackingUID for item in seg.SegmentSequence}
    assert len(uids) == 3
    again = pydicom.dcmread(BytesIO(written(volume, split(volume)).data))
    assert {item.TrackingUID for item in again.SegmentSequence} == uids
    assert [one.voxels for one in result.summary.segments] == [60, 8, 1]


def test_the_model_before_stands_in_the_equipment(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    seg = pydicom.dcmread(BytesIO(written(volume, split(volume)).data))
    texts = [item.ContributionDescription for item in seg.ContributingEquipmentSequence]
    assert any("Limited to what organ 3 found" in text for text in texts)


def test_instances_are_valid_dicom(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source")
    path = tmp_path / "result.dcm"
    path.write_bytes(written(volume, split(volume)).data)
    assert dciodvfy(path) == []
