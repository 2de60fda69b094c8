"""What receiving leaves: segments, checksums, refused callers, notices, conflicts to decide.

Columns that are added have a default in the database itself, so that the version before this one
can go on writing while it is replaced.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

CHOSEN = "chosen IN ('', 'first', 'last')"
CHOSEN_HAS_TIME = "(chosen = '') = (decided_ms IS NULL)"

CONFLICT_COLUMNS = (
    "series_uid",
    "patient_id",
    "issuer",
    "accession",
    "facts",
    "sop_class",
    "transfer_syntax",
    "checksum",
    "version",
    "association_id",
    "chosen",
    "decided_by",
    "decided_ms",
)
INSTANCE_COLUMNS = ("checksum", "patient_id", "issuer", "accession", "version")
ASSOCIATION_COLUMNS = ("token", "software", "secure", "contexts", "bytes")


def upgrade() -> None:
    _new_tables()
    op.add_column("instances", _text("checksum", sa.String(length=32)))
    for name in ("patient_id", "issuer", "accession"):
        op.add_column("instances", _text(name, sa.Text()))
    op.add_column(
        "instances", sa.Column("version", sa.Integer(), server_default="1", nullable=False)
    )
    op.execute("""
        UPDATE instances
        SET patient_id = (SELECT s.patient_id FROM studies s JOIN series e ON e.study_id = s.id
                          WHERE e.id = instances.series_id),
            issuer = (SELECT s.issuer FROM studies s JOIN series e ON e.study_id = s.id
                      WHERE e.id = instances.series_id),
            accession = (SELECT s.accession FROM studies s JOIN series e ON e.study_id = s.id
                         WHERE e.id = instances.series_id)
    """)
    op.create_index(
        "ix_instances_undigested",
        "instances",
        ["id"],
        unique=False,
        sqlite_where=sa.text("digest = ''"),
        postgresql_where=sa.text("digest = ''"),
    )
    op.add_column("associations", sa.Column("token", sa.String(length=32), nullable=True))
    op.add_column("associations", _text("software", sa.Text()))
    op.add_column(
        "associations",
        sa.Column("secure", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.add_column(
        "associations",
        sa.Column("contexts", sa.JSON(), server_default=sa.text("'[]'"), nullable=False),
    )
    op.add_column(
        "associations", sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.create_index("ix_associations_token", "associations", ["token"], unique=True)
    _conflicts_to_decide()


def _text(name: str, kind: sa.String) -> sa.Column[str]:
    return sa.Column(name, kind, server_default="", nullable=False)


def _new_tables() -> None:
    op.create_table(
        "segments",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("indexed_to", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "indexed_to >= 0 AND indexed_to <= size", name=op.f("ck_segments_indexed_within")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segments")),
        sa.UniqueConstraint("name", name=op.f("uq_segments_name")),
    )
    op.create_table(
        "callers",
        sa.Column("id", KEY, nullable=False),
        sa.Column("calling_ae", sa.String(length=64), nullable=False),
        sa.Column("called_ae", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callers")),
        sa.UniqueConstraint(
            "calling_ae", "called_ae", "address", name=op.f("uq_callers_calling_ae")
        ),
    )
    op.create_index("ix_callers_last_ms", "callers", ["last_ms"], unique=False)
    op.create_table(
        "notices",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("sop_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('mpps', 'ian')", name=op.f("ck_notices_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sa.UniqueConstraint("kind", "sop_uid", name=op.f("uq_notices_kind")),
    )
    op.create_index(op.f("ix_notices_study_uid"), "notices", ["study_uid"], unique=False)


def _conflicts_to_decide() -> None:
    """Let a conflict hold what it takes to count, and what was decided about it.

    Nothing refers to this table, so that SQLite may copy it.
    """
    with op.batch_alter_table("conflicts") as table:
        for name in ("patient_id", "issuer", "accession", "decided_by"):
            table.add_column(_text(name, sa.Text()))
        for name in ("series_uid", "sop_class", "transfer_syntax"):
            table.add_column(_text(name, sa.String(length=64)))
        table.add_column(_text("checksum", sa.String(length=32)))
        table.add_column(_text("chosen", sa.String(length=8)))
        table.add_column(
            sa.Column("facts", sa.JSON(), server_default=sa.text("'{}'"), nullable=False)
        )
        table.add_column(sa.Column("version", sa.Integer(), server_default="2", nullable=False))
        table.add_column(sa.Column("association_id", KEY, nullable=True))
        table.add_column(sa.Column("decided_ms", sa.BigInteger(), nullable=True))
        table.drop_constraint(op.f("uq_conflicts_instance_id"), type_="unique")
        table.create_check_constraint(op.f("ck_conflicts_chosen"), CHOSEN)
        table.create_check_constraint(op.f("ck_conflicts_chosen_has_time"), CHOSEN_HAS_TIME)
        table.create_foreign_key(
            op.f("fk_conflicts_association_id"), "associations", ["association_id"], ["id"]
        )
    # Rows of before have no checksum: the first half of their SHA-256 tells them apart as well.
    op.execute("UPDATE conflicts SET checksum = substr(digest, 1, 32)")
    op.execute("""
        UPDATE conflicts
        SET version = 1 + (SELECT count(*) FROM conflicts other
                           WHERE other.instance_id = conflicts.instance_id
                             AND other.id <= conflicts.id)
    """)
    with op.batch_alter_table("conflicts") as table:
        table.create_unique_constraint(
            op.f("uq_conflicts_instance_id"), ["instance_id", "checksum"]
        )
    op.create_index(
        op.f("ix_conflicts_association_id"), "conflicts", ["association_id"], unique=False
    )


def downgrade() -> None:
    op.execute("UPDATE conflicts SET digest = checksum WHERE digest = ''")
    op.drop_index(op.f("ix_conflicts_association_id"), "conflicts")
    with op.batch_alter_table("conflicts") as table:
        table.drop_constraint(op.f("uq_conflicts_instance_id"), type_="unique")
        table.drop_constraint(op.f("fk_conflicts_association_id"), type_="foreignkey")
        table.create_unique_constraint(op.f("uq_conflicts_instance_id"), ["instance_id", "digest"])
        table.drop_constraint(op.f("ck_conflicts_chosen"), type_="check")
        table.drop_constraint(op.f("ck_conflicts_chosen_has_time"), type_="check")
        for name in CONFLICT_COLUMNS:
            table.drop_column(name)
    op.drop_index("ix_associations_token", "associations")
    for name in ASSOCIATION_COLUMNS:
        op.drop_column("associations", name)
    op.drop_index("ix_instances_undigested", "instances")
    for name in INSTANCE_COLUMNS:
        op.drop_column("instances", name)
    for name in ("notices", "callers", "segments"):
        op.drop_table(name)
