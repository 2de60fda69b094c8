"""Of each association, the node whose listener serves it: several may share a database.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("associations", sa.Column("node", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("associations", "node")
