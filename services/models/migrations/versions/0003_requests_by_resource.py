"""Name what a request made as every service does.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_REQUESTS = sa.table("requests", sa.column("method"))
_SHORT = "CreateModel"
_LONG = "/coxswain.models.v1.ModelService/CreateModel"


def upgrade() -> None:
    """Rename the column, make room for ids of other kinds, and name methods without their service."""
    with op.batch_alter_table("requests") as requests:
        requests.alter_column(
            "model_id",
            new_column_name="resource_id",
            existing_type=sa.String(length=64),
            type_=sa.String(length=128),
            existing_nullable=False,
        )
    op.execute(sa.update(_REQUESTS).where(_REQUESTS.c.method == _LONG).values(method=_SHORT))


def downgrade() -> None:
    """Take the change back."""
    op.execute(sa.update(_REQUESTS).where(_REQUESTS.c.method == _SHORT).values(method=_LONG))
    with op.batch_alter_table("requests") as requests:
        requests.alter_column(
            "resource_id",
            new_column_name="model_id",
            existing_type=sa.String(length=128),
            type_=sa.String(length=64),
            existing_nullable=False,
        )
