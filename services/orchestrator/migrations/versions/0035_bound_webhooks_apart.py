"""Keep webhooks of single executions from the release before, and find their events by sequence.

Revision ID: 0035
Revises: 0034
"""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_FORMER_ACTIVE = "NOT paused AND NOT finished"
_ACTIVE = "NOT (paused AND held) AND NOT finished"


def upgrade() -> None:
    """Add a column and an index, and replace another one."""
    # First: it takes longest, and from the next statement on nobody else may use the other table. The index that it
    # stands for is dropped a release later: to drop it here would wait for all who read events, with webhooks held.
    op.create_index("ix_group_events_execution_id_sequence", "group_events", ["execution_id", "sequence"], unique=False)
    op.add_column("webhooks", sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.execute("UPDATE webhooks SET held = paused WHERE sequence IS NOT NULL")
    op.execute("UPDATE webhooks SET paused = true WHERE sequence IS NOT NULL")
    op.drop_index("ix_webhooks_group_id", table_name="webhooks")
    _active_index(_ACTIVE)


def downgrade() -> None:
    """Put them back."""
    # Where this revision ran in its former state the index was dropped.
    op.create_index("ix_group_events_execution_id", "group_events", ["execution_id"], unique=False, if_not_exists=True)
    op.drop_index("ix_group_events_execution_id_sequence", table_name="group_events")
    op.drop_index("ix_webhooks_group_id", table_name="webhooks")
    op.execute("UPDATE webhooks SET paused = held WHERE sequence IS NOT NULL")
    op.drop_column("webhooks", "held")
    _active_index(_FORMER_ACTIVE)


def _active_index(condition: str) -> None:
    where = sa.text(condition)
    op.create_index(
        "ix_webhooks_group_id", "webhooks", ["group_id"], unique=False, sqlite_where=where, postgresql_where=where
    )
