"""Ultrasound through the whole line: a cine and a still go in, two proven SEGs come out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running_node import Line, made_node, peers_and_routes

from node.imaging.images import find_images
from node.imaging.read import read_folder
from node.imaging.values import FramesPlan
from node.phantom.pacs import PhantomPacs
from node.phantom.pixels import Syntax
from node.phantom.scanner import send_study
from node.phantom.ultrasound import NERVE, Look, Screen, make_ultrasound
from node.results.reader import open_segmentation, read_frames_segmentation
from tests.models.frame_models import write_bright_model

pytestmark = pytest.mark.flow

SCREEN = Screen(shape=(6, 180, 240), look=Look.COLOUR, syntax=Syntax.RLE, stills=1)


def test_an_ultrasound_study_comes_back_on_the_right_frames_and_pixels(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    write_bright_model(tmp_path / "models" / "us-bright")
    study = make_ultrasound(11, SCREEN)
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(
            pacs_port=pacs.target.port, model="us-bright", when='Modality = "US"'
        )
        with made_node(tmp_path / "node", free_port, tables, models=[tmp_path / "models"]) as node:
            line = Line(node, pacs)
            line.start()
            answers = send_study(line.target, study.instances, calling_ae="SCANNER")
            assert {answer.kind for answer in answers} == {"stored"}
            told = node.wait_done(study.study_uid)
            assert told.study.sentence == "Results committed by pacs."
            segs = line.segs()
            node.command("export", study.study_uid, "--out", str(tmp_path / "export"))
            explained = node.command("study", study.study_uid).stdout
            assert node.stop() == 0
    assert len(segs) == 2
    folder = tmp_path / "study"
    folder.mkdir()
    for number, instance in enumerate(study.instances):
        (folder / f"{number}.dcm").write_bytes(instance.data)
    plans = [one for one in find_images(read_folder(folder)) if isinstance(one, FramesPlan)]
    by_source = {
        open_segmentation(seg).SourceImageSequence[0].ReferencedSOPInstanceUID: seg for seg in segs
    }
    for plan, truth in zip(plans, study.labels, strict=True):
        seg = by_source[plan.instance.sop_instance_uid]
        labels = read_frames_segmentation(seg, plan) == NERVE
        for found, wanted in zip(labels, truth == NERVE, strict=True):
            assert 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum()) > 0.9
    assert "Nerve on 6 frames, at most" in explained
    rows = [each.result for job in told.jobs for each in job.results]
    assert sorted(len(row.pictures["index"]) for row in rows) == [1, 6]  # one of each frame
    exported = {path.read_bytes() for path in (tmp_path / "export").glob("result-*")}
    # `limner segment` on the same files is the same code: same UIDs, same bytes.
    command = [
        *(sys.executable, "-m", "node.cli", "segment", str(folder)),
        *("--model", str(tmp_path / "models" / "us-bright"), "--out", str(tmp_path / "out")),
        *("--json", "--node-name", "test", "--threads", "1", "--device", "cpu"),
    ]
    said = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert [volume["shape"] for volume in said["volumes"]] == [[6, 180, 240], [1, 180, 240]]
    assert [volume["spacing_mm"][0] for volume in said["volumes"]] == [None, None]
    made = {Path(each["results"][0]["path"]).read_bytes() for each in said["volumes"]}
    assert made == exported
