"""Batches in SQL."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.batch import Batch, BatchFailure, BatchProgress
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.execution import ExecutionError, ExecutionState, Start, Usage
from services.orchestrator.tables import batch_inputs, batches, executions

_PART = 100
_FAILURES = 10


class BatchRepository:
    """Batches, and the inputs of which no execution has been made."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, batch: Batch, inputs: Sequence[Mapping[str, Any]]) -> None:
        """Store a new batch with its inputs."""
        await self._connection.execute(
            insert(batches).values(
                id=batch.id,
                group_id=batch.group_id,
                subject=batch.subject,
                crew_name=batch.crew_name,
                start=to_document(batch.start),
                max_parallel=batch.max_parallel,
                total=batch.total,
                started=0,
                grant_id=batch.grant_id,
                grant_open=True,
                created_at=batch.created_at,
            )
        )
        parts = [
            {"batch_id": batch.id, "part": first // _PART, "inputs": list(inputs[first : first + _PART])}
            for first in range(0, len(inputs), _PART)
        ]
        await self._connection.execute(insert(batch_inputs), parts)

    async def get(self, group_id: str, batch_id: str) -> Batch | None:
        """Return a batch of a group."""
        found = await self._connection.execute(
            select(batches).where(batches.c.id == batch_id, batches.c.group_id == group_id)
        )
        row = found.first()
        return None if row is None else _batch(row)

    async def lock(self, batch_id: str) -> Batch | None:
        """Return a batch of any group, and keep others from changing it until the transaction ends."""
        found = await self._connection.execute(select(batches).where(batches.c.id == batch_id).with_for_update())
        row = found.first()
        return None if row is None else _batch(row)

    async def page(self, group_id: str, before_id: str | None, limit: int) -> list[Batch]:
        """Return batches with an id below `before_id`, newest first."""
        query = select(batches).where(batches.c.group_id == group_id)
        if before_id is not None:
            query = query.where(batches.c.id < before_id)
        rows = await self._connection.execute(query.order_by(batches.c.id.desc()).limit(limit))
        return [_batch(row) for row in rows]

    async def open(self, after_id: str, limit: int) -> list[Batch]:
        """Return batches of all groups that have not ended, or whose grant has not been revoked, by id."""
        rows = await self._connection.execute(
            select(batches)
            .where(batches.c.grant_open.is_(True), batches.c.id > after_id)
            .order_by(batches.c.id)
            .limit(limit)
        )
        return [_batch(row) for row in rows]

    async def inputs(self, batch_id: str, index: int) -> Mapping[str, Any] | None:
        """Return the inputs at an index; None when an execution has been made of them."""
        found = await self._connection.execute(
            select(batch_inputs.c.inputs).where(
                batch_inputs.c.batch_id == batch_id, batch_inputs.c.part == index // _PART
            )
        )
        part = found.scalar_one_or_none()
        return None if part is None else part[index % _PART]

    async def active(self, batch_id: str) -> list[str]:
        """Return the ids of a batch's executions that have not ended."""
        rows = await self._connection.execute(
            select(executions.c.id)
            .where(executions.c.batch_id == batch_id, executions.c.batch_id != "", executions.c.ended_at.is_(None))
            .order_by(executions.c.id)
        )
        return list(rows.scalars())

    async def advance(self, batch: Batch) -> None:
        """Note that the next execution of a locked batch was made, and forget inputs that are used up."""
        started = batch.started + 1
        await self._connection.execute(update(batches).where(batches.c.id == batch.id).values(started=started))
        if started % _PART == 0 or started == batch.total:
            await self._forget_inputs(batch.id, (started - 1) // _PART)

    async def request_cancel(self, batch_id: str, at: datetime) -> None:
        """Note that a batch's cancellation was requested, and forget its inputs; the first time counts."""
        await self._connection.execute(
            update(batches)
            .where(batches.c.id == batch_id, batches.c.cancel_requested_at.is_(None))
            .values(cancel_requested_at=at)
        )
        await self._forget_inputs(batch_id)

    async def stop(self, batch_id: str, error: ExecutionError) -> None:
        """Note why no more executions can be made, and forget the inputs."""
        await self._connection.execute(update(batches).where(batches.c.id == batch_id).values(error=to_document(error)))
        await self._forget_inputs(batch_id)

    async def end(self, batch_id: str, at: datetime) -> None:
        """Note that the last execution of a batch has ended; the first time counts."""
        await self._connection.execute(
            update(batches).where(batches.c.id == batch_id, batches.c.ended_at.is_(None)).values(ended_at=at)
        )

    async def grant_revoked(self, batch_id: str) -> None:
        """Note that the grant of a batch that has ended is revoked."""
        await self._connection.execute(update(batches).where(batches.c.id == batch_id).values(grant_open=False))

    async def progress(self, group_id: str, found: Collection[Batch]) -> list[BatchProgress]:
        """Return batches of a group with what their executions have come to, without failures."""
        rows = await self._connection.execute(
            select(
                executions.c.batch_id,
                executions.c.state,
                func.count().label("number"),
                *(
                    func.sum(executions.c[name]).label(name)
                    for name in ("llm_calls", "input_tokens", "output_tokens", "cost")
                ),
            )
            .where(
                executions.c.group_id == group_id,
                executions.c.batch_id.in_([batch.id for batch in found]),
                executions.c.batch_id != "",
            )
            .group_by(executions.c.batch_id, executions.c.state)
        )
        counts: dict[str, dict[ExecutionState, int]] = {batch.id: {} for batch in found}
        usage = {batch.id: Usage() for batch in found}
        for row in rows:
            counts[row.batch_id][ExecutionState(row.state)] = row.number
            used = usage[row.batch_id]
            usage[row.batch_id] = Usage(
                used.llm_calls + int(row.llm_calls),
                used.input_tokens + int(row.input_tokens),
                used.output_tokens + int(row.output_tokens),
                used.cost + row.cost,
            )
        return [BatchProgress(batch, counts[batch.id], usage[batch.id]) for batch in found]

    async def failures(self, group_id: str, batch_id: str) -> list[BatchFailure]:
        """Return the first executions of a batch that failed."""
        rows = await self._connection.execute(
            select(executions.c.id, executions.c.batch_index, executions.c.error)
            .where(
                executions.c.group_id == group_id,
                executions.c.batch_id == batch_id,
                executions.c.batch_id != "",
                executions.c.state == ExecutionState.FAILED,
            )
            .order_by(executions.c.id)
            .limit(_FAILURES)
        )
        return [BatchFailure(row.id, row.batch_index, from_document(ExecutionError, row.error)) for row in rows]

    async def ended_executions(self, group_id: str, batch_id: str, limit: int) -> dict[str, bool]:
        """Return up to `limit` executions of a batch that have ended, and whether the grant of each is still open."""
        rows = await self._connection.execute(
            select(executions.c.id, executions.c.grant_open)
            .where(
                executions.c.group_id == group_id,
                executions.c.batch_id == batch_id,
                executions.c.batch_id != "",
                executions.c.ended_at.is_not(None),
            )
            .order_by(executions.c.id)
            .limit(limit)
        )
        return {row.id: row.grant_open for row in rows}

    async def delete(self, group_id: str, batch_id: str) -> bool:
        """Delete a batch that has ended, without its executions; return whether there was one."""
        deleted = await self._connection.execute(
            delete(batches).where(
                batches.c.id == batch_id, batches.c.group_id == group_id, batches.c.ended_at.is_not(None)
            )
        )
        return bool(deleted.rowcount)

    async def delete_ended(self, group_id: str, before: datetime, limit: int) -> None:
        """Delete up to `limit` batches of a group that ended before a time, without their executions."""
        old = select(batches.c.id).where(
            batches.c.group_id == group_id, batches.c.ended_at < before, batches.c.grant_open.is_(False)
        )
        await self._connection.execute(delete(batches).where(batches.c.id.in_(old.limit(limit))))

    async def _forget_inputs(self, batch_id: str, part: int | None = None) -> None:
        query = delete(batch_inputs).where(batch_inputs.c.batch_id == batch_id)
        await self._connection.execute(query if part is None else query.where(batch_inputs.c.part == part))


def _batch(row: Row[Any]) -> Batch:
    return Batch(
        id=row.id,
        group_id=row.group_id,
        subject=row.subject,
        crew_name=row.crew_name,
        start=from_document(Start, row.start),
        max_parallel=row.max_parallel,
        total=row.total,
        started=row.started,
        grant_id=row.grant_id,
        created_at=row.created_at,
        cancel_requested_at=row.cancel_requested_at,
        ended_at=row.ended_at,
        error=None if row.error is None else from_document(ExecutionError, row.error),
    )
