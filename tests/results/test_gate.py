"""The gate lets good objects through and stops each kind of wrong one, by its own sentence.

Every mutant is given the SOP Instance UID that its changed bytes ask for, so that it is caught
by the check it is meant for and not by its UID alone.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.errors import PeerError
from node.imaging.values import Refusal, Segmentation, Volume
from node.results.gate import check_result
from node.results.reader import read_segmentation
from node.results.write import NodeFacts, write_results

from .build import asymmetric_labels, build_enhanced, build_volume, segmentation_of, signed

NODE = NodeFacts(name="limner-test", version="0.1.0")


def good(volume: Volume, segmentation: Segmentation) -> bytes:
    results = write_results(volume, segmentation, node=NODE)
    assert not isinstance(results, Refusal), results
    return results[0].data


def _frames(seg: Dataset) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    count = seg.NumberOfFrames * seg.Rows * seg.Columns
    return bits[:count].reshape(seg.NumberOfFrames, seg.Rows, seg.Columns)


def _put(seg: Dataset, frames: np.ndarray) -> None:
    data = np.packbits(frames.ravel(), bitorder="little").tobytes()
    seg.PixelData = data + b"\0" * (len(data) % 2)


def _another_patient(seg: Dataset) -> None:
    seg.PatientID = "P-4712"


def _trailing_blank(seg: Dataset) -> None:
    seg["PatientName"].value = "Smith^Jane  "


def _another_birth_date(seg: Dataset) -> None:
    seg.PatientBirthDate = "19600201"


def _no_issuer(seg: Dataset) -> None:
    del seg.IssuerOfPatientID


def _other_accession_issuer(seg: Dataset) -> None:
    seg.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID = "OTHER"


def _other_charset(seg: Dataset) -> None:
    seg.SpecificCharacterSet = "ISO_IR 101"


def _left_is_right(seg: Dataset) -> None:
    _put(seg, _frames(seg)[:, :, ::-1])


def _upside_down(seg: Dataset) -> None:
    _put(seg, _frames(seg)[:, ::-1])


def _frames_in_reverse(seg: Dataset) -> None:
    _put(seg, _frames(seg)[::-1])


def _one_slice_higher(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        x, y, z = (float(value) for value in position.ImagePositionPatient)
        position.ImagePositionPatient = [x, y, z + 2.5]


def _half_a_slice_higher(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        x, y, z = (float(value) for value in position.ImagePositionPatient)
        position.ImagePositionPatient = [x, y, z + 1.25]


def _a_hair_higher(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        x, y, z = (float(value) for value in position.ImagePositionPatient)
        position.ImagePositionPatient = [x, y, z + 0.01]


def _sources_swapped(seg: Dataset) -> None:
    groups = seg.PerFrameFunctionalGroupsSequence
    first, last = groups[0], groups[-1]
    first.DerivationImageSequence, last.DerivationImageSequence = (
        last.DerivationImageSequence,
        first.DerivationImageSequence,
    )


def _reference_dropped(seg: Dataset) -> None:
    del seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[2]


def _source_dropped(seg: Dataset) -> None:
    del seg.SourceImageSequence[0]


def _reference_to_another(seg: Dataset) -> None:
    seg.SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"


def _measures(seg: Dataset) -> Dataset:
    return seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def _distance_wrong(seg: Dataset) -> None:
    _measures(seg).SpacingBetweenSlices = "5.0"


def _no_distance(seg: Dataset) -> None:
    del _measures(seg).SpacingBetweenSlices


def _rows_and_columns_swapped(seg: Dataset) -> None:
    rows, columns = _measures(seg).PixelSpacing
    _measures(seg).PixelSpacing = [columns, rows]


def _orientation_mirrored(seg: Dataset) -> None:
    turn = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    turn.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _segments_swapped_in_frames(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        item = group.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = 3 - item.ReferencedSegmentNumber


def _segments_renamed(seg: Dataset) -> None:
    first, second = seg.SegmentSequence
    first.SegmentLabel, second.SegmentLabel = second.SegmentLabel, first.SegmentLabel


def _one_voxel_lost(seg: Dataset) -> None:
    frames = _frames(seg).copy()
    frames.ravel()[np.flatnonzero(frames)[0]] = 0
    _put(seg, frames)


def _last_frame_lost(seg: Dataset) -> None:
    del seg.PerFrameFunctionalGroupsSequence[-1]


MUTANTS: dict[Callable[[Dataset], None], str] = {
    _another_patient: "PatientID is not what the source says",
    _trailing_blank: "PatientName is not what the source says",
    _another_birth_date: "PatientBirthDate is not what",
    _no_issuer: "IssuerOfPatientID is not what",
    _other_accession_issuer: "IssuerOfAccessionNumberSequence is not what",
    _other_charset: "SpecificCharacterSet is not what",
    _left_is_right: "mm from where it was computed",
    _upside_down: "mm from where it was computed",
    _frames_in_reverse: "voxels have another label",
    _one_slice_higher: "names another source than the slice it lies on",
    _half_a_slice_higher: "does not lie on a slice",
    _a_hair_higher: "does not lie where its source slice lies",
    _sources_swapped: "names another source than the slice it lies on",
    _reference_dropped: "Referenced Series Sequence lacks 1 of 6",
    _source_dropped: "Source Image Sequence lacks 1 of 6",
    _reference_to_another: "names 1 others",
    _distance_wrong: "Spacing Between Slices is 5 mm",
    _no_distance: "Spacing Between Slices is 0 mm",
    _rows_and_columns_swapped: "spacing between rows is 0.9 mm",
    _orientation_mirrored: "orientation is not the source's",
    _segments_swapped_in_frames: "voxels have another label",
    _segments_renamed: "Segment 1 is not described",
    _one_voxel_lost: "voxels in the object and",
    _last_frame_lost: "fewer pixels or functional groups than frames",
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, Segmentation, bytes]:
    volume = build_volume(tmp_path_factory.mktemp("gate") / "source")
    labels = asymmetric_labels(volume.array.shape)
    labels[-1] = 0  # room for frames that are moved up by one slice
    segmentation = segmentation_of(labels)
    return volume, segmentation, good(volume, segmentation)


def test_a_good_object_passes(case: tuple[Volume, Segmentation, bytes]) -> None:
    volume, segmentation, data = case
    assert check_result(data, volume, segmentation) == ()
    assert check_result(signed(dcmread(BytesIO(data))), volume, segmentation) == ()


def test_good_objects_of_other_kinds_pass(tmp_path: Path) -> None:
    for number, volume in enumerate(
        (
            build_enhanced(tmp_path / "enhanced"),
            build_volume(tmp_path / "oblique", orientation="oblique", shape=(40, 6, 7)),
            build_volume(tmp_path / "one", shape=(1, 6, 7)),
        )
    ):
        for labels in (
            asymmetric_labels(volume.array.shape),
            np.zeros(volume.array.shape, np.uint8),
        ):
            segmentation = segmentation_of(labels)
            assert check_result(good(volume, segmentation), volume, segmentation) == (), number


@pytest.mark.parametrize("change", MUTANTS, ids=lambda change: change.__name__.strip("_"))
def test_a_wrong_object_is_stopped(
    change: Callable[[Dataset], None], case: tuple[Volume, Segmentation, bytes]
) -> None:
    volume, segmentation, data = case
    mutant = dcmread(BytesIO(data))
    change(mutant)
    said = check_result(signed(mutant), volume, segmentation)
    assert any(MUTANTS[change] in sentence for sentence in said), said
    assert not any("does not follow from the content" in sentence for sentence in said)
    assert "Smith" not in " ".join(said)
    assert "4711" not in " ".join(said)


def test_any_changed_byte_is_stopped_by_the_uid(
    case: tuple[Volume, Segmentation, bytes],
) -> None:
    volume, segmentation, data = case
    for at in (data.index(b"RESEARCH"), data.index(b"DERIVED"), len(data) - 1):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert check_result(changed, volume, segmentation), at


def test_what_is_no_segmentation_is_stopped(case: tuple[Volume, Segmentation, bytes]) -> None:
    volume, segmentation, data = case
    source = volume.instances[0].file.path.read_bytes()
    for wrong in (b"", b"nonsense" * 40, data[: len(data) // 2], data[:400], source):
        assert check_result(wrong, volume, segmentation)


def test_a_result_of_another_series_is_not_read_on_this_grid(
    case: tuple[Volume, Segmentation, bytes], tmp_path: Path
) -> None:
    _, segmentation, data = case
    elsewhere = build_volume(tmp_path / "elsewhere", origin=(0.3, 0.3, 0.3))
    with pytest.raises(PeerError, match="does not lie on a slice"):
        read_segmentation(data, elsewhere)
    assert check_result(data, elsewhere, segmentation)


def test_no_damage_passes_or_breaks_the_gate(case: tuple[Volume, Segmentation, bytes]) -> None:
    volume, segmentation, data = case
    rng = np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(data)
        at = int(rng.integers(128, len(data)))
        if rng.random() < 0.5:
            damaged[at] ^= int(rng.integers(1, 256))
        else:
            del damaged[at : at + int(rng.integers(1, 60))]
        assert check_result(bytes(damaged), volume, segmentation), at
