"""A SEG on ultrasound frames: the right frame, the right pixels, no place in the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.errors import PeerError
from node.imaging.frame_reader import open_frames
from node.imaging.values import Code, FramesPlan, Measurement, Refusal
from node.reasons import Reason
from node.results.frame_pictures import frame_pictures
from node.results.frames_gate import check_frames_result
from node.results.reader import read_frames_segmentation
from node.results.write import NodeFacts, ResultObject, write_results
from tests.imaging.ultrasound_files import picture, plan_of, region, tissue, with_regions

from .build import asymmetric_labels, segmentation_of, signed
from .judges import dcentvfy, dciodvfy

NODE = NodeFacts(name="limner-test", version="0.1.0")
Change = Callable[[Dataset], None]


def source(folder: Path, frames: int = 5, change: Change | None = None) -> FramesPlan:
    """Write an ultrasound image as a hospital would send it; 0 frames is a single-frame one."""
    data = picture(tissue(frames) if frames else tissue(1)[0])
    with_regions(data, region((5, 3, 60, 40)))
    data.SpecificCharacterSet = "ISO_IR 100"
    data.PatientName, data.PatientID, data.IssuerOfPatientID = "Smith^Jane ", "P-4711", "GENERAL"
    data.PatientBirthDate, data.PatientSex = "19600102", "F"
    data.StudyDate, data.StudyTime, data.StudyID = "20260102", "101112", "7"
    data.AccessionNumber, data.ReferringPhysicianName = "A-100", "Doe^John"
    data.SeriesNumber, data.Manufacturer, data.Laterality = 3, "Probe Works", "L"
    data.BodyPartExamined = "ARM"
    data.LossyImageCompression = "01"
    data.LossyImageCompressionRatio, data.LossyImageCompressionMethod = "12", "ISO_10918_1"
    if change is not None:
        change(data)
    return plan_of(folder, data)


def written(
    plan: FramesPlan, labels: NDArray[np.uint8], *, count: int = 2
) -> tuple[ResultObject, Path]:
    results = write_results(plan, segmentation_of(labels, count=count), node=NODE)
    assert not isinstance(results, Refusal), results
    path = plan.instance.file.path.with_name("result.seg")
    path.write_bytes(results[0].data)
    return results[0], path


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("frames", [0, 1, 5, 11])
def test_every_pixel_is_on_its_frame_by_another_reader(
    frames: int, count: int, tmp_path: Path
) -> None:
    plan = source(tmp_path, frames)
    labels = asymmetric_labels(plan.shape, count)
    if frames > 4:
        labels[2] = 0  # a frame without content has no frame in the object
    result, path = written(plan, labels, count=count)
    assert dciodvfy(path) == []
    assert dcentvfy([plan.instance.file.path, path]) == []
    seg = highdicom.seg.segread(path)
    uid = plan.instance.sop_instance_uid
    if frames:
        read = seg.get_pixels_by_source_frame(
            uid,
            range(1, plan.shape[0] + 1),
            combine_segments=True,
            assert_missing_frames_are_empty=True,
            rescale_fractional=False,
        )
    else:
        read = seg.get_pixels_by_source_instance([uid], combine_segments=True)
    np.testing.assert_array_equal(read, labels)
    np.testing.assert_array_equal(read_frames_segmentation(result.data, plan), labels)
    numbers = range(1, count + 1)
    pairs = sum(bool((frame == number).any()) for frame in labels for number in numbers)
    assert seg.NumberOfFrames == pairs
    assert (seg.Rows, seg.Columns) == plan.shape[1:]
    assert check_frames_result(result.data, plan, segmentation_of(labels, count=count)) == ()


def test_the_object_claims_no_place_and_carries_whose_it_is(tmp_path: Path) -> None:
    plan = source(tmp_path)
    result, _ = written(plan, asymmetric_labels(plan.shape))
    seg = dcmread(BytesIO(result.data))
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
        assert keyword not in seg
    assert list(seg.SharedFunctionalGroupsSequence[0]) == []
    assert seg.get_item("PatientName").value == b"Smith^Jane  "  # its blank, padded
    assert (seg.PatientID, seg.AccessionNumber, seg.Laterality) == ("P-4711", "A-100", "L")
    assert (seg.LossyImageCompression, seg.LossyImageCompressionRatio) == ("01", 12)
    assert seg.SeriesNumber == 9003
    (frame, *_) = seg.PerFrameFunctionalGroupsSequence
    (named,) = frame.DerivationImageSequence[0].SourceImageSequence
    assert named.ReferencedSOPInstanceUID == plan.instance.sop_instance_uid
    assert named.ReferencedFrameNumber == 1


def test_a_frame_of_reference_of_the_source_is_not_taken_over(tmp_path: Path) -> None:
    def fused(data: Dataset) -> None:
        data.FrameOfReferenceUID, data.PositionReferenceIndicator = "2.25.9", ""

    plan = source(tmp_path, change=fused)
    labels = asymmetric_labels(plan.shape)
    result, path = written(plan, labels)
    assert "FrameOfReferenceUID" not in dcmread(BytesIO(result.data))
    assert check_frames_result(result.data, plan, segmentation_of(labels)) == ()
    assert dciodvfy(path) == []


def test_where_nothing_is_found_each_segment_has_one_empty_frame(tmp_path: Path) -> None:
    plan = source(tmp_path, 11)
    result, path = written(plan, np.zeros(plan.shape, np.uint8), count=3)
    assert dciodvfy(path) == []
    seg = highdicom.seg.segread(path)
    assert seg.NumberOfFrames == 3
    assert not seg.pixel_array.any()
    assert (
        check_frames_result(
            result.data, plan, segmentation_of(np.zeros(plan.shape, np.uint8), count=3)
        )
        == ()
    )


def test_the_same_frames_and_labels_give_the_same_bytes(tmp_path: Path) -> None:
    plan = source(tmp_path)
    labels = asymmetric_labels(plan.shape)
    one, other = written(plan, labels)[0], written(plan, labels)[0]
    assert (one.data, one.key) == (other.data, other.key)
    moved = labels[:, :, ::-1].copy()
    assert written(plan, moved)[0].sop_uid != one.sop_uid


def test_a_source_without_patient_id_is_refused(tmp_path: Path) -> None:
    plan = source(tmp_path, change=lambda data: setattr(data, "PatientID", ""))
    refusal = write_results(plan, segmentation_of(asymmetric_labels(plan.shape)), node=NODE)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.MIXED_IDENTITY


def test_the_summary_says_frames_and_areas_instead_of_millilitres(tmp_path: Path) -> None:
    plan = source(tmp_path)
    labels = np.zeros(plan.shape, np.uint8)
    labels[1, :4, :5] = labels[3, :2, :5] = 1
    mm2 = Code("mm2", "UCUM", "square millimeter")
    area = Code("42798000", "SCT", "Area")
    values = ((0.8, 2), (0.4, 4))
    measured = tuple(Measurement(1, area, value, mm2, frame) for value, frame in values)
    found = replace(segmentation_of(labels), measurements=measured)
    (result,) = write_results(plan, found, node=NODE)  # type: ignore[misc]
    first, second = result.summary.segments
    assert first.sizes() == {"voxels": 30, "volume_ml": None, "frames": 2, "area_mm2": 0.8}
    assert second.sizes() == {"voxels": 0, "volume_ml": None, "frames": 0, "area_mm2": None}


def _bits(seg: Dataset) -> NDArray[np.uint8]:
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    count = seg.NumberOfFrames * seg.Rows * seg.Columns
    return bits[:count].reshape(seg.NumberOfFrames, seg.Rows, seg.Columns)


def _put(seg: Dataset, frames: NDArray[np.uint8]) -> None:
    data = np.packbits(frames.ravel(), bitorder="little").tobytes()
    seg.PixelData = data + b"\0" * (len(data) % 2)


def _renumber(seg: Dataset, shift: int) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber += shift


def _reference(seg: Dataset) -> Dataset:
    frame: Dataset = seg.PerFrameFunctionalGroupsSequence[0]
    named: Dataset = frame.DerivationImageSequence[0].SourceImageSequence[0]
    return named


def _position(seg: Dataset) -> None:
    position = Dataset()
    position.ImagePositionPatient = [0, 0, 0]
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence = [position]


def _content(seg: Dataset) -> Dataset:
    content: Dataset = seg.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0]
    return content


MUTANTS: dict[str, tuple[Change, str]] = {
    "left is right": (lambda seg: _put(seg, _bits(seg)[:, :, ::-1]), "have another label"),
    "upside down": (lambda seg: _put(seg, _bits(seg)[:, ::-1]), "have another label"),
    "frames in reverse": (lambda seg: _put(seg, _bits(seg)[::-1]), "have another label"),
    "one frame late": (lambda seg: _renumber(seg, 1), "not refer to one frame"),
    "another image": (
        lambda seg: setattr(_reference(seg), "ReferencedSOPInstanceUID", "2.25.4"),
        "not refer to one frame",
    ),
    "no frame number": (
        lambda seg: delattr(_reference(seg), "ReferencedFrameNumber"),
        "not refer to one frame",
    ),
    "another patient": (lambda seg: setattr(seg, "PatientID", "P-4712"), "PatientID is not"),
    "another study": (
        lambda seg: setattr(seg, "StudyInstanceUID", "2.25.5"),
        "StudyInstanceUID is not",
    ),
    "a frame of reference": (
        lambda seg: setattr(seg, "FrameOfReferenceUID", "2.25.6"),
        "claims a Frame of Reference",
    ),
    "a position": (_position, "PlanePositionSequence"),
    "another number in the stack": (
        lambda seg: setattr(_content(seg), "InStackPositionNumber", 4),
        "not numbered as its source",
    ),
    "another series": (
        lambda seg: setattr(seg.ReferencedSeriesSequence[0], "SeriesInstanceUID", "2.25.8"),
        "does not name the source's series",
    ),
    "fewer rows": (lambda seg: setattr(seg, "Rows", 24), "matrix"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_gate_stops_a_wrong_object_by_name(name: str, tmp_path: Path) -> None:
    change, sentence = MUTANTS[name]
    plan = source(tmp_path)
    labels = asymmetric_labels(plan.shape)
    result, _ = written(plan, labels)
    seg = dcmread(BytesIO(result.data))
    change(seg)
    found = check_frames_result(signed(seg), plan, segmentation_of(labels))
    assert any(sentence in each for each in found), found


def test_a_segmentation_of_another_image_is_not_read_on_this_one(tmp_path: Path) -> None:
    plan = source(tmp_path / "one")
    other = source(
        tmp_path / "other", change=lambda data: setattr(data, "SOPInstanceUID", "2.25.701")
    )
    result, _ = written(plan, asymmetric_labels(plan.shape))
    with pytest.raises(PeerError, match="does not refer to one frame"):
        read_frames_segmentation(result.data, other)


def test_pictures_show_the_tissue_alone_with_its_labels(tmp_path: Path) -> None:
    plan = source(tmp_path)
    labels = np.zeros(plan.shape, np.uint8)
    labels[2, 10:20, 8:18] = 2
    found = segmentation_of(labels)
    with open_frames(plan, colour_accepted=False) as frames:
        pictures = frame_pictures(frames, found, box=(3, 5, 41, 61), longest_side=560)
    assert len(pictures) == 5
    shown = [np.asarray(Image.open(BytesIO(one))).astype(int) for one in pictures]
    assert shown[0].shape == (380, 560, 3)  # 38 x 56 pixels of the region
    coloured = [np.abs(one - one.mean(axis=-1, keepdims=True)).max(axis=-1) > 40 for one in shown]
    assert [bool(one.any()) for one in coloured] == [False, False, True, False, False]
    rows, columns = np.nonzero(coloured[2])
    ends = np.array([rows.min(), rows.max(), columns.min(), columns.max()])
    assert np.abs(ends - (70, 170, 30, 130)).max() < 8  # (10 - 3) x 10 to (18 - 5) x 10
