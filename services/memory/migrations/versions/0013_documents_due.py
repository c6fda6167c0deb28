"""When to look at documents of which something has begun, apart from when they expire.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

from services.common.clock import utc_now
from services.memory.domain.moments import microseconds

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_DAY_US = 86_400_000_000
_documents = sa.table(
    "documents",
    sa.column("document", sa.JSON()),
    sa.column("revision", sa.BigInteger()),
    sa.column("stale", sa.JSON()),
    sa.column("expires_us", sa.BigInteger()),
    sa.column("due_us", sa.BigInteger()),
)


def upgrade() -> None:
    """Add the time, which was one with that of expiry; all that has begun and not ended is looked at in a day."""
    op.add_column("documents", sa.Column("due_us", sa.BigInteger(), nullable=True))
    op.create_index("ix_documents_due", "documents", ["due_us"], unique=False)
    columns = _documents.c
    began = sa.or_(columns.revision == 0, columns.expires_us < 0, sa.cast(columns.stale, sa.Text()) != "[]")
    op.execute(sa.update(_documents).where(began).values(due_us=microseconds(utc_now()) + _DAY_US))
    not_there = sa.or_(columns.revision == 0, columns.expires_us < 0)
    op.execute(sa.update(_documents).where(not_there).values(expires_us=None))


def downgrade() -> None:
    """Let the time of what is not there be that of its expiry again, below zero where a removal has begun."""
    columns = _documents.c
    first = sa.and_(columns.revision == 0, columns.due_us.is_not(None))
    op.execute(sa.update(_documents).where(first).values(expires_us=columns.due_us))
    marker = sa.func.replace(sa.cast(columns.document, sa.Text()), " ", "")
    removed = sa.and_(marker == '{"part_count":0}', columns.due_us.is_not(None))
    op.execute(sa.update(_documents).where(removed).values(expires_us=-columns.due_us))
    op.drop_index("ix_documents_due", table_name="documents")
    op.drop_column("documents", "due_us")
