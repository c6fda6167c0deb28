"""Events of whole groups in SQL, in the order of their commits.

An id is given out before its transaction commits, so on PostgreSQL a later id may be committed earlier. There a row
also has the number of its transaction, and is read only when every transaction up to that one has ended: nothing can
come before it any more. On SQLite transactions that write follow each other.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    insert,
    literal,
    select,
    table,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.event import NewEvent, StoredEvent
from services.orchestrator.domain.group_event import GroupEvent, Position
from services.orchestrator.domain.schedule import Schedule
from services.orchestrator.tables import executions, group_events, webhooks

_LARGEST_ID = 2**63 - 1
_sqlite_sequence = table("sqlite_sequence", column("name", Text), column("seq", BigInteger))


@functools.cache
def _insert(dialect: str) -> ReturningInsert[tuple[int]]:
    """Return the statement that stores events, built once. RETURNING has many rows go in one statement."""
    transaction_id = _number(func.pg_current_xact_id()) if dialect == "postgresql" else literal(0)
    return insert(group_events).values(transaction_id=transaction_id).returning(group_events.c.id)


class GroupEventRepository:
    """What happened in the executions of groups."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(self, group_id: str, execution_id: str, events: Sequence[tuple[int, NewEvent]]) -> None:
        """Store events of an execution, each with its sequence there, in the transaction that stores them there."""
        await self._store([_row(event, sequence, group_id, execution_id) for sequence, event in events])

    async def append_of_schedule(self, schedule: Schedule, crew_id: str, event: NewEvent) -> None:
        """Store an event of a schedule in the transaction that changes it; `crew_id` is empty for an unknown crew."""
        of_schedule = {"schedule_id": schedule.id, "crew_id": crew_id, "labels": dict(schedule.start.labels)}
        await self._store([_row(event, 0, schedule.group_id, None) | of_schedule])

    async def _store(self, rows: list[dict[str, Any]]) -> None:
        await self._connection.execute(_insert(self._connection.dialect.name), rows)


def _row(event: NewEvent, sequence: int, group_id: str, execution_id: str | None) -> dict[str, Any]:
    now = utc_now()
    return {
        "group_id": group_id,
        "execution_id": execution_id,
        "sequence": sequence,
        "time": event.time or now,
        "kind": event.kind,
        "task_index": event.task_index,
        "task_name": event.task_name,
        "attempt": event.attempt,
        "payload": event.summary,
        "stored_at": now,
    }


@dataclass(frozen=True, slots=True)
class Read:
    """What one read has found."""

    events: list[GroupEvent]
    held_back: bool
    """Whether there are more, to be read when older transactions have ended."""


class GroupEventReader:
    """Reads the events of groups, each read with one SELECT beside any transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._on_postgres = database.dialect == "postgresql"

    async def settled(self) -> Position:
        """Return a position before which nothing can be stored any more; it never goes back."""
        if self._on_postgres:
            [row] = await self._database.fetch(select(_oldest_transaction().label("oldest")))
            return Position(row["oldest"] - 1, _LARGEST_ID)
        rows = await self._database.fetch(
            select(_sqlite_sequence.c.seq).where(_sqlite_sequence.c.name == group_events.name)
        )
        return Position(0, rows[0]["seq"] if rows else 0)

    async def after(self, group_id: str, position: Position, limit: int) -> Read:
        """Return up to `limit` events of a group after a position, in the order of their commits."""
        query = self._after(group_id, position)
        rows = await self._database.fetch(query.order_by(group_events.c.transaction_id, group_events.c.id).limit(limit))
        events = [_event(row) for row in takewhile(lambda row: row["settled"], rows)]
        return Read(events, held_back=len(events) < len(rows))

    async def of_execution(self, group_id: str, execution_id: str, after: int, limit: int) -> list[GroupEvent]:
        """Return up to `limit` events of an execution after a sequence, in order."""
        query = self._with_execution().where(
            group_events.c.group_id == group_id,
            group_events.c.execution_id == execution_id,
            group_events.c.sequence > after,
        )
        rows = await self._database.fetch(query.order_by(group_events.c.sequence).limit(limit))
        return [_event(row) for row in rows]

    async def overtaken(self, group_id: str, position: Position, newest: Mapping[str, int]) -> list[GroupEvent]:
        """Return events after a position that precede, in their executions, the sequences in `newest`.

        A transaction may have its number already when it waits for another one that changes the same execution: then
        the events that were there first have the higher position. They have been committed.
        """
        if not self._on_postgres or not newest:
            return []
        given = (
            func.unnest(
                bindparam("execution_ids", list(newest), ARRAY(group_events.c.execution_id.type)),
                bindparam("sequences", list(newest.values()), ARRAY(BigInteger)),
            )
            .table_valued("execution_id", "sequence", name="given")
            .render_derived()
        )
        earlier = (group_events.c.execution_id == given.c.execution_id) & (
            group_events.c.sequence < cast(given.c.sequence, BigInteger)
        )
        rows = await self._database.fetch(self._after(group_id, position).join(given, earlier))
        return [_event(row) for row in rows]

    def _after(self, group_id: str, position: Position) -> Select[Any]:
        return self._with_execution().where(
            group_events.c.group_id == group_id,
            tuple_(group_events.c.transaction_id, group_events.c.id) > tuple_(*map(literal, position)),
        )

    def _with_execution(self) -> Select[Any]:
        return select(
            group_events,
            executions.c.crew_id.label("execution_crew_id"),
            executions.c.crew_name,
            executions.c.schedule_id.label("started_by"),
            executions.c.batch_id,
            executions.c.labels.label("execution_labels"),
            is_settled(self._database.dialect).label("settled"),
        ).select_from(group_events.outerjoin(executions, executions.c.id == group_events.c.execution_id))


async def adopt_events(database: Database) -> int:
    """Put events that another database server has stored before all others, and return how many there were.

    A server counts its transactions. In a database that was restored on a new one, rows would wait for numbers that
    are far away.
    """
    if database.dialect != "postgresql":
        return 0
    newest = _number(func.pg_snapshot_xmax(func.pg_current_snapshot()))
    foreign = group_events.c.transaction_id >= newest
    first_undelivered = (
        select(func.min(group_events.c.id))
        .where(
            foreign,
            group_events.c.group_id == webhooks.c.group_id,
            tuple_(group_events.c.transaction_id, group_events.c.id)
            > tuple_(webhooks.c.position_transaction, webhooks.c.position_id),
        )
        .scalar_subquery()
    )
    behind_all = case((webhooks.c.position_transaction >= newest, _LARGEST_ID))
    position_id = func.coalesce(first_undelivered - 1, behind_all)
    async with database.write() as connection:
        # A webhook goes on before the first of them that it has not delivered, or behind all. What it meets again has
        # its delivery. A process that has read on from the former position loses its claim.
        await connection.execute(
            update(webhooks)
            .where(webhooks.c.sequence.is_(None), position_id.is_not(None))
            .values(position_transaction=0, position_id=position_id, sender="", sender_until=None)
        )
        return (await connection.execute(update(group_events).where(foreign).values(transaction_id=0))).rowcount


def is_settled(dialect: str) -> ColumnElement[bool]:
    """Return the condition that nothing can be stored any more before an event."""
    if dialect == "postgresql":
        return group_events.c.transaction_id < _oldest_transaction()
    return literal(1) == literal(1)


def _oldest_transaction() -> ColumnElement[int]:
    """Return the number of the oldest transaction that has not ended."""
    return _number(func.pg_snapshot_xmin(func.pg_current_snapshot()))


def _number(transaction: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(cast(transaction, Text), BigInteger)


def _event(row: dict[str, Any]) -> GroupEvent:
    return GroupEvent(
        position=Position(row["transaction_id"], row["id"]),
        stored_at=row["stored_at"],
        execution_id=row["execution_id"] or "",
        crew_id=row["execution_crew_id"] or row["crew_id"] or "",
        crew_name=row["crew_name"] or "",
        schedule_id=row["schedule_id"] or row["started_by"] or "",
        batch_id=row["batch_id"] or "",
        labels=row["execution_labels"] or row["labels"] or {},
        event=StoredEvent(
            sequence=row["sequence"],
            time=row["time"],
            kind=row["kind"],
            payload=row["payload"],
            task_index=row["task_index"],
            task_name=row["task_name"],
            attempt=row["attempt"],
        ),
    )
