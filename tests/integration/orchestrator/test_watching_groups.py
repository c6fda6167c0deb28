"""WatchExecutions over real gRPC: what happens in a group, each event once and in order, and in no other group."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest

from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.clock import utc_now
from services.common.paging import encode_page_token
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.tables import group_events
from tests.integration.orchestrator.support import (
    Worker,
    create_crew,
    executions_of,
    refused,
    start,
    start_request,
)
from tests.support.harness import ALICE, BOB, Harness

CODE = grpc.StatusCode
SUCCEEDED = pb.ExecutionSucceeded(result=pb.TaskOutput(text="brief"), usage=pb.ExecutionUsage(llm_calls=3))
KIND = pb.ExecutionEventKind


class Watch:
    """A stream that stands, and the last position seen in it."""

    def __init__(self, harness: Harness, bearer: str = ALICE, after: str = "", **fields: Any) -> None:
        request = pb.WatchExecutionsRequest(after_position=after, **fields)
        self.call: Any = executions_of(harness, bearer).WatchExecutions(request)
        self.position = after

    async def stands(self) -> "Watch":
        """Wait for the first response, which has no event."""
        first = await self.call.read()
        assert not first.HasField("event")
        self.position = first.position
        return self

    async def next(self, count: int) -> list[pb.WatchExecutionsResponse]:
        """Return the next responses that have an event."""
        found: list[pb.WatchExecutionsResponse] = []
        while len(found) < count:
            response = await self.call.read()
            assert response is not grpc.aio.EOF
            self.position = response.position
            if response.HasField("event"):
                found.append(response)
        return found


def seen(responses: list[pb.WatchExecutionsResponse]) -> list[tuple[str, str | None]]:
    return [(response.event.execution_id, response.event.WhichOneof("event")) for response in responses]


async def test_a_group_sees_how_far_its_executions_come_and_nothing_of_others(harness: Harness, worker: Worker) -> None:
    ours, theirs = await Watch(harness).stands(), await Watch(harness, BOB).stands()
    one = await start(harness, labels={"team": "a"})
    other = await start(harness, BOB)
    two = await start(harness)
    await worker.claim(one.id)
    completed = pb.TaskCompleted(output=pb.TaskOutput(text="x" * 100_000))
    await worker.emit(one.id, pb.TaskStarted(agent_role="Reader"), pb.LlmChunk(call_id="c", text="piece"), completed)
    await worker.end(one.id, ExecutionState.SUCCEEDED, SUCCEEDED)
    await executions_of(harness).CancelExecution(pb.CancelExecutionRequest(id=two.id))
    await executions_of(harness, BOB).CancelExecution(pb.CancelExecutionRequest(id=other.id))
    found = await ours.next(7)
    assert seen(found) == [
        (one.id, "execution_queued"),
        (two.id, "execution_queued"),
        (one.id, "execution_started"),
        (one.id, "task_started"),
        (one.id, "task_completed"),
        (one.id, "execution_succeeded"),
        (two.id, "execution_cancelled"),
    ]
    assert seen(await theirs.next(2)) == [(other.id, "execution_queued"), (other.id, "execution_cancelled")]
    assert [response.event.sequence for response in found if response.event.execution_id == one.id] == [1, 2, 3, 5, 6]
    assert all(response.event.HasField("time") for response in found)
    assert (found[0].crew_id, found[0].crew_name, dict(found[0].labels)) == (
        one.crew_id,
        one.crew_name,
        {"team": "a"},
    )
    assert not found[4].event.task_completed.HasField("output"), "results can be large: they are read on their own"
    assert found[5].event.execution_succeeded == pb.ExecutionSucceeded(usage=SUCCEEDED.usage)
    # From any position the rest follows, whatever the filter was before.
    again = await Watch(harness, after=found[2].position).stands()
    assert seen(await again.next(4)) == seen(found[3:])
    for bearer, position in (
        (BOB, ours.position),
        (ALICE, "?"),
        (ALICE, encode_page_token("group_events", {"group": "sales"}, [0, "\0", 0])),
        (ALICE, encode_page_token("group_events", {"group": "sales"}, [0, 2**63, 10**30])),
    ):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await Watch(harness, bearer, after=position).stands()
        assert set(refusal.violations) == {"after_position"}


async def test_filters_choose_crews_labels_and_kinds(harness: Harness, worker: Worker) -> None:
    crew, other = await create_crew(harness, name="a"), await create_crew(harness, name="b")
    by_crew = await Watch(harness, crew_id=crew.id).stands()
    by_labels = await Watch(harness, labels={"team": "a", "env": "prod"}).stands()
    by_kind = await Watch(harness, kinds=[KIND.EXECUTION_EVENT_KIND_EXECUTION_CANCELLED]).stands()
    executions = executions_of(harness)
    made = [
        (await executions.StartExecution(request)).execution.id
        for request in (
            start_request(other.id, labels={"team": "a"}),
            start_request(crew.id, labels={"team": "a", "env": "prod", "x": ""}),
            start_request(other.id, labels={"team": "b", "env": "prod"}),
        )
    ]
    for execution_id in made:
        await executions.CancelExecution(pb.CancelExecutionRequest(id=execution_id))
    both = [(made[1], "execution_queued"), (made[1], "execution_cancelled")]
    assert seen(await by_crew.next(2)) == both
    assert seen(await by_labels.next(2)) == both
    assert seen(await by_kind.next(3)) == [(execution_id, "execution_cancelled") for execution_id in made]
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await Watch(harness, kinds=[KIND.EXECUTION_EVENT_KIND_UNSPECIFIED]).stands()


async def test_a_watcher_cut_off_anywhere_misses_nothing_while_many_write_at_once(
    harness: Harness, worker: Worker
) -> None:
    watch = await Watch(harness).stands()
    made = [await start(harness) for _ in range(4)]

    async def work(execution_id: str) -> None:
        epoch = await worker.claim(execution_id)
        for _ in range(12):
            await worker.emit(execution_id, pb.TaskStarted(), pb.TaskFailed(), epoch=epoch)

    writing = [asyncio.create_task(work(execution.id)) for execution in made]
    found: list[tuple[str, int]] = []
    while len(found) < 4 * 26:
        for response in await watch.next(min(1 + len(found) % 9, 4 * 26 - len(found))):
            found.append((response.event.execution_id, response.event.sequence))
        watch.call.cancel()
        watch = await Watch(harness, after=watch.position).stands()
    await asyncio.gather(*writing)
    for execution in made:
        assert [sequence for execution_id, sequence in found if execution_id == execution.id] == list(range(1, 27))


async def test_a_position_whose_events_may_be_gone_is_refused_and_a_draining_server_says_so(
    harness: Harness, worker: Worker
) -> None:
    watch = await Watch(harness).stands()
    await start(harness)
    [queued] = await watch.next(1)
    async with worker.database.write() as connection:
        await connection.execute(group_events.update().values(stored_at=utc_now() - timedelta(days=8)))
    await harness.services["orchestrator"]._group_events.forget()  # type: ignore[attr-defined]
    async with worker.database.read() as connection:
        assert (await connection.execute(group_events.select())).first() is None
    late = await Watch(harness, after=queued.position).stands()
    old = encode_page_token("group_events", {"group": "sales"}, [0, 0, int(utc_now().timestamp()) - 8 * 24 * 3600])
    ahead = encode_page_token("group_events", {"group": "sales"}, [2**60, 1, int(utc_now().timestamp())])
    for position in (old, ahead):
        with refused(CODE.FAILED_PRECONDITION, "POSITION_EXPIRED"):
            await Watch(harness, after=position).stands()
    await harness.services["orchestrator"].drain()
    with refused(CODE.UNAVAILABLE, "SHUTTING_DOWN"):
        await late.next(1)


@pytest.mark.parametrize("filtered", [False, True])
async def test_what_is_not_watched_costs_no_row(harness: Harness, worker: Worker, filtered: bool) -> None:
    made = await start(harness)
    bodies = [pb.LlmChunk(call_id="c", text="piece"), pb.LlmCallStarted(call_id="c"), pb.ToolCallStarted(call_id="t")]
    await worker.emit(made.id, *bodies, *([pb.TaskStarted()] if filtered else []))
    async with worker.database.read() as connection:
        kinds = [row.kind for row in await connection.execute(group_events.select().order_by(group_events.c.id))]
    assert kinds == ["execution_queued", *(["task_started"] if filtered else [])]
