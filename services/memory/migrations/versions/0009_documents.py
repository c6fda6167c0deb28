"""Documents that are saved as a whole.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from services.common.db.types import JsonDocument

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the documents, and find the parts of one by an index."""
    op.create_table(
        "documents",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=128), nullable=False),
        sa.Column("backend_id", sa.String(length=64), nullable=True),
        sa.Column("document_id", sa.String(length=256), nullable=False),
        sa.Column("document", JsonDocument(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("last_revision", sa.BigInteger(), nullable=False),
        sa.Column("stale", JsonDocument(), nullable=False),
        sa.Column("subjects", JsonDocument(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["backend_id"],
            ["memory_backends.id"],
            name=op.f("fk_documents_backend_id_memory_backends"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_documents")),
    )
    op.create_index("ix_documents_group", "documents", ["group_id", "backend_id", "document_id"], unique=False)
    op.create_index("ix_documents_expiry", "documents", ["expires_us"], unique=False)
    op.create_index(
        "ix_document_records_parent", "document_records", ["namespace_id", "parent_document_id"], unique=False
    )


def downgrade() -> None:
    """Drop them; the parts stay as records."""
    op.drop_index("ix_document_records_parent", table_name="document_records")
    op.drop_index("ix_documents_expiry", table_name="documents")
    op.drop_index("ix_documents_group", table_name="documents")
    op.drop_table("documents")
