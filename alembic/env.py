"""Run by Alembic inside the transaction that `storage.migrations` opened; there is no alembic.ini.

A new revision: change storage/tables.py, then write `versions/NNNN_what_it_adds.py` (the next
number is its revision). tests/storage/test_migrations.py says whether it gives the same tables on
SQLite and PostgreSQL, up and down.
"""

from __future__ import annotations

from alembic import context
from storage.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
