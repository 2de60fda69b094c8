"""The phantom scanner and the phantom PACS over real sockets, well behaved and not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pydicom import dcmread

from node.dicom.callbacks import Callbacks, CommitReport
from node.dicom.filemeta import read_file_meta
from node.dicom.scp import start_scp
from node.dicom.scu import SendKind, Target, ask_commitment, echo
from node.dicom.wire.admission import REPORT_COMMITMENT, Admission
from node.errors import PassingError
from node.phantom.orders import Commitment, Orders, read_orders
from node.phantom.pacs import PhantomPacs, read_events
from node.phantom.pixels import Syntax
from node.phantom.scanner import send_study
from node.phantom.study import PhantomInstance
from tests.phantom.cheap import TINY_CT, cheap_study

NODE = "NODE"
STUDY = cheap_study(3, replace(TINY_CT, decoys=True))
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
REFERENCES = [(one.sop_class_uid, one.sop_instance_uid) for one in STUDY.images]


def dataset_digest(instance: PhantomInstance) -> str:
    _, start = read_file_meta(instance.data)
    return hashlib.sha256(instance.data[start:]).hexdigest()


@dataclass
class Reports:
    """A node's side of storage commitment: what was reported to it, and from when on."""

    target: Target
    got: list[CommitReport] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)


@contextmanager
def reports_taken() -> Iterator[Reports]:
    """Listen for commitment reports as the node's listener does."""

    def on_report(_caller: object, report: CommitReport) -> int:
        reports.got.append(report)
        reports.came.set()
        return 0

    running = start_scp(
        host="127.0.0.1",
        port=0,
        callbacks=Callbacks(
            admit=lambda caller: Admission(caller.calling_ae, frozenset({REPORT_COMMITMENT})),
            on_commit_report=on_report,
        ),
    )
    reports = Reports(Target(name="node", ae_title=NODE, host="127.0.0.1", port=running.port))
    try:
        yield reports
    finally:
        running.stop(grace_s=1.0)


def test_a_study_arrives_whole_and_byte_for_byte_with_progress(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []

    with PhantomPacs(tmp_path) as pacs:
        outcomes = send_study(
            pacs.target,
            STUDY.instances,
            on_progress=lambda done, whole: progress.append((done, whole)),
        )

        assert {one.kind for one in outcomes} == {SendKind.STORED}
        count = len(STUDY.instances)
        assert progress == [(number, count) for number in range(1, count + 1)]
        assert {one.sop_uid: one.digest for one in pacs.stored} == {
            one.sop_instance_uid: dataset_digest(one) for one in STUDY.instances
        }
        for one in pacs.stored:
            assert one.file is not None
            assert dcmread(one.file).SOPInstanceUID == one.sop_uid


def test_the_order_of_sending_is_drawn_and_repeatable(tmp_path: Path) -> None:
    def order(seed: int | None, folder: str) -> list[str]:
        with PhantomPacs(tmp_path / folder) as pacs:
            send_study(pacs.target, STUDY.images, shuffle_seed=seed)
            return [one.sop_uid for one in pacs.stored]

    filed = [one.sop_instance_uid for one in STUDY.images]

    assert order(None, "a") == filed
    assert order(1, "b") == order(1, "c") != filed
    assert sorted(order(2, "d")) == sorted(filed)


@pytest.mark.parametrize("syntax", Syntax)
def test_each_transfer_syntax_travels_as_it_is(syntax: Syntax, tmp_path: Path) -> None:
    study = cheap_study(3, replace(TINY_CT, syntax=syntax))

    with PhantomPacs(tmp_path) as pacs:
        send_study(pacs.target, study.images)

        assert {one.digest for one in pacs.stored} == {dataset_digest(one) for one in study.images}


def test_the_same_instance_sent_twice_is_counted_twice(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path) as pacs:
        send_study(pacs.target, STUDY.images[:1])
        send_study(pacs.target, STUDY.images[:2])

        assert pacs.counts() == {
            STUDY.images[0].sop_instance_uid: 2,
            STUDY.images[1].sop_instance_uid: 1,
        }
        assert len(list(tmp_path.glob("*.dcm"))) == 3


def test_a_commitment_report_comes_on_a_new_association_and_tells_the_truth(
    tmp_path: Path,
) -> None:
    with reports_taken() as reports, PhantomPacs(tmp_path, report_to=reports.target) as pacs:
        send_study(pacs.target, STUDY.images[:4])

        ask_commitment(pacs.target, "1.2.3.4", REFERENCES, calling_ae=NODE, hold_s=0)

        assert reports.came.wait(20)
        (report,) = reports.got
        assert report.transaction_uid == "1.2.3.4"
        assert report.committed == {uid for _, uid in REFERENCES[:4]}
        assert set(report.failed) == {uid for _, uid in REFERENCES[4:]}
        assert all(reason.startswith("0112") for reason in report.failed.values())


def test_a_class_that_does_not_match_is_not_committed(tmp_path: Path) -> None:
    with reports_taken() as reports, PhantomPacs(tmp_path, report_to=reports.target) as pacs:
        send_study(pacs.target, STUDY.images[:1])

        wrong = [("1.2.840.10008.5.1.4.1.1.4", STUDY.images[0].sop_instance_uid)]
        ask_commitment(pacs.target, "1.2.3.5", wrong, calling_ae=NODE, hold_s=0)

        assert reports.came.wait(20)
        assert not reports.got[0].committed


def test_a_late_report_comes_late(tmp_path: Path) -> None:
    orders = Orders(commitment_delay_s=0.4)
    with (
        reports_taken() as reports,
        PhantomPacs(tmp_path, report_to=reports.target, orders=orders) as pacs,
    ):
        send_study(pacs.target, STUDY.images)
        ask_commitment(pacs.target, "1.2.3.6", REFERENCES, calling_ae=NODE, hold_s=0)
        asked = time.monotonic()

        assert reports.came.wait(20)
        assert time.monotonic() - asked > 0.2


def test_a_report_on_the_same_association_reaches_whoever_waits_there(tmp_path: Path) -> None:
    got: list[CommitReport] = []
    with PhantomPacs(tmp_path, orders=Orders(commitment=Commitment.SAME_ASSOCIATION)) as pacs:
        send_study(pacs.target, STUDY.images[:5])

        ask_commitment(
            pacs.target, "1.2.3.7", REFERENCES, calling_ae=NODE, hold_s=20, on_report=got.append
        )

        (report,) = got
        assert report.transaction_uid == "1.2.3.7"
        assert report.committed == {uid for _, uid in REFERENCES[:5]}
        assert set(report.failed) == {REFERENCES[5][1]}
        # The association that asked is released as if nothing had happened on it.
        assert pacs.wait_for("ended", 2)
        assert [one["outcome"] for one in pacs.events if one["event"] == "ended"] == [
            "released"
        ] * 2


def test_a_report_that_never_comes_never_comes(tmp_path: Path) -> None:
    orders = Orders(commitment=Commitment.NEVER)
    with (
        reports_taken() as reports,
        PhantomPacs(tmp_path, report_to=reports.target, orders=orders) as pacs,
    ):
        send_study(pacs.target, STUDY.images)
        ask_commitment(pacs.target, "1.2.3.8", REFERENCES, calling_ae=NODE, hold_s=0)

        assert pacs.wait_for("commit-request")
        assert not reports.came.wait(0.3)


def test_a_failing_commitment_names_its_reason_for_everything(tmp_path: Path) -> None:
    orders = Orders(commitment_failure=0x0213)
    with (
        reports_taken() as reports,
        PhantomPacs(tmp_path, report_to=reports.target, orders=orders) as pacs,
    ):
        send_study(pacs.target, STUDY.images)
        ask_commitment(pacs.target, "1.2.3.9", REFERENCES, calling_ae=NODE, hold_s=0)

        assert reports.came.wait(20)
        assert not reports.got[0].committed
        assert all(reason.startswith("0213") for reason in reports.got[0].failed.values())


def test_a_report_that_nobody_takes_is_written_down(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path) as pacs:
        ask_commitment(pacs.target, "1.2.3.10", REFERENCES, calling_ae=NODE, hold_s=0)

        assert pacs.wait_for("commit-report")
        (event,) = (one for one in pacs.events if one["event"] == "commit-report")
        assert event["outcome"] == "unsent"


def test_stopping_does_not_wait_for_a_report_that_is_held_back(tmp_path: Path) -> None:
    pacs = PhantomPacs(tmp_path, orders=Orders(commitment_delay_s=600))
    ask_commitment(pacs.target, "1.2.3.11", REFERENCES, calling_ae=NODE, hold_s=0)
    assert pacs.wait_for("commit-request")

    before = time.monotonic()
    pacs.stop()

    assert time.monotonic() - before < 10
    assert threading.active_count() < 50


def test_the_first_associations_are_rejected_and_then_it_accepts(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path, orders=Orders(reject_associations=2)) as pacs:
        for _ in range(2):
            with pytest.raises(PassingError):
                send_study(pacs.target, STUDY.images[:1])
        assert pacs.stored == ()

        assert echo(pacs.target, calling_ae=NODE) >= 0


def test_out_of_resources_ends_after_as_many_as_ordered(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path, orders=Orders(out_of_resources=2)) as pacs:
        outcomes = send_study(pacs.target, STUDY.images[:4])

        assert [one.status for one in outcomes] == [0xA700, 0xA700, 0, 0]
        assert [one.kind for one in outcomes[:2]] == [SendKind.RETRY] * 2
        assert len(pacs.stored) == 4
        assert pacs.counts().total() == 2


def test_any_status_can_be_ordered_and_nothing_is_kept(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path, orders=Orders(store_status=0xC001)) as pacs:
        outcomes = send_study(pacs.target, STUDY.images[:1])

        assert outcomes[0].kind is SendKind.REFUSED
        assert pacs.counts() == {}


def test_a_forgetful_pacs_says_success_and_commits_nothing(tmp_path: Path) -> None:
    with (
        reports_taken() as reports,
        PhantomPacs(tmp_path, report_to=reports.target, orders=Orders(forget=True)) as pacs,
    ):
        outcomes = send_study(pacs.target, STUDY.images)
        ask_commitment(pacs.target, "1.2.3.12", REFERENCES, calling_ae=NODE, hold_s=0)

        assert {one.status for one in outcomes} == {0}
        assert reports.came.wait(20)
        assert set(reports.got[0].failed) == {uid for _, uid in REFERENCES}


def test_a_refused_class_has_no_context_while_others_are_taken(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path, orders=Orders(refused_classes=frozenset({CT_IMAGE}))) as pacs:
        outcomes = {one.sop_uid: one.kind for one in send_study(pacs.target, STUDY.instances)}

        for instance in STUDY.instances:
            refused = instance.sop_class_uid == CT_IMAGE
            expected = SendKind.NO_CONTEXT if refused else SendKind.STORED
            assert outcomes[instance.sop_instance_uid] is expected
        assert CT_IMAGE not in {one.sop_class for one in pacs.stored}


def test_a_connection_closed_within_an_object_leaves_it_unstored(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path, orders=Orders(close_in_data=frozenset({2}))) as pacs:
        kinds = [send_study(pacs.target, [one])[0].kind for one in STUDY.images[:3]]

        assert kinds == [SendKind.STORED, SendKind.LOST, SendKind.STORED]
        assert [one.sop_uid for one in pacs.stored] == [
            STUDY.images[0].sop_instance_uid,
            STUDY.images[2].sop_instance_uid,
        ]


def test_a_connection_closed_before_the_answer_leaves_it_stored(tmp_path: Path) -> None:
    with PhantomPacs(tmp_path, orders=Orders(close_before_answer=frozenset({2}))) as pacs:
        kinds = [send_study(pacs.target, [one])[0].kind for one in STUDY.images[:3]]

        assert kinds == [SendKind.STORED, SendKind.LOST, SendKind.STORED]
        assert [one.sop_uid for one in pacs.stored] == [
            one.sop_instance_uid for one in STUDY.images[:3]
        ]
        assert pacs.counts()[STUDY.images[1].sop_instance_uid] == 1


def test_orders_are_read_from_words() -> None:
    orders = read_orders(
        [
            "out_of_resources=3",
            "store_status=0xA900",
            "forget=true",
            "refused_classes=1.2,1.3",
            "close_before_answer=2,5",
            "commitment=never",
            "commitment_delay_s=1.5",
        ]
    )

    assert orders == Orders(
        out_of_resources=3,
        store_status=0xA900,
        forget=True,
        refused_classes=frozenset({"1.2", "1.3"}),
        close_before_answer=frozenset({2, 5}),
        commitment=Commitment.NEVER,
        commitment_delay_s=1.5,
    )


@pytest.mark.parametrize("text", ["speed=3", "out_of_resources=many", "commitment=soon"])
def test_an_order_that_is_not_known_is_a_mistake(text: str) -> None:
    with pytest.raises(ValueError):
        read_orders([text])


@pytest.fixture
def pacs_process(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Start phantom PACS processes; none is left behind."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-m", "node.phantom.pacs", "--folder", str(tmp_path), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["event"] == "listening"
        return process, int(first["port"])

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def test_as_a_process_it_prints_its_port_counts_and_reports_and_ends_on_sigterm(
    tmp_path: Path, pacs_process: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    with reports_taken() as reports:
        process, port = pacs_process(
            "--ae",
            "OTHERPACS",
            "--report-to",
            f"127.0.0.1:{reports.target.port}:{NODE}",
            "--order",
            "out_of_resources=1",
        )
        target = Target(name="pacs", ae_title="OTHERPACS", host="127.0.0.1", port=port)
        send_study(target, STUDY.images)
        ask_commitment(target, "1.2.3.13", REFERENCES, calling_ae=NODE, hold_s=0)

        assert reports.came.wait(30)
        assert len(reports.got[0].committed) == len(REFERENCES) - 1

    process.terminate()
    output, _ = process.communicate(timeout=30)

    assert process.returncode == 0
    events = read_events(tmp_path)
    assert [one["event"] for one in events if one["event"] == "store"] == ["store"] * 6
    assert [json.loads(line) for line in output.splitlines()] == list(events[1:])
    digests = {one["digest"] for one in events if one["event"] == "store"}
    assert digests == {dataset_digest(one) for one in STUDY.images}
