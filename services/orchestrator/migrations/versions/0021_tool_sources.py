"""Keep the sources of tools, and which tools crews were stored with.

Revision ID: 0021
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument, UtcDateTime

revision = "0021"
down_revision = "0016"
branch_labels = None
depends_on = None

_NAME = sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql")


def upgrade() -> None:
    """Create sources and their lists, and let revisions of crews pin tools."""
    op.create_table(
        "tool_sources",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("from_operator", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("spec", JsonDocument(), nullable=False),
        sa.Column("list_revision", sa.Integer(), nullable=False),
        sa.Column("tool_count", sa.Integer(), nullable=False),
        sa.Column("accepted", JsonDocument(), nullable=False),
        sa.Column("changes", JsonDocument(), nullable=False),
        sa.Column("list_warnings", JsonDocument(), nullable=False),
        sa.Column("list_error", sa.Text(), nullable=False),
        sa.Column("listed_at", UtcDateTime(), nullable=True),
        sa.Column("checked_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tool_sources")),
    )
    op.create_index("ix_tool_sources_group_id_id", "tool_sources", ["group_id", "id"], unique=False)
    for name, columns, condition, unique in (
        ("uq_tool_sources_group_id_name", ["group_id", "name"], "deleted_at IS NULL", True),
        ("ix_tool_sources_name", ["name"], "from_operator AND deleted_at IS NULL", False),
    ):
        op.create_index(
            name,
            "tool_sources",
            columns,
            unique=unique,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
    op.create_table(
        "tool_source_revisions",
        sa.Column("source_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tools", JsonDocument(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["tool_sources.id"],
            name=op.f("fk_tool_source_revisions_source_id_tool_sources"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source_id", "revision", name=op.f("pk_tool_source_revisions")),
    )
    op.create_table(
        "crew_tool_sources",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("source_name", sa.String(length=64), nullable=False),
        sa.Column("crew_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["crew_id"], ["crews.id"], name=op.f("fk_crew_tool_sources_crew_id_crews"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("group_id", "source_name", "crew_id", name=op.f("pk_crew_tool_sources")),
    )
    op.create_index("ix_crew_tool_sources_crew_id", "crew_tool_sources", ["crew_id"], unique=False)
    op.add_column("crew_revisions", sa.Column("tool_pins", JsonDocument(), nullable=True))


def downgrade() -> None:
    """Forget sources, and which tools crews were stored with."""
    op.drop_column("crew_revisions", "tool_pins")
    op.drop_table("crew_tool_sources")
    op.drop_table("tool_source_revisions")
    op.drop_table("tool_sources")
