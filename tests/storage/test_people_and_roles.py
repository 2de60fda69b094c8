"""People, sessions, the audit chain, and which process holds which role."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from storage import audit, peers, users, workers
from storage.database import reading, set_clock_offset, writing
from storage.errors import StorageRefused
from storage.users import FAILURES_TO_LOCK, LOCKED_MS, Role, UserRow
from storage.workers import WorkerBeat

HOUR_MS = 3_600_000
HASH = "$argon2id$..."


def add(engine: Engine, name: str = "anna") -> UserRow:
    with writing(engine) as db:
        return users.add_user(db, name, password_hash=HASH, role=Role.OPERATOR)


def test_a_name_belongs_to_one_person(engine: Engine) -> None:
    user = add(engine)
    with pytest.raises(StorageRefused, match="user-exists"):
        add(engine)
    with reading(engine) as db:
        assert (users.find_user(db, "anna"), users.find_user(db, "bert")) == (user, None)
        assert (users.list_users(db), users.count_users(db)) == ([user], 1)


def test_five_wrong_passwords_in_a_row_lock_an_account_for_a_while(engine: Engine) -> None:
    user = add(engine)
    with writing(engine) as db:
        for _ in range(FAILURES_TO_LOCK - 1):
            users.record_failure(db, user.id)
        users.record_success(db, user.id)
        seen = [users.record_failure(db, user.id) for _ in range(FAILURES_TO_LOCK)]
        locked = [users.is_locked(db, row) for row in seen if row is not None]
    assert locked == [False] * (FAILURES_TO_LOCK - 1) + [True]
    set_clock_offset(engine, LOCKED_MS + 1_000)
    with writing(engine) as db:
        row = users.find_user(db, "anna")
        assert row is not None and not users.is_locked(db, row)


def test_a_session_ends_by_time_by_sign_out_and_with_its_person(engine: Engine) -> None:
    user = add(engine)

    def open_one(digest: str) -> None:
        with writing(engine) as db:
            users.open_session(db, user.id, token_digest=digest, csrf="c", ttl_ms=HOUR_MS)
            users.touch_session(db, digest)

    def valid(digest: str) -> bool:
        with reading(engine) as db:
            found = users.find_session(db, digest)
        assert found is None or found.user.name == "anna"
        return found is not None

    for digest in ("a", "b", "c"):
        open_one(digest)
    assert valid("a") and not valid("x")
    with writing(engine) as db:
        assert users.close_session(db, "a") and not users.close_session(db, "a")
    assert not valid("a") and valid("b")
    with writing(engine) as db:
        assert users.set_password(db, user.id, "$other$")
    assert not valid("b")
    open_one("d")
    with writing(engine) as db:
        users.disable(db, user.id)
    assert not valid("d")
    with writing(engine) as db:
        users.enable(db, user.id)
    open_one("e")
    set_clock_offset(engine, HOUR_MS + 1_000)
    assert not valid("e")


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE audit SET who = 'nobody' WHERE act = 'release'",
        "UPDATE audit SET at_ms = at_ms + 1 WHERE act = 'release'",
        "UPDATE audit SET act = 'cancel' WHERE act = 'release'",
        "UPDATE audit SET target = '1.2.4' WHERE act = 'release'",
        "UPDATE audit SET detail = '' WHERE act = 'release'",
        "DELETE FROM audit WHERE act = 'release'",
        # another row's chain: the largest of all would be the row's own, one time in three
        "UPDATE audit SET chain = (SELECT chain FROM audit WHERE act = 'sign-in') "
        "WHERE act = 'release'",
    ],
)
def test_a_changed_audit_row_shows(engine: Engine, tamper: str) -> None:
    with writing(engine) as db:
        for act in ("sign-in", "release", "requeue"):
            audit.record(db, "anna", act, target="1.2.3", detail="from the page")
    with writing(engine) as db:
        assert audit.verify_chain(db) == audit.ChainCheck(rows=3, broken_id=None)
        rows = audit.list_audit(db, who="anna", target="1.2.3")
        assert [row.act for row in rows] == ["requeue", "release", "sign-in"]
        assert audit.list_audit(db, before_id=rows[0].id) == rows[1:]
        changed = db.execute(text(tamper)).rowcount
        chains = {row.chain for row in audit.list_audit(db)} | {audit.START}
        check = audit.verify_chain(db)
    assert changed == 1 and len(chains) in {3, 4}
    assert not check.intact


def test_acts_at_the_same_moment_do_not_fork_the_chain(engine: Engine) -> None:
    def act(name: str) -> None:
        for number in range(5):
            with writing(engine) as db:
                audit.record(db, name, "release", target=str(number))

    threads = [threading.Thread(target=act, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as db:
        assert audit.verify_chain(db) == audit.ChainCheck(rows=20, broken_id=None)


def test_one_process_at_a_time_holds_a_role(engine: Engine) -> None:
    def take(owner: str) -> int | None:
        with writing(engine) as db:
            return workers.hold_lease(db, "scheduler", owner, 10_000)

    assert [take("a"), take("a"), take("b")] == [1, 1, None]
    set_clock_offset(engine, 11_000)
    assert [take("b"), take("a")] == [2, None]
    set_clock_offset(engine, 30_000)
    assert take("b") == 3  # nobody else took it, but b had lost it
    with writing(engine) as db:
        assert workers.release_lease(db, "scheduler", "a", 3) is False
        assert workers.release_lease(db, "scheduler", "b", 3) is True
    assert take("a") == 4


def test_a_heartbeat_keeps_the_start_of_its_process_and_a_restart_begins_anew(
    engine: Engine,
) -> None:
    alive = WorkerBeat(name="work-1", kind="work", host="node", pid=10, device="cpu")

    def beat(value: WorkerBeat, at_ms: int) -> workers.WorkerRow:
        set_clock_offset(engine, at_ms)
        with writing(engine) as db:
            workers.beat(db, value)
            [row] = workers.list_workers(db)
        return row

    first = beat(alive, 0)
    later = beat(replace(alive, doing="job 7"), 10_000)
    assert (later.started_ms, later.doing) == (first.started_ms, "job 7")
    assert later.heartbeat_ms >= first.heartbeat_ms + 10_000
    with writing(engine) as db:
        assert workers.ended(db, "work-1", "killed by signal 9") is True
        assert workers.ended(db, "work-1", "again") is False
        [dead] = workers.list_workers(db)
    assert dead.ending == "killed by signal 9" and dead.ended_ms is not None
    again = beat(replace(alive, pid=11), 20_000)
    assert (again.ended_ms, again.ending) == (None, "")
    assert again.started_ms >= first.started_ms + 20_000


def test_a_peer_that_fails_is_counted_until_it_answers(engine: Engine) -> None:
    with writing(engine) as db:
        assert peers.find_peer_state(db, "PACS") is None
        assert [peers.failed(db, "PACS", "No answer.", 5) for _ in range(2)] == [1, 2]
        peers.pause(db, "PACS")
        peers.heard(db, "PACS")
        down = peers.find_peer_state(db, "PACS")
        peers.sent_ok(db, "PACS")
        peers.resume(db, "PACS")
        up = peers.find_peer_state(db, "PACS")
        peers.echoed(db, "ARCHIVE")
        names = [row.peer for row in peers.list_peer_states(db)]
    assert down is not None and up is not None
    assert (down.failures, down.next_try_ms, down.last_error) == (2, 5, "No answer.")
    assert down.paused and down.last_heard_ms is not None
    assert (up.failures, up.next_try_ms, up.last_error, up.paused) == (0, None, "", False)
    assert names == ["ARCHIVE", "PACS"]
