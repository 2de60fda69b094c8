"""What training sees is what inference sees, and references lie on it by exact overlap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.imaging.values import Frames
from node.models.frame_window import frame_windows
from node.models.prepare import prepare
from node.training.calibration import CaseLogits, calibrated_text, fitted, median_offset
from node.training.cases import Case, case_of
from node.training.nifti import read_nifti_pair
from node.training.template import template_card
from node.training.us_nerve import TISSUE, read_nerves
from node.training.view import view_of

from .small_cases import ball_case, ball_volume, write_balls, write_bright_discs


def _coarse() -> Case:
    volume, labels = ball_volume(3)
    one = (labels > 0).astype(np.uint8)
    stretched = replace(volume, units="SUVbw", spacing_mm=(3.27, 4.1, 4.1))
    affine = volume.affine @ np.diag([3.27, 4.1, 4.1, 1.0])
    return case_of("a", "anna", replace(stretched, affine=affine), one, 1)


def test_a_volume_is_seen_as_inference_sees_it() -> None:
    card = template_card("hippocampus")
    case = ball_case(4)
    prepared = prepare(case.image, card)
    assert np.array_equal(view_of(case, card).image, prepared.planes(0, prepared.shape[0]))


def test_labels_on_the_own_grid_come_back_to_the_voxel() -> None:
    card = template_card("hippocampus")
    case = ball_case(4)
    view = view_of(case, card)
    labels = view.labels(case.reference, 2)
    assert labels.shape == view.image.shape
    assert np.array_equal(view.native(labels), case.reference)


def test_shares_keep_the_volume_of_the_reference() -> None:
    card = template_card("pet-tumour")
    case = _coarse()
    shares = view_of(case, card).shares(case.reference == 1)
    assert ((shares > 0) & (shares < 1)).sum() > 0
    own_ml = float(np.prod(card.voxels.spacing_mm)) / 1000
    assert shares.sum() * own_ml == pytest.approx(case.reference.sum() * case.voxel_ml, rel=1e-4)


def test_a_frame_is_seen_through_the_window_of_inference(tmp_path: Path) -> None:
    card = template_card("us-nerve")
    case = read_nerves(write_bright_discs(tmp_path, 1, 1))[0]
    assert isinstance(case.image, Frames)
    window = frame_windows(case.image, card)[0]
    assert window.box == TISSUE
    view = view_of(case, card)
    assert np.array_equal(view.image[0], window.to_network(case.array[0]))
    back = view.native(view.labels(case.reference, 1))
    assert back.shape == case.reference.shape
    overlap = 2 * (back & case.reference).sum() / (back.sum() + case.reference.sum())
    assert overlap > 0.9


def test_nifti_comes_in_patient_coordinates(tmp_path: Path) -> None:
    folder = write_balls(tmp_path, 1)
    volume, labels = read_nifti_pair(
        folder / "images" / "ball_000.nii.gz",
        folder / "labels" / "ball_000.nii.gz",
        units="arbitrary",
        modality="MR",
    )
    drawn, truth = ball_volume(0)
    assert np.array_equal(volume.array, drawn.array)
    assert np.array_equal(labels, truth)
    # RAS to LPS: columns and rows of this file run against x and y of DICOM, slices with z.
    assert np.array_equal(np.diag(volume.affine[:3, [2, 1, 0]]), [-1, -1, 1])


def test_calibration_finds_scale_and_offset_that_were_put_in() -> None:
    rng = np.random.Generator(np.random.PCG64(1))
    logits = rng.normal(0, 2, 20_000).astype(np.float32)
    shares = (1 / (1 + np.exp(-(0.6 * logits - 1.1)))).astype(np.float32)
    scale, offset = fitted(logits, shares)
    assert (scale, offset) == pytest.approx((0.6, -1.1), abs=1e-3)


def _ball_case(radius: float, sharp: float, beyond: float) -> CaseLogits:
    """Return a ball whose logits are those of one `beyond` voxels larger."""
    grid = np.stack(np.meshgrid(*[np.arange(24) - 11.7] * 3, indexing="ij"))
    away = np.sqrt((grid**2).sum(0)).astype(np.float32)
    truth = np.clip(radius - away + 0.5, 0, 1)
    return CaseLogits(sharp * (radius + beyond - away), truth)


def test_the_median_case_has_its_volume_after_calibration_whatever_the_largest_does() -> None:
    radii = (4.0, 4.5, 5.0, 5.5, 6.0)
    cases = [_ball_case(radius, 2.0, 0.8) for radius in radii] + [_ball_case(10.0, 2.0, -2.0)]
    scale = 1.3
    offset = median_offset(cases, scale, support_voxels=2)
    volumes = [(1 / (1 + np.exp(-(scale * c.logits + offset)))).sum() for c in cases]
    ratios = [volume / case.shares.sum() for volume, case in zip(volumes, cases, strict=True)]
    assert np.median(ratios) == pytest.approx(1.0, abs=0.02)
    assert ratios[-1] < 0.6
    without = CaseLogits(np.full((24,) * 3, -6, np.float32), np.zeros((24,) * 3, np.float32))
    assert median_offset([*cases, without], scale, support_voxels=2) == offset
    assert median_offset([without], scale, support_voxels=2) == 0.0
    text = calibrated_text("logit_scale = 1.0\nlogit_offset = 0.0", cases, support_voxels=2)
    assert "logit_scale = 1.0\n" not in text
    assert "logit_offset = -" in text
