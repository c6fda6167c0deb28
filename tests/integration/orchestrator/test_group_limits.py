"""What the operator allows a group in the orchestrator."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
from a2a.types import a2a_pb2
from prometheus_client import REGISTRY

from coxswain.orchestrator.v1 import crew_pb2, schedule_pb2
from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from services.common.identity.group_limits import GroupLimits
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.admission import Room
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.messages.batches import batch_to_proto
from services.orchestrator.repositories.running_limits import RunningLimitRepository, read_running_limits
from services.orchestrator.tables import executions
from services.orchestrator.usecases.running_limits import RunningLimits
from services.orchestrator.worker.host.lease_connection import LeaseConnection
from services.orchestrator.worker.host.run_store import RunStore
from tests.integration.orchestrator.a2a_support import agent, publish, send
from tests.integration.orchestrator.support import (
    Worker,
    create_crew,
    crews,
    executions_of,
    refused,
    spec,
    start,
    start_request,
)
from tests.integration.orchestrator.test_batches import start as plain_start
from tests.integration.orchestrator.test_schedules import created, make_due, until_fired
from tests.integration.orchestrator.use_cases import ALICE as SALES
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.group_limits import limit, lower
from tests.support.harness import ALICE, BOB, Harness

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def refusals() -> float:
    """How often callers were told that their group has too many open executions."""
    return REGISTRY.get_sample_value("coxswain_quota_refusals_total", {"quota": "max_open_executions"}) or 0.0


def schedule(crew_id: str, number: int = 0) -> schedule_pb2.CreateScheduleRequest:
    plan = schedule_pb2.Schedule(name=f"s{number}", cron="30 6 * * *", start=start_request(crew_id))
    return schedule_pb2.CreateScheduleRequest(schedule=plan)


async def begin(harness: Harness, crew_id: str) -> pb.Execution:
    return (await executions_of(harness).StartExecution(start_request(crew_id))).execution


async def eventually_taken(store: RunStore) -> list[str]:
    """Return what a host with room takes when there is something that it may take."""
    async with asyncio.timeout(60):
        while True:
            if claims := await store.take("host", Room(9, 0, None)):
                return [claim.execution.id for claim in claims]
            await asyncio.sleep(0.2)


async def successes(*calls: Any) -> int:
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return sum(not isinstance(each, grpc.aio.AioRpcError) for each in outcomes)


async def test_open_executions_are_limited_for_that_group_alone_until_some_have_ended(harness: Harness) -> None:
    crew = await create_crew(harness)
    await limit(harness, max_open_executions=2)
    assert await successes(*(begin(harness, crew.id) for _ in range(6))) == 2
    with refused(EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await begin(harness, crew.id)
    assert refusal.metadata == {"quota": "max_open_executions", "limit": "2", "used": "2"}
    await start(harness, BOB)
    stub = executions_of(harness)
    (first, _) = (await stub.ListExecutions(pb.ListExecutionsRequest())).executions
    await stub.CancelExecution(pb.CancelExecutionRequest(id=first.id))
    await begin(harness, crew.id)
    with refused(EXHAUSTED, "QUOTA_EXCEEDED"):
        await begin(harness, crew.id)
    await limit(harness, max_open_executions=None)
    await begin(harness, crew.id)


async def test_tasks_that_wait_for_inputs_count_among_the_open_executions(harness: Harness) -> None:
    tenant = await publish(harness)
    await limit(harness, max_open_executions=2)
    stub = agent(harness)
    started, draft = await send(stub, tenant=tenant), await send(stub, tenant=tenant, data=None)
    with refused(EXHAUSTED, "QUOTA_EXCEEDED"):
        await send(stub, tenant=tenant, data=None)
    await stub.CancelTask(a2a_pb2.CancelTaskRequest(id=started.id))
    again = await send(stub, tenant=tenant, data=None)
    # One that waits becomes an execution in its own place.
    for task in (draft, again):
        await send(stub, "ships", task_id=task.id, data=None)


async def test_crews_and_schedules_are_limited_also_when_they_come_at_once(harness: Harness) -> None:
    crew = await create_crew(harness)
    # The operator allows one of each more than the group's admin does.
    await limit(harness, max_crews=3, max_schedules=3)
    await lower(harness, max_crews=2, max_schedules=2)
    made = [crews(harness).CreateCrew(crew_pb2.CreateCrewRequest(spec=spec(f"crew{number}"))) for number in range(4)]
    assert await successes(*made) == 1
    stub = ScheduleServiceStub(harness.channel(ALICE))
    assert await successes(*(stub.CreateSchedule(schedule(crew.id, number)) for number in range(4))) == 2
    with refused(EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await stub.CreateSchedule(schedule(crew.id, 9))
    assert refusal.metadata == {"quota": "max_schedules", "limit": "2", "used": "2"}
    # What is deleted does not count.
    await crews(harness).DeleteCrew(crew_pb2.DeleteCrewRequest(id=crew.id))
    await crews(harness).CreateCrew(crew_pb2.CreateCrewRequest(spec=spec("another")))
    await create_crew(harness, BOB)


async def test_few_executions_run_at_once_and_the_others_say_why_they_wait(harness: Harness, worker: Worker) -> None:
    await limit(harness, max_running_executions=1)
    store = RunStore(worker.database)
    lease = LeaseConnection(worker.database.url, worker.database.schema, "host", 60.0)
    lease.renew()
    await store.can_run("host", slots=9, reserved_slots=0, group_limit=None)
    mine = [(await start(harness)).id for _ in range(3)]
    others = {(await start(harness, BOB)).id for _ in range(2)}
    taken = {claim.execution.id for claim in await store.take("host", Room(9, 0, None))}
    assert taken == {mine[0], *others}
    got = (await executions_of(harness).GetExecution(pb.GetExecutionRequest(id=mine[1]))).execution
    assert (got.queue.reason, got.queue.message) == (pb.QUEUE_REASON_GROUP_LIMIT, "the group's limit of 1 is reached")
    # Nobody starts anything: the orchestrator itself finds out that more may run.
    await limit(harness, max_running_executions=2)
    assert await eventually_taken(store) == [mine[1]]
    await limit(harness, max_running_executions=None)
    assert await eventually_taken(store) == [mine[2]]
    lease.close()


async def test_batches_make_no_more_than_may_be_open_and_say_so(orchestrator: Orchestrator) -> None:
    orchestrator.grants.limits = GroupLimits(max_open_executions=1)
    limited = replace(SALES, limits=orchestrator.grants.limits)
    batch = (await orchestrator.batches.start(limited, plain_start(orchestrator.crew_id), [{}] * 3, 3, None)).batch
    runner, counted = orchestrator.batch_runner, refusals()
    for made in (1, 2):
        await asyncio.gather(runner.once(), runner.once())
        asked = orchestrator.grants.asked
        await runner.once()
        assert orchestrator.grants.asked == asked, "auth is not asked while nothing has ended"
        rows = await orchestrator.rows()
        assert [row.ended_at is None for row in rows] == [*([False] * (made - 1)), True]
        shown = batch_to_proto(await orchestrator.batches.get(limited, batch.id))
        assert (shown.pending, shown.pending_reason.reason, shown.HasField("error")) == (
            3 - made,
            "QUOTA_EXCEEDED",
            False,
        )
        assert "may have 1" in shown.pending_reason.message
        await orchestrator.executions.cancel(SALES, rows[-1].id)
    assert refusals() == counted, "no caller was refused"
    shown = batch_to_proto(await orchestrator.batches.get(limited, batch.id))
    assert not shown.HasField("pending_reason")


async def test_refusals_of_callers_are_counted(harness: Harness) -> None:
    crew = await create_crew(harness)
    await limit(harness, max_open_executions=0)
    before = refusals()
    with refused(EXHAUSTED, "QUOTA_EXCEEDED"):
        await begin(harness, crew.id)
    assert refusals() == before + 1


class Auth:
    """What auth says of limits, and who was asked about."""

    def __init__(self) -> None:
        self.limits = GroupLimits(max_running_executions=1)
        self.asked: list[list[str]] = []

    async def limits_of(self, group_ids: Sequence[str]) -> list[GroupLimits]:
        self.asked.append(list(group_ids))
        return [self.limits for _ in group_ids]


async def test_limits_are_there_before_what_rests_wakes(orchestrator: Orchestrator) -> None:
    auth = Auth()
    limits = RunningLimits(orchestrator.database, auth, LocalHintBus())
    await limits.once()
    assert auth.asked == []
    execution = await orchestrator.start()
    async with orchestrator.database.write() as connection:
        await connection.execute(executions.update().values(state="WAITING_FOR_ANSWER", ready=False))
    await limits.once()
    assert (auth.asked, await read_running_limits(orchestrator.database)) == ([["sales"]], {"sales": 1})
    auth.limits = GroupLimits()
    await limits.once()
    assert await read_running_limits(orchestrator.database) == {}
    # One that was lifted while the group had no executions holds up none of its next ones.
    async with orchestrator.database.write() as connection:
        await RunningLimitRepository(connection).keep("sales", 1)
    await orchestrator.executions.cancel(SALES, (await orchestrator.start()).id)
    assert await read_running_limits(orchestrator.database) == {}
    await orchestrator.executions.cancel(SALES, execution.id)
    await limits.once()
    assert len(auth.asked) == 2


async def test_a_schedule_says_that_the_limit_is_reached_and_fires_later(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    orchestrator.grants.limits = GroupLimits(max_open_executions=1)
    first = await orchestrator.start()
    moment = await make_due(orchestrator.database, minutes=1)
    await orchestrator.scheduler.once()
    waiting = await orchestrator.schedules.get(SALES, ResourceKey(made.id))
    assert waiting.next_fire_at == moment
    assert waiting.last_error is not None
    assert waiting.last_error.reason == "QUOTA_EXCEEDED"
    await orchestrator.executions.cancel(SALES, first.id)
    await until_fired(orchestrator, 2)
    fired = await orchestrator.schedules.get(SALES, ResourceKey(made.id))
    assert (fired.last_fire_at, fired.last_error) == (moment, None)
