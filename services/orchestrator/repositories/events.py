"""Events of executions in SQL."""

import functools
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningUpdate

from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.event import CHUNK, NewEvent, StoredEvent
from services.orchestrator.domain.execution import ExecutionState, Success, Usage
from services.orchestrator.repositories.execution_rows import added_usage, used_parameters
from services.orchestrator.repositories.group_events import GroupEventRepository
from services.orchestrator.tables import execution_events, executions

# Statements of every transaction of a host: SQLAlchemy takes longer to build one than to run it.
# RETURNING has many rows go in one statement.
_INSERT = insert(execution_events).returning(execution_events.c.sequence)


@functools.cache
def _raise_sequence(*, fenced: bool, used: bool, succeeded: bool) -> ReturningUpdate[tuple[int, str]]:
    """Return the statement that takes an execution's next sequences, adds what calls have used, and ends it.

    The row stays locked until the transaction ends: sequences become visible in their order.
    """
    claim = update(executions).where(executions.c.id == bindparam("of_execution"))
    if fenced:
        claim = claim.where(executions.c.epoch == bindparam("of_epoch"), executions.c.ended_at.is_(None))
    if used:
        claim = claim.values(added_usage(executions))
    if succeeded:
        claim = claim.values(
            state=ExecutionState.SUCCEEDED,
            result=bindparam("final_result", type_=executions.c.result.type),
            model_waits=null(),
            ended_at=bindparam("ends_at", type_=executions.c.ended_at.type),
            ready=False,
        )
    raised = claim.values(last_sequence=executions.c.last_sequence + bindparam("count"))
    return raised.returning(executions.c.last_sequence, executions.c.group_id)


class EventRepository:
    """What happened in executions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(
        self,
        execution_id: str,
        events: Sequence[NewEvent],
        *,
        epoch: int | None = None,
        used: Usage | None = None,
        succeeded: Success | None = None,
    ) -> int | None:
        """Store events in order and return the sequence of the last; add to the execution what calls have used.

        With `succeeded` the execution ends with its result. With `epoch` (a worker's claim) nothing is stored, and None
        returned, once the execution has another one or has ended.
        """
        parameters: dict[str, Any] = {"of_execution": execution_id, "count": len(events)}
        if epoch is not None:
            parameters["of_epoch"] = epoch
        if used is not None:
            parameters |= used_parameters(used)
        if succeeded is not None:
            result = None if succeeded.result is None else to_document(succeeded.result)
            parameters |= {"final_result": result, "ends_at": succeeded.at}
        statement = _raise_sequence(fenced=epoch is not None, used=used is not None, succeeded=succeeded is not None)
        row = (await self._connection.execute(statement, parameters)).first()
        if row is None:
            return None
        if events:
            await self.store(row.group_id, execution_id, row.last_sequence, events)
        last: int = row.last_sequence
        return last

    async def store(self, group_id: str, execution_id: str, last: int, events: Sequence[NewEvent]) -> None:
        """Store events in order, the last one with the sequence `last`, to which the execution has been raised."""
        numbered = list(enumerate(events, start=last - len(events) + 1))
        now = utc_now()
        await self._connection.execute(
            _INSERT,
            [
                {
                    "execution_id": execution_id,
                    "sequence": sequence,
                    "time": event.time or now,
                    "kind": event.kind,
                    "task_index": event.task_index,
                    "task_name": event.task_name,
                    "attempt": event.attempt,
                    "call_id": event.call_id,
                    "payload": event.payload,
                }
                for sequence, event in numbered
            ],
        )
        of_group = [(sequence, event) for sequence, event in numbered if event.summary is not None]
        if of_group:
            await GroupEventRepository(self._connection).append(group_id, execution_id, of_group)

    async def prune_chunks(self, execution_id: str, call_id: str, first: int) -> None:
        """Remove the chunks of a model's answer, all of which come after a sequence."""
        await self._connection.execute(
            delete(execution_events).where(
                execution_events.c.execution_id == execution_id,
                execution_events.c.sequence > first,
                execution_events.c.kind == CHUNK,
                execution_events.c.call_id == call_id,
            )
        )


class EventReader:
    """Reads events. Each read is one SELECT beside any transaction: every hint to a watcher leads to one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, execution_id: str, sequence: int, limit: int, *, chunks: bool = True) -> list[StoredEvent]:
        """Return up to `limit` events after a sequence, in order, with or without chunks of models' answers."""
        conditions = [execution_events.c.sequence > sequence]
        if not chunks:
            conditions.append(execution_events.c.kind != CHUNK)
        return await self._read(execution_id, conditions, limit)

    async def of_kinds_after(
        self, execution_id: str, sequence: int, kinds: Collection[str], limit: int
    ) -> list[StoredEvent]:
        """Return up to `limit` events of some kinds after a sequence, in order."""
        conditions = [execution_events.c.sequence > sequence, execution_events.c.kind.in_(kinds)]
        return await self._read(execution_id, conditions, limit)

    async def of_kinds(self, execution_id: str, before: int, kinds: Collection[str]) -> list[StoredEvent]:
        """Return the events of some kinds before a sequence, in order."""
        conditions = [execution_events.c.sequence < before, execution_events.c.kind.in_(kinds)]
        return await self._read(execution_id, conditions)

    async def newest(self, execution_ids: Collection[str]) -> dict[str, int]:
        """Return the newest sequence of each of these executions."""
        rows = await self._database.fetch(
            select(executions.c.id, executions.c.last_sequence).where(executions.c.id.in_(execution_ids))
        )
        return {row["id"]: row["last_sequence"] for row in rows}

    async def has(self, execution_id: str, after_sequence: int, event: NewEvent) -> bool:
        """Return whether an event is among those after a sequence."""
        return bool(
            await self._database.fetch(
                select(execution_events.c.sequence)
                .where(
                    execution_events.c.execution_id == execution_id,
                    execution_events.c.sequence > after_sequence,
                    execution_events.c.kind == event.kind,
                    execution_events.c.time == event.time,
                    execution_events.c.payload == event.payload,
                )
                .limit(1)
            )
        )

    async def _read(
        self, execution_id: str, conditions: Sequence[ColumnElement[bool]], limit: int | None = None
    ) -> list[StoredEvent]:
        query = select(
            execution_events.c.sequence,
            execution_events.c.time,
            execution_events.c.kind,
            execution_events.c.payload,
            execution_events.c.task_index,
            execution_events.c.task_name,
            execution_events.c.attempt,
        )
        query = query.where(execution_events.c.execution_id == execution_id, *conditions)
        rows = await self._database.fetch(query.order_by(execution_events.c.sequence).limit(limit))
        return [StoredEvent(**row) for row in rows]
