"""Faults of storage: what happened, where, and what to do, as `node.errors` has them for the node.

The type says who must act. `StorageAway` and `StorageFull` pass: the same call may succeed later.
`StorageFailed`, `SchemaOutdated` and `StorageRefused` need an administrator.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of every fault that storage raises on purpose.

    Attributes:
        code: Stable, kebab-case.
        what: One sentence: what was found and what was wanted.
        where: A path, a database or a row; never patient data.
        remedy: What the reader can do next.
    """

    def __init__(self, code: str, what: str, *, where: str, remedy: str) -> None:
        super().__init__(f"{what} ({where}) {remedy} [{code}]")
        self.code = code
        self.what = what
        self.where = where
        self.remedy = remedy


class StorageAway(StorageError):  # noqa: N818 - named for what is so, as the contract spells it
    """The database does not answer, or another process holds it for too long. It may pass."""


class StorageFull(StorageError):  # noqa: N818 - as above
    """The disk is full, or less is free than the reserve. It passes once there is room."""


class StorageFailed(StorageError):  # noqa: N818 - as above
    """The disk or a stored object is damaged, missing or not writable."""


class SchemaOutdated(StorageError):  # noqa: N818 - as above
    """The database's tables are not those that this version needs."""


class StorageRefused(StorageError):  # noqa: N818 - as above
    """What was asked for would break a rule of storage; nothing was changed."""
