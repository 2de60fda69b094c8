"""For a clean source our SEG says of its frames what stock highdicom says.

highdicom is the second opinion here: it is given the real headers and the whole mask, while the
product gives it a stand-in and writes the frames itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from node.imaging.values import Refusal, Segmentation, Volume
from node.results.write import NodeFacts, write_results

from .build import ORIENTATIONS, asymmetric_labels, build_volume, segmentation_of


def stock(volume: Volume, segmentation: Segmentation) -> Dataset:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "lung-ct", codes.DCM.ArtificialIntelligence, "1"
    )
    made = highdicom.seg.Segmentation(
        [dcmread(one.file.path, stop_before_pixels=True) for one in volume.instances],
        segmentation.labels,
        "BINARY",
        [
            highdicom.seg.SegmentDescription(
                one.number,
                one.label,
                codes.SCT.AnatomicalStructure,
                codes.SCT.Lung,
                "AUTOMATIC",
                algorithm,
            )
            for one in segmentation.segments
        ],
        "1.2.3",
        1,
        "1.2.3.4",
        1,
        "Maker",
        "Model",
        "1",
        "1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    stream = BytesIO()
    made.save_as(stream)
    return dcmread(BytesIO(stream.getvalue()))


def ours(volume: Volume, segmentation: Segmentation) -> Dataset:
    results = write_results(volume, segmentation, node=NodeFacts("n", "1"))
    assert not isinstance(results, Refusal)
    return dcmread(BytesIO(results[0].data))


def _flat(groups: Dataset, shared: Dataset) -> Iterator[tuple[str, str]]:
    """Yield every functional group element that holds for one frame."""
    for keyword in ("SegmentIdentificationSequence",):
        if keyword not in groups:
            yield from ((keyword + one.keyword, str(one.value)) for one in shared[keyword][0])
    for one in groups.iterall():
        if one.VR != "SQ":
            holder = "SegmentIdentificationSequence"
            named = holder if one.keyword == "ReferencedSegmentNumber" else ""
            yield named + one.keyword, str(one.value)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_frames_groups_and_pixels_are_those_of_stock_highdicom(
    orientation: str, count: int, tmp_path: Path
) -> None:
    volume = build_volume(tmp_path / "source", orientation=orientation, shape=(9, 5, 7))
    labels = asymmetric_labels(volume.array.shape, count)
    labels[3] = labels[6] = 0  # gaps inside the stack
    segmentation = segmentation_of(labels, count=count)
    theirs, made = stock(volume, segmentation), ours(volume, segmentation)
    assert made.NumberOfFrames == theirs.NumberOfFrames
    bits = made.NumberOfFrames * 35
    for one, other in zip(
        made.PerFrameFunctionalGroupsSequence,
        theirs.PerFrameFunctionalGroupsSequence,
        strict=True,
    ):
        assert sorted(_flat(one, made.SharedFunctionalGroupsSequence[0])) == sorted(
            _flat(other, theirs.SharedFunctionalGroupsSequence[0])
        )
    # highdicom pads an odd number of bytes with an ASCII 0, whose bits belong to no frame.
    np.testing.assert_array_equal(_bits(made)[:bits], _bits(theirs)[:bits])
    assert not _bits(made)[bits:].any()
    assert made.DimensionIndexSequence[0].DimensionIndexPointer == 0x0062000B
    for keyword in ("ImageType", "SegmentsOverlap", "BitsStored", "PhotometricInterpretation"):
        assert made[keyword] == theirs[keyword]
    absent = {one.keyword for one in theirs} - {one.keyword for one in made}
    assert absent <= {"InstanceCreationDate", "InstanceCreationTime", "DimensionOrganizationType"}


def _bits(seg: Dataset) -> np.ndarray:
    return np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")


@pytest.mark.parametrize(
    ("slices", "count", "three"),
    [([1, 2, 3], 1, True), ([1, 3], 1, False), ([2], 1, False), ([1, 2, 3], 2, False)],
)
def test_only_one_stack_without_a_gap_is_called_3d(
    slices: list[int], count: int, three: bool, tmp_path: Path
) -> None:
    volume = build_volume(tmp_path / "source")
    labels = np.zeros(volume.array.shape, np.uint8)
    for number in range(1, count + 1):
        labels[slices, number, 1] = number
    seg = ours(volume, segmentation_of(labels, count=count))
    assert (seg.get("DimensionOrganizationType") == "3D") is three
