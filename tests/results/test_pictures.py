"""The pictures show the right slice, the right way round, in true proportions, and no names."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from node.imaging.values import Segmentation, Volume
from node.results.pictures import overlay_pictures, pack_pictures, side_letters

from .build import build_volume, segmentation_of


def opened(data: bytes) -> np.ndarray:
    picture = Image.open(BytesIO(data))
    assert picture.format == "JPEG"
    assert not picture.getexif()
    assert "comment" not in picture.info
    return np.asarray(picture.convert("RGB")).astype(int)


def red(segmentation: Segmentation) -> Segmentation:
    first, *others = segmentation.segments
    return replace(segmentation, segments=(replace(first, colour=(255, 0, 0)), *others))


def flat(folder: Path, **change: object) -> Volume:
    """Return a volume of one grey value, in units of nothing."""
    volume = build_volume(folder, **change)  # type: ignore[arg-type]
    return replace(volume, array=np.full(volume.array.shape, 40, np.int16))


def test_a_segment_is_drawn_where_it_lies_and_only_there(tmp_path: Path) -> None:
    volume = flat(tmp_path, shape=(4, 20, 40), spacing_mm=(2, 1, 1))
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[1, 2:6, 30:38] = 1
    pictures = overlay_pictures(volume, red(segmentation_of(labels)), longest_side=200)
    assert len(pictures) == 4
    reddish = [(opened(data)[:, :, 0] - opened(data)[:, :, 2]) > 110 for data in pictures]
    assert [bool(one.any()) for one in reddish] == [False, True, False, False]
    rows, columns = np.nonzero(reddish[1])
    assert (rows.min(), rows.max()) == pytest.approx((10, 29), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((150, 189), abs=1)


def test_a_picture_has_the_proportions_of_the_patient(tmp_path: Path) -> None:
    volume = flat(tmp_path, shape=(1, 20, 40), spacing_mm=(2, 3.0, 0.5))
    labels = np.zeros(volume.array.shape, np.uint8)
    picture = opened(overlay_pictures(volume, segmentation_of(labels), longest_side=120)[0])
    assert picture.shape == (120, 40, 3)  # 60 mm high, 20 mm wide


def test_the_window_follows_units_and_what_was_found(tmp_path: Path) -> None:
    volume = build_volume(tmp_path, shape=(2, 8, 8), spacing_mm=(1, 1, 1))
    values = np.full(volume.array.shape, -850, np.int16)
    values[:, :, 4:] = 60
    volume = replace(volume, array=values)
    labels = np.zeros(values.shape, np.uint8)
    soft = opened(overlay_pictures(volume, segmentation_of(labels))[0])
    assert soft[190, 80].max() < 5
    assert 120 < soft[190, 300].mean() < 160
    labels[:, 2:4, :3] = 1
    lung = opened(overlay_pictures(volume, segmentation_of(labels))[0])
    assert 60 < lung[300, 80].mean() < 110
    any_units = replace(volume, units="arbitrary", modality="MR")
    scaled = opened(overlay_pictures(any_units, segmentation_of(labels * 0))[0])
    assert scaled[190, 80].max() < 5
    assert scaled[190, 300].min() > 250
    pet = replace(volume, units="BQML", modality="PT", array=values.astype(np.float32) + 850)
    dark = opened(overlay_pictures(pet, segmentation_of(labels * 0))[0])
    assert dark[190, 300].max() < 5


def test_a_volume_of_one_value_or_of_padding_alone_can_be_drawn(tmp_path: Path) -> None:
    volume = replace(flat(tmp_path, shape=(1, 3, 3)), units="arbitrary", modality="MR")
    labels = np.zeros(volume.array.shape, np.uint8)
    hidden = replace(volume, padding=np.ones(volume.array.shape, np.bool_))
    for one in (volume, hidden):
        assert len(overlay_pictures(one, segmentation_of(labels))) == 1


@pytest.mark.parametrize(
    ("orientation", "letters"),
    [("axial", "RLAP"), ("coronal", "RLHF"), ("sagittal", "APHF")],
)
def test_the_letters_name_the_sides_of_the_patient(
    orientation: str, letters: str, tmp_path: Path
) -> None:
    volume = build_volume(tmp_path, orientation=orientation)
    assert "".join(side_letters(volume.affine)) == letters


def test_packed_pictures_can_be_cut_out_again() -> None:
    pictures = [b"one", b"", b"three"]
    data, index = pack_pictures(pictures)
    assert [data[at : at + length] for at, length in index] == pictures
    assert pack_pictures([]) == (b"", ())
