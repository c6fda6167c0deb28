"""Executions in SQL."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, case, func, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.orchestrator.domain.document import to_document
from services.orchestrator.domain.execution import (
    PARKED_STATES,
    Execution,
    ExecutionError,
    ExecutionState,
    ModelWait,
    TaskState,
)
from services.orchestrator.domain.execution_filter import ExecutionFilter
from services.orchestrator.repositories.admission import HELD
from services.orchestrator.repositories.execution_filters import conditions, label_hashes
from services.orchestrator.repositories.execution_rows import execution_of, to_execution, usage_columns
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.tables import execution_labels, executions, task_runs

_WAITING = sorted(PARKED_STATES | {ExecutionState.QUEUED})
_WOKEN: Mapping[str, Any] = {
    "state": ExecutionState.QUEUED,
    "generation": executions.c.generation + 1,
    "ready": True,
    "wake_at": None,
}
"""What changes in an execution that is made ready for its next segment."""
_LEFT_OUT_OF_LISTS = {"inputs", "result"}
_LISTED = [column for column in executions.c if column.name not in _LEFT_OUT_OF_LISTS]


class ExecutionRepository:
    """Executions, without their tasks."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, execution: Execution) -> None:
        """Store a new execution; its tasks are stored beside it."""
        await self._connection.execute(
            insert(executions).values(
                id=execution.id,
                group_id=execution.group_id,
                subject=execution.subject,
                crew_id=execution.crew_id,
                crew_revision=execution.crew_revision,
                crew_name=execution.crew_name,
                state=execution.state,
                inputs=dict(execution.inputs),
                labels=dict(execution.labels),
                model=execution.model,
                priority=execution.priority,
                identity=execution.identity,
                on_credential_expiry=execution.on_credential_expiry,
                grant_id=execution.grant_id,
                grant_open=True,
                resumed_from=execution.resumed_from,
                from_task=execution.from_task,
                schedule_id=execution.schedule_id,
                batch_id=execution.batch_id,
                batch_index=execution.batch_index,
                concurrency_key=execution.concurrency_key,
                overlap_policy=execution.overlap_policy,
                waits_turn=execution.waits_turn,
                timeout_seconds=execution.timeout,
                deadline_at=execution.deadline_at,
                epoch=execution.epoch,
                generation=execution.generation,
                ready=execution.ready,
                last_sequence=execution.last_sequence,
                limits=to_document(execution.limits),
                used_before=to_document(execution.used_before),
                created_at=execution.created_at,
                traceparent=execution.traceparent,
                **usage_columns(execution.usage),
            )
        )
        if execution.labels:
            key = {"group_id": execution.group_id, "execution_id": execution.id}
            labels = [{**key, "label_hash": label_hash} for label_hash in label_hashes(execution.labels)]
            await self._connection.execute(insert(execution_labels), labels)

    async def get(self, group_id: str, execution_id: str) -> Execution | None:
        """Return an execution of a group."""
        row = (
            await self._connection.execute(
                select(executions).where(executions.c.id == execution_id, executions.c.group_id == group_id)
            )
        ).first()
        return None if row is None else to_execution(row)

    async def lock(self, execution_id: str, group_id: str | None = None) -> Execution | None:
        """Return an execution (of any group: None), and keep others from changing it until the transaction ends."""
        query = select(executions).where(executions.c.id == execution_id)
        if group_id is not None:
            query = query.where(executions.c.group_id == group_id)
        row = (await self._connection.execute(query.with_for_update())).first()
        return None if row is None else to_execution(row)

    async def page(self, group_id: str, chosen: ExecutionFilter, before_id: str | None, limit: int) -> list[Execution]:
        """Return the chosen executions with an id below `before_id`, newest first, inputs and results left out."""
        query = select(*_LISTED).where(*conditions(group_id, chosen))
        if before_id is not None:
            query = query.where(executions.c.id < before_id)
        rows = await self._connection.execute(query.order_by(executions.c.id.desc()).limit(limit))
        return [to_execution(row) for row in rows]

    async def take(self, execution_ids: Collection[str], executor_id: str, at: datetime) -> list[Execution]:
        """Give waiting executions to a host, with their next epochs: writes of earlier claims count no more.

        Those that have ended meanwhile are left out. One event of each is counted already, and has to be stored.
        """
        taken = await self._connection.execute(
            update(executions)
            .where(executions.c.id.in_(execution_ids), executions.c.ready.is_(True))
            .values(
                epoch=executions.c.epoch + 1,
                state=ExecutionState.RUNNING,
                ready=False,
                executor_id=executor_id,
                last_sequence=executions.c.last_sequence + 1,
                started_at=func.coalesce(executions.c.started_at, at),
            )
            .returning(executions)
        )
        return [to_execution(row) for row in taken]

    async def give_back(self, execution_id: str, epoch: int) -> bool:
        """Let an execution wait for any host again, if the claim that ran it is still the newest; return whether."""
        return bool(await self._give_back(executions.c.id == execution_id, executions.c.epoch == epoch))

    async def give_back_from(self, executor_ids: Collection[str], running: Collection[str] = ()) -> list[str]:
        """Let what hosts have wait for any host again, but what is `running`; return the executions' ids."""
        return await self._give_back(executions.c.executor_id.in_(executor_ids), executions.c.id.not_in(running))

    async def take_over_from(self, executor_ids: Collection[str]) -> list[str]:
        """Let what dead hosts had wait for any host again, and count its loss; return the executions' ids."""
        finished = (
            select(func.count())
            .where(
                task_runs.c.execution_id == executions.c.id,
                task_runs.c.state == TaskState.SUCCEEDED,
                task_runs.c.copied.is_(False),
            )
            .scalar_subquery()
        )
        lost = case((finished > executions.c.lost_hosts_after, 0), else_=executions.c.lost_hosts + 1)
        return await self._give_back(
            executions.c.executor_id.in_(executor_ids), lost_hosts=lost, lost_hosts_after=finished
        )

    async def _give_back(self, *which: ColumnElement[bool], **changes: ColumnElement[int]) -> list[str]:
        given = await self._connection.execute(
            update(executions).where(HELD, *which).values(ready=True, **changes).returning(executions.c.id)
        )
        return list(given.scalars())

    async def park(self, execution_id: str, state: ExecutionState, wake_at: datetime | None = None) -> None:
        """Let a claimed execution rest, until `wake_at` if that is given.

        Also when its host was taken for dead: nobody has taken the execution since, and there is nothing to run.
        """
        await self._connection.execute(
            update(executions).where(executions.c.id == execution_id).values(state=state, wake_at=wake_at, ready=False)
        )

    async def keep_model_waits(self, execution_id: str, waits: Sequence[ModelWait]) -> None:
        """Note which models a claimed execution waits for; one that has ended waits for none."""
        await self._connection.execute(
            update(executions)
            .where(executions.c.id == execution_id, executions.c.ended_at.is_(None))
            .values(model_waits=[to_document(wait) for wait in waits] or null())
        )

    async def cancel_requested(self, execution_id: str) -> bool:
        """Return whether the execution's cancellation was requested."""
        found = await self._connection.execute(
            select(executions.c.cancel_requested_at).where(executions.c.id == execution_id)
        )
        return found.scalar_one() is not None

    async def request_cancel(self, execution_id: str, at: datetime) -> None:
        """Note that the execution's cancellation was requested; the first time counts."""
        await self._connection.execute(
            update(executions)
            .where(executions.c.id == execution_id, executions.c.cancel_requested_at.is_(None))
            .values(cancel_requested_at=at)
        )

    async def end(self, execution_id: str, state: ExecutionState, error: ExecutionError | None, at: datetime) -> None:
        """End a locked execution that no worker is running, with its unfinished tasks and open questions.

        One that has ended stays as it is.
        """
        await self._connection.execute(
            update(executions)
            .where(executions.c.id == execution_id, executions.c.ended_at.is_(None))
            .values(
                state=state,
                error=None if error is None else to_document(error),
                model_waits=null(),
                wake_at=None,
                error_reason="" if error is None else error.reason,
                ended_at=at,
                ready=False,
            )
        )
        await self._connection.execute(
            update(task_runs)
            .where(
                task_runs.c.execution_id == execution_id,
                task_runs.c.state.in_([state for state in TaskState if not state.terminal]),
            )
            .values(state=TaskState.CANCELLED, ended_at=at)
        )
        await QuestionRepository(self._connection).close_open(execution_id)

    async def wake(self, execution_id: str) -> None:
        """Make a locked, parked execution ready for its next segment."""
        await self._connection.execute(update(executions).where(executions.c.id == execution_id).values(_WOKEN))

    async def wake_due(self, now: datetime, limit: int) -> list[str]:
        """Wake executions that have waited for a model until now, and return their ids.

        Several hosts may do so at once: each execution is woken by one of them.
        """
        due = (
            select(executions.c.id)
            .where(*_due(now))
            .order_by(executions.c.wake_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        woken = await self._connection.execute(
            update(executions)
            .where(executions.c.id.in_(due), executions.c.state == ExecutionState.WAITING_FOR_MODEL)
            .values(_WOKEN)
            .returning(executions.c.id)
        )
        return list(woken.scalars())

    async def count(self, states: Collection[ExecutionState]) -> dict[ExecutionState, int]:
        """Return how many executions of all groups are in each of these states; states that none is in are left out."""
        rows = await self._connection.execute(
            select(executions.c.state, func.count())
            .where(executions.c.state.in_(sorted(states)))
            .group_by(executions.c.state)
        )
        return {ExecutionState(state): count for state, count in rows}

    async def overdue(self, now: datetime, limit: int) -> list[str]:
        """Return the ids of waiting executions, which no worker is running, past their deadline or cancellation."""
        rows = await self._connection.execute(
            select(executions.c.id)
            .where(
                executions.c.state.in_(_WAITING) | executions.c.ready.is_(True),
                (executions.c.deadline_at <= now) | executions.c.cancel_requested_at.is_not(None),
            )
            .order_by(executions.c.created_at)
            .limit(limit)
        )
        return list(rows.scalars())

    async def unrevoked_grants(self, ended_before: datetime, limit: int) -> list[str]:
        """Return the ids of executions that ended and whose grant has not been seen revoked."""
        rows = await self._connection.execute(
            select(executions.c.id)
            .where(executions.c.grant_open.is_(True), executions.c.ended_at <= ended_before)
            .order_by(executions.c.ended_at)
            .limit(limit)
        )
        return list(rows.scalars())

    async def grants_revoked(self, execution_ids: Collection[str]) -> None:
        """Note that the grants of executions are revoked."""
        await self._connection.execute(
            update(executions).where(executions.c.id.in_(execution_ids)).values(grant_open=False)
        )


async def read_holders(database: Database) -> set[str]:
    """Return the ids of hosts that have executions, dead ones among them. Every host asks all the time."""
    rows = await database.fetch(select(executions.c.executor_id).where(HELD).distinct())
    return {row["executor_id"] for row in rows}


async def read_is_claimed(database: Database, execution_id: str, epoch: int) -> bool:
    """Return whether a claim on an execution is the newest one, and the execution has not ended."""
    return bool(
        await database.fetch(
            select(executions.c.id).where(
                executions.c.id == execution_id, executions.c.epoch == epoch, executions.c.ended_at.is_(None)
            )
        )
    )


async def read_waiting_or_due(database: Database, now: datetime) -> tuple[bool, bool]:
    """Return whether executions wait for a host, and whether others have waited for a model until now.

    Hosts ask all the time: one statement for both.
    """
    waiting = select(executions.c.id).where(executions.c.ready.is_(True)).limit(1).scalar_subquery()
    due = select(executions.c.id).where(*_due(now)).limit(1).scalar_subquery()
    (row,) = await database.fetch(select(waiting.label("waiting"), due.label("due")))
    return row["waiting"] is not None, row["due"] is not None


async def read_held(database: Database, executor_id: str) -> set[str]:
    """Return the executions that a host has by their rows. Every host asks all the time."""
    rows = await database.fetch(select(executions.c.id).where(HELD, executions.c.executor_id == executor_id))
    return {row["id"] for row in rows}


def _due(now: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return executions.c.wake_at <= now, executions.c.state == ExecutionState.WAITING_FOR_MODEL


async def read_cancellations(database: Database, execution_ids: Collection[str]) -> set[str]:
    """Return those executions whose cancellation was requested. Every host asks all the time for what it runs."""
    rows = await database.fetch(
        select(executions.c.id).where(executions.c.id.in_(execution_ids), executions.c.cancel_requested_at.is_not(None))
    )
    return {row["id"] for row in rows}


_OF_GROUP = select(executions).where(
    executions.c.id == bindparam("of_execution"), executions.c.group_id == bindparam("of_group")
)


async def read_execution(database: Database, group_id: str, execution_id: str) -> Execution | None:
    """Return an execution of a group. Callers ask all the time: one statement needs no transaction."""
    rows = await database.fetch(_OF_GROUP, {"of_execution": execution_id, "of_group": group_id})
    return execution_of(rows[0]) if rows else None
