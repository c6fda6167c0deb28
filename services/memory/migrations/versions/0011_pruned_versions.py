"""Find the versions of a group that are to be pruned without reading those of others.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLES = ("unified_versions", "short_term_versions", "long_term_versions", "entity_versions")


def upgrade() -> None:
    """Put the group first in the index of ends."""
    _index("group_id", "ended_us")


def downgrade() -> None:
    """Index the ends of all groups together."""
    _index("ended_us")


def _index(*columns: str) -> None:
    for name in _TABLES:
        op.drop_index(f"ix_{name}_ended", name)
        op.create_index(f"ix_{name}_ended", name, list(columns), unique=False)
