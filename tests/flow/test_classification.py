"""The whole line with a model that classifies: a study goes in, a report comes out."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from running_node import CHEST, Line, made_node, peers_and_routes

from node.phantom.pacs import PhantomPacs
from node.phantom.study import make_study
from tests.models.handing import write_classifier

pytestmark = pytest.mark.flow


def test_a_study_comes_back_as_one_committed_report(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    write_classifier(tmp_path / "models")
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(
            pacs_port=pacs.target.port, model="bright", when='Modality = "CT"'
        ).replace('takes = ["SEG"]', 'takes = ["SEG", "SR"]')
        models = [tmp_path / "models"]
        with made_node(tmp_path / "node", free_port, tables, models=models) as node:
            line = Line(node, pacs)
            line.start()
            study = make_study(7, CHEST)
            line.send(study)
            told = node.wait_done(study.study_uid)
            assert told.study.sentence == "Results committed by pacs."
            (stored,) = line.segs()
            report = pydicom.dcmread(BytesIO(stored))
            assert report.SOPClassUID.name == "Comprehensive 3D SR Storage"
            assert report.StudyInstanceUID == study.study_uid
            shown = node.command("study", study.study_uid).stdout
            assert "Bright thing absent (" in shown
