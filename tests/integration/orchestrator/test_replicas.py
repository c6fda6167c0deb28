"""Two replicas of the API on one PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from a2a.types import a2a_pb2 as a2a

from coxswain.orchestrator.v1 import crew_pb2, question_pb2
from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.common.clock import utc_now
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.settings import OrchestratorSettings
from tests.integration.orchestrator.a2a_support import agent, ask, finish, publish, send, sending, state
from tests.integration.orchestrator.support import (
    create_crew,
    crews,
    executions_of,
    questions_of,
    spec,
    start,
    start_request,
    working,
)
from tests.support.harness import Harness, serve_services
from tests.support.waiting import until

Pair = tuple[Harness, Harness]


@pytest.fixture
async def replicas(postgres_url: str, tmp_path: Path) -> AsyncIterator[Pair]:
    """Both of them read without a hint only after an hour."""
    settings = {"orchestrator": OrchestratorSettings(watch_safety_read_seconds=3600, housekeeping_seconds=3600)}
    async with (
        serve_services(tmp_path, "models", "orchestrator", database_url=postgres_url, settings=settings) as one,
        serve_services(tmp_path, "models", "orchestrator", database_url=postgres_url, settings=settings) as other,
    ):
        yield one, other


async def test_a_watch_on_one_replica_sees_what_is_done_through_the_other(replicas: Pair, postgres_url: str) -> None:
    one, other = replicas
    async with working(one, postgres_url) as worker:
        made = await start(one)
        watches = [executions_of(replica).WatchExecution(pb.WatchExecutionRequest(id=made.id)) for replica in replicas]
        for watch in watches:
            answer = await watch.read()
            assert isinstance(answer, pb.WatchExecutionResponse)
            assert answer.event.sequence == 1
        await worker.claim(made.id)
        await worker.emit(made.id, pb.LlmChunk(call_id="c", text="piece"))
        await worker.park(made.id, 1)
        await executions_of(other).CancelExecution(pb.CancelExecutionRequest(id=made.id))
        for watch in watches:
            assert [answer.event.sequence async for answer in watch] == [2, 3, 4]


async def test_one_request_at_both_replicas_at_once_is_one_execution_and_one_crew(replicas: Pair) -> None:
    creating = [
        crews(replicas[n % 2]).CreateCrew(crew_pb2.CreateCrewRequest(spec=spec(), request_id="crew")) for n in range(8)
    ]
    assert len({answer.crew.id for answer in await asyncio.gather(*creating)}) == 1
    crew = await create_crew(replicas[0], name="other")
    starting = [
        executions_of(replicas[n % 2]).StartExecution(start_request(crew.id, request_id="run")) for n in range(8)
    ]
    assert len({answer.execution.id for answer in await asyncio.gather(*starting)}) == 1
    listed = await executions_of(replicas[1]).ListExecutions(pb.ListExecutionsRequest())
    assert len(listed.executions) == 1


async def test_housekeeping_of_two_replicas_ends_an_execution_once(replicas: Pair, postgres_url: str) -> None:
    async with working(replicas[0], postgres_url) as worker:
        made = await start(replicas[0])
        await worker.claim(made.id)
        await executions_of(replicas[0]).CancelExecution(pb.CancelExecutionRequest(id=made.id))
        await worker.park(made.id, 1)
        await asyncio.gather(*(replica.services["orchestrator"]._housekeeping.once() for replica in replicas))  # type: ignore[attr-defined]
        row = await worker.row(made.id)
        assert (row.state, row.last_sequence) == (ExecutionState.CANCELLED, 3)


async def test_questions_of_many_writers_are_seen_at_both_replicas_once_and_in_order(
    replicas: Pair, postgres_url: str
) -> None:
    """Writers hold their transactions open for different times, so that they do not commit in the order they began."""
    async with working(replicas[0], postgres_url) as worker:
        made = [await start(replicas[n % 2]) for n in range(6)]
        for each in made:
            await worker.claim(each.id)

        async def write(execution_id: str) -> None:
            """Ask three questions, answer one and let the end of the execution close the others."""
            asked = [await worker.ask(execution_id, index) for index in range(3)]
            accepted = question_pb2.AnswerQuestionRequest(id=asked[1], accept=question_pb2.AcceptQuestion())
            await questions_of(replicas[1]).AnswerQuestion(accepted)
            async with worker.database.write() as connection:
                await ExecutionRepository(connection).end(execution_id, ExecutionState.FAILED, None, utc_now())
                # Others have their turn before this one commits.
                await asyncio.sleep(0.02)
            worker.bus.publish(Hint(HintKind.QUESTIONS_CHANGED, execution_id))

        async def watch(replica: Harness) -> list[tuple[int, str, int]]:
            """Watch in short pieces, each from where the last one ended."""
            seen: list[tuple[int, str, int]] = []
            while len(seen) < 36:
                request = question_pb2.WatchQuestionsRequest(after_sequence=seen[-1][0] if seen else first)
                call = questions_of(replica).WatchQuestions(request)
                for _ in range(min(7, 36 - len(seen))):
                    change = await call.read()
                    assert isinstance(change, question_pb2.WatchQuestionsResponse)
                    seen.append((change.sequence, change.question.id, change.question.state))
                call.cancel()
            return seen

        # From 0 on a watch would begin with what is open at that moment.
        settled = await start(replicas[0])
        await worker.ask(settled.id, 0)
        first = 1
        async with asyncio.timeout(60):
            watches = asyncio.gather(*(watch(replica) for replica in replicas))
            await asyncio.gather(*(write(each.id) for each in made))
            one, other = await watches
    assert one == other
    assert [sequence for sequence, _, _ in one] == list(range(2, 38))
    assert len({question_id for _, question_id, _ in one}) == 18


async def test_a_task_of_a2a_is_followed_on_one_replica_and_answered_through_the_other(
    replicas: Pair, postgres_url: str
) -> None:
    one, other = replicas
    async with working(one, postgres_url) as worker:
        tenant = await publish(one)
        stream = agent(one).SendStreamingMessage(sending(tenant=tenant))
        task = (await stream.read()).task
        waiting = asyncio.create_task(send(agent(other), tenant=tenant, configuration={}))
        await worker.claim(task.id)
        await ask(worker, task.id)
        assert state((await stream.read()).status_update) == "INPUT_REQUIRED"
        await send(agent(other), "approve", task_id=task.id, data=None)
        assert state(await agent(one).GetTask(a2a.GetTaskRequest(id=task.id))) == "WORKING"
        await worker.claim(task.id)
        await finish(worker, task.id)
        assert state([answer async for answer in stream][-1].status_update) == "COMPLETED"
        submitted: list[str] = []

        async def is_submitted() -> bool:
            listed = (await agent(one).ListTasks(a2a.ListTasksRequest(status=a2a.TASK_STATE_SUBMITTED))).tasks
            submitted[:] = [task.id for task in listed]
            return bool(submitted)

        await until(is_submitted)
        await agent(one).CancelTask(a2a.CancelTaskRequest(id=submitted[0]))
        assert state(await waiting) == "CANCELED"
