"""The whole line through real processes: a study goes in, one proven SEG comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from postgres import empty_postgres_url, postgres_server
from running_node import CHEST, Line, made_node, peers_and_routes

from node.imaging.read import read_folder
from node.imaging.series import find_volumes
from node.imaging.values import Refusal
from node.imaging.volume import load_volume
from node.phantom.pacs import PhantomPacs
from node.phantom.study import PhantomStudy, make_study, write_study
from node.results.reader import read_segmentation

__all__ = ["empty_postgres_url", "postgres_server"]

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(7, CHEST)


def labels_of(seg: bytes, study: PhantomStudy, folder: Path) -> np.ndarray:
    write_study(folder, study)
    (plan,) = [p for p in find_volumes(read_folder(folder)) if not isinstance(p, Refusal)]
    volume = load_volume(plan)
    assert not isinstance(volume, Refusal)
    return read_segmentation(seg, volume)


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    return 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum())


def test_a_phantom_study_comes_back_as_one_committed_seg_on_the_right_voxels(
    line: Line, study: PhantomStudy, tmp_path: Path
) -> None:
    line.start()
    line.send(study)
    told = line.node.wait_done(study.study_uid)
    assert told.study.sentence == "Results committed by pacs."
    assert not told.study.needs_person
    (seg,) = line.segs()
    labels = labels_of(seg, study, tmp_path / "study")
    for side in (1, 2):
        assert dice(labels == side, study.truth.labels == side) > 0.9
    # `limner segment` on the same files is the same code: same UID, same bytes.
    command = [
        *(sys.executable, "-m", "node.cli", "segment", str(tmp_path / "study")),
        *("--model", "lung-ct", "--out", str(tmp_path / "out"), "--json"),
        *("--node-name", "test", "--threads", "1", "--device", "cpu"),
    ]
    said = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    (volume,) = said["volumes"]
    assert said["schema"] == 1
    line.node.command("export", study.study_uid, "--out", str(tmp_path / "export"))
    stored = (tmp_path / "export" / "result-001-seg.dcm").read_bytes()
    assert Path(volume["results"][0]["path"]).read_bytes() == stored
    assert len(list((tmp_path / "export").iterdir())) == 37
    assert volume["shape"] == [36, 128, 128]
    # The same study once more is nothing new: no job, no second object.
    line.send(study)
    again = line.node.wait(
        "the study settled again",
        lambda: (
            (
                (s := line.node.story(study.study_uid))
                and s.study.state == "done"
                and s.study.last_received_ms >= told.study.last_received_ms
                and s
            )
            or None
        ),
    )
    assert len(again.jobs) == 1
    assert len(line.pacs.stored) == 1
    assert line.node.stop() == 0


def test_late_slices_make_a_new_revision_whose_result_replaces_the_old_one(
    line: Line, study: PhantomStudy
) -> None:
    line.start()
    early, late = study.instances[:30], study.instances[30:]
    from node.phantom.scanner import send_study

    send_study(line.target, early, calling_ae="SCANNER")
    first = line.node.wait_done(study.study_uid)
    send_study(line.target, late, calling_ae="SCANNER")

    def replaced() -> object | None:
        told = line.node.story(study.study_uid)
        results = [each.result for job in told.jobs for each in job.results] if told else []
        done = told is not None and told.study.state == "done" and told.study.revision == 2
        return results if done and len(results) == 2 else None

    old, new = line.node.wait("the second revision has its result", replaced)
    assert first.study.revision == 1
    assert old.superseded_by == new.id
    assert new.superseded_by is None
    assert old.sop_uid != new.sop_uid
    assert {stored.sop_uid for stored in line.pacs.stored} == {old.sop_uid, new.sop_uid}


def test_the_line_runs_on_postgresql_as_well(
    tmp_path: Path, free_port: Callable[[], int], study: PhantomStudy, empty_postgres_url: str
) -> None:
    url = empty_postgres_url.replace("postgresql://", "postgresql+psycopg://")
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        with made_node(tmp_path / "node", free_port, tables, database=url) as node:
            assert node.command("migrate").returncode == 0
            line = Line(node, pacs)
            line.start()
            line.send(study)
            told = node.wait_done(study.study_uid)
            assert told.study.sentence == "Results committed by pacs."
            assert len(pacs.stored) == 1


def test_listener_scheduler_network_worker_and_pages_never_import_torch() -> None:
    code = (
        "import sys, node.dicom.listener, node.schedule.clock, node.web.serve, "
        "node.worker.network_jobs, node.commands.processes; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
