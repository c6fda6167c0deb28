"""Whether PostgreSQL has as many connections as the processes of an installation may open together.

Each pool names itself and its bound to the server, as `application_name`: whoever asks sees all processes there are.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Select, literal_column, select, text

from services.common.db.access import DatabaseAccess

_NAME = re.compile(r"coxswain-[a-z]+-[0-9a-f]{8}-(\d+)")
# What sessions of other roles do is hidden from a role without privileges, their kind included.
_SESSIONS = cast(
    "Select[Any]",
    select(
        literal_column("coalesce(application_name, '')").label("name"),
        literal_column("count(*)").label("sessions"),
        literal_column(
            "current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
            " - coalesce(current_setting('reserved_connections', true)::int, 0)"
        ).label("allowed"),
    )
    .select_from(text("pg_catalog.pg_stat_activity"))
    .where(
        text("usesysid IS NOT NULL AND datid IS NOT NULL"),
        text("coalesce(backend_type, 'client backend') = 'client backend'"),
    )
    .group_by(text("1")),
)


def pool_name(schema: str, bound: int) -> str:
    """Return a name, like no other, for the sessions of pools that open up to `bound` connections together."""
    return f"coxswain-{schema}-{secrets.token_hex(4)}-{bound}"


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    """What a server of PostgreSQL has, and what is wanted of it. All numbers are of connections."""

    allowed: int
    """As many as the server gives to roles that are not superusers."""
    pooled: int
    """As many as the pools of Coxswain's processes that are there may open together."""
    others: int
    """Those that are open beside the pools: for hints, for leases, and of other programs."""

    @property
    def missing(self) -> int:
        """By how many the server has too few; 0: it has enough."""
        return max(0, self.pooled + self.others - self.allowed)


async def read_connection_budget(database: DatabaseAccess) -> ConnectionBudget | None:
    """Return what a database's server has and what is wanted of it; None where connections are not counted (SQLite).

    Behind a pooler, which opens connections by rules of its own, the numbers are those of its sessions.

    Raises:
        Unavailable: the database does not answer.
    """
    if database.dialect != "postgresql":
        return None
    pooled = others = allowed = 0
    for row in await database.fetch(_SESSIONS):
        allowed = row["allowed"]
        named = _NAME.fullmatch(row["name"])
        if named:
            pooled += int(named[1])
        else:
            others += row["sessions"]
    return ConnectionBudget(allowed, pooled, others)
