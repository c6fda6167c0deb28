"""Models whose providers fail, and what their answers do to executions: real worker hosts and crew processes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from coxswain.models.v1 import inference_pb2
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.integration.worker.installation import (
    CAPABLE,
    FASTER,
    SMALL,
    UNMEASURED,
    Installation,
    eventually,
    install,
    is_kind,
    kinds,
)
from tests.support.llm_script import Fault, Reply, ToolCall

S = execution_pb2
DONE = "All is worked out."

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """One worker host for all tests."""
    async with install(tmp_path_factory.mktemp("installation")) as running:
        await running.hosts(1)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def lone(host: Installation) -> AsyncIterator[Installation]:
    """An upstream without rules."""
    yield host
    host.llm.clear_rules()
    host.llm.release()
    host.llm.clear_log()


def reckoner(**agent: Any) -> crew_pb2.CrewSpec:
    """A crew of one agent who can calculate."""
    tools = [crew_pb2.ToolSpec(name="calculator")]
    return crew_pb2.CrewSpec(
        name="reckoners",
        agents=[crew_pb2.AgentSpec(name="clerk", role="Clerk", goal="Reckon", tools=tools, **agent)],
        tasks=[crew_pb2.TaskSpec(name="reckon", description="Work it out.", expected_output="Words", agent="clerk")],
        model=CAPABLE,
    )


def turns(installation: Installation, count: int) -> None:
    """Let the model call a tool that many times first."""
    for number in range(count):
        call = ToolCall(name="calculator", arguments={"expression": f"{number} + 1"})
        installation.llm.on(Reply(tool_calls=[call]), route="chat", times=1)


def requests(installation: Installation) -> int:
    return len(installation.llm.calls_where(route="chat"))


@pytest.mark.parametrize(
    ("times", "broken"),
    [
        (1, {"fault": Fault(status=500)}),
        (6, {"fault": Fault(status=500)}),
        (5, {"fault": Fault(status=429)}),
        (5, {"fault": Fault(status=502, body="<html>Bad gateway</html>")}),
        (2, {"raw_body": "no such answer"}),
        (4, {"text": "Half of an answer.", "drop_after_chunks": 2}),
    ],
    ids=["once", "for a while", "rate", "a proxy's page", "no answer", "broken streams"],
)
async def test_a_providers_bad_day_is_waited_out_and_repeats_nothing(
    lone: Installation, times: int, broken: dict[str, Any]
) -> None:
    turns(lone, 3)
    lone.llm.on(Reply(**broken), route="chat", times=times)
    lone.llm.on(Reply(text=DONE), route="chat")
    execution = await lone.start(reckoner())
    events = await lone.watch(execution.id)
    ended = await lone.get(execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE)
    assert requests(lone) == 3 + times + 1
    assert await lone.journaled_tools(execution.id) == 3
    assert ended.usage.llm_calls == 4
    waits = [event.llm_call_waiting for event in events if event.WhichOneof("event") == "llm_call_waiting"]
    assert len(waits) == kinds(events).count("llm_call_failed")
    assert all(wait.model == CAPABLE and CAPABLE in wait.message for wait in waits)
    assert all(wait.retry_time.ToDatetime() < wait.give_up_time.ToDatetime() for wait in waits)


@pytest.mark.parametrize("seconds", [1, 30, 120])
async def test_an_outage_is_survived_and_no_call_or_tool_is_repeated(lone: Installation, seconds: float) -> None:
    turns(lone, 2)
    lone.llm.on(Reply(fault=Fault(status=503)), route="chat")
    spec = reckoner()
    spec.tasks.add(name="tell", description="Tell it.", expected_output="Words", agent="clerk")
    execution = await lone.start(spec)
    waits: list[S.ExecutionEvent] = []

    def is_over(event: S.ExecutionEvent) -> bool:
        if event.HasField("llm_call_waiting"):
            waits.append(event)
        return bool(waits) and lasted(waits[0], waits[-1]) >= seconds

    seen = await lone.watch(execution.id, is_over)
    before = [call.body["messages"] for call in lone.llm.calls_where(status=200)]
    lone.llm.clear_rules()
    lone.llm.on(Reply(text=DONE), route="chat")
    events = [*seen, *await lone.watch(execution.id, after=seen[-1].sequence)]
    ended = await lone.get(execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE)
    assert not ended.HasField("model_wait")
    answered = [call.body["messages"] for call in lone.llm.calls_where(status=200)]
    assert answered[:2] == before
    assert len(answered) == 4, "two with a tool, one for each result"
    assert await lone.journaled_tools(execution.id) == 2
    assert ended.usage.llm_calls == 4
    assert requests(lone) < 40
    rests = kinds(events).count("execution_parked")
    assert rests > 0 if seconds > 60 else rests <= 1
    assert not any(event.execution_started.takeover for event in events)


def lasted(first: S.ExecutionEvent, last: S.ExecutionEvent) -> float:
    """The seconds of an outage by the clock of somebody who does not wait fifty times as fast."""
    seconds = last.llm_call_waiting.retry_time.ToNanoseconds() - first.time.ToNanoseconds()
    return FASTER * seconds / 1e9


AWAY = Reply(fault=Fault(status=429, retry_after="300"))
"""Says that it will be back in five minutes."""


async def test_a_long_wait_holds_no_slot_and_is_told(lone: Installation) -> None:
    lone.llm.on(AWAY, route="chat", last_contains="Work it out")
    execution = await lone.start(reckoner())
    events = await lone.watch(execution.id, is_kind("execution_parked"))
    assert events[-1].execution_parked.state == S.EXECUTION_STATE_WAITING_FOR_MODEL
    resting = await lone.get(execution.id)
    wait, told = resting.model_wait, events[-2].llm_call_waiting
    assert resting.state == S.EXECUTION_STATE_WAITING_FOR_MODEL
    assert (wait.model, wait.reason, wait.task_name, wait.failures) == (CAPABLE, "UPSTREAM_RATE_LIMITED", "reckon", 1)
    assert (wait.retry_time, wait.give_up_time, wait.message) == (
        told.retry_time,
        told.give_up_time,
        told.message,
    )
    assert [task.state for task in await lone.tasks(execution.id)] == [S.TASK_STATE_PENDING]
    await eventually(lambda: not any(len(worker.descendants()) > 1 for worker in lone.workers))
    request = S.ListExecutionsRequest(states=[S.EXECUTION_STATE_WAITING_FOR_MODEL])
    assert [found.id for found in (await lone.executions().ListExecutions(request)).executions] == [execution.id]
    cancelled = await lone.executions().CancelExecution(S.CancelExecutionRequest(id=execution.id))
    assert cancelled.execution.state == S.EXECUTION_STATE_CANCELLED
    assert not cancelled.execution.HasField("model_wait")


async def test_the_executions_time_counts_while_it_waits_for_a_model(lone: Installation) -> None:
    lone.llm.on(AWAY, route="chat")
    execution = await lone.start(reckoner(), timeout=Duration(seconds=2))
    events = await lone.watch(execution.id)
    assert "execution_parked" in kinds(events)
    assert events[-1].execution_failed.error.reason == "EXECUTION_TIMEOUT"


async def test_a_wait_that_is_longer_than_the_patience_is_none(lone: Installation) -> None:
    lone.llm.on(Reply(fault=Fault(status=429, retry_after="3000")), route="chat")
    ended = await lone.finished((await lone.start(reckoner())).id)
    assert ended.error.reason == "UPSTREAM_RATE_LIMITED"
    assert requests(lone) == 1


async def test_tasks_beside_one_that_waits_go_on(lone: Installation) -> None:
    lone.llm.on(AWAY, route="chat", last_contains="Work it out", times=1)
    lone.llm.on(Reply(text="Beside.", hang=True), route="chat", last_contains="Look around", times=1)
    spec = reckoner()
    spec.tasks[0].async_execution = True
    spec.tasks.add(
        name="look", description="Look around.", expected_output="Words", agent="clerk", async_execution=True
    )
    spec.tasks.add(name="tell", description="Tell it.", expected_output="Words", agent="clerk")
    execution = await lone.start(spec)
    events = await lone.watch(execution.id, is_kind("llm_call_waiting"))
    await lone.llm.wait_for_calls(1, hanging=True)
    waiting = await lone.get(execution.id)
    assert (waiting.state, waiting.model_wait.task_name) == (S.EXECUTION_STATE_RUNNING, "reckon")
    lone.llm.release()
    more = await lone.watch(execution.id, is_kind("execution_parked"), after=events[-1].sequence)
    assert kinds(more).index("task_completed") < kinds(more).index("execution_parked")
    states = [task.state for task in await lone.tasks(execution.id)]
    assert states == [S.TASK_STATE_PENDING, S.TASK_STATE_SUCCEEDED, S.TASK_STATE_PENDING]
    await lone.executions().CancelExecution(S.CancelExecutionRequest(id=execution.id))


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (Fault(status=429, code="insufficient_quota"), "UPSTREAM_QUOTA_EXHAUSTED", "quota"),
        (Fault(status=400, message="no such thing"), "UPSTREAM_REJECTED", "no such thing"),
        (Fault(status=404), "UPSTREAM_REJECTED", "upstream_model"),
    ],
)
async def test_what_does_not_pass_ends_an_execution_after_one_call(
    lone: Installation, fault: Fault, reason: str, words: str
) -> None:
    lone.llm.on(Reply(fault=fault), route="chat")
    ended = await lone.finished((await lone.start(reckoner())).id)
    assert (ended.state, ended.error.reason) == (S.EXECUTION_STATE_FAILED, reason)
    assert words in ended.error.message
    assert requests(lone) == 1


async def test_waiting_ends_with_the_executions_time(lone: Installation) -> None:
    turns(lone, 1)
    lone.llm.on(Reply(fault=Fault(status=500)), route="chat")
    execution = await lone.start(reckoner(), timeout=Duration(seconds=4))
    events = await lone.watch(execution.id)
    assert events[-1].execution_failed.error.reason == "EXECUTION_TIMEOUT"
    assert await lone.journaled_tools(execution.id) == 1
    assert "llm_call_waiting" in kinds(events)


async def test_waiting_ends_with_the_agents_time(lone: Installation) -> None:
    lone.llm.on(Reply(fault=Fault(status=500)), route="chat")
    execution = await lone.start(reckoner(max_execution_time=Duration(seconds=2)))
    ended = await lone.finished(execution.id)
    assert ended.error.reason == "TASK_FAILED"
    assert "max_execution_time" in ended.error.message


WIDE = 6000
"""Characters that the window of `SMALL` and of the model of unknown window holds."""


@pytest.mark.parametrize("model", [SMALL, UNMEASURED])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=400, code="context_length_exceeded"),
        Fault(status=400, code="bad", message="This model's maximum context length is 1500 tokens."),
    ],
    ids=["code", "words"],
)
async def test_a_conversation_that_outgrows_the_window_is_summed_up(
    lone: Installation, model: str, fault: Fault
) -> None:
    lone.llm.on(Reply(fault=fault), route="chat", more_characters_than=WIDE)
    lone.llm.on(Reply(text="<summary>Many letters.</summary>"), route="chat", last_contains="x x x x")
    lone.llm.on(Reply(text=DONE), route="chat")
    spec = reckoner()
    spec.model = model
    spec.tasks[0].description = "Do it: {topic}"
    ended = await lone.finished((await lone.start(spec, inputs={"topic": "x " * 4000})).id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE), ended.error
    assert "Many letters." in str(lone.llm.calls_where(route="chat")[-1].body)


async def test_what_fits_in_no_way_fails_after_a_few_calls_and_says_what_to_shorten(lone: Installation) -> None:
    lone.llm.on(Reply(fault=Fault(status=400, code="context_length_exceeded")), route="chat")
    spec = reckoner()
    spec.model = SMALL
    ended = await lone.finished((await lone.start(spec)).id)
    assert (ended.state, ended.error.reason) == (S.EXECUTION_STATE_FAILED, "CONTEXT_WINDOW_EXCEEDED")
    assert "1500 tokens" in ended.error.message
    assert "shorten" in ended.error.message
    assert requests(lone) <= 10


@pytest.mark.parametrize("arguments", ['["oops"]', '"str"', "7", "false", "[]"])
async def test_arguments_that_are_no_object_are_told_to_the_model(lone: Installation, arguments: str) -> None:
    lone.llm.on(Reply(tool_calls=[ToolCall(name="calculator", arguments=arguments)]), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(reckoner())).id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE), ended.error
    assert requests(lone) == 2
    messages = lone.llm.calls_where(route="chat")[-1].body["messages"]
    (called,) = [call for message in messages for call in message.get("tool_calls") or ()]
    assert called["function"]["arguments"] == arguments, "what the model wrote"
    (told,) = [message["content"] for message in messages if message["role"] == "tool"]
    assert "must be a JSON object" in told


async def test_a_model_that_calls_a_tool_there_is_not_is_told_of_those_there_are(lone: Installation) -> None:
    call = ToolCall(name="search_the_internet", arguments={"query": "whales"})
    lone.llm.on(Reply(tool_calls=[call]), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    ended = await lone.finished((await lone.start(reckoner())).id)
    assert ended.result.text == DONE
    messages = lone.llm.calls_where(route="chat")[-1].body["messages"]
    (told,) = [message["content"] for message in messages if message["role"] == "tool"]
    assert told == 'there is no tool "search_the_internet"; the tools are: calculator'


async def test_a_resumed_execution_goes_on_at_the_call_that_failed(lone: Installation) -> None:
    turns(lone, 3)
    lone.llm.on(Reply(fault=Fault(status=400)), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    failed = await lone.finished((await lone.start(reckoner())).id)
    assert (failed.state, requests(lone)) == (S.EXECUTION_STATE_FAILED, 4)
    lone.llm.clear_log()
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=failed.id))
    events = await lone.watch(resumed.execution.id)
    ended = await lone.get(resumed.execution.id)
    assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, DONE)
    assert requests(lone) == 1
    assert [e.llm_call_completed.replayed for e in events if e.HasField("llm_call_completed")] == [True] * 3 + [False]
    assert ended.usage.llm_calls == 1


@pytest.mark.parametrize(
    ("said", "reason", "words", "calls"),
    [
        ({"refusal": "I cannot help with that."}, "MODEL_REFUSED", "I cannot help with that.", 1),
        ({"text": "Well,", "finish_reason": "content_filter"}, "MODEL_REFUSED", "withheld", 1),
        ({"text": "   \n"}, "ANSWER_BLANK", "finish reason STOP", 3),
        ({"text": ""}, "ANSWER_BLANK", CAPABLE, 3),
    ],
    ids=["refused", "filtered", "blank", "empty"],
)
async def test_answers_of_no_use_end_an_execution_for_their_own_reason(
    lone: Installation, said: dict[str, Any], reason: str, words: str, calls: int
) -> None:
    lone.llm.on(Reply(**said), route="chat", times=calls)
    lone.llm.on(Reply(text=DONE), route="chat")
    failed = await lone.finished((await lone.start(reckoner())).id)
    assert (failed.state, failed.error.reason) == (S.EXECUTION_STATE_FAILED, reason), failed.result
    assert words in failed.error.message
    assert (requests(lone), failed.usage.llm_calls) == (calls, calls)
    resumed = await lone.executions().ResumeExecution(S.ResumeExecutionRequest(id=failed.id))
    assert (await lone.finished(resumed.execution.id)).result.text == DONE, "such an answer is not kept"


async def test_a_blank_answer_is_asked_for_again(lone: Installation) -> None:
    turns(lone, 1)
    lone.llm.on(Reply(text="\u200b \n"), route="chat", times=1)
    lone.llm.on(Reply(text="Half of it", finish_reason="length"), route="chat")
    execution = await lone.start(reckoner())
    events = await lone.watch(execution.id)
    ended = await lone.get(execution.id)
    assert (ended.state, ended.result.text, requests(lone)) == (S.EXECUTION_STATE_SUCCEEDED, "Half of it", 3)
    done = [event.llm_call_completed for event in events if event.HasField("llm_call_completed")]
    assert [completed.finish_reason for completed in done] == [
        inference_pb2.FINISH_REASON_TOOL_CALLS,
        inference_pb2.FINISH_REASON_STOP,
        inference_pb2.FINISH_REASON_LENGTH,
    ]


@pytest.mark.parametrize("text", [None, "What I know so far."])
async def test_tool_calls_that_nobody_offered_are_no_result(lone: Installation, text: str | None) -> None:
    call = ToolCall(name="calculator", arguments={"expression": "1 + 1"})
    lone.llm.on(Reply(text=text, tool_calls=[call]), route="chat")
    ended = await lone.finished((await lone.start(reckoner(max_iterations=2))).id)
    if text is None:
        assert ended.error.reason == "ANSWER_BLANK"
    else:
        assert (ended.state, ended.result.text) == (S.EXECUTION_STATE_SUCCEEDED, text)
