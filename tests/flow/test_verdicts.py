"""What a route does with a result that a person should look at: mark it, or wait for a person."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from running_node import CHEST, Line, made_node, peers_and_routes

from node.phantom.pacs import PhantomPacs
from node.phantom.study import make_study
from tests.models.handing import write_handing

pytestmark = pytest.mark.flow

DOUBTED = "[[quality.segments]]\nnumber = 1\nmin_ml = 900000\n"
"""Nobody has so much of anything: every result of this model is to be looked at."""

HELD = """
[[routes]]
name = "careful"
model = "handing"
send_to = ["pacs"]
on_review = "hold"
[routes.when]
Modality = "CT"
"""


def test_one_route_marks_a_doubtful_result_and_another_waits_for_a_person(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    write_handing(tmp_path / "models", scale=(-1000, 1000), more=DOUBTED)
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(
            pacs_port=pacs.target.port, model="handing", when='Modality = "CT"'
        ).replace("[routes.when]", 'on_review = "send-marked"\n[routes.when]')
        with made_node(
            tmp_path / "node", free_port, tables + HELD, models=[tmp_path / "models"]
        ) as node:
            line = Line(node, pacs)
            line.start()
            study = make_study(7, CHEST)
            line.send(study)
            told = node.wait_done(study.study_uid)
            assert told.study.needs_person
            assert "held. The verdict is review: Thing has" in told.study.sentence
            (marked,) = (pydicom.dcmread(BytesIO(seg)) for seg in line.segs())
            assert marked.SeriesDescription == "REVIEW: AI Test - research use"
            shown = node.command("study", study.study_uid).stdout
            assert "held before pacs: The verdict is review" in shown
            assert "review: Thing has" in shown
            assert json.loads(node.command("deliveries", "--state", "held", "--json").stdout)[
                "deliveries"
            ]
            node.command("release", study.study_uid)
            told = node.wait(
                "both are committed",
                lambda: _committed(node.story(study.study_uid), 2),  # type: ignore[arg-type]
            )
            one, two = (pydicom.dcmread(BytesIO(seg)) for seg in line.segs())
            assert two.SeriesDescription == "AI Test - research use"
            assert one.SOPInstanceUID != two.SOPInstanceUID
            assert one.SeriesInstanceUID != two.SeriesInstanceUID
            assert node.command("release", study.study_uid, check=False).returncode == 1


def _committed(told: object, count: int) -> object | None:
    states = [
        each.delivery.state
        for work in told.jobs  # type: ignore[attr-defined]
        for made in work.results
        for each in made.deliveries
    ]
    return told if states.count("committed") == count else None
