"""Which bytes the rows refer to: what must not be freed."""

from __future__ import annotations

from sqlalchemy import Connection, select, union_all

from storage.objects import INSTANCES, Place
from storage.tables import Conflict, Instance


def places_under(db: Connection, sop_uid: str) -> frozenset[Place]:
    """Return where the bytes of an instance lie: those that count, and those of its conflicts."""
    statement = union_all(
        select(Instance.object_name, Instance.offset, Instance.length).where(
            Instance.sop_uid == sop_uid
        ),
        select(Conflict.object_name, Conflict.offset, Conflict.length)
        .join(Instance, Instance.id == Conflict.instance_id)
        .where(Instance.sop_uid == sop_uid),
    )
    return frozenset(Place(name, at, length) for name, at, length in db.execute(statement))


def objects_in_use(db: Connection) -> frozenset[str]:
    """Return the names of the objects of their own that instances and conflicts lie in."""
    own = f"{INSTANCES}/%"
    statement = union_all(
        select(Instance.object_name).where(Instance.object_name.like(own)),
        select(Conflict.object_name).where(Conflict.object_name.like(own)),
    )
    return frozenset(db.execute(statement).scalars())
