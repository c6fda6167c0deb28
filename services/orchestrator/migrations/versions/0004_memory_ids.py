"""Keep the id under which a crew's memories are stored with each revision.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the id, empty in what is stored already, and let requests name resources as in every service."""
    op.add_column("crew_revisions", sa.Column("memory_id", sa.String(length=128)))
    with op.batch_alter_table("requests") as requests:
        requests.alter_column("resource_id", existing_type=sa.String(length=64), type_=sa.String(length=128))


def downgrade() -> None:
    """Forget the ids; they are asked for again."""
    with op.batch_alter_table("requests") as requests:
        requests.alter_column("resource_id", existing_type=sa.String(length=128), type_=sa.String(length=64))
    op.drop_column("crew_revisions", "memory_id")
