"""Models whose providers fail, and what becomes of executions: real worker hosts and crew processes."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import select, update

from coxswain.orchestrator.v1 import execution_pb2
from services.common.clock import utc_now
from services.orchestrator.tables import executions
from tests.integration.worker.installation import (
    CAPABLE,
    FASTER,
    Installation,
    is_kind,
    kinds,
)
from tests.integration.worker.odd_answers import DONE, reckoner, requests, turns
from tests.support.llm_script import Fault, Reply
from tests.support.waiting import longer, until

S = execution_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
    await until(lambda: not any(worker.crew_processes() for worker in lone.workers))
    request = S.ListExecutionsRequest(states=[S.EXECUTION_STATE_WAITING_FOR_MODEL])
    assert [found.id for found in (await lone.executions().ListExecutions(request)).executions] == [execution.id]
    cancelled = await lone.executions().CancelExecution(S.CancelExecutionRequest(id=execution.id))
    assert cancelled.execution.state == S.EXECUTION_STATE_CANCELLED
    assert not cancelled.execution.HasField("model_wait")


async def test_the_executions_time_counts_while_it_waits_for_a_model(lone: Installation) -> None:
    lone.llm.on(AWAY, route="chat")
    execution = await lone.start(reckoner(), timeout=Duration(seconds=3600))
    seen = await lone.watch(execution.id, is_kind("execution_parked"))
    row = executions.c.id == execution.id
    async with lone.database.write() as connection:
        created, ends = (
            await connection.execute(select(executions.c.created_at, executions.c.deadline_at).where(row))
        ).one()
        assert ends - created == timedelta(hours=1)
        # The hour is over.
        await connection.execute(update(executions).where(row).values(deadline_at=utc_now()))
    (ended,) = await lone.watch(execution.id, after=seen[-1].sequence)
    assert ended.execution_failed.error.reason == "EXECUTION_TIMEOUT"


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


async def test_a_refused_key_ends_an_execution_after_it_was_looked_up_once_more(
    lone: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is, what was looked up for the first call is remembered in the second.
    monkeypatch.setattr("services.common.identity.credentials._KEYLESS_SECONDS", 600.0)
    turns(lone, 1)
    lone.llm.on(Reply(fault=Fault(status=401)), route="chat")
    execution = await lone.start(reckoner())
    ended = await lone.finished(execution.id)
    assert (ended.state, ended.error.reason) == (S.EXECUTION_STATE_FAILED, "UPSTREAM_CREDENTIAL_REJECTED")
    assert "have an admin store a valid one" in ended.error.message
    assert (requests(lone), await lone.journaled_tools(execution.id)) == (3, 1)


async def test_waiting_ends_with_the_executions_time(lone: Installation) -> None:
    for seconds in longer(4):
        lone.llm.clear_rules()
        turns(lone, 1)
        lone.llm.on(Reply(fault=Fault(status=500)), route="chat")
        execution = await lone.start(reckoner(), timeout=Duration(seconds=int(seconds)))
        events = await lone.watch(execution.id)
        assert events[-1].execution_failed.error.reason == "EXECUTION_TIMEOUT"
        if has_called_again(events):
            assert "llm_call_waiting" in kinds(events)
            assert await lone.journaled_tools(execution.id) == 1
            break


async def test_waiting_ends_with_the_agents_time(lone: Installation) -> None:
    lone.llm.on(Reply(fault=Fault(status=500)), route="chat")
    for seconds in longer(2):
        execution = await lone.start(reckoner(max_execution_time=Duration(seconds=int(seconds))))
        events = await lone.watch(execution.id)
        error = events[-1].execution_failed.error
        assert error.reason == "TASK_FAILED"
        assert "max_execution_time" in error.message
        if has_called_again(events):
            assert "llm_call_waiting" in kinds(events)
            break


def has_called_again(events: list[S.ExecutionEvent]) -> bool:
    """Whether a model was called once more after a failure: on a busy machine the time may be over before."""
    return kinds(events).count("llm_call_failed") > 1


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
    "hanging", [{"hang": True}, {"hang_after_chunks": 1, "text": "Half of it."}], ids=["at all", "midway"]
)
async def test_a_provider_that_hangs_is_called_again(lone: Installation, hanging: dict[str, Any]) -> None:
    lone.llm.on(Reply(**hanging), route="chat", times=1)
    lone.llm.on(Reply(text=DONE), route="chat")
    spec = reckoner()
    spec.model_calls.timeout.FromSeconds(2)
    spec.agents[0].model_calls.first_token_timeout.FromSeconds(1)
    execution = await lone.start(spec)
    events = await lone.watch(execution.id)
    assert (await lone.get(execution.id)).result.text == DONE
    (told,) = [event.llm_call_waiting for event in events if event.HasField("llm_call_waiting")]
    late = "did not begin to answer within 1 s" if "hang" in hanging else "did not finish its answer within 2 s"
    assert (told.reason, late in told.message) == ("UPSTREAM_UNAVAILABLE", True), told.message
