"""Keep with each private record whose it is.

Revision ID: 0005
Revises: 0004
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from services.common.db.portions import portions

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = "unified_records"


def upgrade() -> None:
    """Add the owner: as the record's envelope has it, else the agent that is its source."""
    with op.batch_alter_table(_TABLE, schema=None) as batch_op:
        batch_op.add_column(sa.Column("owner", sa.String(length=600), nullable=False, server_default=""))
    names = ("id", "owner", "source", "metadata")
    table = sa.table(_TABLE, sa.column("private", sa.Boolean), *map(sa.column, names))
    connection = op.get_bind()
    for rows in portions(connection, table, ["source", "metadata"], table.c.private):
        owners: list[dict[str, Any]] = [{"row_id": row.id, "name": _owner(row.source, row.metadata)} for row in rows]
        connection.execute(
            sa.update(table).where(table.c.id == sa.bindparam("row_id")).values(owner=sa.bindparam("name")), owners
        )


def downgrade() -> None:
    """Drop the owners; the envelopes keep them."""
    with op.batch_alter_table(_TABLE, schema=None) as batch_op:
        batch_op.drop_column("owner")


def _owner(source: str, metadata: str) -> str:
    owner: str = json.loads(metadata).get("_coxswain", {}).get("owner", "")
    return owner or (f"agent:{source}" if source else "")
