"""Date the first saves of documents that had no time: the sweep finds those that never ended by it.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

from services.common.clock import utc_now
from services.memory.domain.moments import microseconds

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let them count from now on."""
    documents = sa.table("documents", sa.column("revision"), sa.column("expires_us", sa.BigInteger()))
    undated = sa.and_(documents.c.revision == 0, documents.c.expires_us.is_(None))
    op.execute(sa.update(documents).where(undated).values(expires_us=microseconds(utc_now())))


def downgrade() -> None:
    """Leave the times: earlier versions wait for them too."""
