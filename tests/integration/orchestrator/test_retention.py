"""Ended executions go when somebody deletes them, or when their time is over; nothing else does."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from sqlalchemy import Table, func, select, update

from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.artifact_contents import new_artifact
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.repositories.artifacts import ArtifactRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.journal import JournalRepository
from services.orchestrator.tables import (
    artifacts,
    execution_events,
    execution_labels,
    executions,
    group_events,
    llm_journal,
    questions,
    task_runs,
)
from services.orchestrator.usecases.execution_retention import ExecutionRetention
from tests.integration.orchestrator.support import (
    Worker,
    create_crew,
    executions_of,
    refused,
    start_request,
)
from tests.integration.orchestrator.use_cases import ALICE as PRINCIPAL
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.harness import BOB, Harness
from tests.support.service_tables import make_service_tables

CODE = grpc.StatusCode
OPERATOR, EDITOR = "dev:otto:sales=operator", "dev:ed:sales=editor"
SUCCEEDED = pb.ExecutionSucceeded(result=pb.TaskOutput(text="brief"))
BELONG: tuple[Table, ...] = (
    task_runs,
    execution_events,
    questions,
    llm_journal,
    group_events,
    execution_labels,
    artifacts,
)


async def rows_of(database: Database, execution_id: str) -> dict[str, int]:
    async with database.read() as connection:
        return {
            table.name: (
                await connection.execute(
                    select(func.count()).select_from(table).where(table.c.execution_id == execution_id)
                )
            ).scalar_one()
            for table in BELONG
        }


async def test_what_was_deleted_is_gone_with_all_that_belongs_to_it(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness)
    stub = executions_of(harness)
    request = start_request(crew.id, request_id="r", labels={"team": "a"})
    made = (await stub.StartExecution(request)).execution
    other = (await stub.StartExecution(start_request(crew.id, labels={"team": "a"}))).execution
    delete = pb.DeleteExecutionRequest(id=made.id)
    await worker.claim(made.id)
    await worker.park(made.id, 1)
    async with worker.database.write() as connection:
        await JournalRepository(connection, made.id).keep_answer(0, "h", 0, b"answer")
        execution = await ExecutionRepository(connection).get("sales", made.id)
        assert execution is not None
        file = new_artifact(execution, 0, "read", "a.md", 1, "0" * 64, revision=1)
        await ArtifactRepository(connection, made.id).put(file, b"a")
    with refused(CODE.FAILED_PRECONDITION, "EXECUTION_STATE") as refusal:
        await stub.DeleteExecution(delete)
    assert refusal.metadata == {"execution_id": made.id, "state": "WAITING_FOR_ANSWER"}
    await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))
    assert all((await rows_of(worker.database, made.id)).values())

    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await executions_of(harness, OPERATOR).DeleteExecution(delete)
    assert not (await executions_of(harness, BOB).DeleteExecution(delete)).deleted
    assert all((await rows_of(worker.database, made.id)).values())

    editor = executions_of(harness, EDITOR)
    answers = await asyncio.gather(*(editor.DeleteExecution(delete) for _ in range(3)))
    assert sorted(answer.deleted for answer in answers) == [False, False, True]
    assert not any((await rows_of(worker.database, made.id)).values())
    assert (await rows_of(worker.database, other.id))["execution_labels"] == 1
    assert [each.id for each in (await stub.ListExecutions(pb.ListExecutionsRequest())).executions] == [other.id]
    for call in (
        stub.GetExecution(pb.GetExecutionRequest(id=made.id)),
        stub.WatchExecution(pb.WatchExecutionRequest(id=made.id)).read(),
        stub.ResumeExecution(pb.ResumeExecutionRequest(id=made.id)),
    ):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await call
    with refused(CODE.FAILED_PRECONDITION, "EXECUTION_DELETED") as refusal:
        await stub.StartExecution(request)
    assert refusal.metadata == {"execution_id": made.id}


async def test_a_group_chooses_for_itself_and_only_its_admins_do(harness: Harness) -> None:
    stub = executions_of(harness)
    get, choose = pb.GetExecutionRetentionRequest(), pb.SetExecutionRetentionRequest
    assert (await stub.GetExecutionRetention(get)).retention == pb.ExecutionRetention()
    month = Duration(seconds=30 * 24 * 3600)
    chosen = pb.ExecutionRetention(keep_for=month, chosen=True)
    assert (await stub.SetExecutionRetention(choose(keep_for=month))).retention == chosen
    assert (await executions_of(harness, OPERATOR).GetExecutionRetention(get)).retention == chosen
    assert (await executions_of(harness, BOB).GetExecutionRetention(get)).retention == pb.ExecutionRetention()
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await executions_of(harness, EDITOR).SetExecutionRetention(choose(keep_forever=Empty()))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "choice"),
        ({"keep_for": Duration(seconds=3599)}, "keep_for"),
        ({"keep_for": Duration(seconds=315360001)}, "keep_for"),
    ]
    for fields, field in wrong:
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await stub.SetExecutionRetention(choose(**fields))
        assert set(refusal.violations) == {field}
    assert (await stub.GetExecutionRetention(get)).retention == chosen
    answer = await stub.SetExecutionRetention(choose(keep_forever=Empty()))
    assert answer.retention == pb.ExecutionRetention(chosen=True)
    assert (await stub.SetExecutionRetention(choose(use_default=Empty()))).retention == pb.ExecutionRetention()


@pytest.fixture
async def aged(orchestrator: Orchestrator) -> tuple[Orchestrator, dict[str, str]]:
    """Executions of two groups by their names; each ended so many hours ago, but for one that runs."""
    ids: dict[str, str] = {}
    ages: dict[str, int | None] = {"old": 30, "older": 40, "open": 40, "young": 1, "running": None, "others": 40}
    for name, hours in ages.items():
        ids[name] = (await orchestrator.start()).id
        values: dict[str, Any] = {"grant_open": name == "open"}
        if hours is not None:
            values |= {"state": ExecutionState.SUCCEEDED, "ended_at": utc_now() - timedelta(hours=hours)}
        if name == "others":
            values["group_id"] = "legal"
        async with orchestrator.database.write() as connection:
            await connection.execute(update(executions).where(executions.c.id == ids[name]).values(values))
    return orchestrator, ids


async def left(orchestrator: Orchestrator, ids: dict[str, str]) -> set[str]:
    known = {row.id for row in await orchestrator.rows()}
    return {name for name, execution_id in ids.items() if execution_id in known}


async def test_what_is_too_old_goes_by_the_choice_of_its_group_or_the_default(
    aged: tuple[Orchestrator, dict[str, str]],
) -> None:
    orchestrator, ids = aged
    for_ever = ExecutionRetention(orchestrator.database, orchestrator.grants, default_seconds=0)
    await for_ever.once()
    assert await left(orchestrator, ids) == set(ids)
    await for_ever.set(PRINCIPAL, 35 * 3600)
    await for_ever.once()
    assert await left(orchestrator, ids) == set(ids) - {"older"}, "a grant that is open is known by its row alone"
    a_day = ExecutionRetention(orchestrator.database, orchestrator.grants, default_seconds=24 * 3600)
    await a_day.set(PRINCIPAL, 0)
    await a_day.once()
    assert await left(orchestrator, ids) == {"old", "open", "young", "running"}
    await a_day.set(PRINCIPAL, None)
    await asyncio.gather(*(a_day.once() for _ in range(3)))
    assert await left(orchestrator, ids) == {"open", "young", "running"}


async def test_many_old_executions_go_in_portions_and_those_being_resumed_stay(postgres_url: str) -> None:
    make_service_tables("orchestrator", postgres_url)
    database = Database(postgres_url, "orchestrator")
    orchestrator = Orchestrator(database)
    await orchestrator.prepare()
    ids = [(await orchestrator.start()).id for _ in range(25)]
    async with database.write() as connection:
        values = {"state": ExecutionState.FAILED, "ended_at": utc_now() - timedelta(hours=9), "grant_open": False}
        await connection.execute(update(executions).values(values))
    retention = ExecutionRetention(database, orchestrator.grants, default_seconds=3600)
    async with database.write() as resuming:
        await resuming.execute(select(executions).where(executions.c.id == ids[3]).with_for_update())
        await retention.once()
        assert [row.id for row in await orchestrator.rows()] == [ids[3]]
    await retention.once()
    assert await orchestrator.rows() == []
    await database.close()
