"""The line of executions that wait for a worker host, in SQL.

The line is fair between groups: first comes who would be the first of its group to run, then the second ones, and so
on; among equals the one that waits longest. Within a group the lower priority goes first.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, Subquery, and_, bindparam, case, func, literal, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.orchestrator.domain.admission import Waiting
from services.orchestrator.domain.execution import ExecutionState, OverlapPolicy
from services.orchestrator.domain.queue_status import PlaceInLine, QueueLength
from services.orchestrator.tables import executions, running_limits

HELD = and_(executions.c.state == ExecutionState.RUNNING, executions.c.ready.is_(False))
"""A host has the execution; without that, a RUNNING one waits for another host to take it over."""


class AdmissionRepository:
    """Lets hosts take executions one host after the other, so that what they count stays true until they commit."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self) -> None:
        """Keep other hosts from taking executions until the transaction ends. SQLite has one writer anyway."""
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('coxswain-take-executions'))"))

    async def line(self, limit: int, without: Collection[str] = ()) -> list[Waiting]:
        """Return the first `limit` executions of the line; some keep their places but are left out."""
        rows = await self._connection.execute(_FIRST_IN_LINE, {"without": list(without), "limit": limit})
        return [Waiting(row.id, row.place, lost=row.state == ExecutionState.RUNNING) for row in rows]

    async def queue_length(self) -> QueueLength:
        """Return how much waits."""
        row = (await self._connection.execute(_LENGTH)).one()
        return QueueLength(row.length, row.groups, row.oldest_start)


def waiting_line() -> Subquery:
    """Return id, group, state, creation, `place` (see `Waiting`), `running_in_group` and `group_limit` of each waiting
    execution."""
    running = select(executions.c.group_id, func.count().label("running")).where(HELD).group_by(executions.c.group_id)
    held = running.subquery("held")
    running_in_group = func.coalesce(held.c.running, 0)
    in_group = func.row_number().over(
        partition_by=executions.c.group_id,
        order_by=(executions.c.priority, executions.c.created_at, executions.c.id),
    )
    return (
        select(
            executions.c.id,
            executions.c.group_id,
            executions.c.state,
            executions.c.created_at,
            (in_group + running_in_group).label("place"),
            running_in_group.label("running_in_group"),
            running_limits.c.max_running.label("group_limit"),
        )
        .outerjoin_from(executions, held, executions.c.group_id == held.c.group_id)
        .outerjoin(running_limits, executions.c.group_id == running_limits.c.group_id)
        .where(executions.c.ready.is_(True))
        .subquery("line")
    )


def fair_order(line: Subquery) -> tuple[ColumnElement[object], ...]:
    """Return what the line is ordered by."""
    return (line.c.place, line.c.created_at, line.c.id)


async def read_places(database: Database, execution_ids: Collection[str]) -> dict[str, PlaceInLine]:
    """Return where executions stand in the line; those that do not wait are left out. One statement for all."""
    line = waiting_line()
    ahead = func.row_number().over(order_by=fair_order(line)) - 1
    numbered = select(
        line.c.id, line.c.place, line.c.running_in_group, line.c.group_limit, ahead.label("ahead_count")
    ).subquery()
    running = select(func.count()).where(HELD).scalar_subquery()
    rows = await database.fetch(select(numbered, running.label("running")).where(numbered.c.id.in_(execution_ids)))
    return {row.pop("id"): PlaceInLine(**row) for row in rows}


async def read_any_waiting(database: Database, *, of_idle_groups: bool = False) -> bool:
    """Return whether an execution waits, or one of a group that has none running.

    Hosts ask all the time: one statement needs no transaction, and keeps no other host from taking.
    """
    return bool(await database.fetch(_ANY_OF_IDLE_GROUPS if of_idle_groups else _ANY_WAITING))


async def read_first_in_line(database: Database) -> str | None:
    """Return the first execution of the line that its group's own limit lets run."""
    rows = await database.fetch(_FIRST_IN_LINE, {"without": [], "limit": 1})
    return rows[0]["id"] if rows else None


def _first_in_line() -> Select[Any]:
    line = waiting_line()
    return (
        select(line.c.id, line.c.place, line.c.state)
        .where(line.c.id.not_in(bindparam("without", expanding=True)))
        .where(or_(line.c.group_limit.is_(None), line.c.place <= line.c.group_limit))
        .order_by(*fair_order(line))
        .limit(bindparam("limit", type_=Integer))
    )


# Built once: hosts need them with each execution, and building them costs more than the database does.
_FIRST_IN_LINE = _first_in_line()
# Others were not ready from their creation on, and no column says since when they are.
_READY_SINCE_CREATION = and_(
    executions.c.state == ExecutionState.QUEUED,
    executions.c.started_at.is_(None),
    or_(
        executions.c.concurrency_key == "",
        executions.c.overlap_policy.in_([OverlapPolicy.ALLOW, OverlapPolicy.SKIP]),
    ),
)
_LENGTH_COLUMNS: list[ColumnElement[Any]] = [
    func.count().label("length"),
    func.count(executions.c.group_id.distinct()).label("groups"),
    func.min(case((_READY_SINCE_CREATION, executions.c.created_at))).label("oldest_start"),
]
_LENGTH = select(*_LENGTH_COLUMNS).where(executions.c.ready.is_(True))
_ANY_WAITING = select(literal(1).label("one")).where(executions.c.ready.is_(True)).limit(1)
_HELD_GROUPS = select(executions.c.group_id).where(HELD).correlate(None)
_ANY_OF_IDLE_GROUPS = _ANY_WAITING.where(executions.c.group_id.not_in(_HELD_GROUPS))
