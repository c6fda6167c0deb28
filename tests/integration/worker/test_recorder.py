"""What a run records is stored in order, soon, and once, however its commits end."""

import asyncio

import pytest

from coxswain.orchestrator.v1 import execution_pb2
from services.common.db.database import Database
from services.common.errors import Unavailable
from services.orchestrator.domain.execution import Usage
from services.orchestrator.domain.hint import Hint
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.fenced_write import Fenced, FencedWrite
from services.orchestrator.worker.host.recorder import Recorder, TaskRef
from services.orchestrator.worker.host.run_store import Claim, RunStore
from tests.integration.worker.rows import claimed, crew, event_rows, execution_row, parked, queue, task_rows
from tests.support.waiting import until


class Recorded(LocalHintBus):
    """A recorder on a claimed execution, and what it publishes."""

    def __init__(self, store: RunStore, claim: Claim, interval: float) -> None:
        super().__init__()
        self.sequences: list[int] = []
        self.failures: list[BaseException] = []
        self.recorder = Recorder(
            store,
            claim.execution,
            interval=interval,
            hints=self,
            pruner=ChunkPruner(store, retention=60),
            on_failure=self.failures.append,
        )

    def publish(self, hint: Hint) -> None:
        self.sequences.append(hint.last_sequence)


TASK = TaskRef(0, "t", 1)


async def test_pieces_that_follow_each_other_closely_become_one_event(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=60)
    recorder = recorded.recorder
    recorder.add(TASK, execution_pb2.LlmCallStarted(call_id="a"), call_id="a")
    for piece in ("Ships ", "float", "."):
        recorder.chunk(TASK, "a", text=piece)
    recorder.chunk(TASK, "b", reasoning="Hm")
    recorder.add(TASK, execution_pb2.LlmCallCompleted(call_id="a", text="Ships float."), call_id="a")
    await recorder.commit([(TASK, execution_pb2.TaskCompleted())])
    stored = [execution_pb2.ExecutionEvent.FromString(row.payload) for row in await event_rows(database, execution_id)]
    assert [event.WhichOneof("event") for event in stored[1:]] == [
        "llm_call_started",
        "llm_chunk",
        "llm_call_completed",
        "llm_chunk",
        "task_completed",
    ]
    assert (stored[2].llm_chunk.text, stored[4].llm_chunk.reasoning) == ("Ships float.", "Hm")
    assert recorded.sequences == [6]
    await recorder.close()


@pytest.mark.parametrize("pieces", [["漢" * 1000] * 50, ["漢" * 7999, "字" * 50_000]], ids=["many", "long"])
async def test_pieces_that_wait_for_a_slow_database_stay_events_that_can_be_sent(
    database: Database, store: RunStore, pieces: list[str]
) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=60)
    for piece in pieces:
        recorded.recorder.chunk(TASK, "a", text=piece, reasoning=piece)
    await recorded.recorder.commit([(TASK, execution_pb2.TaskCompleted())])
    payloads = [row.payload for row in await event_rows(database, execution_id)]
    assert max(map(len, payloads)) < 65_536
    chunks = [execution_pb2.ExecutionEvent.FromString(payload).llm_chunk for payload in payloads]
    for kind in ("text", "reasoning"):
        assert "".join(getattr(chunk, kind) for chunk in chunks) == "".join(pieces)
    await recorded.recorder.close()


async def test_what_is_added_is_stored_soon_by_itself(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=0.001)
    recorded.recorder.add(TASK, execution_pb2.LlmCallStarted(call_id="a"))
    await until(lambda: recorded.sequences)
    assert len(await event_rows(database, execution_id)) == 2
    await recorded.recorder.close()


async def test_what_is_costly_can_be_waited_for_and_nothing_else_is(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=60)
    recorder = recorded.recorder
    recorder.add(TASK, execution_pb2.LlmCallStarted(call_id="a"))
    await recorder.keep_costly()
    assert len(await event_rows(database, execution_id)) == 1
    recorder.add(TASK, execution_pb2.LlmCallCompleted(call_id="a", text="Paid."), flush_soon=True)
    await recorder.keep_costly()
    assert len(await event_rows(database, execution_id)) == 3
    await recorder.close()


async def test_a_recorder_whose_claim_is_lost_writes_nothing_and_says_so(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=0.001)
    await claimed(store, execution_id)
    with pytest.raises(Fenced):
        await recorded.recorder.commit([(TASK, execution_pb2.TaskCompleted())])
    recorded.recorder.add(TASK, execution_pb2.TaskCompleted())
    await until(lambda: recorded.failures)
    assert isinstance(recorded.failures[0], Fenced)
    assert len(await event_rows(database, execution_id)) == 2
    await recorded.recorder.close()


@pytest.mark.parametrize("committed", [True, False])
async def test_an_unconfirmed_commit_is_made_once(
    database: Database, store: RunStore, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=60)
    write, attempts = recorded.recorder._write, 0

    async def unconfirmed(batch: object) -> FencedWrite:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            if committed:
                await write(batch)  # type: ignore[arg-type]
            raise Unavailable("the connection broke")
        return await write(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(recorded.recorder, "_write", unconfirmed)
    await recorded.recorder.commit([(TASK, execution_pb2.TaskCompleted()), (TaskRef(), parked())])
    assert attempts == (1 if committed else 2)
    await recorded.recorder.commit([(TASK, execution_pb2.TaskStarted())])
    kinds = [row.kind for row in await event_rows(database, execution_id)]
    assert kinds == ["execution_started", "task_completed", "execution_parked", "task_started"]
    assert recorded.sequences == [3, 4]
    await recorded.recorder.close()


async def test_what_others_added_is_stored_although_the_one_who_waits_gives_up(
    database: Database, store: RunStore
) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=60)
    recorded.recorder.add(TASK, execution_pb2.LlmCallStarted(call_id="a"))
    waiting = asyncio.create_task(recorded.recorder.commit([]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await recorded.recorder.flush()
    assert len(await event_rows(database, execution_id)) == 2
    await recorded.recorder.close()


async def test_what_calls_use_is_added_to_their_tasks_and_the_execution(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("one", "two"))
    recorded = Recorded(store, await claimed(store, execution_id), interval=60)
    for index, calls in ((0, 1), (1, 2), (0, 4)):
        recorded.recorder.use(index, Usage(llm_calls=calls, cost=0.5))
    await recorded.recorder.flush()
    recorded.recorder.use(1, Usage(llm_calls=8))
    await recorded.recorder.flush()
    row = await execution_row(database, execution_id)
    assert (row.llm_calls, row.cost) == (15, 1.5)
    assert [task.llm_calls for task in await task_rows(database, execution_id)] == [5, 10]


async def test_an_event_is_stored_with_the_next_one(database: Database, store: RunStore) -> None:
    execution_id = await queue(database)
    recorded = Recorded(store, await claimed(store, execution_id), interval=0.001)
    started: list[int] = []

    async def start(write: FencedWrite) -> None:
        started.append(write.last_sequence)

    recorded.recorder.add_with_next(TASK, execution_pb2.TaskStarted(), start)
    recorded.recorder.add(TASK, execution_pb2.LlmCallStarted(call_id="a"), call_id="a")
    await until(lambda: recorded.sequences)
    assert [row.kind for row in await event_rows(database, execution_id)][1:] == ["task_started", "llm_call_started"]
    assert started == [3]
