"""Keep where a backend's database is, if it has one.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the schema."""
    with op.batch_alter_table("memory_backends") as batch:
        batch.add_column(sa.Column("pgvector", JsonDocument(), nullable=True))


def downgrade() -> None:
    """Change it back; backends in databases are gone."""
    # Of other backends it is NULL, or JSON's null.
    chosen = "CAST(pgvector AS TEXT) <> 'null'"
    op.execute(f"DELETE FROM active_backends WHERE backend_id IN (SELECT id FROM memory_backends WHERE {chosen})")  # noqa: S608 - a text above
    op.execute(f"DELETE FROM memory_backends WHERE {chosen}")  # noqa: S608 - a text above
    with op.batch_alter_table("memory_backends") as batch:
        batch.drop_column("pgvector")
