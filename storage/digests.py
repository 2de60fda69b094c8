"""SHA-256 digests of what was received, computed after the answer.

A result's identity rests on the digests of its input, so that no study settles before each of its
instances has one. A digest belongs to one byte string: it is only taken while the bytes that it
was computed from are those that count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, bindparam, exists, select, update

from storage.objects import Place
from storage.rows import read_all
from storage.tables import Instance, Series, Study, StudyState


@dataclass(frozen=True, slots=True, kw_only=True)
class UndigestedRow:
    """An instance whose bytes have no digest yet.

    Attributes:
        version: Which of the byte strings under its UID counted when this was read.
    """

    id: int
    study_id: int
    sop_uid: str
    transfer_syntax: str
    version: int
    object_name: str
    offset: int
    length: int

    @property
    def place(self) -> Place:
        """Where its bytes lie: a PS3.10 file, of which the digest covers the dataset alone."""
        return Place(name=self.object_name, offset=self.offset, length=self.length)


def without_digest(db: Connection, limit: int) -> list[UndigestedRow]:
    """Return instances that still need a digest: the oldest first, those of held studies last.

    An instance whose bytes cannot be read stays here. Holding its study tells a person, and makes
    room for the others.
    """
    statement = (
        select(
            Instance.id,
            Series.study_id,
            Instance.sop_uid,
            Instance.transfer_syntax,
            Instance.version,
            Instance.object_name,
            Instance.offset,
            Instance.length,
        )
        .join(Series, Series.id == Instance.series_id)
        .join(Study, Study.id == Series.study_id)
        .where(Instance.digest == "")
        .order_by(Study.state == StudyState.HELD, Instance.id)
        .limit(limit)
    )
    return read_all(db, statement, UndigestedRow)


_SET = (
    update(Instance)
    .where(Instance.id == bindparam("of_id"))
    .where(Instance.version == bindparam("of_version"))
    .where(Instance.digest == "")
    .values(digest=bindparam("found"))
)


def set_digests(db: Connection, digests: Mapping[UndigestedRow, str]) -> int:
    """Record digests; return how many were taken.

    Args:
        db: A writing transaction.
        digests: SHA-256 of the dataset as received, hex, of each row. One whose bytes do not
            count any more, or that has a digest by now, is left alone.
    """
    if not digests:
        return 0
    # In the order of the rows, so that two processes cannot wait for each other.
    rows = [
        {"of_id": row.id, "of_version": row.version, "found": digest}
        for row, digest in sorted(digests.items(), key=lambda one: one[0].id)
    ]
    return db.execute(_SET, rows).rowcount


def all_digested() -> ColumnElement[bool]:
    """Return the condition that no instance of a study lacks its digest, for a query of studies."""
    lacking = (
        select(Instance.id)
        .join(Series, Series.id == Instance.series_id)
        .where(Series.study_id == Study.id)
        .where(Instance.digest == "")
    )
    return ~exists(lacking)
