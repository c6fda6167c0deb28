"""Tasks of other systems in SQL."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, null, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.orchestrator.domain.a2a import TaskMessage, TaskRow, TaskState
from services.orchestrator.domain.execution import EARLIER_WAITING_FOR_ANSWER, Execution, ExecutionState
from services.orchestrator.repositories.execution_rows import to_execution
from services.orchestrator.tables import a2a_messages, a2a_tasks, executions, questions

_OF_EXECUTIONS: Mapping[TaskState, ColumnElement[bool]] = {
    TaskState.SUBMITTED: and_(executions.c.state == ExecutionState.QUEUED, executions.c.started_at.is_(None)),
    TaskState.WORKING: or_(
        executions.c.state.in_([ExecutionState.RUNNING, ExecutionState.WAITING_FOR_MODEL]),
        and_(executions.c.state == ExecutionState.QUEUED, executions.c.started_at.is_not(None)),
    ),
    TaskState.INPUT_REQUIRED: executions.c.state.in_([ExecutionState.WAITING_FOR_ANSWER, EARLIER_WAITING_FOR_ANSWER]),
    TaskState.AUTH_REQUIRED: executions.c.state == ExecutionState.WAITING_FOR_CREDENTIAL,
    TaskState.COMPLETED: executions.c.state == ExecutionState.SUCCEEDED,
    TaskState.FAILED: executions.c.state == ExecutionState.FAILED,
    TaskState.CANCELED: executions.c.state == ExecutionState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks of a group; None and empty fields choose all."""

    tenant: str = ""
    context_id: str = ""
    state: TaskState | None = None
    changed_since: datetime | None = None


class A2ATaskRepository:
    """Tasks and what was said about them."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, task: TaskRow) -> None:
        """Store a new task."""
        await self._connection.execute(
            insert(a2a_tasks).values(
                id=task.id,
                group_id=task.group_id,
                tenant=task.tenant,
                crew_id=task.crew_id,
                crew_revision=task.crew_revision,
                context_id=task.context_id,
                subject=task.subject,
                execution_id=task.execution_id,
                status_time=task.status_time,
                draft_state=task.draft_state,
                draft_inputs=null() if task.draft_inputs is None else dict(task.draft_inputs),
            )
        )

    async def get(self, group_id: str, task_id: str, tenant: str = "") -> TaskRow | None:
        """Return a task of a group, and of a tenant if one is given."""
        return await self._one(*_named(group_id, task_id, tenant))

    async def made_by(self, group_id: str, resource_id: str) -> TaskRow | None:
        """Return the task that has an id, or whose execution has it, or has asked the question of that id."""
        asked = select(questions.c.execution_id).where(questions.c.id == resource_id).scalar_subquery()
        return await self._one(
            a2a_tasks.c.group_id == group_id,
            or_(
                a2a_tasks.c.id == resource_id,
                a2a_tasks.c.execution_id == resource_id,
                a2a_tasks.c.execution_id == asked,
            ),
        )

    async def resume(self, ended_id: str, execution: Execution) -> None:
        """Make a task of an execution that goes on with an ended one, if that is one of a task."""
        ended = await self._one(a2a_tasks.c.execution_id == ended_id)
        if ended is not None:
            made = replace(
                ended,
                id=execution.id,
                crew_revision=execution.crew_revision,
                subject=execution.subject,
                execution_id=execution.id,
                status_time=execution.created_at,
            )
            await self.insert(made)

    async def of_executions(self, execution_ids: Collection[str]) -> dict[str, str]:
        """Return the ids of the tasks that have executions, by those of the executions."""
        query = select(a2a_tasks.c.execution_id, a2a_tasks.c.id).where(a2a_tasks.c.execution_id.in_(execution_ids))
        return {row.execution_id: row.id for row in await self._connection.execute(query)}

    async def lock(self, task_id: str) -> TaskRow | None:
        """Return a task, and keep others from changing it until the transaction ends."""
        query = select(a2a_tasks).where(a2a_tasks.c.id == task_id).with_for_update()
        row = (await self._connection.execute(query)).first()
        return None if row is None else _task(row)

    async def lock_with_execution(self, task: TaskRow) -> TaskRow | None:
        """Return a task as it is now, with a lock on its execution and one on it, in the order of all who take both.

        An execution that it was given meanwhile is not locked.
        """
        if task.execution_id is not None:
            await self._connection.execute(
                select(executions.c.id).where(executions.c.id == task.execution_id).with_for_update()
            )
        return await self.lock(task.id)

    async def fill(self, task_id: str, inputs: Mapping[str, Any]) -> None:
        """Store the inputs that a locked task without an execution has been given."""
        await self._connection.execute(
            update(a2a_tasks).where(a2a_tasks.c.id == task_id).values(draft_inputs=dict(inputs), status_time=utc_now())
        )

    async def start(self, task_id: str, execution_id: str) -> bool:
        """Give an open task its execution; return False where another call was faster."""
        started = await self._connection.execute(
            update(a2a_tasks)
            .where(
                a2a_tasks.c.id == task_id,
                a2a_tasks.c.execution_id.is_(None),
                a2a_tasks.c.draft_state == TaskState.INPUT_REQUIRED,
            )
            .values(execution_id=execution_id, draft_state=None, draft_inputs=null(), status_time=utc_now())
        )
        return bool(started.rowcount)

    async def cancel_draft(self, task_id: str) -> bool:
        """End an open task without an execution; return False where another call was faster."""
        ended = await self._connection.execute(
            update(a2a_tasks)
            .where(
                a2a_tasks.c.id == task_id,
                a2a_tasks.c.execution_id.is_(None),
                a2a_tasks.c.draft_state == TaskState.INPUT_REQUIRED,
            )
            .values(draft_state=TaskState.CANCELED, status_time=utc_now())
        )
        return bool(ended.rowcount)

    async def count_drafts(self, group_id: str) -> int:
        """Return how many tasks of a group wait for inputs."""
        waiting = select(func.count()).where(
            a2a_tasks.c.group_id == group_id,
            a2a_tasks.c.execution_id.is_(None),
            a2a_tasks.c.draft_state == TaskState.INPUT_REQUIRED,
        )
        return int((await self._connection.execute(waiting)).scalar_one())

    async def end_old_drafts(self, before: datetime, limit: int) -> int:
        """Cancel tasks that have waited for inputs since before a time, and remove those that were cancelled then.

        At most `limit` of each, the oldest first; return how many there were.
        """

        def old(state: TaskState) -> ColumnElement[bool]:
            return a2a_tasks.c.id.in_(
                select(a2a_tasks.c.id)
                .where(
                    a2a_tasks.c.execution_id.is_(None),
                    a2a_tasks.c.draft_state == state,
                    a2a_tasks.c.status_time < before,
                )
                .order_by(a2a_tasks.c.status_time)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )

        removed = await self._connection.execute(delete(a2a_tasks).where(old(TaskState.CANCELED)))
        cancelled = await self._connection.execute(
            update(a2a_tasks)
            .where(old(TaskState.INPUT_REQUIRED))
            .values(draft_state=TaskState.CANCELED, status_time=utc_now())
        )
        return removed.rowcount + cancelled.rowcount

    async def said(self, task_id: str) -> tuple[int, int]:
        """Return how many messages a task has, and how many bytes they have."""
        counted = await self._connection.execute(
            select(func.count(), func.coalesce(func.sum(func.length(a2a_messages.c.payload)), 0)).where(
                a2a_messages.c.task_id == task_id
            )
        )
        count, size = counted.one()
        return int(count), int(size)

    async def say(self, task_id: str, payload: bytes) -> None:
        """Store a message of a task that is locked or new."""
        last = select(func.coalesce(func.max(a2a_messages.c.number) + 1, 0)).where(a2a_messages.c.task_id == task_id)
        await self._connection.execute(
            insert(a2a_messages).values(
                task_id=task_id, number=last.scalar_subquery(), payload=payload, created_at=utc_now()
            )
        )

    async def messages(self, task_ids: Collection[str], newest: int | None = None) -> dict[str, list[TaskMessage]]:
        """Return the messages of tasks in their order, by the task's id; `newest`: so many of each at most."""
        if newest == 0:
            return {}
        query = select(a2a_messages).where(a2a_messages.c.task_id.in_(task_ids))
        if newest is not None:
            ages = (
                select(
                    a2a_messages.c.task_id,
                    a2a_messages.c.number,
                    func.row_number()
                    .over(partition_by=a2a_messages.c.task_id, order_by=a2a_messages.c.number.desc())
                    .label("age"),
                )
                .where(a2a_messages.c.task_id.in_(task_ids))
                .subquery()
            )
            query = query.join(
                ages, and_(ages.c.task_id == a2a_messages.c.task_id, ages.c.number == a2a_messages.c.number)
            ).where(ages.c.age <= newest)
        rows = await self._connection.execute(query.order_by(a2a_messages.c.task_id, a2a_messages.c.number))
        found: dict[str, list[TaskMessage]] = {}
        for row in rows:
            found.setdefault(row.task_id, []).append(TaskMessage(row.number, row.payload, row.created_at))
        return found

    async def page(
        self, group_id: str, chosen: TaskFilter, before: tuple[datetime, str] | None, limit: int
    ) -> list[TaskRow]:
        """Return chosen tasks whose status is older than a time and id, the newest status first."""
        query = select(a2a_tasks).outerjoin(executions, executions.c.id == a2a_tasks.c.execution_id)
        query = query.where(*_conditions(group_id, chosen))
        if before is not None:
            at, task_id = before
            # An index can begin at the first condition, and PostgreSQL finds none in the second.
            query = query.where(
                a2a_tasks.c.status_time <= at, or_(a2a_tasks.c.status_time < at, a2a_tasks.c.id < task_id)
            )
        rows = await self._connection.execute(
            query.order_by(a2a_tasks.c.status_time.desc(), a2a_tasks.c.id.desc()).limit(limit)
        )
        return [_task(row) for row in rows]

    async def count(self, group_id: str, chosen: TaskFilter) -> int:
        """Return how many tasks are chosen."""
        query = select(func.count()).select_from(a2a_tasks)
        if chosen.state is not None:
            query = query.outerjoin(executions, executions.c.id == a2a_tasks.c.execution_id)
        counted = await self._connection.execute(query.where(*_conditions(group_id, chosen)))
        return int(counted.scalar_one())

    async def of_context(self, group_id: str, tenant: str, context_id: str, limit: int) -> list[TaskRow]:
        """Return the newest tasks of a context with an agent, oldest first."""
        rows = await self._connection.execute(
            select(a2a_tasks)
            .where(
                a2a_tasks.c.group_id == group_id,
                a2a_tasks.c.context_id == context_id,
                a2a_tasks.c.tenant == tenant,
            )
            .order_by(a2a_tasks.c.id.desc())
            .limit(limit)
        )
        return [_task(row) for row in rows][::-1]

    async def executions(self, tasks: Sequence[TaskRow], *, results: bool) -> dict[str, Execution]:
        """Return the executions of tasks, by their own ids, without their inputs, and with or without results."""
        ids = [task.execution_id for task in tasks if task.execution_id is not None]
        left_out = {"inputs"} if results else {"inputs", "result"}
        columns = [column for column in executions.c if column.name not in left_out]
        rows = await self._connection.execute(select(*columns).where(executions.c.id.in_(ids)))
        return {row.id: to_execution(row) for row in rows}

    async def _one(self, *conditions: ColumnElement[bool]) -> TaskRow | None:
        row = (await self._connection.execute(select(a2a_tasks).where(*conditions))).first()
        return None if row is None else _task(row)


def _named(group_id: str, task_id: str, tenant: str) -> list[ColumnElement[bool]]:
    named = [a2a_tasks.c.group_id == group_id, a2a_tasks.c.id == task_id]
    return [*named, a2a_tasks.c.tenant == tenant] if tenant else named


def _conditions(group_id: str, chosen: TaskFilter) -> list[ColumnElement[bool]]:
    found = [a2a_tasks.c.group_id == group_id]
    if chosen.tenant:
        found.append(a2a_tasks.c.tenant == chosen.tenant)
    if chosen.context_id:
        found.append(a2a_tasks.c.context_id == chosen.context_id)
    if chosen.changed_since is not None:
        found.append(a2a_tasks.c.status_time >= chosen.changed_since)
    if chosen.state is not None:
        found.append(_in_state(group_id, chosen.state))
    return found


def _in_state(group_id: str, state: TaskState) -> ColumnElement[bool]:
    draft = and_(a2a_tasks.c.execution_id.is_(None), a2a_tasks.c.draft_state == state)
    of_executions = _OF_EXECUTIONS.get(state)
    if of_executions is None:
        return draft
    if state.terminal:
        return or_(draft, of_executions)
    # Few tasks have not ended: they are found by their executions, not among all tasks of the group.
    waiting = select(a2a_tasks.c.id).where(a2a_tasks.c.group_id == group_id, draft)
    open_executions = (
        select(a2a_tasks.c.id)
        .join(executions, executions.c.id == a2a_tasks.c.execution_id)
        .where(executions.c.group_id == group_id, executions.c.ended_at.is_(None), of_executions)
    )
    return a2a_tasks.c.id.in_(union_all(waiting, open_executions))


def _task(row: Row[Any]) -> TaskRow:
    return TaskRow(
        id=row.id,
        group_id=row.group_id,
        tenant=row.tenant,
        crew_id=row.crew_id,
        crew_revision=row.crew_revision,
        context_id=row.context_id,
        status_time=row.status_time,
        subject=row.subject,
        execution_id=row.execution_id,
        draft_state=None if row.draft_state is None else TaskState(row.draft_state),
        draft_inputs=row.draft_inputs,
    )
