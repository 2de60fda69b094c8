"""Tissue fractions: no volume is made or lost on the way back, and none is argmaxed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.errors import SetupError
from node.imaging.values import Segmentation, Volume
from node.models.axis import Axis, resampled_axis, window_axis
from node.models.fractions import fractions_of_kept, spread_back, supported
from node.models.inference import segment_volume
from node.models.loaded import load_model
from node.models.prepare import prepare
from node.models.scores import Meter, score_planes
from tests.models.builders import make_volume
from tests.models.handing import write_handing

OCCUPANCY = 'kind = "occupancy"\nlogit_scale = 8.0\nlogit_offset = 0.5'
RATIOS = st.floats(0.3, 3.7)


def axis_of(native: int, ratio: float) -> Axis:
    return resampled_axis(native, ratio, at_least=1, multiple=1)


@settings(deadline=None)
@given(ratios=st.tuples(RATIOS, RATIOS, RATIOS), seed=st.integers(0, 1000))
def test_the_volume_on_the_native_grid_is_that_of_the_network_s_grid(
    ratios: tuple[float, float, float], seed: int
) -> None:
    first, second, third = (axis_of(n, r) for n, r in zip((9, 11, 14), ratios, strict=True))
    axes = (first, second, third)
    fractions = np.random.default_rng(seed).random([a.model_count for a in axes], np.float32)
    for place, axis in enumerate(axes):  # a border voxel may hang over the image's edge
        for edge in (0, -1):
            np.moveaxis(fractions, place, 0)[edge] *= axis.model_count < 3
    native = spread_back(fractions, axes)
    voxel = np.prod([a.ratio for a in axes])
    inside = [a.shared().sum(axis=1) / a.ratio for a in axes]
    held = np.einsum("zyx,z,y,x->", fractions.astype(float), *inside) * voxel
    assert native.sum(dtype=np.float64) == pytest.approx(held, rel=1e-6)
    assert native.max() <= 1.0


@settings(deadline=None)
@given(ratio=RATIOS, offset=st.floats(0, 30), seed=st.integers(0, 1000))
def test_there_and_back_in_a_window_keeps_the_volume_inside_it(
    ratio: float, offset: float, seed: int
) -> None:
    axis = window_axis(60, ratio, count=12, centre=offset)
    values = np.zeros(60)
    inside = axis.inside
    core = slice(inside.start + 4, max(inside.start + 4, inside.stop - 4))
    values[core] = np.random.default_rng(seed).random(core.stop - core.start)
    there = axis.shared() @ values / axis.ratio
    back = axis.shared().T @ there
    assert back.sum() == pytest.approx(values.sum(), rel=1e-6)


def test_a_fraction_far_from_any_full_voxel_is_background() -> None:
    fractions = np.full((1, 1, 12), 0.1, np.float32)
    fractions[0, 0, 3] = 0.5
    np.testing.assert_allclose(
        supported(fractions, 2)[0, 0], [0, 0.1, 0.1, 0.5, 0.1, 0.1, 0, 0, 0, 0, 0, 0][:12], atol=0.1
    )
    assert np.flatnonzero(supported(fractions, 2)).tolist() == [1, 2, 3, 4, 5]
    assert np.flatnonzero(supported(fractions, 0)).tolist() == [3]
    assert not supported(np.full((2, 2, 2), 0.49, np.float32), 2).any()


def blob(spacing_mm: tuple[float, float, float], units: str = "HU") -> Volume:
    shape = (26, 42, 40)
    grid = np.indices(shape).transpose(1, 2, 3, 0) * spacing_mm
    away = np.linalg.norm((grid - np.array([12.3, 20.2, 18.9]) * spacing_mm) / [9, 11, 8], axis=-1)
    array = np.clip(1000 * (1.5 - away), 0, 1000).astype(np.float32)
    return make_volume(array, spacing_mm=spacing_mm, units=units)


@pytest.mark.parametrize("spacing", ["[0, 0, 0]", "[1.7, 2.9, 2.9]", "[1.0, 0.6, 0.6]"])
def test_a_whole_run_keeps_the_volume_that_the_network_said(tmp_path: Path, spacing: str) -> None:
    volume = blob((2.0, 1.3, 1.1))
    card = write_handing(tmp_path, head=OCCUPANCY, spacing=spacing)
    model = load_model(card, device="cpu", threads=1)
    found = segment_volume(volume, model)
    prepared = prepare(volume, card)
    logits = np.stack([p[0].numpy() for p in score_planes(prepared, model, Meter(lambda _: None))])
    said = supported((1 / (1 + np.exp(-(8.0 * logits + 0.5)))).astype(np.float32), 2)
    voxel_mm3 = 2.0 * 1.3 * 1.1
    ratio = float(np.prod([axis.ratio for axis in prepared.axes]))
    assert found.fractions is not None
    total = found.fractions.sum(dtype=np.float64) * voxel_mm3
    assert total == pytest.approx(said.sum(dtype=np.float64) * voxel_mm3 * ratio, rel=1e-6)
    np.testing.assert_array_equal(found.labels, found.fractions >= 0.5)
    assert volume_ml(found) == pytest.approx(total / 1000)
    assert np.count_nonzero((found.fractions > 0) & (found.fractions < 0.5)) > 0


def volume_ml(found: Segmentation) -> float:
    return next(m.value for m in found.measurements if m.name.meaning == "Volume")


def test_what_post_processing_removes_takes_its_fractions_along(tmp_path: Path) -> None:
    volume = blob((2.0, 1.3, 1.1))
    crumb = volume.array.copy()
    crumb[1:3, 1:3, 1:3] = 1000
    steps = '[[postprocess]]\nstep = "drop_small"\nlabels = [1]\nmin_mm = 6\n'
    card = write_handing(tmp_path, head=OCCUPANCY, more=steps)
    model = load_model(card, device="cpu", threads=1)
    clean = segment_volume(volume, model)
    found = segment_volume(make_volume(crumb, spacing_mm=(2.0, 1.3, 1.1)), model)
    np.testing.assert_array_equal(found.labels, clean.labels)
    assert found.fractions is not None
    assert not found.fractions[:4, :4, :4].any()
    assert volume_ml(found) == pytest.approx(volume_ml(clean), rel=0.02)
    assert found.removed_ml > 0


def test_fractions_stay_with_the_piece_that_is_nearest() -> None:
    fractions = np.zeros((1, 1, 9), np.float32)
    fractions[0, 0] = [0.9, 0.2, 0.2, 0.2, 0, 0.2, 0.2, 0.9, 0.9]
    before = (fractions >= 0.5).astype(np.uint8)
    after = before.copy()
    after[0, 0, 0] = 0
    kept = fractions_of_kept(fractions, before=before, after=after, spacing_mm=(1, 1, 1))
    assert np.flatnonzero(kept).tolist() == [5, 6, 7, 8]


def test_uptake_is_measured_with_its_codes(tmp_path: Path) -> None:
    array: NDArray[np.float32] = np.zeros((21, 21, 21), np.float32)
    array[6:15, 6:15, 6:15] = 4.0
    array[10, 10, 10] = 10.0
    volume = make_volume(array, spacing_mm=(4.0, 4.0, 4.0), units="SUVbw")
    head = 'kind = "occupancy"\nlogit_scale = 40.0'
    card = write_handing(tmp_path, head=head, scale=(0, 5), units="SUVbw")
    found = segment_volume(volume, load_model(card, device="cpu", threads=1))
    said = {
        (m.derivation.meaning if m.derivation else m.name.meaning): m for m in found.measurements
    }
    whole = 9**3 * 0.064
    assert said["Volume"].value == pytest.approx(whole, rel=0.01)
    assert said["Maximum"].value == 10.0
    assert said["Mean"].value == pytest.approx(4 + 6 / 9**3, rel=0.01)
    share = 0.064 / 1.0  # of the sphere of 1 mL that the hot voxel fills
    assert said["Peak Value Within ROI"].value == pytest.approx(4 + 6 * share, rel=0.01)
    glycolysis = said["Total Lesion Glycolysis"]
    assert glycolysis.value == pytest.approx(said["Mean"].value * said["Volume"].value)
    assert (glycolysis.name.value, glycolysis.unit.value) == ("126033", "g")
    assert said["Maximum"].name.value == "126401"
    assert said["Maximum"].unit.value == "g/ml{SUVbw}"
    assert all(m.method for m in found.measurements)


@pytest.mark.parametrize(
    ("head", "more", "said"),
    [
        ('kind = "classes"\nlogit_scale = 2', "", "belongs to kind"),
        (OCCUPANCY + "\nthreshold = 0.4", "", "where the fraction is a half"),
        (OCCUPANCY, '[[postprocess]]\nstep = "fill_holes"\nlabels = [1]\n', "only take pieces"),
    ],
)
def test_what_makes_no_sense_for_fractions_is_a_mistake(
    tmp_path: Path, head: str, more: str, said: str
) -> None:
    with pytest.raises(SetupError, match=said):
        write_handing(tmp_path, head=head, more=more)
