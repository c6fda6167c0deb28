"""What an attempt at a task, or at saving its result, is told of what was learnt before."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coxswain.orchestrator.worker.link_pb2 import RunTask
from services.orchestrator.domain.crew import OnCutOff, Process
from services.orchestrator.domain.execution import (
    Execution,
    ExecutionIdentity,
    ExecutionState,
    OnCredentialExpiry,
    TaskOutput,
    TaskState,
    Usage,
)
from services.orchestrator.messages.executions import output_to_proto
from services.orchestrator.worker.host.activity import Activity
from services.orchestrator.worker.host.crew_session import CrewSession
from services.orchestrator.worker.host.run_state import TaskProgress
from services.orchestrator.worker.host.stop_signal import Failed
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

    def __init__(self, result: TaskOutput = RESULT) -> None:
        self.result = result
        self.journals: list[TaskJournal] = []
        self.process = self.calls = self

    def begin_task(self, index: int, journal: TaskJournal) -> None:
        self.journals.append(journal)

    async def save_result(self, index: int, result: Any) -> None:
        pass

    async def run_task(self, index: int, request: RunTask) -> Any:
        return output_to_proto(self.result)


def _session(crew: Crew, inputs: dict[str, Any] | None = None) -> CrewSession:
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
    execution = Execution(
        id="e",
        group_id="sales",
        subject="ann",
        crew_id="c",
        crew_revision=1,
        crew_name="brief",
        state=ExecutionState.RUNNING,
        inputs=inputs or {},
        labels={},
        model="",
        priority=0,
        identity=ExecutionIdentity.USER,
        on_credential_expiry=OnCredentialExpiry.PARK,
        grant_id="g",
        resumed_from="",
        timeout=None,
        deadline_at=None,
        epoch=2,
        generation=1,
        ready=True,
        last_sequence=0,
        usage=Usage(),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    played: dict[str, Any] = {
        "context": SimpleNamespace(
            settings=SimpleNamespace(crew_process_attempts=1), store=store, read=read, max_message_bytes=65_536
        ),
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


@pytest.mark.parametrize(
    ("inputs", "size", "fits"),
    [
        ({}, 40_000, True),
        ({}, 50_000, False),
        ({"numbers": [1] * 3000}, 27_000, True),
        ({"numbers": [1] * 3000}, 40_000, False),
        ({"text": "x" * 65_000}, 10, False),
    ],
)
async def test_a_result_has_to_fit_one_message_beside_the_inputs(inputs: dict[str, Any], size: int, fits: bool) -> None:
    result, task = TaskOutput("x" * size, None, "Reader"), TaskProgress(0, "t", TaskState.PENDING, 0, None)
    session = _session(Crew(result), inputs)
    if fits:
        assert await session.run_task(task, RunTask()) == result
        return
    with pytest.raises(Failed) as failed:
        await session.run_task(task, RunTask())
    assert failed.value.error.reason == "ANSWER_TOO_LARGE"
