"""Find expired records of every kind by an index.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_KINDS = ("unified", "long_term", "entity", "document")


def upgrade() -> None:
    """Add the index that short-term memories have."""
    for kind in _KINDS:
        op.create_index(f"ix_{kind}_records_expiry", f"{kind}_records", ["expires_us"], unique=False)


def downgrade() -> None:
    """Drop them."""
    for kind in _KINDS:
        op.drop_index(f"ix_{kind}_records_expiry", table_name=f"{kind}_records")
