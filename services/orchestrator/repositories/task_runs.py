"""Tasks of executions in SQL."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.domain.execution import ExecutionError, TaskOutput, TaskRun, TaskState
from services.orchestrator.repositories.execution_rows import usage_columns, usage_of
from services.orchestrator.tables import task_runs


class TaskRunRepository:
    """The tasks of one execution."""

    def __init__(self, connection: AsyncConnection, execution_id: str) -> None:
        self._connection = connection
        self._execution_id = execution_id

    async def insert(self, runs: Sequence[TaskRun]) -> None:
        """Store new tasks."""
        await self._connection.execute(
            insert(task_runs),
            [
                {
                    "execution_id": self._execution_id,
                    "task_index": run.task_index,
                    "name": run.name,
                    "state": run.state,
                    "attempt": run.attempt,
                    "copied": run.copied,
                    "output": None if run.output is None else to_document(run.output),
                    "started_at": run.started_at,
                    "ended_at": run.ended_at,
                    **usage_columns(run.usage),
                }
                for run in runs
            ],
        )

    async def list(self, *, after: int | None = None, limit: int | None = None) -> list[TaskRun]:
        """Return the tasks in the crew's order: all, or up to `limit` whose index is above `after`."""
        query = select(task_runs).where(task_runs.c.execution_id == self._execution_id)
        if after is not None:
            query = query.where(task_runs.c.task_index > after)
        rows = await self._connection.execute(query.order_by(task_runs.c.task_index).limit(limit))
        return [_task_run(row) for row in rows]

    async def names(self) -> Sequence[str]:
        """Return the names of the crew's tasks, in its order."""
        rows = await self._connection.execute(
            select(task_runs.c.name)
            .where(task_runs.c.execution_id == self._execution_id, task_runs.c.task_index >= 0)
            .order_by(task_runs.c.task_index)
        )
        return rows.scalars().all()


async def read_named(
    connection: AsyncConnection, execution_ids: Collection[str], names: Collection[str]
) -> dict[tuple[str, str], TaskRun]:
    """Return the tasks of these names in several executions, by the ids of these and their names."""
    rows = await connection.execute(
        select(task_runs).where(
            task_runs.c.execution_id.in_(execution_ids), task_runs.c.name.in_(names), task_runs.c.task_index >= 0
        )
    )
    return {(row.execution_id, row.name): _task_run(row) for row in rows}


def _task_run(row: Row[Any]) -> TaskRun:
    columns = row._mapping  # noqa: SLF001 - the documented way to read a row by name
    output, error = columns["output"], columns["error"]
    return TaskRun(
        execution_id=columns["execution_id"],
        task_index=columns["task_index"],
        name=columns["name"],
        state=TaskState(columns["state"]),
        attempt=columns["attempt"],
        usage=usage_of(columns),
        copied=columns["copied"],
        output=None if output is None else from_document(TaskOutput, output),
        error=None if error is None else from_document(ExecutionError, error),
        started_at=columns["started_at"],
        ended_at=columns["ended_at"],
    )
