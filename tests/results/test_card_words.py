"""What a card says of its result series reaches the object, and "research use" always stands."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from node.imaging.values import Refusal
from node.results.write import NodeFacts, write_results

from .build import MODEL, asymmetric_labels, build_volume, segmentation_of


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        ("", "AI lung-ct 1.2 - research use"),
        ("Lungs", "AI Lungs - research use"),
        ("Lungs (research use)", "AI Lungs (research use)"),
        ("L" * 64, "AI " + "L" * 46 + " - research use"),
    ],
)
def test_the_series_is_called_what_the_card_wants_and_says_research_use(
    wanted: str, written: str, tmp_path: Path
) -> None:
    volume = build_volume(tmp_path)
    labels = asymmetric_labels(volume.array.shape)
    named = replace(MODEL, series_description=wanted, series_number=9500)
    segmentation = replace(segmentation_of(labels), model=named)
    results = write_results(volume, segmentation, node=NodeFacts("n", "1"))
    assert not isinstance(results, Refusal)
    seg = dcmread(BytesIO(results[0].data))
    assert seg.SeriesDescription == written
    assert len(seg.SeriesDescription) <= 64
    assert seg.SeriesNumber >= 9500
