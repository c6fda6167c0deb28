"""What an attempt at a task, or at saving its result, is told of what was learnt before."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coxswain.orchestrator.worker.link_pb2 import RunTask
from services.orchestrator.domain.crew import OnCutOff, Process
from services.orchestrator.domain.execution import TaskOutput, TaskState
from services.orchestrator.messages.executions import output_to_proto
from services.orchestrator.worker.host.activity import Activity
from services.orchestrator.worker.host.crew_session import CrewSession
from services.orchestrator.worker.host.run_state import TaskProgress
from services.orchestrator.worker.host.task_journal import TaskJournal

RESULT = TaskOutput("Done.", None, "Reader")
KEPT = {("question", 0): b"answer"}


class Store:
    """Has the answer to a question, once what is waiting to be stored is."""

    def __init__(self) -> None:
        self.stored = False

    async def flush(self) -> None:
        self.stored = True

    async def journaled_responses(self, execution_id: str, index: int) -> dict[tuple[str, int], bytes]:
        return dict(KEPT) if self.stored else {}

    async def tool_calls(self, execution_id: str, index: int) -> dict[str, Any]:
        return {}

    async def call_questions(self, execution_id: str) -> list[Any]:
        return []


class Crew:
    """A crew process that does everything at once; `journals` are those that its calls are served from."""

    def __init__(self) -> None:
        self.journals: list[TaskJournal] = []
        self.process = self.calls = self

    def begin_task(self, index: int, journal: TaskJournal) -> None:
        self.journals.append(journal)

    async def save_result(self, index: int, result: Any) -> None:
        pass

    async def run_task(self, index: int, request: RunTask) -> Any:
        return output_to_proto(RESULT)


def _session(crew: Crew) -> CrewSession:
    store = Store()

    async def read(query: Callable[[], Awaitable[Any]]) -> Any:
        return await query()

    async def opened() -> Crew:
        return crew

    nothing = SimpleNamespace(know=lambda _: None, begin_attempt=lambda _: None)
    spec = SimpleNamespace(
        memory=SimpleNamespace(enabled=True),
        tasks=[SimpleNamespace(on_cut_off=OnCutOff.WARN, agent="reader")],
        agents=[SimpleNamespace(name="reader", role="Reader")],
        process=Process.SEQUENTIAL,
        manager_agent="",
    )
    execution = SimpleNamespace(id="e", epoch=2, resumed_from="", inputs={})
    played: dict[str, Any] = {
        "context": SimpleNamespace(settings=SimpleNamespace(crew_process_attempts=1), store=store, read=read),
        "state": SimpleNamespace(execution=execution, spec=spec),
        "recorder": SimpleNamespace(flush=store.flush, add_with_next=lambda *_: None),
        "opener": SimpleNamespace(questions=nothing, remote=nothing, activity=Activity(), open=opened),
    }
    return CrewSession(**cast("Any", played))


@pytest.mark.parametrize("attempt", [1, 2])
async def test_who_saves_an_approved_result_knows_what_was_answered_before(attempt: int) -> None:
    """Another host may have died while it saved the result of a first attempt."""
    crew = Crew()
    await _session(crew).save_result(TaskProgress(0, "t", TaskState.WAITING_FOR_ANSWER, attempt, None), RESULT)
    assert [journal.journaled_responses for journal in crew.journals] == [KEPT]


async def test_a_first_attempt_waits_for_nothing_to_be_stored_and_a_second_one_knows_all() -> None:
    crew, task = Crew(), TaskProgress(0, "t", TaskState.PENDING, 0, None)
    session = _session(crew)
    for _ in range(2):
        assert await session.run_task(task, RunTask()) == RESULT
    assert [journal.journaled_responses for journal in crew.journals] == [{}, KEPT]
