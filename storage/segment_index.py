"""How far each segment's records have become rows.

The position is only a hint that saves time: it is moved in the transaction that writes the rows of
the records before it, so that after a crash at most the last batch is looked at again.
"""

from __future__ import annotations

from sqlalchemy import Connection, case, literal, or_, select, update

from storage.database import now_ms
from storage.rows import insert_into
from storage.tables import Segment


def segment_positions(db: Connection) -> dict[str, int]:
    """Return of each known segment the offset in bytes below which every record has its rows."""
    return {str(name): int(at) for name, at in db.execute(select(Segment.name, Segment.indexed_to))}


def note_segment(db: Connection, name: str, size: int) -> None:
    """Record that the segment `name`, of `size` bytes, exists; harmless when it is known.

    Args:
        db: A writing transaction.
        name: The object's name, such as `segments/20261121-0001.seg`.
        size: Bytes of the file.
    """
    made = insert_into(db, Segment).values(name=name, size=size, created_ms=now_ms(db))
    longer = case((Segment.size < made.excluded.size, made.excluded.size), else_=Segment.size)
    db.execute(made.on_conflict_do_update(index_elements=["name"], set_={"size": longer}))


def set_indexed(db: Connection, name: str, indexed_to: int, *, sealed: bool) -> bool:
    """Move the position of a segment forward; False when the segment was never noted.

    Args:
        db: The writing transaction that wrote the rows of the records below `indexed_to`.
        name: The object's name.
        indexed_to: Offset in bytes. A smaller one than is known changes nothing.
        sealed: Whether nothing more will be appended; once said it stays.
    """
    changed = db.execute(
        update(Segment)
        .where(Segment.name == name)
        .values(
            indexed_to=case(
                (Segment.indexed_to < indexed_to, indexed_to), else_=Segment.indexed_to
            ),
            sealed=or_(Segment.sealed, literal(sealed)),
        )
    )
    return changed.rowcount == 1
