"""Which objects the rows name: what a look for objects without a row compares with."""

from __future__ import annotations

from sqlalchemy import Connection, select, union_all

from storage.tables import Conflict, Instance


def instance_objects(db: Connection, since_ms: int) -> frozenset[str]:
    """Return the names of objects that instances and conflicts received since then lie in."""
    statement = union_all(
        select(Instance.object_name).where(Instance.received_ms >= since_ms),
        select(Conflict.object_name).where(Conflict.received_ms >= since_ms),
    )
    return frozenset(db.execute(statement).scalars())
