"""The ledger: every result owed is sent, proven, or stands where people see it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Engine, text
from stored_examples import add_delivery, add_job, add_result, now, result_of

from storage import deliveries, peers, results, studies
from storage.database import reading, set_clock_offset, writing
from storage.deliveries import MOVES, DeliveryRow
from storage.errors import StorageRefused
from storage.tables import DeliveryState, StudyState

MINUTE_MS = 60_000
OWED, SENT = DeliveryState.OWED, DeliveryState.SENT


def claim(engine: Engine, worker: str = "a", **options: object) -> DeliveryRow | None:
    with writing(engine) as db:
        return deliveries.claim(db, worker, MINUTE_MS, **options)  # type: ignore[arg-type]


def must_claim(engine: Engine, worker: str = "a") -> DeliveryRow:
    delivery = claim(engine, worker)
    assert delivery is not None
    return delivery


def find(engine: Engine, delivery_id: int) -> DeliveryRow:
    with reading(engine) as db:
        row = deliveries.find_delivery(db, delivery_id)
    assert row is not None
    return row


def send(engine: Engine, transaction_uid: str = "2.25.1") -> DeliveryRow:
    """Send the owed delivery and ask for commitment."""
    held = must_claim(engine)
    with writing(engine) as db:
        assert deliveries.mark_sent(db, held.id, held.attempt, "a", status="0x0000")
        result = results.find_result(db, held.result_id)
        assert result is not None
        deliveries.ask_commitment(db, transaction_uid, held.id, result.sop_uid)
    return find(engine, held.id)


def sop_uid(engine: Engine, delivery: DeliveryRow) -> str:
    with reading(engine) as db:
        result = results.find_result(db, delivery.result_id)
    assert result is not None
    return result.sop_uid


Move = Callable[[Connection, DeliveryRow], bool]
WORKER_MOVES: dict[str, tuple[DeliveryState | None, Move]] = {
    "renew": (OWED, lambda db, d: deliveries.renew(db, d.id, d.attempt, "a", MINUTE_MS)),
    "sent": (SENT, lambda db, d: deliveries.mark_sent(db, d.id, d.attempt, "a")),
    "stored": (
        DeliveryState.STORED,
        lambda db, d: deliveries.mark_stored(db, d.id, d.attempt, "a"),
    ),
    "committed": (
        DeliveryState.COMMITTED,
        lambda db, d: deliveries.mark_committed(db, d.id, d.attempt, "a"),
    ),
    "refused": (
        DeliveryState.REFUSED,
        lambda db, d: deliveries.mark_refused(db, d.id, d.attempt, "a", sentence="No."),
    ),
    "expired": (
        DeliveryState.EXPIRED,
        lambda db, d: deliveries.mark_expired(db, d.id, d.attempt, "a", sentence="Too long."),
    ),
    "retry": (
        OWED,
        lambda db, d: deliveries.retry_later(
            db, d.id, d.attempt, "a", run_after_ms=0, sentence="Away."
        ),
    ),
    "wait": (
        OWED,
        lambda db, d: deliveries.wait_until(db, d.id, d.attempt, "a", run_after_ms=0),
    ),
}


def test_every_state_has_a_row_in_the_table_of_moves() -> None:
    assert set(MOVES) == set(DeliveryState)


def test_a_result_is_owed_to_a_peer_once(engine: Engine) -> None:
    result = add_result(engine)
    with writing(engine) as db:
        first = deliveries.owe(db, result.id, result.study_id, "PACS")
        again = deliveries.owe(db, result.id, result.study_id, "PACS")
        other = deliveries.owe(db, result.id, result.study_id, "ARCHIVE")
    assert first == again and other.id != first.id and first.state is OWED


@pytest.mark.parametrize("move", WORKER_MOVES)
def test_the_holder_moves_a_delivery_as_the_table_says(engine: Engine, move: str) -> None:
    add_delivery(engine)
    held = must_claim(engine)
    state, act = WORKER_MOVES[move]
    with writing(engine) as db:
        assert act(db, held) is True
    row = find(engine, held.id)
    assert row.state is state and (state is OWED or state in MOVES[OWED])
    assert (row.worker is None) is (move != "renew")


@pytest.mark.parametrize("second", ["b", "a"])
def test_a_worker_that_slept_past_its_lease_changes_nothing(engine: Engine, second: str) -> None:
    add_delivery(engine)
    slept = must_claim(engine)
    assert claim(engine, second) is None
    set_clock_offset(engine, MINUTE_MS + 10_000)
    holds = must_claim(engine, second)
    with writing(engine) as db:
        assert [name for name, (_, move) in WORKER_MOVES.items() if move(db, slept)] == []
    assert find(engine, holds.id) == holds


def test_nothing_is_claimed_that_must_wait(engine: Engine) -> None:
    delivery = add_delivery(engine)
    at_ms = now(engine)
    waits: list[tuple[Callable[[Connection], object], Callable[[Connection], object]]] = [
        (lambda db: peers.pause(db, "PACS"), lambda db: peers.resume(db, "PACS")),
        (
            lambda db: peers.failed(db, "PACS", "No answer.", at_ms + MINUTE_MS),
            lambda db: peers.echoed(db, "PACS"),
        ),
        (
            lambda db: studies.hold(db, delivery.study_id, "Two patients."),
            lambda db: studies.release(db, delivery.study_id),
        ),
        (
            lambda db: deliveries.hold(db, delivery.id, "A person stopped it."),
            lambda db: deliveries.resend(db, delivery.id),
        ),
    ]
    for stop, go_on in waits:
        with writing(engine) as db:
            stop(db)
        assert claim(engine) is None
        with writing(engine) as db:
            go_on(db)
            assert deliveries.claim(db, "a", MINUTE_MS, not_peers=["PACS"]) is None
            assert deliveries.claim(db, "a", MINUTE_MS, states=[SENT]) is None
            held = deliveries.claim(db, "a", MINUTE_MS)
            assert held is not None
            assert deliveries.wait_until(db, held.id, held.attempt, "a", run_after_ms=0)


def test_a_retry_waits_for_its_time_and_counts(engine: Engine) -> None:
    add_delivery(engine)
    held = must_claim(engine)
    at_ms = now(engine) + 5_000
    with writing(engine) as db:
        assert deliveries.retry_later(
            db, held.id, held.attempt, "a", run_after_ms=at_ms, sentence="PACS is away."
        )
    assert claim(engine) is None
    set_clock_offset(engine, 6_000)
    again = must_claim(engine)
    assert (again.failures, again.attempt, again.sentence) == (1, 2, "PACS is away.")


def test_a_committed_answer_ends_a_delivery_whoever_holds_it(engine: Engine) -> None:
    add_delivery(engine)
    sent = send(engine)
    holder = must_claim(engine, "b")  # asks again at the same moment
    with writing(engine) as db:
        moved = deliveries.answer_commitment(db, "2.25.1", {sop_uid(engine, sent)}, {})
    assert [(one.id, one.state) for one in moved] == [(sent.id, DeliveryState.COMMITTED)]
    assert moved[0].confirmed_ms is not None
    with writing(engine) as db:
        assert not deliveries.retry_later(
            db, holder.id, holder.attempt, "b", run_after_ms=0, sentence="No answer."
        )
        [question] = deliveries.list_commitments(db, sent.id)
    assert question.outcome == "committed" and question.answered_ms is not None


def test_a_failed_answer_owes_the_result_again(engine: Engine) -> None:
    add_delivery(engine)
    sent = send(engine)
    uid = sop_uid(engine, sent)
    with writing(engine) as db:
        [moved] = deliveries.answer_commitment(db, "2.25.1", set(), {uid: "no such object"})
    assert (moved.state, moved.failures) == (OWED, 1)
    assert "no such object" in moved.sentence


@pytest.mark.parametrize("case", ["unknown", "other peer", "not mentioned"])
def test_an_answer_that_does_not_fit_moves_nothing(engine: Engine, case: str) -> None:
    add_delivery(engine)
    sent = send(engine)
    uid = {"not mentioned": "9.9"}.get(case) or sop_uid(engine, sent)
    transaction = "2.25.404" if case == "unknown" else "2.25.1"
    peer = "ARCHIVE" if case == "other peer" else "PACS"
    with writing(engine) as db:
        assert deliveries.answer_commitment(db, transaction, {uid}, {}, peer=peer) == ()
    assert find(engine, sent.id) == sent


def test_a_repeated_answer_moves_nothing(engine: Engine) -> None:
    add_delivery(engine)
    sent = send(engine)
    uid = sop_uid(engine, sent)
    with writing(engine) as db:
        assert len(deliveries.answer_commitment(db, "2.25.1", set(), {uid: "gone"})) == 1
        assert deliveries.answer_commitment(db, "2.25.1", {uid}, {}) == ()
    assert find(engine, sent.id).state is OWED


def test_a_late_commitment_redeems_what_had_expired(engine: Engine) -> None:
    add_delivery(engine)
    send(engine)
    held = must_claim(engine)
    with writing(engine) as db:
        assert deliveries.mark_expired(db, held.id, held.attempt, "a", sentence="Too long.")
    with writing(engine) as db:
        [moved] = deliveries.answer_commitment(db, "2.25.1", {sop_uid(engine, held)}, {})
    assert (moved.state, moved.sentence) == (DeliveryState.COMMITTED, "")


def test_a_person_resends_and_the_study_is_open_again(engine: Engine) -> None:
    delivery = add_delivery(engine)
    held = must_claim(engine)
    with writing(engine) as db:
        assert deliveries.resend(db, delivery.id) is None  # a worker is at it
        assert deliveries.mark_refused(db, held.id, held.attempt, "a", sentence="No.")
        assert studies.finish(
            db, delivery.study_id, revision=1, sentence="Not sent.", needs_person=True
        )
    with writing(engine) as db:
        owed = deliveries.resend(db, delivery.id)
        study = studies.get_study(db, delivery.study_id)
    assert owed is not None and (owed.state, owed.failures) == (OWED, 0)
    assert study is not None and study.state is StudyState.SETTLED
    assert must_claim(engine).attempt == 2


def test_a_lookup_that_finds_nothing_sends_again(engine: Engine) -> None:
    add_delivery(engine)
    send(engine)
    held = must_claim(engine)
    with writing(engine) as db:
        assert deliveries.send_again(
            db, held.id, held.attempt, "a", run_after_ms=0, sentence="The peer has it not."
        )
    row = find(engine, held.id)
    assert (row.state, row.failures) == (OWED, 1)


def test_what_a_newer_result_replaces_is_withdrawn_unless_it_was_sent(engine: Engine) -> None:
    old = add_delivery(engine)
    new = add_result(engine)
    with writing(engine) as db:
        assert results.supersede(db, old.result_id, new.id) is True
        assert results.supersede(db, old.result_id, new.id) is False
        assert results.supersede(db, new.id, new.id) is False
        row = results.find_result(db, old.result_id)
    assert row is not None and row.superseded_by == new.id
    assert find(engine, old.id).state is DeliveryState.WITHDRAWN


def test_the_first_result_under_a_key_is_the_result(engine: Engine) -> None:
    job = add_job(engine)
    first = result_of(job, "key")
    with writing(engine) as db:
        made = results.record_result(db, first)
        again = results.record_result(db, result_of(job, "key", sop_uid="2.25.8", digest="e" * 64))
        other = results.record_result(db, result_of(job, "key", encoding="LABELMAP", sop_uid="2.8"))
        assert (again, other.id == made.id) == (made, False)
        assert results.find_result_by_uid(db, first.sop_uid) == made
        assert results.list_results(db, key="key") == [made, other]
    with pytest.raises(StorageRefused, match="result-uid-taken"), writing(engine) as db:
        results.record_result(db, result_of(job, "another key", sop_uid=first.sop_uid))


def test_attempts_stand_in_the_order_in_which_they_were_made(engine: Engine) -> None:
    delivery = add_delivery(engine)
    with writing(engine) as db:
        for number, action in enumerate(["store", "commit", "lookup"], start=1):
            deliveries.record_attempt(
                db,
                delivery.id,
                number=number,
                action=action,
                worker="a",
                started_ms=number,
                ended_ms=number + 1,
                status="0x0000",
            )
        rows = deliveries.list_delivery_attempts(db, delivery.id)
    assert [row.action for row in rows] == ["store", "commit", "lookup"]


def test_many_workers_claim_each_delivery_once(engine: Engine) -> None:
    wanted = sorted(add_delivery(engine).id for _ in range(8))
    taken: list[int] = []

    def work(name: str) -> None:
        while (delivery := claim(engine, name)) is not None:
            taken.append(delivery.id)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == wanted


def test_two_network_workers_do_not_wait_for_each_other(postgres_engine: Engine) -> None:
    wanted = {add_delivery(postgres_engine).id for _ in range(2)}
    with writing(postgres_engine) as slow, writing(postgres_engine) as quick:
        quick.execute(text("SET LOCAL lock_timeout = '2s'"))
        pair = [deliveries.claim(slow, "a", MINUTE_MS), deliveries.claim(quick, "b", MINUTE_MS)]
    assert {one.id for one in pair if one is not None} == wanted
