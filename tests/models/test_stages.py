"""One model behind another: the mask of the first limits the second, or it does not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from node.errors import SetupError
from node.imaging.values import Outcome, Refusal, Segmentation, Volume
from node.models.card import Card, find_cards, load_card
from node.models.check import check_model
from node.models.loaded import load_model
from node.models.stages import segment_in_stages
from node.reasons import Reason
from tests.models.builders import make_volume
from tests.models.handing import write_handing

STAGE = '[stage]\nmodel = "organ"\nlabels = [1]\nmargin_mm = 6\noutside_mm = 4\n'
NODULES = (
    '[[postprocess]]\nstep = "restrict_to"\nlabels = [1]\nhow = "touch"\n'
    '[[postprocess]]\nstep = "drop_small"\nlabels = [1]\nmin_mm = 3\n'
    '[[postprocess]]\nstep = "instances"\nlabel = 1\nat_most = 2\n'
)
ORGAN, NODULE = 300, 900
SPACING = (2.0, 1.0, 1.5)


def patient(*, organ: bool = True) -> NDArray[np.float32]:
    """Return an organ of 300 with two nodules of 900, a crumb, and a nodule elsewhere."""
    array = np.zeros((24, 40, 44), np.float32)
    if organ:
        array[4:20, 6:30, 8:30] = ORGAN
        array[6:9, 10:14, 10:13] = NODULE  # 36 voxels
        array[12:16, 20:25, 20:24] = NODULE  # 80 voxels
        array[10, 8, 28] = NODULE  # a crumb of 3 mm3
    array[20:23, 34:38, 38:42] = NODULE  # far from the organ
    return array


LARGEST = '[[postprocess]]\nstep = "keep_largest"\nlabels = [1]\n'


def chain(folder: Path, *, stage: str = STAGE, steps: str = NODULES, organ: str = LARGEST) -> Card:
    """Write both models: the organ is the largest piece over 150, a nodule is over 700."""
    write_handing(folder, name="organ", scale=(0, 300), more=organ)
    return write_handing(folder, name="nodule", scale=(500, 900), more=stage + steps)


def run(card: Card, array: NDArray[np.float32]) -> Segmentation | Refusal:
    volume = make_volume(array, spacing_mm=SPACING)
    return segment_in_stages(volume, load_model(card, device="cpu", threads=1))


def found_by(card: Card, array: NDArray[np.float32]) -> Segmentation:
    found = run(card, array)
    assert isinstance(found, Segmentation)
    return found


def test_nodules_in_the_organ_become_segments_in_order_of_volume(tmp_path: Path) -> None:
    found = found_by(chain(tmp_path), patient())
    wanted = np.zeros(found.labels.shape, np.uint8)
    wanted[12:16, 20:25, 20:24] = 1
    wanted[6:9, 10:14, 10:13] = 2
    np.testing.assert_array_equal(found.labels, wanted)
    assert [segment.label for segment in found.segments] == ["Thing 1", "Thing 2"]
    assert [m.value for m in found.measurements] == pytest.approx([80 * 3e-3, 36 * 3e-3])


def test_both_models_are_named_in_what_was_made(tmp_path: Path) -> None:
    card = chain(tmp_path)
    found = found_by(card, patient())
    assert found.runtime["stage model"] == "organ 1"
    assert found.runtime["stage weights"] == load_card(tmp_path / "organ").weights.sha256
    assert found.runtime["stage precision"] == "fp32"
    assert found.model.first is not None
    assert found.model.first.name == "organ"


def test_another_first_model_gives_another_key(tmp_path: Path) -> None:
    one = chain(tmp_path / "one")
    other = chain(tmp_path / "other", organ='[[postprocess]]\nstep = "fill_holes"\nlabels = [1]\n')
    assert one.weights.sha256 == other.weights.sha256
    assert one.settings_digest != other.settings_digest
    assert one.settings_digest == find_cards([tmp_path / "one"])["nodule"].settings_digest
    assert replace(one, stage=replace(one.stage, outside_mm=5.0)).settings_digest != (  # type: ignore[type-var]
        one.settings_digest
    )


def test_nothing_outside_the_first_model_s_mask_is_seen(tmp_path: Path) -> None:
    """Without any step afterwards the far nodule is gone; with a wide margin it is there."""
    narrow = found_by(chain(tmp_path / "narrow", steps=""), patient())
    assert not narrow.labels[20:23, 34:38, 38:42].any()
    wide_stage = STAGE.replace("margin_mm = 6", "margin_mm = 99").replace("= 4", "= 99")
    wide = found_by(chain(tmp_path / "wide", stage=wide_stage, steps=""), patient())
    assert wide.labels[20:23, 34:38, 38:42].all()


def test_a_piece_must_touch_the_mask_or_lie_inside_it(tmp_path: Path) -> None:
    """A nodule that begins two voxels off the organ goes; one on its surface stays with `touch`."""
    array = patient(organ=False)
    array[4:20, 6:30, 8:30] = ORGAN
    array[20:22, 10:14, 10:14] = NODULE  # on the surface, outside the mask of a lower limit
    stage = STAGE.replace("= 4", "= 99").replace("= 6", "= 99")
    card = chain(tmp_path, stage=stage, steps="", organ=_below(600))
    all_pieces = found_by(card, array)
    assert all_pieces.labels[20:22, 10:14, 10:14].all()
    for how, grow, surface, far in (
        ("touch", 0, True, False),
        ("inside", 0, False, False),
        ("inside", 5, True, False),
        ("touch", 90, True, True),
    ):
        step = (
            f'[[postprocess]]\nstep = "restrict_to"\nlabels = [1]\nhow = "{how}"\n'
            f"grow_mm = {grow}\n"
        )
        folder = tmp_path / f"{how}-{grow}"
        found = found_by(chain(folder, stage=stage, steps=step, organ=_below(600)), array)
        assert bool(found.labels[20:22, 10:14, 10:14].all()) is surface
        assert bool(found.labels[20:23, 34:38, 38:42].any()) is far


def _below(value: int) -> str:
    return f'[[postprocess]]\nstep = "threshold"\nlabels = [1]\nat_most = {value}\n'


def test_a_rejected_first_result_stops_the_second_with_its_reason(tmp_path: Path) -> None:
    quality = '[[quality.segments]]\nnumber = 1\nmin_ml = 1\nwhen_empty = "reject"\n'
    card = chain(tmp_path, organ=quality)
    empty = np.zeros_like(patient())
    refused = run(card, empty)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.STAGE_REJECTED
    assert "nodule did not run, because organ 1 rejects" in refused.explanation
    assert "Thing is empty" in refused.explanation


def test_an_empty_mask_stops_the_second_too(tmp_path: Path) -> None:
    refused = run(chain(tmp_path), np.zeros_like(patient()))
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.STAGE_EMPTY


def test_what_the_first_asks_a_person_reaches_the_last_verdict(tmp_path: Path) -> None:
    quality = "[[quality.segments]]\nnumber = 1\nmin_ml = 500\n"
    found = found_by(chain(tmp_path, organ=quality), patient())
    assert found.verdict.outcome is Outcome.REVIEW
    assert any(reason.startswith("organ 1: Thing has") for reason in found.verdict.reasons)


def test_a_search_that_finds_nothing_says_so_and_is_no_fault(tmp_path: Path) -> None:
    array = np.minimum(patient(), ORGAN)
    found = found_by(chain(tmp_path), array)
    assert not found.labels.any()
    assert [segment.label for segment in found.segments] == ["Thing"]
    assert found.verdict.outcome is Outcome.ACCEPT
    assert found.verdict.reasons == ("Thing: none was found by this model.",)


def test_more_pieces_than_the_card_allows_are_told(tmp_path: Path) -> None:
    steps = NODULES.replace("at_most = 2", "at_most = 1")
    found = found_by(chain(tmp_path, steps=steps), patient())
    assert len(found.segments) == 1
    assert found.labels[12:16, 20:25, 20:24].all()
    assert found.verdict.outcome is Outcome.REVIEW
    assert "2 pieces of Thing were found" in found.verdict.reasons[0]


@pytest.mark.parametrize(
    ("stage", "steps", "said"),
    [
        (STAGE.replace("organ", "absent"), "", "'absent' of its stage is not among the models"),
        (STAGE.replace("organ", "nodule"), "", "nodule -> nodule"),
        (STAGE.replace("[1]", "[1, 4]"), "", r"gives the labels \[1\], not \[4\]"),
        (STAGE.replace("labels = [1]", ""), "", "stage.labels"),
        ("", NODULES, "restrict_to needs a"),
        (STAGE, NODULES + '[[postprocess]]\nstep = "fill_holes"\nlabels = [1]\n', "the last steps"),
        (STAGE, '[[postprocess]]\nstep = "drop_small"\nlabels = [1]\n', "one of min_ml"),
    ],
)
def test_a_chain_that_cannot_be_is_a_mistake(
    tmp_path: Path, stage: str, steps: str, said: str
) -> None:
    with pytest.raises(SetupError, match=said):
        chain(tmp_path, stage=stage, steps=steps)
    faults = check_model(tmp_path / "nodule")
    assert any(fault.code in ("stage-invalid", "card-invalid") for fault in faults)


def test_a_good_chain_passes_the_check(tmp_path: Path) -> None:
    chain(tmp_path)
    assert check_model(tmp_path / "nodule") == ()


def test_a_volume_too_thin_for_the_first_model_is_refused(tmp_path: Path) -> None:
    card = chain(tmp_path)
    assert card.first is not None
    thick = replace(card, first=replace(card.first, min_slices=30))
    refused = run(thick, patient())
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.TOO_FEW_SLICES


def mirrored(volume: Volume) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (volume.array.shape[2] - 1)
    affine[:3, 2] *= -1
    return replace(volume, array=np.ascontiguousarray(volume.array[..., ::-1]), affine=affine)


def test_instances_have_the_same_numbers_whichever_way_the_columns_run(tmp_path: Path) -> None:
    array = patient()
    array[12:16, 20:25, 20:24] = ORGAN
    array[6:9, 24:28, 18:21] = NODULE  # as large as the other, further back
    volume = make_volume(array, spacing_mm=SPACING)
    model = load_model(chain(tmp_path), device="cpu", threads=1)
    one, other = segment_in_stages(volume, model), segment_in_stages(mirrored(volume), model)
    assert isinstance(one, Segmentation)
    assert isinstance(other, Segmentation)
    np.testing.assert_array_equal(one.labels, other.labels[..., ::-1])
    assert one.labels[7, 11, 11] == 1  # the one in front comes first
    assert one.labels[7, 25, 19] == 2
