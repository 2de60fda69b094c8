"""The audit: every act of a person, and of the node on its own account, in a chain of digests.

Each row's digest covers its fields and the digest of the row before, so that a row that was
changed or taken out of the middle shows. Rows cut off at the end show only to whoever kept a later
digest; `last_chain` gives it for that. Call `record` last in a transaction: it waits for others.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, select, text

from storage.database import now_ms
from storage.rows import columns, insert_into, read_all, read_one
from storage.tables import Audit

START: Final = "0" * 64
"""What stands before the first row."""

_APPEND_LOCK: Final = 0x4C_49_4D_4E_45_52_02
"""PostgreSQL advisory lock that orders appends; in SQLite the writing transaction does."""

_BATCH: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A row of `audit`."""

    id: int
    at_ms: int
    who: str
    act: str
    target: str
    detail: str
    chain: str


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """What a check of the chain found; `broken_id` is the first row that does not fit."""

    rows: int
    broken_id: int | None

    @property
    def intact(self) -> bool:
        """Whether every row fits."""
        return self.broken_id is None


_COLUMNS = columns(Audit, AuditRow)


def record(db: Connection, who: str, act: str, target: str = "", detail: str = "") -> AuditRow:
    """Append a row.

    Args:
        db: The writing transaction of the act itself.
        who: User name, `command line: name`, or the process.
        act: One word or two, such as `release` or `sign-in failed`.
        target: What it was done to: a UID, a job, a peer; no patient data.
        detail: What else a reader needs.
    """
    if db.dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _APPEND_LOCK})
    at_ms = now_ms(db)
    statement = (
        insert_into(db, Audit)
        .values(
            at_ms=at_ms,
            who=who,
            act=act,
            target=target,
            detail=detail,
            chain=_link(last_chain(db), at_ms, who, act, target, detail),
        )
        .returning(*_COLUMNS)
    )
    row = read_one(db, statement, AuditRow)
    if row is None:
        raise RuntimeError("a new audit row was not returned")
    return row


def list_audit(
    db: Connection,
    *,
    who: str | None = None,
    target: str | None = None,
    before_id: int | None = None,
    limit: int = 100,
) -> list[AuditRow]:
    """Return rows, the newest first."""
    statement = select(*_COLUMNS).order_by(Audit.id.desc()).limit(limit)
    if who is not None:
        statement = statement.where(Audit.who == who)
    if target is not None:
        statement = statement.where(Audit.target == target)
    if before_id is not None:
        statement = statement.where(Audit.id < before_id)
    return read_all(db, statement, AuditRow)


def verify_chain(db: Connection) -> ChainCheck:
    """Compute every digest again, from the first row to the last."""
    chain = START
    checked = 0
    last_id = 0
    while True:
        statement = select(*_COLUMNS).where(Audit.id > last_id).order_by(Audit.id).limit(_BATCH)
        rows = read_all(db, statement, AuditRow)
        for row in rows:
            chain = _link(chain, row.at_ms, row.who, row.act, row.target, row.detail)
            if chain != row.chain:
                return ChainCheck(rows=checked, broken_id=row.id)
            checked += 1
            last_id = row.id
        if len(rows) < _BATCH:
            return ChainCheck(rows=checked, broken_id=None)


def last_chain(db: Connection) -> str:
    """Return the digest of the last row."""
    statement = select(Audit.chain).order_by(Audit.id.desc()).limit(1)
    return db.execute(statement).scalar_one_or_none() or START


def _link(chain: str, *fields: int | str) -> str:
    # JSON, so that no two different rows are spelled alike.
    return hashlib.sha256(json.dumps([chain, *fields]).encode()).hexdigest()
