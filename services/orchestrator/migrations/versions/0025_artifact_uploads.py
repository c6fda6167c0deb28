"""Keep files of tools until hosts take them.

Revision ID: 0025
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import UtcDateTime

revision = "0025"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the files."""
    op.create_table(
        "artifact_uploads",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("execution_id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("media_type", sa.String(length=256), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"],
            ["executions.id"],
            name=op.f("fk_artifact_uploads_execution_id_executions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifact_uploads")),
    )
    op.create_index("ix_artifact_uploads_execution_id", "artifact_uploads", ["execution_id"], unique=False)
    op.create_index("ix_artifact_uploads_created_at", "artifact_uploads", ["created_at"], unique=False)
    op.create_table(
        "artifact_upload_chunks",
        sa.Column("upload_id", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["artifact_uploads.id"],
            name=op.f("fk_artifact_upload_chunks_upload_id_artifact_uploads"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("upload_id", "position", name=op.f("pk_artifact_upload_chunks")),
    )


def downgrade() -> None:
    """Drop the files."""
    op.drop_table("artifact_upload_chunks")
    op.drop_table("artifact_uploads")
