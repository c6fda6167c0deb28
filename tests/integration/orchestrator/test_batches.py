"""BatchService: one call, thousands of inputs, each an execution once, and nobody else kept waiting."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from coxswain.auth.v1 import delegation_pb2
from coxswain.orchestrator.v1 import batch_pb2 as pb
from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1.batch_service_pb2_grpc import BatchServiceStub
from services.common.clock import utc_now
from services.common.errors import Unavailable
from services.orchestrator.domain.execution import (
    ExecutionError,
    ExecutionIdentity,
    ExecutionState,
    OnCredentialExpiry,
    Start,
    Success,
    TaskOutput,
)
from services.orchestrator.repositories.batches import BatchRepository
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.tables import batch_inputs, executions
from tests.integration.orchestrator.support import Worker, create_crew, executions_of, refused, start_request
from tests.integration.orchestrator.use_cases import ALICE as PRINCIPAL
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.harness import ALICE, BOB, Harness
from tests.support.waiting import until

CODE = grpc.StatusCode
OPERATOR = "dev:olga:sales=operator"
EDITOR = "dev:ed:sales=editor"


def batches(harness: Harness, bearer: str = ALICE) -> Any:
    return BatchServiceStub(harness.channel(bearer))


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def batch_request(crew_id: str, count: int, **fields: Any) -> pb.StartBatchRequest:
    """Return a request whose inputs are numbered; `text` is that of all."""
    start = start_request(crew_id, labels={"team": "a"})
    del start.inputs["topic"]
    inputs = [struct(topic=f"ship {number}") for number in range(count)]
    return pb.StartBatchRequest(start=start, inputs=inputs, **fields)


async def listed(harness: Harness, batch_id: str, **fields: Any) -> list[execution_pb2.Execution]:
    """Return a batch's executions in the order of its inputs."""
    request = execution_pb2.ListExecutionsRequest(batch_id=batch_id, page_size=1000, **fields)
    return list(reversed((await executions_of(harness).ListExecutions(request)).executions))


async def test_executions_are_made_in_order_so_many_at_once_and_summed_up(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness)
    stub = batches(harness)
    batch = (await stub.StartBatch(batch_request(crew.id, 5, max_parallel=2, request_id="r"))).batch
    again = await stub.StartBatch(batch_request(crew.id, 5, max_parallel=2, request_id="r"))
    assert (batch.total, batch.crew_name, again.batch.id) == (5, "brief", batch.id)
    with refused(CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await stub.StartBatch(batch_request(crew.id, 4, max_parallel=2, request_id="r"))

    async def made(count: int) -> list[execution_pb2.Execution]:
        found: list[execution_pb2.Execution] = []

        async def there() -> bool:
            found[:] = await listed(harness, batch.id)
            return len(found) >= count

        await until(there)
        return found

    first = await made(2)
    assert [execution.batch_index for execution in first] == [0, 1]
    assert {execution.priority for execution in first} == {100}, "the group's other executions go first"
    whole = (await executions_of(harness).GetExecution(execution_pb2.GetExecutionRequest(id=first[1].id))).execution
    assert (whole.inputs["topic"].string_value, whole.inputs["text"].string_value) == ("ship 1", "A coxswain steers.")
    assert (whole.batch_id, dict(whole.labels)) == (batch.id, {"team": "a"})
    async with worker.database.write() as connection:
        used = {"llm_calls": 2, "input_tokens": 10, "output_tokens": 5, "cost": 0.5}
        await connection.execute(executions.update().where(executions.c.id == first[0].id).values(used))
    await end(worker, first[0].id, None)
    assert [execution.batch_index for execution in await made(3)] == [0, 1, 2]
    await end(worker, first[1].id, ExecutionError("TASK_FAILED", "no"))
    four = await made(4)
    shown = (await stub.GetBatch(pb.GetBatchRequest(id=batch.id))).batch
    assert {(execution_pb2.ExecutionState.Name(each.state)[16:], each.count) for each in shown.counts} == {
        ("SUCCEEDED", 1),
        ("FAILED", 1),
        ("QUEUED", 2),
    }
    assert (shown.pending, shown.usage.input_tokens, shown.usage.cost) == (1, 10, 0.5)
    [failure] = shown.failures
    assert (failure.execution_id, failure.index, failure.error.reason) == (first[1].id, 1, "TASK_FAILED")
    for execution in four[2:]:
        await end(worker, execution.id, None)
    await end(worker, (await made(5))[4].id, None)

    async def ended() -> bool:
        shown: pb.Batch = (await stub.GetBatch(pb.GetBatchRequest(id=batch.id))).batch
        return shown.HasField("end_time")

    await until(ended)
    assert len(await listed(harness, batch.id)) == 5
    async with worker.database.read() as connection:
        assert (await connection.execute(batch_inputs.select())).first() is None, "inputs are kept by executions alone"
    [only] = (await stub.ListBatches(pb.ListBatchesRequest())).batches
    assert (only.id, len(only.counts), len(only.failures)) == (batch.id, 2, 0)


async def end(worker: Worker, execution_id: str, error: ExecutionError | None) -> None:
    """End an execution as its worker does."""
    await worker.claim(execution_id)
    body = execution_pb2.ExecutionFailed() if error else execution_pb2.ExecutionSucceeded()
    async with worker.database.write() as connection:
        if error is None:
            await EventRepository(connection).append(execution_id, [], succeeded=Success(TaskOutput("done"), utc_now()))
        else:
            await ExecutionRepository(connection).end(execution_id, ExecutionState.FAILED, error, utc_now())
    await worker.emit(execution_id, body)


async def test_a_cancelled_batch_makes_no_more_and_ends_what_it_has(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = batches(harness)
    batch = (await stub.StartBatch(batch_request(crew.id, 300, max_parallel=3))).batch

    async def three() -> bool:
        return len(await listed(harness, batch.id)) == 3

    await until(three)
    cancelled = (await stub.CancelBatch(pb.CancelBatchRequest(id=batch.id))).batch
    assert cancelled.HasField("cancel_request_time")

    async def ended() -> bool:
        shown: pb.Batch = (await stub.GetBatch(pb.GetBatchRequest(id=batch.id))).batch
        return shown.HasField("end_time")

    await until(ended)
    states = [execution.state for execution in await listed(harness, batch.id)]
    assert states == [execution_pb2.EXECUTION_STATE_CANCELLED] * 3
    shown = (await stub.CancelBatch(pb.CancelBatchRequest(id=batch.id))).batch
    assert (shown.total, shown.pending) == (300, 297)


async def test_a_batch_goes_with_its_executions_once_it_has_ended(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness)
    stub, editor = batches(harness), batches(harness, EDITOR)
    other = (await executions_of(harness).StartExecution(start_request(crew.id))).execution
    batch = (await stub.StartBatch(batch_request(crew.id, 25, max_parallel=12, request_id="r"))).batch
    delete = pb.DeleteBatchRequest(id=batch.id)

    async def made() -> bool:
        return len(await listed(harness, batch.id)) == 12

    await until(made)
    with refused(CODE.FAILED_PRECONDITION, "EXECUTION_STATE") as refusal:
        await editor.DeleteBatch(delete)
    assert refusal.metadata == {"batch_id": batch.id}
    await stub.CancelBatch(pb.CancelBatchRequest(id=batch.id))

    async def ended() -> bool:
        shown: pb.Batch = (await stub.GetBatch(pb.GetBatchRequest(id=batch.id))).batch
        return shown.HasField("end_time")

    await until(ended)
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await batches(harness, OPERATOR).DeleteBatch(delete)
    assert not (await batches(harness, BOB).DeleteBatch(delete)).deleted
    assert await made()

    first = await editor.DeleteBatch(delete)
    assert (first.deleted, first.deleted_executions) == (True, 12)
    assert await editor.DeleteBatch(delete) == pb.DeleteBatchResponse()
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await stub.GetBatch(pb.GetBatchRequest(id=batch.id))
    left = (await executions_of(harness).ListExecutions(execution_pb2.ListExecutionsRequest())).executions
    assert [execution.id for execution in left] == [other.id]
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await stub.StartBatch(batch_request(crew.id, 25, max_parallel=12, request_id="r"))


async def test_what_cannot_run_is_refused_whole_and_another_group_sees_nothing(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub, foreign = batches(harness), batches(harness, BOB)
    request = batch_request(crew.id, 4)
    del request.inputs[2].fields["topic"]
    request.inputs[3].fields["topic"].number_value = 2.0**60
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartBatch(request)
    assert set(refusal.violations) == {"inputs[3].topic"}
    request.inputs[3].fields["topic"].string_value = "x"
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartBatch(request)
    assert set(refusal.violations) == {"inputs[2].topic"}
    request = batch_request(crew.id, 1)
    request.start.identity = delegation_pb2.EXECUTION_IDENTITY_USER
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartBatch(request)
    assert set(refusal.violations) == {"start.identity"}
    for count in (0, 10_001):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await stub.StartBatch(batch_request(crew.id, count))
        assert set(refusal.violations) == {"inputs"}
    assert not (await stub.ListBatches(pb.ListBatchesRequest())).batches
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await foreign.StartBatch(batch_request(crew.id, 1))

    batch = (await stub.StartBatch(batch_request(crew.id, 2))).batch
    for call in (
        foreign.GetBatch(pb.GetBatchRequest(id=batch.id)),
        foreign.CancelBatch(pb.CancelBatchRequest(id=batch.id)),
    ):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await call
    assert not (await foreign.ListBatches(pb.ListBatchesRequest())).batches
    query = execution_pb2.ListExecutionsRequest(batch_id=batch.id)
    assert not (await executions_of(harness, BOB).ListExecutions(query)).executions
    assert not (await stub.GetBatch(pb.GetBatchRequest(id=batch.id))).batch.HasField("cancel_request_time")


async def test_ten_thousand_inputs_are_one_call(harness: Harness, worker: Worker) -> None:
    crew = await create_crew(harness)
    stub = batches(harness)
    request = batch_request(crew.id, 10_000, max_parallel=1)
    batch = (await stub.StartBatch(request)).batch
    assert batch.total == 10_000
    # Others are not held up meanwhile, and go first.
    other = (await executions_of(harness).StartExecution(start_request(crew.id))).execution
    assert other.priority < 100
    await stub.CancelBatch(pb.CancelBatchRequest(id=batch.id))


def start(crew_id: str) -> Start:
    return Start(crew_id, 0, {}, {}, "", 0, None, ExecutionIdentity.UNSPECIFIED, OnCredentialExpiry.PARK)


async def test_runners_at_once_make_each_execution_once_and_never_one_too_many(orchestrator: Orchestrator) -> None:
    inputs = [{"number": number} for number in range(30)]
    batch = (await orchestrator.batches.start(PRINCIPAL, start(orchestrator.crew_id), inputs, 4, None)).batch
    indices: list[int] = []
    while len(indices) < 30:
        await asyncio.gather(*(orchestrator.batch_runner.once() for _ in range(3)))
        rows = await orchestrator.rows()
        active = [row for row in rows if row.ended_at is None]
        assert 1 <= len(active) <= 4
        indices = [row.batch_index for row in rows]
        assert indices == list(range(len(rows)))
        for row in active[:3]:
            await orchestrator.executions.cancel(PRINCIPAL, row.id)
    for row in await orchestrator.rows():
        await orchestrator.executions.cancel(PRINCIPAL, row.id)
    # The grant is revoked when auth answers again.
    orchestrator.grants.away = True
    with pytest.raises(Unavailable):
        await orchestrator.grants.issue(batch.grant_id, batch.id)
    await orchestrator.batch_runner.once()
    orchestrator.grants.away = False
    assert batch.id in orchestrator.grants.unrevoked
    await orchestrator.batch_runner.once()
    assert batch.id not in orchestrator.grants.unrevoked
    assert (await orchestrator.batches.get(PRINCIPAL, batch.id)).batch.ended_at is not None


async def test_a_batch_stops_when_nobody_may_act_for_it_any_more(orchestrator: Orchestrator) -> None:
    inputs = [{"number": number} for number in range(3)]
    batch = (await orchestrator.batches.start(PRINCIPAL, start(orchestrator.crew_id), inputs, 1, None)).batch
    orchestrator.grants.away = True
    await orchestrator.batch_runner.once()
    assert (await orchestrator.batches.get(PRINCIPAL, batch.id)).batch.error is None, "auth may come back"
    orchestrator.grants.away = False
    orchestrator.grants.unrevoked.discard(batch.id)
    await orchestrator.batch_runner.once()
    stopped = (await orchestrator.batches.get(PRINCIPAL, batch.id)).batch
    assert stopped.error is not None
    assert stopped.error.reason == "DELEGATION_REVOKED"
    await orchestrator.batch_runner.once()
    assert (await orchestrator.batches.get(PRINCIPAL, batch.id)).batch.ended_at is not None
    assert await orchestrator.rows() == []


async def test_a_batch_stays_until_its_last_execution_is_gone(
    harness: Harness, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may delete what a portion has just found."""
    crew = await create_crew(harness)
    stub = batches(harness)
    batch = (await stub.StartBatch(batch_request(crew.id, 2, max_parallel=2))).batch

    async def made() -> bool:
        return len(await listed(harness, batch.id)) == 2

    await until(made)
    await stub.CancelBatch(pb.CancelBatchRequest(id=batch.id))

    async def ended() -> bool:
        shown: pb.Batch = (await stub.GetBatch(pb.GetBatchRequest(id=batch.id))).batch
        return shown.HasField("end_time")

    await until(ended)
    read, stale = BatchRepository.ended_executions, [{"deleted by another": False}]

    async def overtaken(self: BatchRepository, *asked: Any) -> dict[str, bool]:
        return stale.pop() if stale else await read(self, *asked)

    monkeypatch.setattr(BatchRepository, "ended_executions", overtaken)
    deleted = await batches(harness, EDITOR).DeleteBatch(pb.DeleteBatchRequest(id=batch.id))
    assert (deleted.deleted, deleted.deleted_executions) == (True, 2)
    assert not await listed(harness, batch.id)
