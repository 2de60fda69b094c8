"""Deliveries: what is owed to whom, the moves of each, and every contact with the peer.

A network worker holds a delivery by a lease while it talks to the peer; the state stays what it
was until the peer has answered. The fence is the same as in `storage.queue`: every statement of a
worker names state, worker and attempt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, String, bindparam, select, text, update

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all, read_one
from storage.study_moves import reopen
from storage.tables import Commitment, Delivery, DeliveryAttempt, DeliveryState, Result

_S = DeliveryState
MOVES: Final[dict[DeliveryState, frozenset[DeliveryState]]] = {
    _S.OWED: frozenset(
        # committed: an earlier try arrived after all, and the peer says so
        {_S.SENT, _S.STORED, _S.COMMITTED, _S.REFUSED, _S.EXPIRED, _S.HELD, _S.WITHDRAWN}
    ),
    _S.SENT: frozenset(
        {_S.STORED, _S.COMMITTED, _S.OWED, _S.REFUSED, _S.EXPIRED, _S.HELD, _S.WITHDRAWN}
    ),
    _S.STORED: frozenset({_S.COMMITTED, _S.OWED}),
    _S.COMMITTED: frozenset({_S.OWED}),  # by a person, like all further moves to `owed`
    _S.REFUSED: frozenset({_S.OWED, _S.COMMITTED}),
    _S.EXPIRED: frozenset({_S.OWED, _S.COMMITTED}),
    _S.HELD: frozenset({_S.OWED, _S.WITHDRAWN}),
    _S.WITHDRAWN: frozenset({_S.OWED}),
}

SUPERSEDED: Final = "A newer result replaced this one before it was sent."
INPUT_REPLACED: Final = "Other bytes count now for one of the images that it was made from."
"""Why the node itself withdrew a delivery; it owes it again when a job ends in that result."""

# The longest due delivery whose study is not held and whose peer is neither paused nor backing
# off, and that nobody is working on. See `storage.queue.CLAIM` for the locks and the outer test.
CLAIM: Final = {
    "sqlite": """
UPDATE deliveries
   SET worker = :worker, lease_until_ms = :now_ms + :lease_ms, attempt = attempt + 1
 WHERE state IN :states
   AND (worker IS NULL OR lease_until_ms < :now_ms)
   AND id = (SELECT delivery.id
               FROM deliveries AS delivery
               JOIN studies AS study ON study.id = delivery.study_id
               LEFT JOIN peer_states AS peer ON peer.peer = delivery.peer
              WHERE delivery.state IN :states
                AND delivery.run_after_ms <= :now_ms
                AND (delivery.worker IS NULL OR delivery.lease_until_ms < :now_ms)
                AND delivery.peer NOT IN :not_peers
                AND study.state <> 'held'
                AND (peer.peer IS NULL OR NOT peer.paused)
                AND (peer.next_try_ms IS NULL OR peer.next_try_ms <= :now_ms)
              ORDER BY delivery.run_after_ms, delivery.id
              LIMIT 1)
RETURNING id
""",
    "postgresql": """
UPDATE deliveries
   SET worker = :worker, lease_until_ms = :now_ms + :lease_ms, attempt = attempt + 1
 WHERE state IN :states
   AND (worker IS NULL OR lease_until_ms < :now_ms)
   AND id = (SELECT delivery.id
               FROM deliveries AS delivery
               JOIN studies AS study ON study.id = delivery.study_id
               LEFT JOIN peer_states AS peer ON peer.peer = delivery.peer
              WHERE delivery.state IN :states
                AND delivery.run_after_ms <= :now_ms
                AND (delivery.worker IS NULL OR delivery.lease_until_ms < :now_ms)
                AND delivery.peer NOT IN :not_peers
                AND study.state <> 'held'
                AND (peer.peer IS NULL OR NOT peer.paused)
                AND (peer.next_try_ms IS NULL OR peer.next_try_ms <= :now_ms)
              ORDER BY delivery.run_after_ms, delivery.id
              LIMIT 1
                FOR UPDATE OF delivery SKIP LOCKED
                FOR SHARE OF study SKIP LOCKED)
RETURNING id
""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """A row of `deliveries`."""

    id: int
    result_id: int
    study_id: int
    peer: str
    state: DeliveryState
    attempt: int
    failures: int
    run_after_ms: int
    worker: str | None
    lease_until_ms: int | None
    last_status: str
    sentence: str
    created_ms: int
    sent_ms: int | None
    confirmed_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttemptRow:
    """A row of `delivery_attempts`: one contact with the peer."""

    id: int
    delivery_id: int
    number: int
    action: str
    worker: str
    started_ms: int
    ended_ms: int | None
    status: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentRow:
    """A row of `commitments`: one question for storage commitment, and its answer."""

    transaction_uid: str
    delivery_id: int
    sop_uid: str
    asked_ms: int
    answered_ms: int | None
    outcome: str


_COLUMNS = columns(Delivery, DeliveryRow)


def owe(db: Connection, result_id: int, study_id: int, peer: str, *, held: str = "") -> DeliveryRow:
    """Owe a result to a peer; what is owed already is returned as it is.

    What the node itself withdrew, because of images that did not count then, is owed again.

    Args:
        db: The transaction that ends the job.
        result_id: The result.
        study_id: Its study.
        peer: The peer's name.
        held: Why it waits for a person before it is sent; empty for none.
    """
    at_ms = now_ms(db)
    state = _S.HELD if held else _S.OWED
    statement = (
        insert_into(db, Delivery)
        .values(
            result_id=result_id,
            study_id=study_id,
            peer=peer,
            state=state,
            sentence=held,
            run_after_ms=at_ms,
            created_ms=at_ms,
        )
        .on_conflict_do_nothing(index_elements=["result_id", "peer"])
        .returning(*_COLUMNS)
    )
    made = read_one(db, statement, DeliveryRow)
    if made is not None:
        return made
    again = (
        update(Delivery)
        .where(Delivery.result_id == result_id)
        .where(Delivery.peer == peer)
        .where(Delivery.state == _S.WITHDRAWN)
        .where(Delivery.sentence.in_([SUPERSEDED, INPUT_REPLACED]))
        .values(state=state, sentence=held, run_after_ms=at_ms)
    )
    db.execute(again)
    found = select(*_COLUMNS).where(Delivery.result_id == result_id).where(Delivery.peer == peer)
    delivery = read_one(db, found, DeliveryRow)
    if delivery is None:
        raise RuntimeError(f"delivery of result {result_id} is neither new nor known")
    return delivery


def claim(
    db: Connection,
    worker: str,
    lease_ms: int,
    states: Sequence[DeliveryState] = (DeliveryState.OWED, DeliveryState.SENT),
    *,
    not_peers: Collection[str] = (),
) -> DeliveryRow | None:
    """Take the delivery that has been due longest, or return None when there is none to take.

    Args:
        db: A writing transaction of its own; commit it before the peer is contacted.
        worker: Name of the worker, unique among those alive.
        lease_ms: How long the worker may be silent.
        states: `owed` to send, `sent` to ask for proof.
        not_peers: Peers with which enough associations are open.
    """
    statement = text(CLAIM[db.dialect.name]).bindparams(
        bindparam("states", expanding=True, type_=String()),
        bindparam("not_peers", expanding=True, type_=String()),
    )
    values: dict[str, Any] = {"worker": worker, "lease_ms": lease_ms, "now_ms": now_ms(db)}
    values |= {"states": [state.value for state in states], "not_peers": list(not_peers)}
    delivery_id = db.execute(statement, values).scalar_one_or_none()
    return None if delivery_id is None else find_delivery(db, delivery_id)


def renew(db: Connection, delivery_id: int, attempt: int, worker: str, lease_ms: int) -> bool:
    """Extend a lease; False means that the delivery is no longer the caller's."""
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.OWED, _S.SENT),
        lease_until_ms=now_ms(db) + lease_ms,
    )


def mark_sent(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    status: str = "",
    sentence: str = "",
    run_after_ms: int | None = None,
) -> bool:
    """`owed -> sent`: the peer answered success; proof is asked for from `run_after_ms` on."""
    at_ms = now_ms(db)
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.OWED,),
        state=_S.SENT,
        last_status=status,
        sentence=sentence,
        failures=0,
        sent_ms=at_ms,
        run_after_ms=at_ms if run_after_ms is None else run_after_ms,
        **_LET_GO,
    )


def mark_stored(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    status: str = "",
    sentence: str = "",
) -> bool:
    """`owed | sent -> stored`: looked up at the peer, or the end for one that gives no proof."""
    return _end(db, delivery_id, attempt, worker, state=_S.STORED, status=status, sentence=sentence)


def mark_committed(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    status: str = "",
    sentence: str = "",
) -> bool:
    """`owed | sent -> committed`: the peer committed itself, in the worker's own association."""
    return _end(
        db, delivery_id, attempt, worker, state=_S.COMMITTED, status=status, sentence=sentence
    )


def mark_refused(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    status: str = "",
    sentence: str,
) -> bool:
    """`owed | sent -> refused`: the peer said no for good; the sentence says what to do."""
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.OWED, _S.SENT),
        state=_S.REFUSED,
        last_status=status,
        sentence=sentence,
        failures=Delivery.failures + 1,
        **_LET_GO,
    )


def mark_expired(
    db: Connection, delivery_id: int, attempt: int, worker: str, *, sentence: str
) -> bool:
    """`owed | sent -> expired`: tried, or waited for proof, for too long."""
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.OWED, _S.SENT),
        state=_S.EXPIRED,
        sentence=sentence,
        **_LET_GO,
    )


def retry_later(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    run_after_ms: int,
    sentence: str,
    status: str = "",
) -> bool:
    """Give a delivery back in its state, counted as a failure, to be tried from `run_after_ms`."""
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.OWED, _S.SENT),
        run_after_ms=run_after_ms,
        last_status=status,
        sentence=sentence,
        failures=Delivery.failures + 1,
        **_LET_GO,
    )


def wait_until(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    run_after_ms: int,
    sentence: str = "",
) -> bool:
    """Give a delivery back in its state without a failure: proof was asked for, or a shutdown."""
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.OWED, _S.SENT),
        run_after_ms=run_after_ms,
        sentence=sentence,
        **_LET_GO,
    )


def send_again(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    run_after_ms: int,
    sentence: str,
) -> bool:
    """`sent -> owed`: the peer does not have it after all."""
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.SENT,),
        state=_S.OWED,
        run_after_ms=run_after_ms,
        sentence=sentence,
        failures=Delivery.failures + 1,
        **_LET_GO,
    )


def hold(db: Connection, delivery_id: int, sentence: str) -> bool:
    """`owed | sent -> held`, whoever works on it."""
    return _take_out(db, delivery_id, _S.HELD, sentence)


def withdraw(db: Connection, delivery_id: int, sentence: str) -> bool:
    """`owed | sent | held -> withdrawn`, whoever works on it."""
    return _take_out(db, delivery_id, _S.WITHDRAWN, sentence)


def withdraw_results_of(db: Connection, job_ids: Collection[int]) -> set[int]:
    """Withdraw what is not sent yet of the results of jobs whose images do not count any more.

    Returns:
        Row ids of those deliveries that a peer has got already.
    """
    of_jobs = select(Result.id).where(Result.job_id.in_(job_ids))
    db.execute(
        update(Delivery)
        .where(Delivery.result_id.in_(of_jobs))
        .where(Delivery.state.in_([_S.OWED, _S.HELD]))
        .values(state=_S.WITHDRAWN, sentence=INPUT_REPLACED, **_LET_GO)
    )
    sent = (
        select(Delivery.id)
        .where(Delivery.result_id.in_(of_jobs))
        .where(Delivery.state.in_([_S.SENT, _S.STORED, _S.COMMITTED]))
    )
    return set(db.execute(sent).scalars())


def resend(db: Connection, delivery_id: int) -> DeliveryRow | None:
    """Send a result again, or at once, because a person wants it; its study is open again.

    Returns:
        The owed delivery, or None when there is none or a worker is at it in this moment.
    """
    at_ms = now_ms(db)
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id)
        .where(Delivery.worker.is_(None) | (Delivery.lease_until_ms < at_ms))
        .values(
            state=_S.OWED,
            failures=0,
            run_after_ms=at_ms,
            created_ms=at_ms,
            sentence="A person asked to send it again.",
            confirmed_ms=None,
            **_LET_GO,
        )
        .returning(*_COLUMNS)
    )
    delivery = read_one(db, statement, DeliveryRow)
    if delivery is not None:
        reopen(db, delivery.study_id)
    return delivery


def release_held(db: Connection, study_id: int) -> bool:
    """`held -> owed` for every delivery of a study, because a person looked at its results.

    Returns:
        Whether there was one.
    """
    at_ms = now_ms(db)
    statement = (
        update(Delivery)
        .where(Delivery.study_id == study_id)
        .where(Delivery.state == _S.HELD)
        .values(
            state=_S.OWED,
            failures=0,
            run_after_ms=at_ms,
            created_ms=at_ms,
            sentence="A person released it.",
            **_LET_GO,
        )
    )
    if db.execute(statement).rowcount == 0:
        return False
    reopen(db, study_id)
    return True


def record_attempt(
    db: Connection,
    delivery_id: int,
    *,
    number: int,
    action: str,
    worker: str,
    started_ms: int,
    ended_ms: int | None,
    status: str = "",
    sentence: str = "",
) -> int:
    """Record one contact with the peer: `store`, `commit` or `lookup`; return its row id."""
    statement = (
        insert_into(db, DeliveryAttempt)
        .values(
            delivery_id=delivery_id,
            number=number,
            action=action,
            worker=worker,
            started_ms=started_ms,
            ended_ms=ended_ms,
            status=status,
            sentence=sentence,
        )
        .returning(DeliveryAttempt.id)
    )
    return int(db.execute(statement).scalar_one())


def ask_commitment(db: Connection, transaction_uid: str, delivery_id: int, sop_uid: str) -> None:
    """Note that commitment is asked for; commit this before the question goes out."""
    statement = insert_into(db, Commitment).values(
        transaction_uid=transaction_uid,
        delivery_id=delivery_id,
        sop_uid=sop_uid,
        asked_ms=now_ms(db),
    )
    db.execute(statement)


def answer_commitment(
    db: Connection,
    transaction_uid: str,
    committed: Collection[str],
    failed: Mapping[str, str],
    *,
    peer: str | None = None,
) -> tuple[DeliveryRow, ...]:
    """Take a peer's answer about storage commitment.

    Args:
        db: A writing transaction; commit it before the peer is answered.
        transaction_uid: Of the question.
        committed: SOP Instance UIDs that the peer keeps.
        failed: SOP Instance UIDs that it does not keep, with its reason.
        peer: Name of the peer that answers, if known; an answer by another changes nothing.

    Returns:
        The deliveries that moved: to `committed`, or back to `owed`. An unknown or repeated
        answer moves none.
    """
    at_ms = now_ms(db)
    asked = (
        select(Commitment.delivery_id, Commitment.sop_uid)
        .join(Delivery, Delivery.id == Commitment.delivery_id)
        .where(Commitment.transaction_uid == transaction_uid)
        .where(Commitment.answered_ms.is_(None))
    )
    if peer is not None:
        asked = asked.where(Delivery.peer == peer)
    question = db.execute(asked).one_or_none()
    if question is None:
        return ()
    outcome = _outcome(question.sop_uid, committed, failed)
    answered = (
        update(Commitment)
        .where(Commitment.transaction_uid == transaction_uid)
        .where(Commitment.answered_ms.is_(None))
        .values(answered_ms=at_ms, outcome=outcome)
    )
    if db.execute(answered).rowcount != 1:
        return ()
    if question.sop_uid in committed:
        moved = _committed_by_answer(db, question.delivery_id, at_ms)
    elif question.sop_uid in failed:
        moved = _failed_by_answer(db, question.delivery_id, at_ms, failed[question.sop_uid])
    else:
        moved = None
    return () if moved is None else (moved,)


def find_delivery(db: Connection, delivery_id: int) -> DeliveryRow | None:
    """Return a delivery by its row id."""
    return read_one(db, select(*_COLUMNS).where(Delivery.id == delivery_id), DeliveryRow)


def list_deliveries(
    db: Connection,
    *,
    study_id: int | None = None,
    result_id: int | None = None,
    peer: str | None = None,
    state: DeliveryState | None = None,
    limit: int = 200,
) -> list[DeliveryRow]:
    """Return deliveries, the newest first."""
    statement = select(*_COLUMNS).order_by(Delivery.id.desc()).limit(limit)
    if study_id is not None:
        statement = statement.where(Delivery.study_id == study_id)
    if result_id is not None:
        statement = statement.where(Delivery.result_id == result_id)
    if peer is not None:
        statement = statement.where(Delivery.peer == peer)
    if state is not None:
        statement = statement.where(Delivery.state == state)
    return read_all(db, statement, DeliveryRow)


def list_delivery_attempts(db: Connection, delivery_id: int) -> list[DeliveryAttemptRow]:
    """Return the contacts with the peer about a delivery, the first first."""
    statement = (
        select(*columns(DeliveryAttempt, DeliveryAttemptRow))
        .where(DeliveryAttempt.delivery_id == delivery_id)
        .order_by(DeliveryAttempt.id)
    )
    return read_all(db, statement, DeliveryAttemptRow)


def list_commitments(db: Connection, delivery_id: int) -> list[CommitmentRow]:
    """Return the questions for commitment of a delivery, the first first."""
    statement = (
        select(*columns(Commitment, CommitmentRow))
        .where(Commitment.delivery_id == delivery_id)
        .order_by(Commitment.asked_ms, Commitment.transaction_uid)
    )
    return read_all(db, statement, CommitmentRow)


_LET_GO: Final[dict[str, Any]] = {"worker": None, "lease_until_ms": None}


def _change(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    /,  # `worker` is also a column among the values
    *,
    leaves: Sequence[DeliveryState],
    **values: Any,
) -> bool:
    """Change a delivery that the caller holds, or nothing."""
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id)
        .where(Delivery.state.in_(leaves))
        .where(Delivery.attempt == attempt)
        .where(Delivery.worker == worker)
        .values(**values)
    )
    return db.execute(statement).rowcount == 1


def _end(
    db: Connection,
    delivery_id: int,
    attempt: int,
    worker: str,
    *,
    state: DeliveryState,
    status: str,
    sentence: str,
) -> bool:
    at_ms = now_ms(db)
    return _change(
        db,
        delivery_id,
        attempt,
        worker,
        leaves=(_S.OWED, _S.SENT),
        state=state,
        last_status=status,
        sentence=sentence,
        failures=0,
        confirmed_ms=at_ms,
        **_LET_GO,
    )


def _take_out(db: Connection, delivery_id: int, state: DeliveryState, sentence: str) -> bool:
    leaves = [old for old, targets in MOVES.items() if state in targets]
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id)
        .where(Delivery.state.in_(leaves))
        .values(state=state, sentence=sentence, **_LET_GO)
    )
    return db.execute(statement).rowcount == 1


def _outcome(sop_uid: str, committed: Collection[str], failed: Mapping[str, str]) -> str:
    if sop_uid in committed:
        return "committed"
    if sop_uid in failed:
        return f"failed: {failed[sop_uid]}"
    return "not mentioned"


def _committed_by_answer(db: Connection, delivery_id: int, at_ms: int) -> DeliveryRow | None:
    leaves = [old for old, targets in MOVES.items() if _S.COMMITTED in targets]
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id)
        .where(Delivery.state.in_(leaves))
        .values(
            state=_S.COMMITTED,
            sentence="",
            failures=0,
            confirmed_ms=at_ms,
            **_LET_GO,
        )
        .returning(*_COLUMNS)
    )
    return read_one(db, statement, DeliveryRow)


def _failed_by_answer(
    db: Connection, delivery_id: int, at_ms: int, reason: str
) -> DeliveryRow | None:
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id)
        .where(Delivery.state == _S.SENT)
        .values(
            state=_S.OWED,
            run_after_ms=at_ms,
            sentence=f"The peer did not commit itself to keep it: {reason}. It is sent again.",
            failures=Delivery.failures + 1,
            **_LET_GO,
        )
        .returning(*_COLUMNS)
    )
    return read_one(db, statement, DeliveryRow)
