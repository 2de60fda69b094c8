"""The same input gives the same key, UIDs and bytes; any other input gives others."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.dicom import filemeta
from node.imaging.values import InstanceFile, Refusal, Segmentation, SliceSource, Volume
from node.results import uids
from node.results.sources import dataset_digest
from node.results.uids import derived_uid, result_key, volume_inputs
from node.results.write import NodeFacts, ResultObject, write_results

from .build import MODEL, asymmetric_labels, build_volume, segmentation_of

NODE = NodeFacts(name="limner-test", version="0.1.0")

CHILD = """
import sys
from pathlib import Path
from results.build import asymmetric_labels, build_volume, segmentation_of
from node.results.write import NodeFacts, write_results
volume = build_volume(Path(sys.argv[1]))
segmentation = segmentation_of(asymmetric_labels(volume.array.shape))
made = write_results(volume, segmentation, node=NodeFacts("limner-test", "0.1.0"))
print(made[0].key, made[0].sop_uid, made[0].digest)
"""


def written(volume: Volume, segmentation: Segmentation, node: NodeFacts = NODE) -> ResultObject:
    results = write_results(volume, segmentation, node=node)
    assert not isinstance(results, Refusal), results
    return results[0]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, Segmentation, ResultObject]:
    volume = build_volume(tmp_path_factory.mktemp("repeat") / "source")
    segmentation = segmentation_of(asymmetric_labels(volume.array.shape))
    return volume, segmentation, written(volume, segmentation)


def test_two_runs_and_two_processes_write_the_same_bytes(
    case: tuple[Volume, Segmentation, ResultObject], tmp_path: Path
) -> None:
    volume, segmentation, first = case
    assert written(volume, segmentation) == first
    root = Path(__file__).resolve().parents[2]
    for seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path / seed)],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PYTHONPATH": f"{root}:{root / 'tests'}",
                "PYTHONHASHSEED": seed,
                "TZ": f"XXX{seed}",
                "LC_ALL": "C",
            },
            timeout=60,
        )
        assert said.returncode == 0, said.stderr
        assert said.stdout.split() == [first.key, first.sop_uid, first.digest]


def test_the_uid_is_of_this_object_and_no_source(
    case: tuple[Volume, Segmentation, ResultObject],
) -> None:
    volume, _, result = case
    seg = dcmread(BytesIO(result.data))
    assert seg.SOPInstanceUID == seg.file_meta.MediaStorageSOPInstanceUID == result.sop_uid
    assert seg.SeriesInstanceUID == result.series_uid != volume.series_uid
    assert hashlib.sha256(result.data).hexdigest() == result.digest
    made = [result.sop_uid, result.series_uid]
    made.append(seg.DimensionOrganizationSequence[0].DimensionOrganizationUID)
    made += [item.TrackingUID for item in seg.SegmentSequence]
    assert len(set(made)) == len(made)
    for one in made:
        assert one.startswith("2.25.")
        assert len(one) <= 64
        number = int(one.removeprefix("2.25."))
        assert (number >> 76) & 0xF == 8
        assert (number >> 62) & 0x3 == 2


def test_another_input_model_or_setting_is_another_key(
    case: tuple[Volume, Segmentation, ResultObject], tmp_path: Path
) -> None:
    volume, segmentation, first = case

    def key_with(volume: Volume = volume, **model: str) -> str:
        changed = replace(segmentation, model=replace(MODEL, **model))
        return written(volume, changed).key

    keys = {
        first.key,
        key_with(digest="0" * 64),
        key_with(settings_digest="0" * 64),
        key_with(
            build_volume(
                tmp_path / "pixel",
                change=lambda header, index: (
                    setattr(header, "PixelData", header.PixelData[:-2] + b"\1\1")
                    if index == 5
                    else None
                ),
            )
        ),
    }
    assert len(keys) == 4
    inputs = volume_inputs(volume)
    plain = dict(model_digest="m", settings_digest="s", kind="SEG")
    variants = [
        result_key(inputs, **plain),
        result_key(inputs[1:], **plain),
        result_key(inputs, **(plain | {"kind": "SR"})),
        result_key(inputs, **(plain | {"model_digest": "s", "settings_digest": "m"})),
        result_key(inputs, **plain, encoder_version="2"),
    ]
    assert len(set(variants)) == len(variants)


def test_the_order_of_files_and_their_names_do_not_change_the_key(
    case: tuple[Volume, Segmentation, ResultObject],
) -> None:
    volume, _, _ = case
    plain = dict(model_digest="m", settings_digest="s", kind="SEG")
    inputs = volume_inputs(volume)
    assert result_key(reversed(inputs), **plain) == result_key(inputs, **plain)


def test_two_volumes_of_one_multi_frame_instance_have_two_keys(
    case: tuple[Volume, Segmentation, ResultObject],
) -> None:
    volume, _, _ = case
    one = volume.instances[:1]
    early = replace(volume, instances=one, slices=(SliceSource(0, 1), SliceSource(0, 2)))
    late = replace(volume, instances=one, slices=(SliceSource(0, 3), SliceSource(0, 4)))
    assert volume_inputs(early) != volume_inputs(late)


def test_anything_that_changes_bytes_changes_the_uid(
    case: tuple[Volume, Segmentation, ResultObject], tmp_path: Path
) -> None:
    volume, segmentation, first = case
    other = segmentation.labels.copy()
    other[2, 5, 5] ^= 1
    variants = [
        first,
        written(volume, replace(segmentation, labels=other)),
        written(volume, segmentation, NodeFacts("limner-test", "0.2.0")),
        written(volume, segmentation, NodeFacts("another", "0.1.0")),
        written(volume, replace(segmentation, segments=segmentation.segments[::-1])),
        written(
            build_volume(
                tmp_path / "comment",
                change=lambda header, index: (
                    setattr(header, "PatientComments", "x") if index == 0 else None
                ),
            ),
            segmentation,
        ),
    ]
    by_uid = {result.sop_uid: result.data for result in variants}
    assert all(by_uid[result.sop_uid] == result.data for result in variants)
    assert len(by_uid) == 5  # the order in which segments are handed over changes nothing


def test_what_is_measured_around_a_run_changes_nothing(
    case: tuple[Volume, Segmentation, ResultObject],
) -> None:
    volume, segmentation, first = case
    slower = replace(segmentation, seconds={"infer": 99.0}, runtime={"device": "cpu"})
    assert written(volume, slower).data == first.data


def test_the_digest_of_an_instance_is_that_of_its_dataset_alone(tmp_path: Path) -> None:
    volume = build_volume(tmp_path / "source", shape=(1, 4, 4))
    path = volume.instances[0].file.path
    data = path.read_bytes()
    at = data.index(b"\x08\x00\x05\x00CS")
    wanted = hashlib.sha256(data[at:]).hexdigest()
    assert dataset_digest(InstanceFile(path)) == wanted
    (tmp_path / "bare").write_bytes(data[at:])
    assert dataset_digest(InstanceFile(tmp_path / "bare")) == wanted
    (tmp_path / "long").write_bytes(b"x" * 7 + data + b"tail")
    assert dataset_digest(InstanceFile(tmp_path / "long", 7, len(data))) == wanted
    assert dataset_digest(InstanceFile(path, digest="known")) == "known"


def test_objects_and_associations_name_one_implementation() -> None:
    assert uids.IMPLEMENTATION_CLASS_UID == filemeta.IMPLEMENTATION_CLASS_UID
    assert uids.IMPLEMENTATION_VERSION_NAME == filemeta.IMPLEMENTATION_VERSION


def test_parts_of_a_uid_cannot_run_into_each_other() -> None:
    assert derived_uid("p", "a", "bc") != derived_uid("p", "ab", "c")
    assert derived_uid("p", "a") != derived_uid("q", "a")


def test_the_summary_says_voxels_and_millilitres(
    case: tuple[Volume, Segmentation, ResultObject],
) -> None:
    volume, segmentation, first = case
    counts = np.bincount(segmentation.labels.ravel())
    assert [one.voxels for one in first.summary.segments] == list(counts[1:])
    voxel_ml = np.prod(volume.spacing_mm) / 1000
    assert first.summary.segments[1].volume_ml == pytest.approx(counts[2] * voxel_ml)
