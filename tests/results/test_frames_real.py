"""A SEG on every real ultrasound file: other people's headers, read back by another reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pytest

from node.imaging.images import find_images
from node.imaging.values import FramesPlan, InstanceFile, Refusal
from node.reasons import Reason
from node.results.frames_gate import check_frames_result
from node.results.write import NodeFacts, write_results

from .build import segmentation_of
from .judges import dcentvfy, dciodvfy

NODE = NodeFacts(name="limner-test", version="0.1.0")
NAMES = [
    "examples_ybr_color.dcm",
    "examples_palette.dcm",
    "examples_rgb_color.dcm",
    "examples_jpeg2k.dcm",
    "ExplVR_BigEnd.dcm",
    "OBXXXX1A_rle_2frame.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "US1_J2KI.dcm",
    "color-px.dcm",
    "derived/nerve_subject04_cine_ybr.dcm",
    "derived/usgra_0008.dcm",
]

NOBODYS = {"ExplVR_BigEnd.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "color-px.dcm"}
"""Their patient ID is empty, and so are name or birth date: whose result would it be?"""


@pytest.mark.parametrize("name", NAMES)
def test_a_marker_on_a_real_image_is_found_by_another_reader(
    name: str, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    path = shared_data(f"us-dicom/{name}")
    (plan,) = find_images([InstanceFile(path)])
    assert isinstance(plan, FramesPlan)
    frames, rows, columns = plan.shape
    labels = np.zeros(plan.shape, np.uint8)
    labels[-1, : rows // 3, columns // 2 : columns // 2 + 5] = 1
    labels[0, rows - 1, 0] = 2
    found = segmentation_of(labels)
    results = write_results(plan, found, node=NODE, empty_patient_id_allowed=True)
    if isinstance(results, Refusal):
        assert name in NOBODYS
        assert results.reason is Reason.MIXED_IDENTITY
        return
    (result,) = results
    assert check_frames_result(result.data, plan, found) == ()
    written = tmp_path / "result.dcm"
    written.write_bytes(result.data)
    assert dciodvfy(written) == []
    assert dcentvfy([path, written]) == []
    seg = highdicom.seg.segread(written)
    uid = plan.instance.sop_instance_uid
    if plan.frame_numbers == (None,):
        read = seg.get_pixels_by_source_instance([uid], combine_segments=True)
    else:
        read = seg.get_pixels_by_source_frame(
            uid,
            range(1, frames + 1),
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        )
    np.testing.assert_array_equal(read, labels)
