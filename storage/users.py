"""People who may sign in, their sessions, and the lock-out. Passwords arrive here hashed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, case, delete, func, select, update

from storage.database import now_ms
from storage.errors import StorageRefused
from storage.rows import columns, insert_into, read_all, read_one
from storage.tables import Session, User

FAILURES_TO_LOCK: Final = 5
"""Wrong passwords in a row after which an account is locked."""

LOCKED_MS: Final = 15 * 60 * 1000
"""How long; long enough that guessing is hopeless, short enough for a night shift."""


class Role(StrEnum):
    """What a person may do."""

    VIEWER = "viewer"  # look
    OPERATOR = "operator"  # look, and release, requeue, resend, cancel
    ADMIN = "admin"  # everything, people and peers included


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRow:
    """A row of `users`."""

    id: int
    name: str
    password_hash: str
    role: Role
    disabled: bool
    failures: int
    locked_until_ms: int | None
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """A row of `sessions`: a signed-in browser."""

    token_digest: str
    user_id: int
    csrf: str
    created_ms: int
    seen_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A valid session with its person."""

    session: SessionRow
    user: UserRow


_USER_COLUMNS = columns(User, UserRow)
_SESSION_COLUMNS = columns(Session, SessionRow)


def add_user(db: Connection, name: str, *, password_hash: str, role: Role) -> UserRow:
    """Add a person.

    Raises:
        StorageRefused: The name is taken.
    """
    statement = (
        insert_into(db, User)
        .values(name=name, password_hash=password_hash, role=role, created_ms=now_ms(db))
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(*_USER_COLUMNS)
    )
    user = read_one(db, statement, UserRow)
    if user is None:
        raise StorageRefused(
            "user-exists",
            "There is a user with this name already.",
            where=name,
            remedy="Choose another name, or set a new password for this user.",
        )
    return user


def find_user(db: Connection, name: str) -> UserRow | None:
    """Return a person by name."""
    return read_one(db, select(*_USER_COLUMNS).where(User.name == name), UserRow)


def list_users(db: Connection) -> list[UserRow]:
    """Return all people, by name."""
    return read_all(db, select(*_USER_COLUMNS).order_by(User.name), UserRow)


def set_password(db: Connection, user_id: int, password_hash: str) -> bool:
    """Give a person another password; all their sessions end and a lock-out is lifted."""
    statement = (
        update(User)
        .where(User.id == user_id)
        .values(password_hash=password_hash, failures=0, locked_until_ms=None)
    )
    close_sessions(db, user_id)
    return db.execute(statement).rowcount == 1


def disable(db: Connection, user_id: int) -> bool:
    """Bar a person from signing in; all their sessions end."""
    close_sessions(db, user_id)
    statement = update(User).where(User.id == user_id).values(disabled=True)
    return db.execute(statement).rowcount == 1


def enable(db: Connection, user_id: int) -> bool:
    """Let a barred or locked person sign in again."""
    statement = (
        update(User)
        .where(User.id == user_id)
        .values(disabled=False, failures=0, locked_until_ms=None)
    )
    return db.execute(statement).rowcount == 1


def is_locked(db: Connection, user: UserRow) -> bool:
    """Say whether a person must wait before the next try."""
    return user.locked_until_ms is not None and user.locked_until_ms > now_ms(db)


def record_failure(db: Connection, user_id: int) -> UserRow | None:
    """Count a wrong password; the fifth in a row locks the account for 15 minutes."""
    locks = User.failures + 1 >= FAILURES_TO_LOCK
    statement = (
        update(User)
        .where(User.id == user_id)
        .values(
            failures=case((locks, 0), else_=User.failures + 1),
            locked_until_ms=case((locks, now_ms(db) + LOCKED_MS), else_=User.locked_until_ms),
        )
        .returning(*_USER_COLUMNS)
    )
    return read_one(db, statement, UserRow)


def record_success(db: Connection, user_id: int) -> None:
    """Forget wrong passwords after a right one."""
    statement = update(User).where(User.id == user_id).values(failures=0, locked_until_ms=None)
    db.execute(statement)


def open_session(
    db: Connection, user_id: int, *, token_digest: str, csrf: str, ttl_ms: int
) -> SessionRow:
    """Open a session; sessions that ran out are removed on the way.

    Args:
        db: A writing transaction.
        user_id: Whose.
        token_digest: SHA-256 of the cookie's token, hex; the token itself is stored nowhere.
        csrf: Token that forms carry.
        ttl_ms: How long it is valid.
    """
    at_ms = now_ms(db)
    db.execute(delete(Session).where(Session.expires_ms <= at_ms))
    statement = (
        insert_into(db, Session)
        .values(
            token_digest=token_digest,
            user_id=user_id,
            csrf=csrf,
            created_ms=at_ms,
            seen_ms=at_ms,
            expires_ms=at_ms + ttl_ms,
        )
        .returning(*_SESSION_COLUMNS)
    )
    session = read_one(db, statement, SessionRow)
    if session is None:
        raise RuntimeError("a new session returned no row")
    return session


def find_session(db: Connection, token_digest: str) -> SignedIn | None:
    """Return a session that is valid now, with its person; None for any other."""
    found = (
        select(*_SESSION_COLUMNS)
        .where(Session.token_digest == token_digest)
        .where(Session.expires_ms > now_ms(db))
    )
    session = read_one(db, found, SessionRow)
    if session is None:
        return None
    statement = (
        select(*_USER_COLUMNS).where(User.id == session.user_id).where(User.disabled.is_(False))
    )
    user = read_one(db, statement, UserRow)
    return None if user is None else SignedIn(session, user)


def touch_session(db: Connection, token_digest: str) -> None:
    """Note that a session was used."""
    db.execute(
        update(Session).where(Session.token_digest == token_digest).values(seen_ms=now_ms(db))
    )


def close_session(db: Connection, token_digest: str) -> bool:
    """End a session."""
    statement = delete(Session).where(Session.token_digest == token_digest)
    return db.execute(statement).rowcount == 1


def close_sessions(db: Connection, user_id: int) -> int:
    """End all sessions of a person; return how many."""
    return db.execute(delete(Session).where(Session.user_id == user_id)).rowcount


def count_users(db: Connection) -> int:
    """Return how many people there are; none means that the first one is still to be added."""
    return int(db.execute(select(func.count()).select_from(User)).scalar_one())
