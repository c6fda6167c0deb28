"""ExecutionService over real gRPC: what starts, what is refused, what ends."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from coxswain.auth.v1 import delegation_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.models.v1 import model_pb2
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from coxswain.orchestrator.v1 import crew_pb2
from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.hint import HintKind
from services.orchestrator.service import OrchestratorService
from services.orchestrator.tables import executions, task_runs
from tests.integration.orchestrator.support import (
    CAPABLE_MODEL,
    KEYED_MODEL,
    Worker,
    create_crew,
    crews,
    executions_of,
    refused,
    spec,
    start,
    start_request,
    store_key,
)
from tests.support.harness import BOB, Harness

CODE = grpc.StatusCode
OPERATOR = "dev:olga:sales=operator"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def grant_of(harness: Harness, worker: Worker, execution_id: str) -> Any:
    """Ask auth for a principal of an execution, as a worker does."""
    row = await worker.row(execution_id)
    stub = AuthServiceStub(harness.peers("orchestrator").channel("auth"))
    return await stub.IssueExecutionPrincipal(
        delegation_pb2.IssueExecutionPrincipalRequest(grant_id=row.grant_id, execution_id=execution_id)
    )


async def as_stored(harness: Harness, execution_id: str) -> pb.Execution:
    """Return an execution without what only reading tells: why it still waits."""
    execution = (await executions_of(harness).GetExecution(pb.GetExecutionRequest(id=execution_id))).execution
    assert execution.queue.reason == pb.QUEUE_REASON_NO_WORKER_HOST
    execution.ClearField("queue")
    return execution


async def test_an_execution_is_queued_with_its_tasks_its_first_event_and_a_grant(
    harness: Harness, worker: Worker
) -> None:
    crew = await create_crew(harness)
    request = start_request(crew.id, priority=7, labels={"order": "1"}, timeout=Duration(seconds=90))
    with worker.bus.subscribe(HintKind.EXECUTION_READY) as hints:
        made = (await executions_of(harness).StartExecution(request)).execution
        async with asyncio.timeout(60):
            while made.id not in {hint.execution_id for hint in await hints.take()}:
                pass
    assert (made.state, made.crew_id, made.crew_revision) == (pb.EXECUTION_STATE_QUEUED, crew.id, 1)
    assert (made.priority, dict(made.labels), made.timeout.seconds) == (7, {"order": "1"}, 90)
    assert (made.last_sequence, made.claims, made.subject) == (1, 0, "dev|alice")
    assert made.inputs["topic"].string_value == "ships"
    stub = executions_of(harness)
    assert await as_stored(harness, made.id) == made
    tasks = (await stub.GetTaskOutputs(pb.GetTaskOutputsRequest(id=made.id))).tasks
    assert [(task.task_name, task.task_index, task.state) for task in tasks] == [
        (name, index, pb.TASK_STATE_PENDING) for index, name in enumerate(["read", "edit", "check"])
    ]
    row = await worker.row(made.id)
    assert (row.ready, row.generation, row.epoch, row.identity) == (True, 1, 0, "GROUP")
    principal = (await grant_of(harness, worker, made.id)).principal
    assert (principal.group_id, principal.execution_id) == ("sales", made.id)


async def test_an_execution_tells_whom_it_acts_as_and_what_happens_when_their_credential_expires(
    harness: Harness,
) -> None:
    crew, stub = await create_crew(harness), executions_of(harness)
    left_open = (await stub.StartExecution(start_request(crew.id))).execution
    # What was left open is told as it was decided: a development identity has no token an execution could act with.
    assert left_open.identity == delegation_pb2.EXECUTION_IDENTITY_GROUP
    assert left_open.on_credential_expiry == delegation_pb2.ON_CREDENTIAL_EXPIRY_PARK
    told = (
        await stub.StartExecution(
            start_request(
                crew.id,
                identity=delegation_pb2.EXECUTION_IDENTITY_USER,
                on_credential_expiry=delegation_pb2.ON_CREDENTIAL_EXPIRY_FAIL,
            )
        )
    ).execution
    assert told.identity == delegation_pb2.EXECUTION_IDENTITY_USER
    assert told.on_credential_expiry == delegation_pb2.ON_CREDENTIAL_EXPIRY_FAIL
    for execution in (left_open, told):
        assert await as_stored(harness, execution.id) == execution
    listed = (await stub.ListExecutions(pb.ListExecutionsRequest())).executions
    assert [(execution.id, execution.identity, execution.on_credential_expiry) for execution in listed] == [
        (execution.id, execution.identity, execution.on_credential_expiry) for execution in (told, left_open)
    ]


async def test_one_request_id_is_one_execution_even_at_once(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness)
    request = start_request(crew.id, request_id="order-1")
    stub = executions_of(harness)
    made = await asyncio.gather(*(stub.StartExecution(request) for _ in range(8)))
    assert len({answer.execution.id for answer in made}) == 1
    assert (await stub.StartExecution(request)).execution.id == made[0].execution.id
    assert len((await stub.ListExecutions(pb.ListExecutionsRequest())).executions) == 1
    await grant_of(harness, worker, made[0].execution.id)
    with refused(CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED") as refusal:
        await stub.StartExecution(start_request(crew.id, request_id="order-1", priority=1))
    assert refusal.metadata == {"request_id": "order-1"}
    assert len((await stub.ListExecutions(pb.ListExecutionsRequest())).executions) == 1


async def test_a_repeated_request_returns_the_execution_as_it_stands_even_when_its_crew_is_gone(
    harness: Harness, worker: Worker
) -> None:
    crew = await create_crew(harness)
    stub, request = executions_of(harness), start_request(crew.id, request_id="order-1")
    made = (await stub.StartExecution(request)).execution
    await worker.claim(made.id)
    await crews(harness).DeleteCrew(crew_pb2.DeleteCrewRequest(id=crew.id))
    again = (await stub.StartExecution(request)).execution
    assert (again.id, again.state) == (made.id, pb.EXECUTION_STATE_RUNNING)
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await stub.StartExecution(start_request(crew.id))


async def test_missing_inputs_are_named_with_the_field_that_needs_them_and_nothing_is_queued(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = executions_of(harness)
    request = pb.StartExecutionRequest(crew_id=crew.id)
    request.inputs["unused"].bool_value = True
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartExecution(request)
    assert set(refusal.violations) == {"inputs.topic", "inputs.text"}
    assert "spec.tasks[0].description" in refusal.violations["inputs.text"]
    assert not (await stub.ListExecutions(pb.ListExecutionsRequest())).executions


async def test_inputs_that_cannot_be_kept_are_refused(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = executions_of(harness)
    request = start_request(crew.id, labels={"a": "b\0"})
    request.inputs["text"].struct_value.update({"deep": ["x\0"]})
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartExecution(request)
    assert set(refusal.violations) == {"inputs.text.deep[0]", "labels.a"}
    request = start_request(crew.id)
    request.inputs["text"].number_value = float("nan")
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartExecution(request)
    assert set(refusal.violations) == {"inputs.text"}
    request = start_request(crew.id)
    request.inputs["text"].string_value = "x" * 1_100_000
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartExecution(request)
    assert set(refusal.violations) == {"inputs"}


async def test_inputs_of_every_kind_come_back_as_they_were(harness: Harness) -> None:
    crew = await create_crew(harness)
    request = start_request(crew.id)
    request.inputs["topic"].struct_value.update({"a": [1, 2.5, None, True, "é"], "b": {}})
    made = (await executions_of(harness).StartExecution(request)).execution
    found = (await executions_of(harness).GetExecution(pb.GetExecutionRequest(id=made.id))).execution
    assert found.inputs["topic"] == request.inputs["topic"]


async def test_the_model_chosen_at_the_start_is_checked_for_all_the_crew_wants(harness: Harness) -> None:
    made = await crews(harness).CreateCrew(crew_pb2.CreateCrewRequest(spec=_with_a_tool(spec(model=CAPABLE_MODEL))))
    stub = executions_of(harness)
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await stub.StartExecution(start_request(made.crew.id, model="offline/extract"))
    assert "spec.agents[0].tools" in refusal.violations["model"]
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await stub.StartExecution(start_request(made.crew.id, model="offline/extrac"))
    assert "offline/extract" in refusal.violations["model"]
    started = (await stub.StartExecution(start_request(made.crew.id, model="ollama/gpt-oss:20b"))).execution
    assert started.model == "ollama/gpt-oss:20b"


async def test_a_model_switched_off_after_the_crew_was_stored_keeps_it_from_starting(harness: Harness) -> None:
    crew = await create_crew(harness, model=CAPABLE_MODEL)
    models = ModelServiceStub(harness.channel())
    await models.SetModelEnabled(model_pb2.SetModelEnabledRequest(name=CAPABLE_MODEL, enabled=False))
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await executions_of(harness).StartExecution(start_request(crew.id))
    assert "disabled" in refusal.violations["spec.model"]


async def test_executions_are_listed_newest_first_by_crew_and_state(harness: Harness, worker: Worker) -> None:
    stub = executions_of(harness)
    crew = await create_crew(harness)
    made = [(await stub.StartExecution(start_request(crew.id))).execution.id for _ in range(4)]
    other = (await start(harness)).id
    await worker.claim(made[1])
    await stub.CancelExecution(pb.CancelExecutionRequest(id=made[2]))

    async def listed(**fields: Any) -> list[str]:
        seen, token = [], ""
        while True:
            page = await stub.ListExecutions(pb.ListExecutionsRequest(page_size=2, page_token=token, **fields))
            assert all(not execution.inputs for execution in page.executions)
            seen += [execution.id for execution in page.executions]
            token = page.next_page_token
            if not token:
                return seen

    assert await listed() == [other, *made[::-1]]
    assert await listed(crew_id=crew.id) == made[::-1]
    assert await listed(states=[pb.EXECUTION_STATE_QUEUED], crew_id=crew.id) == [made[3], made[0]]
    running, cancelled = pb.EXECUTION_STATE_RUNNING, pb.EXECUTION_STATE_CANCELLED
    assert await listed(states=[running, cancelled]) == [made[2], made[1]]
    page = await stub.ListExecutions(pb.ListExecutionsRequest(page_size=1))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await stub.ListExecutions(
            pb.ListExecutionsRequest(page_size=1, page_token=page.next_page_token, crew_id=crew.id)
        )


async def test_cancelling_a_queued_execution_ends_it_at_once_and_takes_its_rights(
    harness: Harness, worker: Worker
) -> None:
    stub = executions_of(harness)
    made = await start(harness)
    ended = (await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))).execution
    assert ended.state == pb.EXECUTION_STATE_CANCELLED
    assert (ended.last_sequence, ended.HasField("end_time"), ended.HasField("cancel_request_time")) == (2, True, True)
    tasks = (await stub.GetTaskOutputs(pb.GetTaskOutputsRequest(id=made.id))).tasks
    assert {task.state for task in tasks} == {pb.TASK_STATE_CANCELLED}
    row = await worker.row(made.id)
    assert (row.ready, row.grant_open) == (False, False)
    with refused(CODE.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await grant_of(harness, worker, made.id)
    again = (await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))).execution
    assert again == ended


async def test_cancelling_a_running_execution_asks_its_worker(harness: Harness, worker: Worker) -> None:
    stub = executions_of(harness)
    made = await start(harness)
    await worker.claim(made.id)
    with worker.bus.subscribe(HintKind.CANCEL_REQUESTED) as hints:
        asked = (await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))).execution
        async with asyncio.timeout(60):
            while made.id not in {hint.execution_id for hint in await hints.take()}:
                pass
    assert (asked.state, asked.HasField("end_time")) == (pb.EXECUTION_STATE_RUNNING, False)
    assert asked.HasField("cancel_request_time")
    again = (await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))).execution
    assert again.cancel_request_time == asked.cancel_request_time
    await grant_of(harness, worker, made.id)


async def test_a_claim_and_a_cancellation_at_once_leave_one_winner(harness: Harness, worker: Worker) -> None:
    stub = executions_of(harness)
    for _ in range(5):
        made = await start(harness)
        cancelled, claimed = await asyncio.gather(
            stub.CancelExecution(pb.CancelExecutionRequest(id=made.id)), worker.claim(made.id), return_exceptions=True
        )
        assert not isinstance(cancelled, BaseException)
        row = await worker.row(made.id)
        if isinstance(claimed, BaseException):
            assert row.state == ExecutionState.CANCELLED
        else:
            assert row.state == ExecutionState.RUNNING
            assert row.cancel_requested_at is not None


async def test_a_resumed_execution_keeps_what_was_finished_and_does_the_rest_again(
    harness: Harness, worker: Worker
) -> None:
    stub = executions_of(harness)
    made = await start(harness, labels={"order": "1"}, priority=3)
    await worker.claim(made.id)
    await worker.finish_task(made.id, 0, "notes")
    failure = pb.ExecutionFailed(error=pb.ExecutionError(reason="TASK_FAILED", message="no"))
    await worker.end(made.id, ExecutionState.FAILED, failure)
    request = pb.ResumeExecutionRequest(id=made.id, request_id="again")
    first, second = [(await stub.ResumeExecution(request)).execution for _ in range(2)]
    assert first == second
    assert (first.resumed_from, first.state) == (made.id, pb.EXECUTION_STATE_QUEUED)
    assert (dict(first.labels), first.priority, first.inputs) == ({"order": "1"}, 3, made.inputs)
    tasks = (await stub.GetTaskOutputs(pb.GetTaskOutputsRequest(id=first.id))).tasks
    assert [(task.state, task.copied, task.output.text) for task in tasks] == [
        (pb.TASK_STATE_SUCCEEDED, True, "notes"),
        (pb.TASK_STATE_PENDING, False, ""),
        (pb.TASK_STATE_PENDING, False, ""),
    ]
    await grant_of(harness, worker, first.id)
    old = (await stub.GetExecution(pb.GetExecutionRequest(id=made.id))).execution
    assert old.state == pb.EXECUTION_STATE_FAILED


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "SUCCEEDED"])
async def test_only_what_failed_or_was_cancelled_can_be_resumed(harness: Harness, worker: Worker, state: str) -> None:
    made = await start(harness)
    if state != "QUEUED":
        await worker.claim(made.id)
    if state == "SUCCEEDED":
        await worker.end(made.id, ExecutionState.SUCCEEDED, pb.ExecutionSucceeded())
    with refused(CODE.FAILED_PRECONDITION, "EXECUTION_STATE") as refusal:
        await executions_of(harness).ResumeExecution(pb.ResumeExecutionRequest(id=made.id))
    assert refusal.metadata == {"execution_id": made.id, "state": state}


async def test_a_crew_is_started_by_its_name_as_well(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = executions_of(harness)
    request = start_request("", request_id="r")
    request.crew_name = "brief"
    made = (await stub.StartExecution(request)).execution
    assert (made.crew_id, made.crew_name) == (crew.id, "brief")
    assert (await stub.StartExecution(request)).execution.id == made.id
    request = start_request("")
    request.crew_name = "never"
    with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
        await stub.StartExecution(request)
    assert '"never"' in refusal.message


async def test_another_group_sees_starts_watches_and_ends_nothing(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness)
    made = (await executions_of(harness).StartExecution(start_request(crew.id, request_id="r"))).execution
    parked = await start(harness)
    await worker.claim(parked.id)
    await worker.park(parked.id, 1)
    ended = await start(harness)
    await executions_of(harness).CancelExecution(pb.CancelExecutionRequest(id=ended.id))
    before = [tuple(await worker.row(id_)) for id_ in (made.id, parked.id, ended.id)]
    foreign = executions_of(harness, BOB)
    assert not (await foreign.ListExecutions(pb.ListExecutionsRequest())).executions
    assert not (await foreign.ListExecutions(pb.ListExecutionsRequest(crew_id=crew.id))).executions
    never = "0" * 36
    for id_ in (made.id, parked.id, ended.id, never):
        for call in (
            foreign.GetExecution(pb.GetExecutionRequest(id=id_)),
            foreign.GetTaskOutputs(pb.GetTaskOutputsRequest(id=id_)),
            foreign.CancelExecution(pb.CancelExecutionRequest(id=id_)),
            foreign.ResumeExecution(pb.ResumeExecutionRequest(id=id_)),
            foreign.WatchExecution(pb.WatchExecutionRequest(id=id_)).read(),
        ):
            with refused(CODE.NOT_FOUND, "NOT_FOUND") as refusal:
                await call
            # What exists elsewhere cannot be told from what never did.
            assert refusal.message == f'there is no execution "{id_}" in your group'
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await foreign.StartExecution(start_request(crew.id, request_id="r"))
    assert [tuple(await worker.row(id_)) for id_ in (made.id, parked.id, ended.id)] == before


async def test_a_waiting_execution_past_its_timeout_fails_and_a_running_one_is_its_workers(
    harness: Harness, worker: Worker
) -> None:
    queued, running, unlimited = await start(harness), await start(harness), await start(harness)
    await worker.claim(running.id)
    async with worker.database.write() as connection:
        await connection.execute(
            executions.update()
            .where(executions.c.id.in_([queued.id, running.id]))
            .values(timeout_seconds=1, deadline_at=executions.c.created_at)
        )
    service = harness.services["orchestrator"]
    assert isinstance(service, OrchestratorService)
    # As if a worker had claimed it right after the search.
    await service._housekeeping._end_waiting(running.id)
    await housekeep(harness)
    stub = executions_of(harness)
    found = [
        (await stub.GetExecution(pb.GetExecutionRequest(id=one.id))).execution for one in (queued, running, unlimited)
    ]
    assert [execution.state for execution in found] == [
        pb.EXECUTION_STATE_FAILED,
        pb.EXECUTION_STATE_RUNNING,
        pb.EXECUTION_STATE_QUEUED,
    ]
    assert found[0].error.reason == "EXECUTION_TIMEOUT"
    events = [answer.event async for answer in stub.WatchExecution(pb.WatchExecutionRequest(id=queued.id))]
    assert events[-1].execution_failed.error.reason == "EXECUTION_TIMEOUT"


async def test_an_execution_parked_by_a_worker_that_had_not_heard_of_its_cancellation_is_ended(
    harness: Harness, worker: Worker
) -> None:
    stub = executions_of(harness)
    made = await start(harness)
    await worker.claim(made.id)
    await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))
    await worker.park(made.id, 1)
    await housekeep(harness)
    found = (await stub.GetExecution(pb.GetExecutionRequest(id=made.id))).execution
    assert found.state == pb.EXECUTION_STATE_CANCELLED
    events = [answer.event async for answer in stub.WatchExecution(pb.WatchExecutionRequest(id=made.id))]
    assert events[-1].WhichOneof("event") == "execution_cancelled"


async def test_a_grant_that_was_left_open_is_revoked_later(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    async with worker.database.write() as connection:
        # As a worker leaves it that dies right after the last event.
        await connection.execute(
            executions.update()
            .where(executions.c.id == made.id)
            .values(state=ExecutionState.FAILED, ended_at=executions.c.created_at, created_at=executions.c.created_at)
        )
    await housekeep(harness)
    assert (await worker.row(made.id)).grant_open
    async with worker.database.write() as connection:
        await connection.execute(executions.update().values(ended_at=LONG_AGO))
    await housekeep(harness)
    assert not (await worker.row(made.id)).grant_open
    with refused(CODE.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await grant_of(harness, worker, made.id)


async def test_plans_and_other_work_besides_the_crews_tasks_are_not_among_its_tasks(
    harness: Harness, worker: Worker
) -> None:
    made = await start(harness)
    async with worker.database.write() as connection:
        row = (await connection.execute(task_runs.select().where(task_runs.c.execution_id == made.id))).first()
        assert row is not None
        await connection.execute(task_runs.insert().values({**row._mapping, "task_index": -1, "name": "plan"}))
    tasks = await executions_of(harness).GetTaskOutputs(pb.GetTaskOutputsRequest(id=made.id))
    assert [task.task_index for task in tasks.tasks] == [0, 1, 2]


async def test_outputs_larger_than_a_message_come_in_pages(harness: Harness, worker: Worker) -> None:
    stub = executions_of(harness)
    made = await start(harness)
    texts = [letter * 1_500_000 for letter in "abc"]
    for index, text in enumerate(texts):
        await worker.finish_task(made.id, index, text)
    request = pb.GetTaskOutputsRequest(id=made.id)
    found: list[pb.TaskRun] = []
    while True:
        page = await stub.GetTaskOutputs(request)
        assert page.tasks
        found += page.tasks
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert [(task.task_index, task.output.text) for task in found] == list(enumerate(texts))


async def test_tasks_come_in_pages_of_the_size_asked_for_and_all_at_once_without_one(
    harness: Harness, worker: Worker
) -> None:
    stub = executions_of(harness)
    made, other = await start(harness), await start(harness)
    await worker.finish_task(made.id, 0, "Done.")
    whole = await stub.GetTaskOutputs(pb.GetTaskOutputsRequest(id=made.id))
    assert (len(whole.tasks), whole.next_page_token) == (3, "")
    first = await stub.GetTaskOutputs(pb.GetTaskOutputsRequest(id=made.id, page_size=2))
    rest = await stub.GetTaskOutputs(
        pb.GetTaskOutputsRequest(id=made.id, page_size=2, page_token=first.next_page_token)
    )
    assert (len(first.tasks), rest.next_page_token) == (2, "")
    assert [*first.tasks, *rest.tasks] == list(whole.tasks)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await stub.GetTaskOutputs(pb.GetTaskOutputsRequest(id=other.id, page_token=first.next_page_token))


async def housekeep(harness: Harness) -> None:
    service = harness.services["orchestrator"]
    assert isinstance(service, OrchestratorService)
    await service._housekeeping.once()


def _with_a_tool(crew: Any) -> Any:
    crew.agents[0].tools.add(name="calculator")
    return crew


async def test_limits_are_kept_lowered_and_replaced_when_resumed(harness: Harness, worker: Worker) -> None:
    limits = crew_pb2.ExecutionLimits
    await store_key(harness)
    crew = await create_crew(harness, model=KEYED_MODEL, limits=limits(max_cost=0.5, max_tool_calls=9))
    assert crew.spec.limits == limits(max_cost=0.5, max_tool_calls=9)
    stub = executions_of(harness)
    request = start_request(crew.id, limits=limits(max_cost=2, max_tokens=1000))
    made = (await stub.StartExecution(request)).execution
    assert made.limits == limits(max_cost=0.5, max_tokens=1000, max_tool_calls=9)
    await worker.claim(made.id)
    async with worker.database.write() as connection:
        await connection.execute(executions.update().values(cost=0.25, llm_calls=2, tool_calls=1))
    await worker.end(made.id, ExecutionState.FAILED, pb.ExecutionFailed())
    resume = pb.ResumeExecutionRequest(id=made.id)
    again = (await stub.ResumeExecution(resume)).execution
    assert (again.limits, again.usage.cost) == (made.limits, 0)
    assert (await worker.row(again.id)).used_before["cost"] == 0.25
    resume.limits.max_cost = 0.4
    other = (await stub.ResumeExecution(resume)).execution
    assert other.limits == limits(max_cost=0.4, max_tool_calls=9)
    assert not (await start(harness)).HasField("limits")
    refusable: list[tuple[str, Any]] = [("max_cost", 0), ("max_cost", float("inf")), ("max_tokens", -1)]
    for field, value in refusable:
        request = start_request(crew.id, limits=limits(**{field: value}))
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await stub.StartExecution(request)
        assert set(refusal.violations) == {f"limits.{field}"}


async def test_a_cost_limit_needs_models_with_prices(harness: Harness) -> None:
    await store_key(harness)
    unpriced = model_pb2.Model(
        name="openai/in-house", provider=model_pb2.PROVIDER_OPENAI, capabilities=model_pb2.Capabilities(chat=True)
    )
    await ModelServiceStub(harness.channel()).CreateModel(model_pb2.CreateModelRequest(model=unpriced))
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await create_crew(harness, model="openai/in-house", limits=crew_pb2.ExecutionLimits(max_cost=1))
    assert set(refusal.violations) == {"spec.limits.max_cost"}
    crew = await create_crew(harness, model="openai/in-house")
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        request = start_request(crew.id, limits=crew_pb2.ExecutionLimits(max_cost=1))
        await executions_of(harness).StartExecution(request)
    assert "input_cost_per_million_tokens" in refusal.violations["limits.max_cost"]
    request = start_request(crew.id, limits=crew_pb2.ExecutionLimits(max_tokens=1))
    await executions_of(harness).StartExecution(request)
