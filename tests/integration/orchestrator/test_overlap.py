"""Executions with one key: at once, not at all, one after the other, or the newest alone. Exactly, also at once."""

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest

from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1 import schedule_pb2
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from services.common.clock import utc_now
from services.common.errors import AlreadyExists, CoxswainError
from services.common.identity.group_limits import NO_GROUP_LIMITS, GroupLimits
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionIdentity,
    ExecutionState,
    OnCredentialExpiry,
    OverlapPolicy,
    Start,
    Success,
    TaskOutput,
)
from services.orchestrator.domain.schedule import Plan
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.tables import executions, schedules
from tests.integration.orchestrator.support import create_crew, executions_of, refused, start_request
from tests.integration.orchestrator.use_cases import ALICE as PRINCIPAL
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.harness import ALICE, BOB, Harness

CODE = grpc.StatusCode
SKIP, QUEUE, CANCEL_OLD, ALLOW = OverlapPolicy.SKIP, OverlapPolicy.QUEUE, OverlapPolicy.CANCEL_OLD, OverlapPolicy.ALLOW


def plan(orchestrator: Orchestrator, policy: OverlapPolicy, key: str = "k") -> Start:
    expiry = OnCredentialExpiry.PARK
    start = Start(orchestrator.crew_id, 0, {}, {}, "", 0, None, ExecutionIdentity.UNSPECIFIED, expiry)
    return replace(start, concurrency_key=key, overlap_policy=policy)


async def begin(orchestrator: Orchestrator, policy: OverlapPolicy, key: str = "k") -> Execution:
    return await orchestrator.executions.start(PRINCIPAL, plan(orchestrator, policy, key), None)


async def succeed(orchestrator: Orchestrator, execution_id: str) -> None:
    async with orchestrator.database.write() as connection:
        await EventRepository(connection).append(execution_id, [], succeeded=Success(TaskOutput("done"), utc_now()))


async def run(orchestrator: Orchestrator, execution_id: str) -> None:
    """Let a worker have it."""
    async with orchestrator.database.write() as connection:
        values = {"state": ExecutionState.RUNNING, "ready": False}
        await connection.execute(executions.update().where(executions.c.id == execution_id).values(values))


async def may_run(orchestrator: Orchestrator) -> list[str]:
    return [row.id for row in await orchestrator.rows() if row.ready]


async def test_of_many_at_once_that_skip_one_is_started(orchestrator: Orchestrator) -> None:
    answers = await asyncio.gather(*(begin(orchestrator, SKIP) for _ in range(8)), return_exceptions=True)
    [started] = [answer for answer in answers if isinstance(answer, Execution)]
    taken = [answer for answer in answers if isinstance(answer, AlreadyExists)]
    assert len(taken) == 7
    assert {(error.reason, error.metadata["execution_id"]) for error in taken} == {
        ("CONCURRENCY_KEY_TAKEN", started.id)
    }
    assert orchestrator.grants.unrevoked == {started.id}, "what is not stored may not act"
    assert (await begin(orchestrator, SKIP, "other")).ready
    assert (await begin(orchestrator, ALLOW)).ready
    for row in await orchestrator.rows():
        await succeed(orchestrator, row.id)
    assert (await begin(orchestrator, SKIP)).ready


async def test_those_that_queue_run_one_after_the_other_in_order(orchestrator: Orchestrator) -> None:
    await asyncio.gather(*(begin(orchestrator, QUEUE) for _ in range(6)))
    other = await begin(orchestrator, QUEUE, "other")
    waiting = [row.id for row in await orchestrator.rows() if row.id != other.id and not row.ready]
    [first] = [row.id for row in await orchestrator.rows() if row.id != other.id and row.ready]
    cancelled = waiting.pop(2)
    await orchestrator.executions.cancel(PRINCIPAL, cancelled)
    on = first
    for following in [*sorted(waiting), None]:
        await asyncio.gather(*(orchestrator.overlap.pass_turns() for _ in range(3)))
        assert set(await may_run(orchestrator)) == {on, other.id}
        await run(orchestrator, on)
        await orchestrator.overlap.pass_turns()
        assert await may_run(orchestrator) == [other.id]
        await succeed(orchestrator, on)
        if following is not None:
            on = following
    assert not (await orchestrator.overlap.pass_turns()).groups


async def test_the_newest_ends_the_older_ones_and_waits_until_they_have_ended(orchestrator: Orchestrator) -> None:
    running = await begin(orchestrator, QUEUE)
    await run(orchestrator, running.id)
    queued = await begin(orchestrator, QUEUE)
    newest = await begin(orchestrator, CANCEL_OLD)
    rows = {row.id: row for row in await orchestrator.rows()}
    assert rows[queued.id].state == ExecutionState.CANCELLED
    assert queued.id not in orchestrator.grants.unrevoked
    assert (rows[running.id].state, rows[running.id].cancel_requested_at is not None) == (ExecutionState.RUNNING, True)
    assert (newest.ready, newest.waits_turn) == (False, True)
    await orchestrator.overlap.pass_turns()
    assert await may_run(orchestrator) == []
    await succeed(orchestrator, running.id)
    await orchestrator.overlap.pass_turns()
    assert await may_run(orchestrator) == [newest.id]
    last = await begin(orchestrator, CANCEL_OLD)
    assert await may_run(orchestrator) == [last.id], "nothing had to be waited for"


async def test_at_the_limit_of_open_executions_the_policy_comes_first(orchestrator: Orchestrator) -> None:
    async def at_limit(policy: OverlapPolicy, key: str = "k") -> Execution:
        limited = replace(PRINCIPAL, limits=GroupLimits(max_open_executions=1))
        return await orchestrator.executions.start(limited, plan(orchestrator, policy, key), None)

    running = await at_limit(SKIP)
    await run(orchestrator, running.id)
    for policy, key, reason in (
        (SKIP, "k", "CONCURRENCY_KEY_TAKEN"),
        (SKIP, "other", "QUOTA_EXCEEDED"),
        (CANCEL_OLD, "other", "QUOTA_EXCEEDED"),
        (QUEUE, "k", "QUOTA_EXCEEDED"),
        (ALLOW, "", "QUOTA_EXCEEDED"),
    ):
        with pytest.raises(CoxswainError) as refused_start:
            await at_limit(policy, key)
        assert refused_start.value.reason == reason, (policy, key)
    [row] = await orchestrator.rows()
    assert row.cancel_requested_at is None
    assert orchestrator.grants.unrevoked == {running.id}, "what is refused may not act"
    # What was asked to end makes room, however often.
    for _ in range(2):
        newest = await at_limit(CANCEL_OLD)
        assert newest.waits_turn
        assert {row.id for row in await orchestrator.rows() if row.ended_at is None} == {running.id, newest.id}
    with pytest.raises(CoxswainError, match="has 2 executions that have not ended, and may have 1"):
        await at_limit(ALLOW)


@pytest.mark.parametrize("limits", [NO_GROUP_LIMITS, GroupLimits(max_open_executions=1)])
@pytest.mark.parametrize(("policy", "key"), [(SKIP, ""), (SKIP, "k")])
async def test_a_schedule_that_is_due_too_early_skips_that_time_and_says_so(
    orchestrator: Orchestrator, policy: OverlapPolicy, key: str, limits: GroupLimits
) -> None:
    orchestrator.grants.limits = limits
    made = await orchestrator.schedules.create(
        PRINCIPAL, Plan("s", "0 0 1 1 *", "", plan(orchestrator, policy, key), paused=False), [], None
    )

    async def due() -> Any:
        async with orchestrator.database.write() as connection:
            await connection.execute(schedules.update().values(next_fire_at=utc_now()))
        await orchestrator.scheduler.once()
        return await orchestrator.schedules.get(PRINCIPAL, ResourceKey(made.id))

    first = await due()
    assert first.last_error is None
    second = await due()
    assert (second.last_error.reason, second.last_execution_id) == ("CONCURRENCY_KEY_TAKEN", first.last_execution_id)
    assert second.next_fire_at is not None
    assert second.next_fire_at > utc_now()
    await succeed(orchestrator, first.last_execution_id)
    third = await due()
    assert third.last_error is None
    assert third.last_execution_id != first.last_execution_id


async def test_keys_of_groups_never_meet_and_schedules_are_fired_by_hand(harness: Harness) -> None:
    stub, foreign = executions_of(harness), executions_of(harness, BOB)
    crew, theirs = await create_crew(harness), await create_crew(harness, BOB)
    keyed = {"concurrency_key": "k", "overlap_policy": pb.OVERLAP_POLICY_SKIP}
    made = (await stub.StartExecution(start_request(crew.id, request_id="r", **keyed))).execution
    assert (await stub.StartExecution(start_request(crew.id, request_id="r", **keyed))).execution.id == made.id
    assert made.concurrency_key == "k"
    with refused(CODE.ALREADY_EXISTS, "CONCURRENCY_KEY_TAKEN") as refusal:
        await stub.StartExecution(start_request(crew.id, **keyed))
    assert refusal.metadata == {"concurrency_key": "k", "execution_id": made.id}
    await foreign.StartExecution(start_request(theirs.id, **keyed))
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.StartExecution(start_request(crew.id, overlap_policy=pb.OVERLAP_POLICY_QUEUE))
    assert set(refusal.violations) == {"concurrency_key"}
    queued = (
        await stub.StartExecution(start_request(crew.id, concurrency_key="k", overlap_policy=pb.OVERLAP_POLICY_QUEUE))
    ).execution
    shown = (await stub.GetExecution(pb.GetExecutionRequest(id=queued.id))).execution
    assert (shown.state, shown.queue.reason, shown.queue.ahead_count) == (
        pb.EXECUTION_STATE_QUEUED,
        pb.QUEUE_REASON_TURN,
        1,
    )
    assert shown.queue.message == 'another execution with the key "k" must end first'
    await stub.CancelExecution(pb.CancelExecutionRequest(id=made.id))
    # Its turn has come as soon as the end of the first is heard of.
    async with asyncio.timeout(60):
        while shown.queue.reason == pb.QUEUE_REASON_TURN:
            await asyncio.sleep(0.02)
            shown = (await stub.GetExecution(pb.GetExecutionRequest(id=queued.id))).execution

    channel: Any = harness.channel(ALICE)
    service: Any = ScheduleServiceStub(channel)
    schedule = schedule_pb2.Schedule(name="s", cron="0 0 1 1 *", paused=True)
    schedule.start.CopyFrom(start_request(crew.id, overlap_policy=pb.OVERLAP_POLICY_SKIP))
    stored = (await service.CreateSchedule(schedule_pb2.CreateScheduleRequest(schedule=schedule))).schedule
    fire = schedule_pb2.FireScheduleRequest(name="s", request_id="f")
    fired = (await service.FireSchedule(fire)).execution
    assert (fired.schedule_id, fired.crew_id) == (stored.id, crew.id)
    assert (await service.FireSchedule(fire)).execution.id == fired.id
    with refused(CODE.ALREADY_EXISTS, "CONCURRENCY_KEY_TAKEN"):
        await service.FireSchedule(schedule_pb2.FireScheduleRequest(id=stored.id))
    shown = (await service.GetSchedule(schedule_pb2.GetScheduleRequest(name="s"))).schedule
    assert (shown.last_execution_id, shown.paused, shown.HasField("last_error")) == (fired.id, True, False)
    other: Any = ScheduleServiceStub(harness.channel(BOB))
    for request in (fire, schedule_pb2.FireScheduleRequest(id=stored.id)):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await other.FireSchedule(request)
    await service.DeleteSchedule(schedule_pb2.DeleteScheduleRequest(name="s"))
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await service.FireSchedule(schedule_pb2.FireScheduleRequest(name="s"))
