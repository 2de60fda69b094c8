"""Killing any process at any stage once still ends with exactly one SEG in each PACS.

A process is stopped at a named point in the line (`node.faultpoints`), so that the study is
certainly there; then one process is killed with SIGKILL, and the point lets go. The result goes
to a phantom PACS that counts every C-STORE, and to Orthanc. `make test` kills the owner of each
point; `make accept` kills every process at every point.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from peers import running_orthanc
from running_node import CHEST, RunningNode, made_node, peers_and_routes

from node.dicom.requestor import Target
from node.errors import LimnerError
from node.faultpoints import POINTS
from node.phantom.pacs import PhantomPacs
from node.phantom.scanner import send_study
from node.phantom.study import PhantomStudy, make_study

pytestmark = pytest.mark.flow

PROCESSES = ("run", "listen", "wire", "schedule", "work", "deliver", "web")
OWNER = {
    "receive": "wire",
    "index": "listen",
    "settle": "schedule",
    "decide": "schedule",
    "claim": "work",
    "read": "work",
    "infer": "work",
    "write": "work",
    "deliver": "deliver",
    "confirm": "deliver",
}
LISTENER_POINTS = {"confirm.before-rows"}


def owner(point: str) -> str:
    return "listen" if point in LISTENER_POINTS else OWNER[point.partition(".")[0]]


SAMPLE = [(point, owner(point)) for point in POINTS] + [
    ("receive.after-sync", "listen"),
    ("infer.after", "run"),
    ("deliver.after-store", "listen"),
    ("write.before-commit", "schedule"),
]
WHOLE = [(point, name) for point in POINTS for name in PROCESSES if (point, name) not in SAMPLE]

ORTHANC = """
[[peers]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
may = ["echo", "commit"]
takes = ["SEG"]
proof = "commitment"
"""


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(7, CHEST)


class Scanner:
    """Sends until every instance was answered with success, as a modality's queue does."""

    def __init__(self, target: Target, study: PhantomStudy) -> None:
        self._target, self._study = target, study
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        open_ = list(self._study.instances)
        for _ in range(200):
            try:
                answers = send_study(self._target, open_, calling_ae="SCANNER")
            except LimnerError:
                threading.Event().wait(0.3)
                continue
            stored = {answer.sop_uid for answer in answers if answer.kind == "stored"}
            open_ = [one for one in open_ if one.sop_instance_uid not in stored]
            if not open_:
                return

    def join(self) -> None:
        self._thread.join(90)
        assert not self._thread.is_alive()


def kill(node: RunningNode, name: str, *, then: Callable[[], object]) -> None:
    pids = node.pids()
    os.kill(pids[name], signal.SIGKILL)
    then()
    if name != "run":
        return
    # The kernel ends the supervisor's children; a person, or systemd, starts the node again.
    assert node.process is not None
    node.process.wait(10)

    def gone() -> bool | None:
        return not any(Path(f"/proc/{pid}").exists() for pid in pids.values()) or None

    node.wait("the children of the killed supervisor are gone", gone)
    node.start()


def check_kill(
    point: str,
    victim: str,
    study: PhantomStudy,
    folder: Path,
    ports: Callable[[], int],
) -> None:
    hold = folder / "hold"
    hold.mkdir()
    listen_port = ports()
    with (
        PhantomPacs(folder / "pacs", ae_title="PACS") as pacs,
        running_orthanc(
            folder / "orthanc", modalities={"limner": ("LIMNER", listen_port)}
        ) as orthanc,
    ):
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        tables = tables.replace('send_to = ["pacs"]', 'send_to = ["pacs", "orthanc"]')
        tables += ORTHANC.format(port=orthanc.port)
        with made_node(
            folder / "node", ports, tables, web=True, lease_s=2.0, listen_port=listen_port
        ) as node:
            target = Target(name="limner", ae_title="LIMNER", host="127.0.0.1", port=listen_port)
            pacs.answer_to(target)
            node.start({"LIMNER_HOLD_AT": point, "LIMNER_HOLD_DIR": str(hold)})
            scanner = Scanner(target, study)
            reached = hold / f"{point}.reached"
            node.wait(f"{point} is reached", lambda: reached.exists() or None, timeout_s=90)
            kill(node, victim, then=(hold / f"{point}.go").touch)
            scanner.join()

            def done() -> bool | None:
                told = node.story(study.study_uid)
                results = [r for job in told.jobs for r in job.results] if told else []
                states = [d.delivery.state for r in results for d in r.deliveries]
                return (len(states) == 2 and set(states) == {"committed"}) or None

            node.wait("both PACSs committed the result", done, timeout_s=120)
            told = node.wait_done(study.study_uid)
            (result,) = [r.result for job in told.jobs for r in job.results]
            assert not told.study.needs_person
            # A recording PACS may have been sent the object twice, but never another one.
            assert {stored.sop_uid for stored in pacs.stored} == {result.sop_uid}
            assert len({stored.digest for stored in pacs.stored}) == 1
            assert 1 <= len(pacs.stored) <= 2
            assert len(orthanc.find(result.sop_uid)) == 1
            assert len(orthanc.get("/instances")) == 1
            assert node.stop() == 0


@pytest.mark.parametrize(("point", "victim"), SAMPLE, ids=lambda text: str(text))
def test_killing_the_owner_of_a_stage_still_ends_with_one_seg_in_each_pacs(
    point: str,
    victim: str,
    study: PhantomStudy,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    check_kill(point, victim, study, tmp_path, free_port)


@pytest.mark.accept
@pytest.mark.parametrize(("point", "victim"), WHOLE, ids=lambda text: str(text))
def test_killing_any_process_at_any_stage_still_ends_with_one_seg_in_each_pacs(
    point: str,
    victim: str,
    study: PhantomStudy,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    check_kill(point, victim, study, tmp_path, free_port)
