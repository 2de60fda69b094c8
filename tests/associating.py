"""Associations in the rows, as the books write them."""

from __future__ import annotations

import secrets
from typing import Any

from storage import associations
from storage.associations import AssociationOutcome, Closing, Opening
from storage.database import Connection


def opened(db: Connection, *, token: str = "", **said: Any) -> int:
    """Record that an association was opened; return its row id."""
    token = token or secrets.token_hex(8)
    return associations.open_associations(db, [Opening(token=token, **said)])[token]


def closed(
    db: Connection,
    association: int,
    outcome: AssociationOutcome = AssociationOutcome.RELEASED,
    **said: Any,
) -> None:
    """Record that it ended."""
    associations.close_associations(db, [Closing(id=association, outcome=outcome, **said)])
