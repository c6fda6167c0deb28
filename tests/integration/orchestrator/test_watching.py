"""WatchExecution over real gRPC: each event once and in order, whatever happens to the connection."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1 import question_pb2
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.settings import OrchestratorSettings
from tests.integration.orchestrator.support import Worker, executions_of, questions_of, refused, start, working
from tests.support.harness import Harness, serve_services

CODE = grpc.StatusCode
SUCCEEDED = pb.ExecutionSucceeded(result=pb.TaskOutput(text="brief"))


def chunk(number: int, call_id: str = "call") -> pb.LlmChunk:
    return pb.LlmChunk(call_id=call_id, text=f"piece {number}")


def watch(harness: Harness, execution_id: str, after: int = 0, **fields: Any) -> Any:
    return executions_of(harness).WatchExecution(
        pb.WatchExecutionRequest(id=execution_id, after_sequence=after, **fields)
    )


async def sequences(call: AsyncIterator[pb.WatchExecutionResponse]) -> list[int]:
    return [answer.event.sequence async for answer in call]


async def test_a_watcher_sees_what_was_stored_what_follows_and_the_end(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    call = watch(harness, made.id)
    first = (await call.read()).event
    assert (first.sequence, first.execution_id, first.WhichOneof("event")) == (1, made.id, "execution_queued")
    assert list(first.execution_queued.task_names) == ["read", "edit", "check"]
    await worker.claim(made.id)
    second = (await call.read()).event
    assert (second.sequence, second.execution_started.claim) == (2, 1)
    await worker.emit(made.id, pb.TaskStarted(agent_role="Reader"), chunk(1), chunk(2))
    await worker.end(made.id, ExecutionState.SUCCEEDED, SUCCEEDED)
    rest = [answer.event async for answer in call]
    assert [event.sequence for event in rest] == [3, 4, 5, 6]
    assert [event.WhichOneof("event") for event in rest] == [
        "task_started",
        "llm_chunk",
        "llm_chunk",
        "execution_succeeded",
    ]
    assert rest[-1].execution_succeeded.result.text == "brief"
    assert all(event.HasField("time") for event in rest)


async def test_a_watcher_cut_off_anywhere_goes_on_from_its_last_sequence(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    epoch = await worker.claim(made.id)

    async def work() -> None:
        for number in range(60):
            await worker.emit(made.id, chunk(number), epoch=epoch)
        await worker.end(made.id, ExecutionState.SUCCEEDED, SUCCEEDED)

    writing = asyncio.create_task(work())
    seen: list[int] = []
    while 63 not in seen:
        call = watch(harness, made.id, after=seen[-1] if seen else 0)
        for _ in range(1 + len(seen) % 7):
            answer = await call.read()
            if answer is grpc.aio.EOF:
                break
            seen.append(answer.event.sequence)
        call.cancel()
    await writing
    assert seen == list(range(1, 64))


async def test_many_watchers_all_see_every_event_once_and_in_order(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    watchers = [asyncio.create_task(sequences(watch(harness, made.id))) for _ in range(20)]
    epoch = await worker.claim(made.id)
    for number in range(40):
        await worker.emit(made.id, chunk(2 * number), chunk(2 * number + 1), epoch=epoch)
    await worker.end(made.id, ExecutionState.SUCCEEDED, SUCCEEDED)
    assert await asyncio.gather(*watchers) == [list(range(1, 84))] * 20


async def test_an_ended_execution_is_replayed_and_closes(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    await worker.claim(made.id)
    for number in range(3):
        await worker.emit(made.id, *(chunk(number) for _ in range(200)))
    await worker.end(made.id, ExecutionState.SUCCEEDED, SUCCEEDED)
    assert await sequences(watch(harness, made.id)) == list(range(1, 604))
    assert await sequences(watch(harness, made.id, after=601)) == [602, 603]
    assert await sequences(watch(harness, made.id, after=603)) == []


async def test_pieces_of_answers_can_be_left_out_and_pruned_without_a_break(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    await worker.claim(made.id)
    await worker.emit(made.id, pb.LlmCallStarted(call_id="call"), *(chunk(n) for n in range(5)))
    live = watch(harness, made.id, after=3)
    assert (await live.read()).event.sequence == 4
    without = asyncio.create_task(sequences(watch(harness, made.id, exclude_chunks=True)))
    await worker.emit(made.id, pb.LlmCallCompleted(call_id="call", text="all of it"))
    await worker.prune(made.id, "call")
    await worker.end(made.id, ExecutionState.SUCCEEDED, SUCCEEDED)
    assert await without == [1, 2, 3, 9, 10]
    seen = await sequences(live)
    assert seen[-2:] == [9, 10]
    assert seen == sorted(set(seen))
    assert await sequences(watch(harness, made.id)) == [1, 2, 3, 9, 10]


async def test_a_watch_outlasts_parking_and_waking(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    watching = asyncio.create_task(sequences(watch(harness, made.id)))
    await worker.claim(made.id)
    question_id = await worker.park(made.id, 1)
    accepted = question_pb2.AnswerQuestionRequest(id=question_id, accept=question_pb2.AcceptQuestion())
    await questions_of(harness).AnswerQuestion(accepted)
    await worker.claim(made.id)
    await worker.end(made.id, ExecutionState.SUCCEEDED, SUCCEEDED)
    assert await watching == [1, 2, 3, 4, 5]


async def test_a_sequence_beyond_the_newest_is_refused(harness: Harness) -> None:
    made = await start(harness)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await watch(harness, made.id, after=2).read()
    assert set(refusal.violations) == {"after_sequence"}


async def test_a_worker_that_lost_its_claim_stores_nothing(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    epoch = await worker.claim(made.id)
    assert await worker.emit(made.id, chunk(1), epoch=epoch) == 3
    assert await worker.emit(made.id, chunk(2), epoch=epoch - 1) is None
    await worker.end(made.id, ExecutionState.SUCCEEDED, SUCCEEDED)
    assert await worker.emit(made.id, chunk(3), epoch=epoch) is None
    assert await sequences(watch(harness, made.id)) == [1, 2, 3, 4]


async def test_a_cancellation_ends_the_watch_of_a_queued_execution(harness: Harness) -> None:
    made = await start(harness)
    watching = asyncio.create_task(sequences(watch(harness, made.id)))
    await executions_of(harness).CancelExecution(pb.CancelExecutionRequest(id=made.id))
    assert await watching == [1, 2]


async def test_lost_hints_only_make_a_watch_slower(database_url: str, tmp_path: Path) -> None:
    settings = OrchestratorSettings(watch_safety_read_seconds=0.05)
    async with (
        serve_services(
            tmp_path, "models", "orchestrator", database_url=database_url, settings={"orchestrator": settings}
        ) as harness,
        working(harness, database_url) as worker,
    ):
        made = await start(harness)
        call = watch(harness, made.id)
        assert (await call.read()).event.sequence == 1
        await worker.emit(made.id, chunk(1), hint=False)
        assert (await call.read()).event.sequence == 2


async def test_a_draining_server_ends_watches_with_a_status_that_says_try_again(
    database_url: str, tmp_path: Path
) -> None:
    async with serve_services(tmp_path, "models", "orchestrator", database_url=database_url) as harness:
        made = await start(harness)
        call = watch(harness, made.id)
        assert (await call.read()).event.sequence == 1
        await harness.services["orchestrator"].drain()
        with refused(CODE.UNAVAILABLE, "SHUTTING_DOWN"):
            await call.read()
    async with (
        serve_services(tmp_path, "models", "orchestrator", database_url=database_url) as harness,
        working(harness, database_url) as worker,
    ):
        call = watch(harness, made.id, after=1)
        await worker.claim(made.id)
        assert (await call.read()).event.sequence == 2
