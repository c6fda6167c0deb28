"""GetExecution and ListExecutions say why an execution waits, and how many are before it."""

from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.orchestrator.domain.admission import Room
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from services.orchestrator.worker.host.run_store import RunStore
from tests.integration.orchestrator.support import Worker, executions_of, start
from tests.support.harness import ALICE, BOB, Harness


async def _queue(harness: Harness, bearer: str, execution_id: str) -> tuple[str, str, int]:
    got = (await executions_of(harness, bearer).GetExecution(pb.GetExecutionRequest(id=execution_id))).execution
    return pb.QueueReason.Name(got.queue.reason), got.queue.message, got.queue.ahead_count


async def test_an_execution_says_why_it_waits_and_how_many_are_before_it(harness: Harness, worker: Worker) -> None:
    store = RunStore(worker.database)
    first, second, third = [(await start(harness)).id for _ in range(3)]
    other = (await start(harness, BOB)).id
    assert await _queue(harness, ALICE, first) == ("QUEUE_REASON_NO_WORKER_HOST", "no worker host is running", 0)
    lease = LeaseConnection(worker.database.url, worker.database.schema, "host", 600.0)
    lease.renew()
    await store.can_run("host", slots=1, reserved_slots=1, group_limit=None)
    await store.can_run("a host that has died", slots=100, reserved_slots=1, group_limit=None)
    assert await _queue(harness, ALICE, first) == ("QUEUE_REASON_STARTING", "a worker host is about to take it", 0)
    (claim,) = await store.take("host", Room(1, 0, None))
    assert claim.execution.id == first
    assert await _queue(harness, ALICE, second) == ("QUEUE_REASON_SLOTS_BUSY", "the only slot is busy", 1)
    assert (await _queue(harness, BOB, other))[::2] == ("QUEUE_REASON_STARTING", 0)
    await store.can_run("host", slots=4, reserved_slots=1, group_limit=1)
    assert await _queue(harness, ALICE, third) == (
        "QUEUE_REASON_GROUP_LIMIT",
        "the group's limit of 1 is reached",
        2,
    )
    listed = (await executions_of(harness).ListExecutions(pb.ListExecutionsRequest())).executions
    assert [(each.id, each.HasField("queue"), each.queue.ahead_count) for each in listed] == [
        (third, True, 2),
        (second, True, 1),
        (first, False, 0),
    ]
    lease.close()
