"""Find calls of tools by their ids.

Revision ID: 0026
Revises: 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_WHERE = sa.text("call_id <> ''")


def upgrade() -> None:
    """Add an index."""
    op.create_index(
        "ix_tool_journal_call_id",
        "tool_journal",
        ["call_id"],
        unique=False,
        sqlite_where=_WHERE,
        postgresql_where=_WHERE,
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_index("ix_tool_journal_call_id", table_name="tool_journal")
