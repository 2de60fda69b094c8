"""Processes of the node: their heartbeats, and the roles that one of them at a time holds."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, or_, select, update

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all
from storage.tables import Lease, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBeat:
    """What a process says of itself with each heartbeat.

    Attributes:
        kind: `listen`, `schedule`, `work`, `deliver` or `web`.
        doing: A few words; empty when idle.
    """

    name: str
    kind: str
    host: str
    pid: int
    device: str = ""
    doing: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A row of `workers`. One without `ended_ms` whose heartbeat is old has died."""

    name: str
    kind: str
    host: str
    pid: int
    device: str
    doing: str
    version: str
    started_ms: int
    heartbeat_ms: int
    ended_ms: int | None
    ending: str


def beat(db: Connection, alive: WorkerBeat) -> None:
    """Record a heartbeat; another process under the same name starts its time anew."""
    at_ms = now_ms(db)
    insert = insert_into(db, Worker).values(
        name=alive.name,
        kind=alive.kind,
        host=alive.host,
        pid=alive.pid,
        device=alive.device,
        doing=alive.doing,
        version=alive.version,
        started_ms=at_ms,
        heartbeat_ms=at_ms,
    )
    same_process = and_(
        Worker.pid == alive.pid, Worker.host == alive.host, Worker.ended_ms.is_(None)
    )
    statement = insert.on_conflict_do_update(
        index_elements=["name"],
        set_={
            "kind": alive.kind,
            "host": alive.host,
            "pid": alive.pid,
            "device": alive.device,
            "doing": alive.doing,
            "version": alive.version,
            "started_ms": case((same_process, Worker.started_ms), else_=at_ms),
            "heartbeat_ms": at_ms,
            "ended_ms": None,
            "ending": "",
        },
    )
    db.execute(statement)


def ended(db: Connection, name: str, ending: str) -> bool:
    """Record that a process ended, and how, in words."""
    statement = (
        update(Worker)
        .where(Worker.name == name)
        .where(Worker.ended_ms.is_(None))
        .values(ended_ms=now_ms(db), ending=ending, doing="")
    )
    return db.execute(statement).rowcount == 1


def list_workers(db: Connection) -> list[WorkerRow]:
    """Return all processes that ever beat, by name."""
    statement = select(*columns(Worker, WorkerRow)).order_by(Worker.name)
    return read_all(db, statement, WorkerRow)


def hold_lease(db: Connection, name: str, owner: str, ttl_ms: int) -> int | None:
    """Take or renew a role, such as the acting scheduler, for a limited time.

    Args:
        db: A writing transaction.
        name: The role.
        owner: Who takes it, unique among those alive.
        ttl_ms: How long the owner may be silent.

    Returns:
        A token that grows whenever the role changes hands or was lost in between, or None when
        another holds it.
    """
    at_ms = now_ms(db)
    kept = and_(Lease.owner == owner, Lease.until_ms >= at_ms)
    statement = (
        insert_into(db, Lease)
        .values(name=name, owner=owner, token=1, until_ms=at_ms + ttl_ms)
        .on_conflict_do_update(
            index_elements=["name"],
            set_={
                "owner": owner,
                "token": case((kept, Lease.token), else_=Lease.token + 1),
                "until_ms": at_ms + ttl_ms,
            },
            where=or_(Lease.owner == owner, Lease.until_ms < at_ms),
        )
        .returning(Lease.token)
    )
    return db.execute(statement).scalar_one_or_none()


def release_lease(db: Connection, name: str, owner: str, token: int) -> bool:
    """Give a role back at once, so that another need not wait for its end."""
    statement = (
        update(Lease)
        .where(Lease.name == name)
        .where(Lease.owner == owner)
        .where(Lease.token == token)
        .values(until_ms=0)
    )
    return db.execute(statement).rowcount == 1
