"""Tell free models from those without a known price, prices of cached input, an input limit, revisions.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OLD = ("input_cost_per_million_tokens", "output_cost_per_million_tokens")
_NEW = ("cached_input_cost_per_million_tokens", "cache_write_cost_per_million_tokens")


def upgrade() -> None:
    """Let prices be absent: where a model had none, 0 stood for an unknown one.

    Columns are replaced rather than altered: on SQLite that would copy the table, and dropping the first one would
    remove the rows that refer to it.
    """
    for column in _OLD:
        op.alter_column("models", column, new_column_name=f"former_{column}")
        op.add_column("models", sa.Column(column, sa.Float(), nullable=True))
    op.execute(_restored().where(sa.or_(*(sa.column(f"former_{column}") > 0 for column in _OLD))))
    for column in _OLD:
        op.drop_column("models", f"former_{column}")
    for column in _NEW:
        op.add_column("models", sa.Column(column, sa.Float(), nullable=True))
    op.add_column("models", sa.Column("max_input_tokens", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("models", sa.Column("revision", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    """Take the change back."""
    op.drop_column("models", "revision")
    op.drop_column("models", "max_input_tokens")
    for column in _NEW:
        op.drop_column("models", column)
    for column in _OLD:
        op.alter_column("models", column, new_column_name=f"former_{column}")
        op.add_column("models", sa.Column(column, sa.Float(), nullable=False, server_default="0"))
    op.execute(_restored())
    for column in _OLD:
        op.drop_column("models", f"former_{column}")


def _restored() -> sa.Update:
    """Return the statement that copies what the former columns hold."""
    models = sa.table("models", *(sa.column(name) for column in _OLD for name in (column, f"former_{column}")))
    return sa.update(models).values({column: sa.func.coalesce(models.c[f"former_{column}"], 0.0) for column in _OLD})
