"""Keep with each private record whose it is.

Revision ID: 0005
Revises: 0004
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = "unified_records"
_AT_ONCE = 200


def upgrade() -> None:
    """Add the owner: as the record's envelope has it, else the agent that is its source."""
    with op.batch_alter_table(_TABLE, schema=None) as batch_op:
        batch_op.add_column(sa.Column("owner", sa.String(length=600), nullable=False, server_default=""))
    names = ("id", "owner", "source", "metadata")
    table = sa.table(_TABLE, sa.column("private", sa.Boolean), *map(sa.column, names))
    connection, last = op.get_bind(), ""
    while True:
        statement = sa.select(table.c.id, table.c.source, table.c.metadata).where(table.c.private, table.c.id > last)
        rows = connection.execute(statement.order_by(table.c.id).limit(_AT_ONCE)).all()
        if not rows:
            return
        owners: list[dict[str, Any]] = [{"row_id": row.id, "name": _owner(row.source, row.metadata)} for row in rows]
        connection.execute(
            sa.update(table).where(table.c.id == sa.bindparam("row_id")).values(owner=sa.bindparam("name")), owners
        )
        last = rows[-1].id


def downgrade() -> None:
    """Drop the owners; the envelopes keep them."""
    with op.batch_alter_table(_TABLE, schema=None) as batch_op:
        batch_op.drop_column("owner")


def _owner(source: str, metadata: str) -> str:
    owner: str = json.loads(metadata).get("_coxswain", {}).get("owner", "")
    return owner or (f"agent:{source}" if source else "")
