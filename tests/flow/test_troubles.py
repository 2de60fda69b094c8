"""Whatever goes wrong ends in a visible place, with a sentence an administrator understands."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_node import CHEST, Line, RunningNode, made_node, peers_and_routes

from node.dicom.requestor import Target
from node.phantom.damage import Damage, damaged
from node.phantom.orders import Orders
from node.phantom.pacs import PhantomPacs
from node.phantom.ports import free_port
from node.phantom.scanner import send_study
from node.phantom.study import SMALL_HEAD, PhantomStudy, make_study
from node.settings import bundled_config

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group("troubles")]


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(7, CHEST)


@pytest.fixture(scope="module")
def shared_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """One running node for the troubles that only concern a study."""
    folder = tmp_path_factory.mktemp("shared")
    with PhantomPacs(folder / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(
            pacs_port=pacs.target.port, model="lung-ct", when='Modality = "CT"'
        )
        with made_node(folder / "node", free_port, tables) as node:
            made = Line(node, pacs)
            made.start()
            yield made


def told_by_command(node: RunningNode, uid: str) -> str:
    return node.command("study", uid).stdout


def test_a_study_that_fits_no_route_says_why_route_by_route(shared_line: Line) -> None:
    head = make_study(21, SMALL_HEAD)
    shared_line.send(head)
    told = shared_line.node.wait_done(head.study_uid)
    assert "No route fits" in told.study.sentence
    assert not told.jobs
    assert "Modality is 'MR', wanted 'CT'" in told_by_command(shared_line.node, head.study_uid)


def test_a_series_with_a_missing_slice_is_refused_with_the_position(shared_line: Line) -> None:
    gapped = damaged(make_study(22, CHEST), Damage.MISSING_SLICE)
    before = len(shared_line.pacs.stored)
    shared_line.send(gapped)
    told = shared_line.node.wait_done(gapped.study_uid)
    assert told.study.needs_person
    assert "missing-slices" in told.study.sentence
    assert len(shared_line.pacs.stored) == before
    assert "missing-slices" in told_by_command(shared_line.node, gapped.study_uid)


def test_a_slice_of_another_patient_holds_the_study_and_nothing_is_sent(
    shared_line: Line,
) -> None:
    before = len(shared_line.pacs.stored)
    mixed = damaged(make_study(23, CHEST), Damage.OTHER_PATIENT)
    send_study(shared_line.target, mixed.instances, calling_ae="SCANNER")

    def held() -> bool | None:
        told = shared_line.node.story(mixed.study_uid)
        return (told is not None and told.study.state == "held") or None

    shared_line.node.wait("the study is held", held)
    told = shared_line.node.story(mixed.study_uid)
    assert told is not None
    assert told.study.needs_person
    assert "patient" in told.study.sentence
    assert not told.jobs
    assert len(shared_line.pacs.stored) == before


def test_a_call_from_an_unknown_ae_is_rejected_and_listed(
    shared_line: Line, study: PhantomStudy
) -> None:
    with pytest.raises(Exception, match="reject"):
        send_study(shared_line.target, study.instances[:1], calling_ae="STRANGER")
    listed = shared_line.node.command("associations").stdout
    assert "STRANGER" in listed
    assert "rejected" in listed


def test_a_pacs_that_is_down_gets_its_result_when_it_is_back(
    tmp_path: Path, free_port: Callable[[], int], study: PhantomStudy
) -> None:
    port = free_port()
    tables = peers_and_routes(pacs_port=port, model="lung-ct")
    with made_node(tmp_path / "node", free_port, tables) as node:
        node.start()
        target = Target(
            name="limner", ae_title="LIMNER", host="127.0.0.1", port=node.settings.listener.port
        )
        send_study(target, study.instances, calling_ae="SCANNER")

        def failed_once() -> str | None:
            told = node.story(study.study_uid)
            found = [
                delivery.delivery
                for job in (told.jobs if told else ())
                for result in job.results
                for delivery in result.deliveries
            ]
            return found[0].sentence if found and found[0].failures >= 2 else None

        sentence = node.wait("two deliveries failed", failed_once)
        assert f"127.0.0.1:{port}" in sentence
        assert "still to be sent to pacs" not in sentence
        with PhantomPacs(tmp_path / "pacs", ae_title="PACS", port=port, report_to=target) as pacs:
            told = node.wait_done(study.study_uid)
            assert told.study.sentence == "Results committed by pacs."
            assert len(pacs.stored) == 1


def test_a_pacs_that_refuses_the_class_ends_in_refused_with_a_sentence(
    tmp_path: Path, free_port: Callable[[], int], study: PhantomStudy
) -> None:
    seg = "1.2.840.10008.5.1.4.1.1.66.4"
    orders = Orders(refused_classes=frozenset({seg}))
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS", orders=orders) as pacs:
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        with made_node(tmp_path / "node", free_port, tables) as node:
            line = Line(node, pacs)
            line.start()
            line.send(study)
            told = node.wait_done(study.study_uid)
            assert told.study.needs_person
            assert told.study.sentence.startswith("pacs: refused.")


def test_a_passing_trouble_of_the_pacs_is_tried_again_with_the_same_bytes(
    tmp_path: Path, free_port: Callable[[], int], study: PhantomStudy
) -> None:
    orders = Orders(out_of_resources=2, close_before_answer=frozenset({3}))
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS", orders=orders) as pacs:
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        with made_node(tmp_path / "node", free_port, tables) as node:
            line = Line(node, pacs)
            line.start()
            line.send(study)
            told = node.wait_done(study.study_uid)
            assert told.study.sentence == "Results committed by pacs."
            assert len(pacs.stored) == 4
            assert len({(stored.sop_uid, stored.digest) for stored in pacs.stored}) == 1


def test_a_pacs_that_answers_and_forgets_is_found_out_and_sent_to_again(
    tmp_path: Path, free_port: Callable[[], int], study: PhantomStudy
) -> None:
    orders = Orders(forget=True)
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS", orders=orders) as pacs:
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        with made_node(tmp_path / "node", free_port, tables) as node:
            line = Line(node, pacs)
            line.start()
            line.send(study)
            node.wait("it was sent twice", lambda: len(pacs.stored) >= 2 or None)
            told = node.story(study.study_uid)
            assert told is not None
            assert told.study.state == "settled"
            assert "did not commit" in told_by_command(node, study.study_uid) or any(
                "failed" in c.outcome
                for job in told.jobs
                for result in job.results
                for delivery in result.deliveries
                for c in delivery.commitments
            )


def test_weights_that_do_not_match_their_digest_fail_the_job_with_both_digests(
    tmp_path: Path, free_port: Callable[[], int], study: PhantomStudy
) -> None:
    models = tmp_path / "models"
    shutil.copytree(bundled_config() / "models" / "lung-ct", models / "lung-ct")
    weights = models / "lung-ct" / "weights.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(bytes(flipped))
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        with made_node(tmp_path / "node", free_port, tables, models=[models]) as node:
            assert node.command("check", check=False).returncode == 1
            line = Line(node, pacs)
            line.start()
            line.send(study)
            told = node.wait_done(study.study_uid)
            assert told.study.needs_person
            assert "model-weights-digest" in told.study.sentence
            assert not pacs.stored


def test_a_worker_that_dies_again_and_again_fails_the_job_with_a_sentence(
    tmp_path: Path, free_port: Callable[[], int], study: PhantomStudy
) -> None:
    with PhantomPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        tables = peers_and_routes(pacs_port=pacs.target.port, model="lung-ct")
        with made_node(tmp_path / "node", free_port, tables, lease_s=1.0) as node:
            line = Line(node, pacs)
            line.start()
            line.send(study)

            def killed_for_good() -> str | None:
                told = node.story(study.study_uid)
                job = told.jobs[-1].job if told and told.jobs else None
                if job and job.state == "running" and job.worker:
                    pid = int(job.worker.rpartition(":")[2])
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                done = told is not None and told.study.state == "done"
                return told.study.sentence if told and done else None

            sentence = node.wait("the job failed for good", killed_for_good, timeout_s=120)
            assert "lease expired" in sentence
            assert not pacs.stored
            assert "killed by SIGKILL" in node.log()


def test_a_second_run_on_the_same_folder_is_refused(shared_line: Line) -> None:
    second = shared_line.node.command("run", check=False)
    assert second.returncode == 2
    assert "Another `limner run`" in second.stderr
