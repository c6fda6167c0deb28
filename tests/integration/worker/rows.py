"""Rows of executions as the API writes them, for tests of what hosts do with them."""

from dataclasses import replace
from typing import Any

from sqlalchemy import select

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.ids import new_id
from services.orchestrator.domain.admission import Room
from services.orchestrator.domain.crew import AgentSpec, Crew, CrewSpec, TaskSpec
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionIdentity,
    ExecutionState,
    OnCredentialExpiry,
    TaskRun,
    TaskState,
    Usage,
)
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.task_runs import TaskRunRepository
from services.orchestrator.tables import execution_events, executions, task_runs
from services.orchestrator.worker.host.run_store import Claim, RunStore

ROOM = Room(free=1000, reserved=0, group_limit=None)


def crew(*names: str) -> CrewSpec:
    """A crew of one agent and some tasks."""
    tasks = tuple(TaskSpec(name, "d", "e", "a") for name in names)
    return CrewSpec(f"crew {new_id()}", (AgentSpec("a", "r", "g"),), tasks)


async def queue(database: Database, spec: CrewSpec | None = None, **fields: Any) -> str:
    """Store a crew and an execution of it that waits for a worker; return the execution's id."""
    spec = spec or crew("t")
    crew_id, now = new_id(), utc_now()
    execution = Execution(
        id=new_id(),
        group_id="sales",
        subject="ann",
        crew_id=crew_id,
        crew_revision=1,
        crew_name=spec.name,
        state=ExecutionState.QUEUED,
        inputs={},
        labels={},
        model="",
        priority=0,
        identity=ExecutionIdentity.USER,
        on_credential_expiry=OnCredentialExpiry.PARK,
        grant_id=new_id(),
        resumed_from="",
        timeout=None,
        deadline_at=None,
        epoch=0,
        generation=1,
        ready=True,
        last_sequence=0,
        usage=Usage(),
        created_at=now,
    )
    execution = replace(execution, **fields)
    tasks = [
        TaskRun(execution.id, index, task.name, TaskState.PENDING, attempt=0, usage=Usage(), copied=False)
        for index, task in enumerate(spec.tasks)
    ]
    async with database.write() as connection:
        await CrewRepository(connection).insert(Crew(crew_id, "sales", 1, spec, now, now), "ann")
        await ExecutionRepository(connection).insert(execution)
        await TaskRunRepository(connection, execution.id).insert(tasks)
    return execution.id


async def execution_row(database: Database, execution_id: str) -> Any:
    async with database.read() as connection:
        return (await connection.execute(executions.select().where(executions.c.id == execution_id))).one()


async def task_rows(database: Database, execution_id: str) -> list[Any]:
    query = task_runs.select().where(task_runs.c.execution_id == execution_id).order_by(task_runs.c.task_index)
    async with database.read() as connection:
        return list(await connection.execute(query))


async def event_rows(database: Database, execution_id: str) -> list[Any]:
    query = execution_events.select().where(execution_events.c.execution_id == execution_id)
    async with database.read() as connection:
        return list(await connection.execute(query.order_by(execution_events.c.sequence)))


async def waiting(database: Database) -> set[str]:
    """Ids of the executions that wait for a host."""
    query = select(executions.c.id).where(executions.c.ready.is_(True))
    async with database.read() as connection:
        return set((await connection.execute(query)).scalars())


async def claimed(store: RunStore, execution_id: str) -> Claim:
    """Take an execution, also from the host that has it, as if that were lost."""
    await store.give_back_from(["host"])
    claims = await store.take("host", ROOM)
    return next(claim for claim in claims if claim.execution.id == execution_id)


def parked() -> execution_pb2.ExecutionParked:
    return execution_pb2.ExecutionParked()
