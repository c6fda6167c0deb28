"""Changes of an execution's tasks in SQL."""

import functools
from datetime import datetime
from typing import Any

from sqlalchemy import Update, bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import ExecutionError, TaskOutput, TaskState, Usage
from services.orchestrator.repositories.execution_rows import added_usage, used_parameters
from services.orchestrator.tables import task_runs


@functools.cache
def _change(columns: frozenset[str], *, used: bool) -> Update:
    """Return the statement that changes a task, built once: SQLAlchemy takes longer to build it than to run it."""
    changed = update(task_runs).where(
        task_runs.c.execution_id == bindparam("of_execution"), task_runs.c.task_index == bindparam("at_index")
    )
    # With the type of its column: None in one of JSON is the null of JSON there, which IS NULL does not find.
    values = {name: bindparam(f"new_{name}", type_=task_runs.c[name].type) for name in columns}
    return changed.values(values | (added_usage(task_runs) if used else {}))


class TaskChanges:
    """What changes in the tasks of one execution within a transaction. `store` has to be called before its end.

    A small task begins, uses a model and ends in one transaction: what follows each other in one task is one statement.
    """

    def __init__(self, connection: AsyncConnection, execution_id: str) -> None:
        self._connection = connection
        self._execution_id = execution_id
        self._index: int | None = None
        # What is not stored yet, of the task at `_index`.
        self._values: dict[str, Any] = {}
        self._used = Usage()

    async def start(self, index: int, attempt: int, at: datetime) -> None:
        """Note that an attempt at a task begins."""
        await self._change(index, state=TaskState.RUNNING, attempt=attempt, started_at=at, ended_at=None, error=None)

    async def finish(self, index: int, output: TaskOutput, at: datetime) -> None:
        """Store a task's result."""
        await self._change(index, state=TaskState.SUCCEEDED, output=to_document(output), ended_at=at)

    async def skip(self, index: int, at: datetime) -> None:
        """Note that a task is not done."""
        await self._change(index, state=TaskState.SKIPPED, ended_at=at)

    async def fail(self, index: int, error: ExecutionError, at: datetime) -> None:
        """Store why a task failed."""
        await self._change(index, state=TaskState.FAILED, error=to_document(error), ended_at=at)

    async def wait_for_answer(self, index: int, output: TaskOutput | None = None) -> None:
        """Note that a task waits for people, and the result that they are asked about if it is about that."""
        result = {} if output is None else {"output": to_document(output)}
        await self._change(index, state=TaskState.WAITING_FOR_ANSWER, **result)

    async def add_usage(self, index: int, usage: Usage) -> None:
        """Add what a model call has used."""
        await self._change(index)
        self._used += usage

    async def park(self) -> None:
        """Have tasks that are at work start again when their execution is woken."""
        await self.store()
        await self._connection.execute(
            update(task_runs)
            .where(task_runs.c.execution_id == self._execution_id, task_runs.c.state == TaskState.RUNNING)
            .values(state=TaskState.PENDING)
        )

    async def store(self) -> None:
        """Store what is not stored yet."""
        index, values, used = self._index, self._values, self._used
        self._index, self._values, self._used = None, {}, Usage()
        if not values and used == Usage():
            return
        parameters: dict[str, Any] = {"of_execution": self._execution_id, "at_index": index}
        if used != Usage():
            parameters |= used_parameters(used)
        parameters |= {f"new_{name}": value for name, value in values.items()}
        statement = _change(frozenset(values), used=used != Usage())
        await self._connection.execute(statement, parameters)

    async def _change(self, index: int, **values: object) -> None:
        if index != self._index:
            await self.store()
            self._index = index
        self._values |= values
