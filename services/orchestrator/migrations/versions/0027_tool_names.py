"""Let the journal hold the names of tools of sources.

Revision ID: 0027
Revises: 0026
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Widen the name: it is that of a source and of one of its tools."""
    with op.batch_alter_table("tool_journal") as journal:
        journal.alter_column("tool_name", existing_type=sa.String(length=128), type_=sa.String(length=192))


def downgrade() -> None:
    """Leave it as it is: longer names may be stored."""
