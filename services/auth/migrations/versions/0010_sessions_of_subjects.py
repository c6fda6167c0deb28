"""Find the sessions of a subject without reading all.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index(op.f("ix_credential_sessions_subject"), "credential_sessions", ["subject"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index(op.f("ix_credential_sessions_subject"), table_name="credential_sessions")
