"""Keep requests in a table of their own, as the other services do.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UNIQUE = "uq_memory_backends_group_id_request_subject_request_id"


def upgrade() -> None:
    """Move what the rows of backends know of the requests that created them."""
    op.create_table(
        "requests",
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("subject", sa.String(length=512), nullable=False),
        sa.Column("method", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("resource_id", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("group_id", "subject", "method", "request_id", name="pk_requests"),
    )
    op.create_index("ix_requests_created_at", "requests", ["created_at"], unique=False)
    op.execute(
        "INSERT INTO requests (group_id, subject, method, request_id, request_hash, resource_id, created_at) "
        "SELECT group_id, request_subject, 'CreateMemoryBackend', request_id, request_hash, id, created_at "
        "FROM memory_backends WHERE request_id IS NOT NULL"
    )
    with op.batch_alter_table("memory_backends", schema=None) as batch_op:
        batch_op.drop_constraint(_UNIQUE, type_="unique")
        for column in ("request_subject", "request_id", "request_hash"):
            batch_op.drop_column(column)


def downgrade() -> None:
    """Move them back to the rows they created."""
    with op.batch_alter_table("memory_backends", schema=None) as batch_op:
        batch_op.add_column(sa.Column("request_subject", sa.String(length=512), nullable=True))
        batch_op.add_column(sa.Column("request_id", sa.String(length=128), nullable=True))
        batch_op.add_column(sa.Column("request_hash", sa.String(length=64), nullable=True))
    for column, source in (
        ("request_subject", "subject"),
        ("request_id", "request_id"),
        ("request_hash", "request_hash"),
    ):
        op.execute(
            f"UPDATE memory_backends SET {column} = "  # noqa: S608 - names of columns, written above
            f"(SELECT {source} FROM requests WHERE resource_id = memory_backends.id AND method = 'CreateMemoryBackend')"
        )
    with op.batch_alter_table("memory_backends", schema=None) as batch_op:
        batch_op.create_unique_constraint(_UNIQUE, ["group_id", "request_subject", "request_id"])
    op.drop_index("ix_requests_created_at", table_name="requests")
    op.drop_table("requests")
