"""An execution ends once: the first end that is on its way to the database counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coxswain.orchestrator.v1 import execution_pb2
from services.orchestrator.domain.execution import Usage
from services.orchestrator.worker.host.completion import Completion
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.host.recorder import Recorder, TaskRef
from tests.support.waiting import PATIENCE


class SlowStore:
    """A store whose transactions wait until they may go on; it keeps the ends and refuses what comes after one."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.ends: list[str] = []

    @asynccontextmanager
    async def fenced(self, execution_id: str, *fields: Any) -> AsyncIterator[Any]:
        self.begun.set()
        await self.go.wait()
        if self.ends:
            raise Fenced(execution_id)
        if fields[-1] is not None:
            self.ends.append("SUCCEEDED")
        yield SimpleNamespace(last_sequence=1, in_group_stream=False, end=self._end)

    async def _end(self, state: str, *_: Any) -> None:
        self.ends.append(state)


async def test_a_run_that_is_stopped_while_its_result_waits_to_be_stored_has_succeeded() -> None:
    store, failures = SlowStore(), list[BaseException]()
    execution: Any = SimpleNamespace(id="e", group_id="g", epoch=1, last_sequence=0)
    state: Any = SimpleNamespace(execution=execution, result=None, usage=SimpleNamespace(value=Usage()), tasks=[])
    crew: Any = SimpleNamespace(let_end=lambda: None)
    ignored: Any = SimpleNamespace(publish=lambda _: None)
    recorder = Recorder(
        cast("Any", store), execution, interval=60, hints=ignored, pruner=ignored, on_failure=failures.append
    )
    completion = Completion(ignored, state, recorder, ignored, crew, ignored)
    recorder.add(TaskRef(), execution_pb2.LlmCallStarted(call_id="a"))
    earlier = asyncio.create_task(recorder.flush())
    await asyncio.wait_for(store.begun.wait(), PATIENCE)
    succeeding = asyncio.create_task(completion.succeed([]))
    await asyncio.sleep(0)
    succeeding.cancel()
    await asyncio.gather(succeeding, return_exceptions=True)
    store.go.set()
    with pytest.raises(Fenced):
        await completion.cancel()
    await earlier
    assert (store.ends, failures) == (["SUCCEEDED"], [])
    await recorder.close()
