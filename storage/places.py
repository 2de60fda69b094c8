"""Which bytes the rows of a SOP Instance UID refer to: what must not be freed."""

from __future__ import annotations

from sqlalchemy import Connection, select, union_all

from storage.objects import Place
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
