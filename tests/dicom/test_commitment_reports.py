"""What a peer reports about commitment moves exactly the delivery that was asked about."""

from __future__ import annotations

import pytest
from made_objects import made_ct
from pydicom.dataset import Dataset
from pynetdicom import build_context
from receiving_node import Node
from scu_client import COMMITMENT, associate, report, stored

from storage import decisions, deliveries, queue, results, studies
from storage.database import reading, writing
from storage.deliveries import DeliveryRow, list_deliveries
from storage.objects import Place
from storage.queue import NewJob
from storage.results import NewResult
from storage.tables import DeliveryState

RESULT = "2.25.77"


def ask_about_a_result(node: Node, transaction_uid: str = "2.25.1") -> DeliveryRow:
    """Bring a study through the rows to a sent delivery that waits for commitment."""
    assert stored(node, made_ct()) == [0]
    (received,) = node.instances()
    with writing(node.engine) as db:
        study = studies.get_study(db, received.study_id)
        assert study is not None
        revision = studies.make_revision(
            db, study.id, "quiet", last_received_ms=study.last_received_ms
        )
        assert revision is not None
        decisions.record_configuration(db, "c" * 64, "[node]")
        decision = decisions.record_decision(
            db,
            decisions.NewDecision(
                revision_id=revision.id,
                series_id=received.series_id,
                outcome=decisions.DecisionOutcome.RUN,
                configuration="c" * 64,
                route="ct",
                model="lung-ct",
                reasons=(),
            ),
        )
        job = queue.enqueue_segment(
            db,
            NewJob(
                study_id=study.id,
                series_id=received.series_id,
                revision_id=revision.id,
                decision_id=decision.id,
                route="ct",
                model="lung-ct",
                dedup_key="a" * 64,
                send_to=("pacs",),
            ),
        )
        assert job is not None
        claimed = queue.claim(db, "w", 60_000)
        assert claimed is not None
        assert queue.finish(db, job.id, claimed.attempt, "w", "segmented")
        result = results.record_result(
            db,
            NewResult(
                key="k",
                kind="SEG",
                encoding="BINARY",
                job_id=job.id,
                study_id=study.id,
                series_id=received.series_id,
                sop_uid=RESULT,
                sop_class="1.2.840.10008.5.1.4.1.1.66.4",
                result_series_uid="2.25.9",
                transfer_syntax="1.2.840.10008.1.2.1",
                digest="d" * 64,
                place=Place("results/ab/x.obj", 0, 10),
                model="lung-ct",
                model_version="1",
                model_digest="m" * 64,
            ),
        )
        deliveries.owe(db, result.id, study.id, "pacs")
        held = deliveries.claim(db, "n", 60_000)
        assert held is not None
        assert deliveries.mark_sent(db, held.id, held.attempt, "n", status="0000")
        deliveries.ask_commitment(db, transaction_uid, held.id, RESULT)
    return delivery(node)


def delivery(node: Node) -> DeliveryRow:
    with reading(node.engine) as db:
        (row,) = list_deliveries(db)
    return row


def test_a_report_commits_the_delivery_that_it_is_about(node: Node) -> None:
    assert ask_about_a_result(node).state is DeliveryState.SENT

    assert report(node, "2.25.1", RESULT).Status == 0

    assert delivery(node).state is DeliveryState.COMMITTED


@pytest.mark.parametrize(
    ("transaction", "sop_uid", "calling"),
    [
        ("2.25.999", RESULT, "PACS"),  # a question that nobody asked
        ("2.25.1", RESULT, "ARCHIVE"),  # another peer than the one that was asked
    ],
)
def test_a_report_that_answers_no_question_of_ours_is_taken_and_moves_nothing(
    node: Node, transaction: str, sop_uid: str, calling: str
) -> None:
    ask_about_a_result(node)

    assert report(node, transaction, sop_uid, calling=calling).Status == 0

    assert delivery(node).state is DeliveryState.SENT


def test_a_repeated_report_is_answered_success_and_changes_nothing(node: Node) -> None:
    ask_about_a_result(node)
    assert report(node, "2.25.1", RESULT).Status == 0
    before = delivery(node)

    assert report(node, "2.25.1", RESULT).Status == 0

    assert delivery(node) == before


def test_a_failure_report_sends_the_delivery_back(node: Node) -> None:
    ask_about_a_result(node)

    assert report(node, "2.25.1", RESULT, failure=0x0112).Status == 0

    row = delivery(node)
    assert row.state is DeliveryState.OWED
    assert "0112" in row.sentence


def test_a_peer_may_not_ask_us_for_commitment(node: Node) -> None:
    association = associate(node, build_context(COMMITMENT), calling="PACS")
    question = Dataset()
    question.TransactionUID = "2.25.5"
    question.ReferencedSOPSequence = []

    answer, _ = association.send_n_action(question, 1, COMMITMENT, COMMITMENT + ".1")
    association.release()

    assert answer.Status == 0x0211
