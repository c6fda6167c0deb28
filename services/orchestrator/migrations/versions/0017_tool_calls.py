"""Keep what hosts need to follow a call of a tool and to never make it twice.

Revision ID: 0017
Revises: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0024"
branch_labels = None
depends_on = None

_COLUMNS = {"call_id": 64, "tool_hash": 64, "reason": 64}


def upgrade() -> None:
    """Add ids, rounds, hashes, arguments and reasons."""
    for name, length in _COLUMNS.items():
        op.add_column("tool_journal", sa.Column(name, sa.String(length=length), nullable=False, server_default=""))
    op.add_column("tool_journal", sa.Column("round", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("tool_journal", sa.Column("arguments", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Forget them; calls of unknown outcome are intents again."""
    journal = sa.table("tool_journal", sa.column("state", sa.String()))
    op.execute(journal.update().where(journal.c.state.in_(["UNKNOWN", "CANCELLED"])).values(state="INTENT"))
    for name in (*_COLUMNS, "round", "arguments"):
        op.drop_column("tool_journal", name)
