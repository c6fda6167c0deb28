"""A tool that must not run twice runs at most once, whatever dies, and no failure is told of that is not known."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import ResourceExhausted
from services.common.ids import new_id
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.domain.crew import OnDeadline, ToolSpec
from services.orchestrator.domain.limits import ExecutionLimits
from services.orchestrator.domain.question import QuestionKind, QuestionState
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.domain.tool_source import (
    ApprovalRule,
    ListedTool,
    McpServer,
    SourceKind,
    ToolPolicy,
    ToolSource,
    ToolSourceSpec,
)
from services.orchestrator.repositories.journal import JournalRepository, ToolCall, read_tool_calls
from services.orchestrator.repositories.questions import QuestionRepository
from services.orchestrator.repositories.retention import RetentionRepository
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.tables import executions, gateway_calls
from services.orchestrator.tool_resolver import ToolResolver, resolve_tools
from services.orchestrator.usecases.question_deadlines import DEADLINE_ANSWERS
from services.orchestrator.usecases.tool_lists import accepted_tools
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.link.errors import WAITS_FOR_PERSON, TaskError
from tests.integration.worker.call_scene import LOOK, PAY, CallScene, Hostlike, call_scene
from tests.integration.worker.rows import queue
from tests.support.played_gateway import PlayedCall, failure, result, unknown
from tests.support.service_tables import make_service_tables
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(shared_database_url: str) -> AsyncIterator[Database]:
    make_service_tables("orchestrator", shared_database_url)
    opened = Database(shared_database_url, "orchestrator")
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checker() -> AsyncIterator[SchemaChecker]:
    made = SchemaChecker()
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(database: Database, checker: SchemaChecker) -> AsyncIterator[CallScene]:
    async with call_scene(database, checker) as played:

        async def pay(call: PlayedCall) -> pb.ToolOutcome:
            played.gateway.did(call)
            return result("paid", structured_json='{"paid": true}')

        played.gateway.tools |= {"billing/pay": pay, "billing/look": pay}
        yield played


async def test_a_call_obeys_the_policy_in_force_when_it_is_begun(scene: CallScene) -> None:
    async def pay(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        return result("paid")

    scene.gateway.tools["books/pay"] = pay
    listed = ListedTool("pay", "Pays.", {"type": "object"}, hash="h1")
    spec = ToolSourceSpec("books", SourceKind.MCP, McpServer("https://example.com/mcp"))
    now = utc_now()
    source = ToolSource(
        new_id(), "sales", 1, spec, (listed,), now, now, list_revision=1, accepted=accepted_tools([listed])
    )
    async with scene.database.write() as connection:
        await ToolSourceRepository(connection).insert(source, "ann")
        await ToolSourceRepository(connection).add_list(source, now)

    async def store(changed: ToolSource) -> None:
        async with scene.database.write() as connection:
            await ToolSourceRepository(connection).save(changed, "ann")

    async with scene.database.read() as connection:
        scene.tools = (await ToolResolver(connection).resolve("sales", [ToolSpec("books/*")]))[:1]
    host = await scene.host()
    assert (await host.call("k1")).output == "paid"
    await store(replace(source, spec=replace(spec, policies=(ToolPolicy(approval=ApprovalRule.ALWAYS),)), revision=2))
    with pytest.raises(TaskError) as waits:
        await host.call("k2")
    assert waits.value.reason == WAITS_FOR_PERSON
    assert [question.kind for question in await scene.questions()] == [QuestionKind.TOOL_APPROVAL]
    await store(replace(source, spec=replace(spec, denied_tools=("pay",)), revision=3))
    assert "is not among the tools" in (await host.call("k3")).error
    await store(replace(source, spec=replace(spec, disabled=True), revision=4))
    assert "is switched off" in (await host.call("k4")).error
    await store(replace(source, revision=5))
    assert (await host.call("k5")).output == "paid"
    async with scene.database.write() as connection:
        await ToolSourceRepository(connection).delete(source, utc_now())
    assert 'there is no source "books"' in (await host.call("k6")).error
    assert len(scene.gateway.requests) == 2


async def test_a_call_is_made_as_it_was_asked_for_and_told_again_to_whoever_asks_again(scene: CallScene) -> None:
    host = await scene.host(labels={"team": "a"})
    arguments: dict[str, Any] = {"amount": 1e16, "note": None, "more": {}, "deep": [{"a": [1, 2.5, "ü\0"]}]}
    assert (await host.call(**arguments)).output == '{"paid": true}'
    [request] = scene.gateway.requests
    assert (request.tool, request.tool_hash, request.execution_id) == ("billing/pay", "h", scene.execution_id)
    assert request.arguments_json == (
        '{"amount": 1e+16, "note": null, "more": {}, "deep": [{"a": [1, 2.5, "\\u00fc\\u0000"]}]}'
    )
    assert (request.idempotent, request.begun_before, dict(request.labels)) == (False, False, {"team": "a"})
    assert len(request.call_id) == 64
    row = (await scene.rows())["k"]
    assert (row.state, row.output, row.call_id) == (ToolCallState.COMPLETED, '{"paid": true}', request.call_id)
    assert (host.usage.value.tool_calls, host.usage.value.cost) == (1, 0.5)
    await host.die()

    again = await scene.host()
    assert (await again.call(**arguments)).output == '{"paid": true}'
    assert len(scene.gateway.requests) == 1
    await again.recorder.flush()
    started, replayed = await scene.events("tool_call_started")
    assert (started.call_id, started.source, started.replayed) == (request.call_id, "billing", False)
    assert (replayed.call_id, replayed.replayed) == (request.call_id, True)
    assert [event.replayed for event in await scene.events("tool_call_completed")] == [False, True]


async def test_a_host_that_dies_in_a_call_leaves_it_to_the_next_one_which_waits_for_its_end(scene: CallScene) -> None:
    release = asyncio.Event()

    async def slow(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        await release.wait()
        return result("paid")

    scene.gateway.tools["billing/pay"] = slow
    host = await scene.host()
    making = asyncio.create_task(host.call())
    await until(lambda: bool(scene.gateway.effects))
    await host.die()
    assert (await asyncio.gather(making, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    assert (await scene.rows())["k"].state is ToolCallState.INTENT

    again = await scene.host()
    following = asyncio.create_task(again.call())
    await until(lambda: len(scene.gateway.requests) == 2)
    release.set()
    assert (await following).output == "paid"
    first, second = scene.gateway.requests
    assert (first.call_id, first.begun_before) == (second.call_id, False)
    assert second.begun_before
    assert list(scene.gateway.effects.values()) == [1]


async def test_of_two_hosts_that_believe_they_own_the_run_only_one_can_begin_a_call(scene: CallScene) -> None:
    earlier = await scene.host()
    later = await scene.host()
    with pytest.raises(Fenced):
        await earlier.call("of the earlier one")
    assert scene.gateway.requests == []
    assert (await later.call("of the later one")).output

    # One that was begun by the earlier host is the same call to the gateway, whoever asks first.
    overtaken = await scene.host()
    await overtaken.call("k")
    await scene.host()
    with pytest.raises(Fenced):
        await overtaken.call("another")
    assert set(scene.gateway.effects.values()) == {1}


async def test_the_timers_failed_write_of_an_intent_is_no_permission_to_call(scene: CallScene) -> None:
    earlier = await scene.host()
    await scene.host()
    # Both are in one batch, which the timer's flush may take.
    calls = [earlier.call(f"k{number}") for number in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Fenced}
    assert scene.gateway.requests == []


async def test_a_stream_that_breaks_off_is_followed_again_and_the_call_is_made_once(scene: CallScene) -> None:
    async def slow(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        await until(lambda: len(scene.gateway.requests) == 2)
        return result("paid")

    scene.gateway.tools["billing/pay"] = slow
    scene.gateway.breaks = lambda request: None if request.begun_before else 0.01
    host = await scene.host()
    assert (await host.call()).output == "paid"
    assert [request.begun_before for request in scene.gateway.requests] == [False, True]
    assert list(scene.gateway.effects.values()) == [1]


async def test_a_gateway_that_is_gone_for_good_leaves_an_unknown_outcome_and_not_a_failure(scene: CallScene) -> None:
    async def slow(call: PlayedCall) -> pb.ToolOutcome:
        await asyncio.Event().wait()
        return result()

    scene.gateway.tools |= {"billing/pay": slow, "billing/look": slow}
    scene.gateway.breaks = lambda _request: 0.01
    host = await scene.host(retry_seconds=0.5)
    with pytest.raises(TaskError) as waits:
        await host.call()
    assert waits.value.reason == WAITS_FOR_PERSON
    # What may run twice is only a failure.
    assert "tools" in (await host.call("l", tool="1")).error
    [question] = await scene.questions()
    assert question.kind is QuestionKind.OUTCOME_UNKNOWN


async def test_a_gateway_that_was_never_reached_is_a_failure(database: Database, checker: SchemaChecker) -> None:
    async with call_scene(database, checker) as scene:
        await scene.gateway._server.stop(0)
        host = await scene.host(retry_seconds=0.2)
        assert "cannot be reached" in (await host.call()).error
        row = (await scene.rows())["k"]
        assert (row.state, row.reason) == (ToolCallState.FAILED, "TOOL_UNAVAILABLE")
        assert host.usage.value.tool_calls == 0


@pytest.mark.parametrize("happened", [True, False])
async def test_an_unknown_outcome_is_asked_of_a_person_and_the_call_goes_on_with_the_answer(
    scene: CallScene, happened: bool
) -> None:
    outcomes = [unknown("cut off"), result("paid")]

    async def pay(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        return outcomes.pop(0)

    scene.gateway.tools["billing/pay"] = pay
    host = await scene.host()
    for _ in range(2):
        with pytest.raises(TaskError) as waits:
            await host.call()
        assert (waits.value.reason, waits.value.fatal) == (WAITS_FOR_PERSON, True)
    await host.die()
    [question] = await scene.questions()
    assert question.kind is QuestionKind.OUTCOME_UNKNOWN
    assert question.call is not None
    assert (question.call.tool, question.call.source, question.call.observation) == (
        "billing/pay",
        "billing",
        "cut off",
    )
    assert (question.call.arguments, question.call.agent_role) == ('{"amount": 1}', "Clerk")
    assert question.call.begun_at is not None
    [event] = await scene.events("tool_outcome_unknown")
    assert (event.call_id, event.message) == (question.call.call_id, "cut off")
    assert len(scene.gateway.requests) == 1

    content = {"happened": True, "result": {"receipt": 7}} if happened else {"happened": False}
    await scene.answer(question, QuestionState.ACCEPTED, content)
    again = await scene.host()
    answer = await again.call()
    assert answer.output == ('{"receipt": 7}' if happened else "paid")
    assert sorted(scene.gateway.effects.values()) == ([1] if happened else [1, 1])
    assert (await scene.rows())["k"].state is ToolCallState.COMPLETED
    # Another attempt is told the same.
    assert (await (await scene.host()).call()).output == answer.output


async def _lost(scene: CallScene, **execution: Any) -> None:
    """Make a call whose outcome is unknown, and say that it had no effect."""
    outcomes = [unknown("cut off")]

    async def pay(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        return outcomes.pop() if outcomes else result("paid")

    scene.gateway.tools["billing/pay"] = pay
    with pytest.raises(TaskError):
        await (await scene.host(**execution)).call()
    await scene.answer((await scene.questions())[0], QuestionState.ACCEPTED, {"happened": False})


async def test_a_call_is_not_made_again_with_a_tool_that_cannot_be_used_any_more(scene: CallScene) -> None:
    await _lost(scene)
    scene.tools = [replace(PAY, problem_reason="TOOL_DISABLED", problem="it is switched off")]
    for _ in range(2):
        host = await scene.host()
        assert (await host.call()).error == "it is switched off"
        await host.recorder.flush()
    assert len(scene.gateway.requests) == 1
    # It is another call than the one of unknown outcome.
    unmade = {event.call_id for event in await scene.events("tool_call_failed")}
    assert unmade.isdisjoint({scene.gateway.requests[0].call_id})
    scene.tools = [PAY]
    assert (await (await scene.host()).call()).output == "paid"
    assert {scene.gateway.requests[1].call_id} == unmade
    assert (await scene.rows())["k"].round == 1


async def test_a_call_is_made_again_only_once_it_is_approved(scene: CallScene) -> None:
    await _lost(scene)
    scene.tools = [replace(PAY, approval=ApprovalRule.ALWAYS)]
    for _ in range(2):
        with pytest.raises(TaskError) as waits:
            await (await scene.host()).call()
        assert waits.value.reason == WAITS_FOR_PERSON
    _, question = await scene.questions()
    assert question.kind is QuestionKind.TOOL_APPROVAL
    assert len(scene.gateway.requests) == 1
    await scene.answer(question, QuestionState.ACCEPTED, {"decision": "call"})
    assert (await (await scene.host()).call()).output == "paid"
    assert question.call is not None
    assert scene.gateway.requests[1].call_id == question.call.call_id


async def test_a_call_is_made_again_only_within_the_limits_of_the_execution(scene: CallScene) -> None:
    await _lost(scene, limits=ExecutionLimits(max_tool_calls=1))
    with pytest.raises(ResourceExhausted, match="max_tool_calls"):
        await (await scene.host()).call()
    assert len(scene.gateway.requests) == 1


async def test_a_call_that_was_taken_back_elsewhere_is_checked_before_it_is_made_again(scene: CallScene) -> None:
    outcomes = [failure("TOOL_CANCELLED", "taken back")]

    async def pay(call: PlayedCall) -> pb.ToolOutcome:
        return outcomes.pop() if outcomes else result("paid")

    scene.gateway.tools["billing/pay"] = pay
    host = await scene.host(limits=ExecutionLimits(max_tool_calls=1))
    # The round before counts no more: it would be one call too many.
    assert (await host.call()).output == "paid"
    outcomes.append(failure("TOOL_CANCELLED", "taken back"))
    scene.gateway.calls.clear()
    heir = await scene.host()
    row = (await scene.rows())["k"]
    heir.journal.tool_calls["k"] = replace(row, state=ToolCallState.INTENT, output="")
    with pytest.raises(ResourceExhausted, match="max_tool_calls"):
        await heir.call()
    assert [request.begun_before for request in scene.gateway.requests] == [False, False, True]


async def test_a_failed_call_that_was_made_costs_and_counts(scene: CallScene) -> None:
    reasons = ["TOOL_RESULT_TOO_LARGE", "TOOL_TIMEOUT", "TOOL_DISABLED"]

    async def look(_call: PlayedCall) -> pb.ToolOutcome:
        reason = reasons.pop(0)
        return failure(reason, reason, made=reason != "TOOL_DISABLED")

    scene.gateway.tools |= {"billing/pay": look, "billing/look": look}
    host = await scene.host(limits=ExecutionLimits(max_tool_calls=2))
    assert (await host.call("k0")).error == "TOOL_RESULT_TOO_LARGE"
    assert (await host.call("k1", tool="1")).error == "TOOL_TIMEOUT"
    assert (host.usage.value.tool_calls, host.usage.value.cost) == (2, 1.0)
    with pytest.raises(ResourceExhausted, match="max_tool_calls"):
        await host.call("k2")
    # The next host knows of it too.
    scene.tools = [replace(PAY, max_calls=1), LOOK]
    assert "as often as it may" in (await (await scene.host()).call("k3")).error


async def test_a_call_that_may_have_been_made_before_it_failed_counts_as_made(scene: CallScene) -> None:
    outcomes = [failure(temporary=True, made=True), failure("TOOL_DISABLED", "switched off")]

    async def look(_call: PlayedCall) -> pb.ToolOutcome:
        return outcomes.pop(0)

    scene.gateway.tools["billing/look"] = look
    host = await scene.host()
    assert (await host.call(tool="1")).error == "switched off"
    assert host.usage.value.tool_calls == 1


async def test_a_person_may_end_the_task_instead(scene: CallScene) -> None:
    async def pay(_call: PlayedCall) -> pb.ToolOutcome:
        return unknown()

    scene.gateway.tools["billing/pay"] = pay
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    [question] = await scene.questions()
    await scene.answer(question, QuestionState.DECLINED, reason="nobody can tell")
    with pytest.raises(TaskError, match="nobody can tell") as ended:
        await (await scene.host()).call()
    assert ended.value.reason == "TOOL_OUTCOME_UNKNOWN"


async def test_a_call_begun_again_after_an_answer_is_found_by_the_next_host(scene: CallScene) -> None:
    release = asyncio.Event()
    outcomes = [unknown(), result("paid")]

    async def pay(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        outcome = outcomes.pop(0)
        if outcome.HasField("result"):
            await release.wait()
        return outcome

    scene.gateway.tools["billing/pay"] = pay
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    await scene.answer((await scene.questions())[0], QuestionState.ACCEPTED, {"happened": False})
    host = await scene.host()
    making = asyncio.create_task(host.call())
    await until(lambda: len(scene.gateway.effects) == 2)
    await host.die()
    await asyncio.gather(making, return_exceptions=True)
    following = asyncio.create_task((await scene.host()).call())
    await until(lambda: len(scene.gateway.requests) == 3)
    release.set()
    assert (await following).output == "paid"
    assert list(scene.gateway.effects.values()) == [1, 1]
    first, second, third = (request.call_id for request in scene.gateway.requests)
    assert first != second == third


async def test_failures_without_effect_are_told_to_the_model_and_cost_no_call(scene: CallScene) -> None:
    async def refuses(_call: PlayedCall) -> pb.ToolOutcome:
        return failure("TOOL_DISABLED", "switched off")

    scene.gateway.tools["billing/pay"] = refuses
    host = await scene.host()
    assert (await host.call()).error == "switched off"
    assert (await scene.rows())["k"].reason == "TOOL_DISABLED"
    assert host.usage.value.tool_calls == 0
    [event] = await scene.events("tool_call_failed")
    assert (event.reason, event.message) == ("TOOL_DISABLED", "switched off")


async def test_a_source_that_is_busy_is_asked_again_and_then_left_alone(scene: CallScene) -> None:
    outcomes = [failure("TOOL_RATE_LIMITED", "busy", temporary=True) for _ in range(4)]

    async def busy(call: PlayedCall) -> pb.ToolOutcome:
        if outcomes:
            return outcomes.pop(0)
        scene.gateway.did(call)
        return result("paid")

    scene.gateway.tools["billing/pay"] = busy
    host = await scene.host()
    assert (await host.call("k")).error == "busy"
    assert len(scene.gateway.requests) == 3
    assert (await host.call("another")).output == "paid"
    assert list(scene.gateway.effects.values()) == [1]


async def test_arguments_that_break_the_schema_go_back_in_words_and_reach_nobody(scene: CallScene) -> None:
    host = await scene.host()
    told = await host.call(amount="ten")
    assert "amount: has to be of type number" in told.error
    assert "ten" not in told.error
    assert (await host.call(other=1)).error
    assert scene.gateway.requests == []
    assert await scene.rows() == {}


async def test_max_calls_counts_calls_and_not_attempts(scene: CallScene) -> None:
    scene.tools = [replace(PAY, max_calls=2), LOOK]
    host = await scene.host()
    await asyncio.gather(*(host.call(f"k{number}") for number in range(2)))
    assert "as often as it may" in (await host.call("k2")).error
    again = await scene.host()
    assert (await again.call("k1")).output
    assert "as often as it may" in (await again.call("k2")).error
    parallel = await asyncio.gather(*(again.call(f"p{number}") for number in range(3)))
    assert all(told.error for told in parallel)
    assert len(scene.gateway.effects) == 2


async def test_the_limit_of_the_execution_ends_it(scene: CallScene) -> None:
    host = await scene.host(limits=ExecutionLimits(max_tool_calls=1))
    await host.call("k0")
    with pytest.raises(ResourceExhausted, match="max_tool_calls"):
        await host.call("k1")
    assert len(scene.gateway.effects) == 1


async def test_two_crew_processes_in_a_row_wait_for_one_call(scene: CallScene) -> None:
    release = asyncio.Event()

    async def slow(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        await release.wait()
        return result("paid")

    scene.gateway.tools["billing/pay"] = slow
    host = await scene.host()
    first = asyncio.create_task(host.call())
    await until(lambda: bool(scene.gateway.effects))
    # As when the crew process dies: what serves its call is cancelled.
    first.cancel()
    second = asyncio.create_task(host.call())
    await asyncio.sleep(0)
    release.set()
    assert (await second).output == "paid"
    assert len(scene.gateway.requests) == 1
    assert host.usage.value.tool_calls == 1


async def test_cancelling_takes_the_call_back_and_says_what_is_known_of_it(scene: CallScene) -> None:
    async def slow(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        await asyncio.Event().wait()
        return result("paid")

    scene.gateway.tools |= {"billing/pay": slow, "billing/look": slow}
    host = await scene.host()
    making = [asyncio.create_task(host.call(tool, tool=tool)) for tool in "01"]
    await until(lambda: len(scene.gateway.effects) == 2)
    await host.remote.cancel()
    await asyncio.gather(*making, return_exceptions=True)
    rows = await scene.rows()
    assert (rows["0"].state, rows["1"].state) == (ToolCallState.UNKNOWN, ToolCallState.CANCELLED)
    assert len(await scene.events("tool_outcome_unknown")) == 1
    assert await scene.questions() == []


async def test_progress_is_told_four_times_a_second_and_its_end_always(scene: CallScene) -> None:
    async def chatty(call: PlayedCall) -> pb.ToolOutcome:
        for number in range(101):
            call.tell(pb.ExecuteToolCallResponse(progress=pb.ToolProgress(text=f"{number}", fraction=number / 100)))
        return result("paid")

    scene.gateway.tools["billing/pay"] = chatty
    host, loop = await scene.host(), asyncio.get_running_loop()
    began = loop.time()
    await host.call()
    events = await scene.events("tool_call_progress")
    assert len(events) <= 2 + 4 * (loop.time() - began)
    assert (events[0].text, events[-1].text, events[-1].fraction) == ("0", "100", 1.0)


async def test_an_approval_is_asked_before_anything_is_begun_and_may_change_the_arguments(scene: CallScene) -> None:
    scene.tools = [replace(PAY, approval=ApprovalRule.WHEN, approval_condition="arguments.amount > 100"), LOOK]
    host = await scene.host()
    assert (await host.call("small", amount=100)).output
    with pytest.raises(TaskError):
        await host.call("large", amount=500)
    [question] = await scene.questions()
    assert (question.kind, question.state) == (QuestionKind.TOOL_APPROVAL, QuestionState.OPEN)
    assert list(await scene.rows()) == ["small"]

    content = {"decision": "call_edited", "arguments": {"amount": 50}, "feedback": "half of it"}
    await scene.answer(question, QuestionState.ACCEPTED, content)
    answer = await (await scene.host()).call("large", amount=500)
    assert answer.output.startswith(
        '[A person changed the arguments of this call to {"amount": 50} and said: half of it]'
    )
    assert scene.gateway.requests[-1].arguments_json == '{"amount": 50}'
    assert (await (await scene.host()).call("large", amount=500)).output == answer.output
    assert len(scene.gateway.effects) == 2


@pytest.mark.parametrize(
    ("action", "told", "made"),
    [
        (OnDeadline.DECLINE, "a person refused this call: nobody answered until the deadline", 0),
        (OnDeadline.ACCEPT_DEFAULT, "", 1),
    ],
)
async def test_an_approval_that_nobody_gives_in_time_is_decided_by_the_policy(
    scene: CallScene, action: OnDeadline, told: str, made: int
) -> None:
    policy = ToolPolicy(approval=ApprovalRule.ALWAYS, approval_deadline=60, approval_on_deadline=action)
    spec = ToolSourceSpec("till", SourceKind.MCP, McpServer("https://example.com/mcp"), policies=(policy,))
    listed = ListedTool("pay", "Pays.", PAY.arguments_schema, hash="h1")
    source = ToolSource(
        new_id(), "sales", 1, spec, (listed,), utc_now(), utc_now(), list_revision=1, accepted=accepted_tools([listed])
    )
    (tool,) = resolve_tools([ToolSpec("till/pay")], {"till": source})
    # The source itself is not stored: what was resolved counts.
    scene.tools = [replace(tool, spec=None)]
    scene.gateway.tools["till/pay"] = scene.gateway.tools["billing/pay"]
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    (question,) = await scene.questions()
    assert question.deadline_at is not None
    assert (question.deadline_at - question.created_at).total_seconds() == 60
    async with scene.database.read() as connection:
        due = await QuestionRepository(connection).overdue(utc_now() + timedelta(seconds=61), 1000)
    assert question.id in [one.id for one in due]
    async with scene.database.write() as connection:
        await QuestionRepository(connection).answer(question, DEADLINE_ANSWERS[action], "", utc_now())
    answer = await (await scene.host()).call()
    assert answer.error == told
    assert len(scene.gateway.effects) == made


@pytest.mark.parametrize(
    ("text", "is_error", "told"),
    [
        ('{"paid": true}\n[https://example.com/receipt]\nReceipt 7', False, None),
        ("It was paid.", False, '{"paid": true}'),
        ("", False, '{"paid": true}'),
        ("no such invoice", True, None),
    ],
)
async def test_a_model_reads_the_json_of_a_result_and_what_its_text_adds(
    scene: CallScene, text: str, is_error: bool, told: str | None
) -> None:
    async def pay(_call: PlayedCall) -> pb.ToolOutcome:
        return result(text, structured_json='{"paid": true}', is_error=is_error)

    scene.gateway.tools["billing/pay"] = pay
    answer = await (await scene.host()).call()
    assert (answer.error if is_error else answer.output) == (text if told is None else told)


async def test_an_outcome_that_nobody_knows_in_time_ends_the_task_and_is_asked_about_again(scene: CallScene) -> None:
    scene.tools = [replace(PAY, outcome_deadline=60), LOOK]

    async def lost(call: PlayedCall) -> pb.ToolOutcome:
        scene.gateway.did(call)
        return unknown()

    scene.gateway.tools["billing/pay"] = lost
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    (question,) = await scene.questions()
    assert question.deadline_at is not None
    assert (question.deadline_at - question.created_at).total_seconds() == 60
    async with scene.database.write() as connection:
        await QuestionRepository(connection).answer(question, DEADLINE_ANSWERS[question.on_deadline], "", utc_now())
    with pytest.raises(TaskError) as ended:
        await (await scene.host()).call()
    assert ended.value.reason == "TOOL_OUTCOME_UNKNOWN"
    assert str(ended.value) == (
        'whether the call of "billing/pay" has taken effect is not known, and nobody answered until the deadline; '
        "find out, then resume the execution, which asks again"
    )
    ended_id, scene.execution_id = scene.execution_id, await queue(scene.database, resumed_from=scene.execution_id)
    async with scene.database.write() as connection:
        heir = JournalRepository(connection, scene.execution_id)
        await heir.take_over(ended_id, answers={}, tools={}, effects={0: 0})
    with pytest.raises(TaskError) as waits:
        await (await scene.host()).call()
    assert waits.value.reason == WAITS_FOR_PERSON
    (again,) = await scene.questions()
    assert (again.kind, again.state, again.id == question.id) == (
        QuestionKind.OUTCOME_UNKNOWN,
        QuestionState.OPEN,
        False,
    )
    assert len(scene.gateway.effects) == 1, "it is not made again"
    await scene.answer(again, QuestionState.DECLINED, reason="the books are closed")
    with pytest.raises(TaskError, match="is not known, and ann ended the task: the books are closed; find out"):
        await (await scene.host()).call()


@pytest.mark.parametrize("declined", [True, False])
async def test_a_refused_call_is_told_to_the_model_and_never_made(scene: CallScene, declined: bool) -> None:
    scene.tools = [replace(PAY, approval=ApprovalRule.ALWAYS), LOOK]
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    [question] = await scene.questions()
    if declined:
        await scene.answer(question, QuestionState.DECLINED, reason="not before Monday")
    else:
        refused = {"decision": "refuse", "feedback": "not before Monday"}
        await scene.answer(question, QuestionState.ACCEPTED, refused)
    host = await scene.host()
    assert (await host.call()).error == "a person refused this call: not before Monday"
    assert (await (await scene.host()).call()).error == "a person refused this call: not before Monday"
    assert scene.gateway.requests == []
    assert (await scene.rows())["k"].reason == "TOOL_REFUSED"


async def test_a_remembered_approval_is_for_that_tool_alone(scene: CallScene) -> None:
    always = replace(PAY, approval=ApprovalRule.ALWAYS)
    scene.tools = [always, replace(LOOK, approval=ApprovalRule.ALWAYS)]
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    await scene.answer((await scene.questions())[0], QuestionState.ACCEPTED, {"decision": "call", "remember": True})
    host = await scene.host()
    assert (await host.call()).output
    assert (await host.call("another")).output
    with pytest.raises(TaskError):
        await host.call("look", tool="1")


@pytest.mark.parametrize(
    "content", [{"decision": "refuse"}, {"decision": "call_edited", "arguments": {"amount": 1}}], ids=["refuse", "edit"]
)
async def test_who_refuses_or_changes_one_call_has_approved_no_other(
    scene: CallScene, content: dict[str, object]
) -> None:
    scene.tools = [replace(PAY, approval=ApprovalRule.ALWAYS)]
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    await scene.answer((await scene.questions())[0], QuestionState.ACCEPTED, {**content, "remember": True})
    host = await scene.host()
    await host.call()
    with pytest.raises(TaskError):
        await host.call("another", amount=1_000_000)


async def test_arguments_that_cannot_be_checked_are_not_sent(scene: CallScene) -> None:
    schema = {**PAY.arguments_schema, "properties": {"amount": {"$ref": "#/$defs/nothing"}}}
    scene.tools = [replace(PAY, arguments_schema=schema)]
    assert "could not be checked" in (await (await scene.host()).call()).error
    assert scene.gateway.requests == []


@pytest.mark.parametrize("keys", [("", ""), ("first", "second")])
async def test_an_answer_counts_for_what_was_asked_alone(scene: CallScene, keys: tuple[str, str]) -> None:
    """What a source asks under another key is another question, also in the words of the one before."""
    small, large = ({"type": "object", "properties": {"size": {"type": "integer", "minimum": n}}} for n in (1, 1000))
    if keys[0]:
        large = small

    async def asks(call: PlayedCall) -> pb.ToolOutcome:
        await call.ask("Which size?", small, key=keys[0])
        await call.ask("Which size?", large, key=keys[1])
        return result("never")

    scene.gateway.tools["billing/pay"] = asks
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    await scene.answer((await scene.questions())[0], QuestionState.ACCEPTED, {"size": 1})
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    assert [question.schema for question in await scene.questions() if question.answer is None] == [large]


@pytest.mark.parametrize("keys", [("", "first"), ("first", "")])
async def test_an_answer_counts_where_only_one_release_of_two_knows_keys(
    scene: CallScene, keys: tuple[str, str]
) -> None:
    async def asks(call: PlayedCall) -> pb.ToolOutcome:
        return result((await call.ask("Which size?", {"type": "object"}, key=key)).action)

    scene.gateway.tools["billing/pay"] = asks
    key = keys[0]
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    await scene.answer((await scene.questions())[0], QuestionState.ACCEPTED, {})
    scene.gateway.calls.clear()
    key = keys[1]
    assert (await (await scene.host()).call()).output == "accept"
    assert len(await scene.questions()) == 1


async def test_what_a_source_asks_reaches_a_person_and_the_answer_reaches_the_call(scene: CallScene) -> None:
    schema = {"type": "object", "properties": {"size": {"type": "string"}}}

    async def asks(call: PlayedCall) -> pb.ToolOutcome:
        form = await call.ask("Which\u202e size?", schema)
        visit = await call.ask("Pay there", url="https://example.com/pay")
        scene.gateway.did(call)
        return result(f"{form.action} {form.content['size']} {visit.action}")

    scene.gateway.tools["billing/pay"] = asks
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    [question] = await scene.questions()
    assert (question.kind, question.text, question.schema) == (QuestionKind.FORM, "Which size?", schema)
    await scene.answer(question, QuestionState.ACCEPTED, {"size": "large"})
    with pytest.raises(TaskError):
        await (await scene.host()).call()
    _, question = await scene.questions()
    assert question.call is not None
    assert (question.kind, question.text, question.call.url) == (
        QuestionKind.URL,
        "Pay there",
        "https://example.com/pay",
    )
    await scene.answer(question, QuestionState.DECLINED)
    assert (await (await scene.host()).call()).output == "accept large decline"
    assert list(scene.gateway.effects.values()) == [1]


async def test_long_results_are_cut_for_the_model_and_kept_whole(scene: CallScene) -> None:
    async def long(_call: PlayedCall) -> pb.ToolOutcome:
        return result("ü" * 1000)

    scene.gateway.tools["billing/pay"] = long
    scene.tools = [replace(PAY, result_limit=101)]
    host = await scene.host()
    told = (await host.call()).output
    row = (await scene.rows())["k"]
    assert told.startswith("ü" * 50 + "\n[The result has 1,000 characters")
    assert row.call_id in told
    assert row.output == "ü" * 1000


async def test_three_hundred_payments_survive_hosts_that_die_and_answers_that_are_lost(scene: CallScene) -> None:
    """Nothing is paid twice, nothing is told as failed, and all end once people have answered."""
    dice = random.Random(7)
    keys = [f"payment {number}" for number in range(300)]

    async def pay(call: PlayedCall) -> pb.ToolOutcome:
        await asyncio.sleep(dice.random() * 0.03)
        scene.gateway.did(call)
        await asyncio.sleep(dice.random() * 0.03)
        return unknown("the answer was lost") if dice.random() < 0.1 else result(f"paid {call.request.arguments_json}")

    scene.gateway.tools["billing/pay"] = pay
    # Some streams break off as well.
    scene.gateway.breaks = lambda _request: dice.random() * 0.02 if dice.random() < 0.2 else None
    told: dict[str, str] = {}
    ends: set[str] = set()

    async def settle(host: Hostlike, key: str) -> None:
        with contextlib.suppress(asyncio.CancelledError, Fenced):
            try:
                answer = await host.call(key, amount=keys.index(key))
            except TaskError as waits:
                ends.add(waits.reason)
            else:
                assert not answer.error
                told[key] = answer.output

    lives = 0
    while len(told) < len(keys):
        lives += 1
        host = await scene.host()
        open_keys = [key for key in keys if key not in told][:60]
        making = [asyncio.create_task(settle(host, key)) for key in open_keys]
        if lives % 3:
            await asyncio.wait(making, timeout=dice.random() * 0.1)
        else:
            await asyncio.gather(*making)
            for question in await scene.questions():
                if question.state is QuestionState.OPEN:
                    # They look it up, and it had happened.
                    await scene.answer(question, QuestionState.ACCEPTED, {"happened": True, "result": "found paid"})
        await host.die()
        await asyncio.gather(*making)

    rows = await scene.rows()
    assert {row.state for row in rows.values()} == {ToolCallState.COMPLETED}
    assert set(rows) == set(keys)
    assert len({row.call_id for row in rows.values()}) == len(keys)
    assert set(scene.gateway.effects) == {row.call_id for row in rows.values()}
    assert set(scene.gateway.effects.values()) == {1}
    lost = {key for key, row in rows.items() if row.output == "found paid"}
    asked = {question.call.key for question in await scene.questions() if question.call}
    assert asked == lost
    assert len(lost) > 5
    assert lives > 6
    assert told == {key: row.output for key, row in rows.items()}
    assert ends == {WAITS_FOR_PERSON}


async def test_a_call_whose_result_was_too_large_is_not_made_again_by_another_execution(database: Database) -> None:
    source, heir = await queue(database), await queue(database)
    failed = ToolCall(ToolCallState.FAILED, "", "too large", "billing/pay", "c", arguments="{}")
    async with database.write() as connection:
        for key, reason in (("made", "TOOL_RESULT_TOO_LARGE"), ("not made", "TOOL_DISABLED")):
            await JournalRepository(connection, source).put_tool_call(0, key, replace(failed, reason=reason), 1)
        await JournalRepository(connection, heir).take_over(source, answers={}, tools={}, effects={0: 0})
    assert set(await read_tool_calls(database, heir, 0)) == {"made"}


async def test_a_call_that_was_made_again_stays_known_while_another_execution_may_come_to_its_id(
    database: Database,
) -> None:
    """Both are told that it had no effect, and ask for one call: the second one after the first one was deleted."""
    source = await queue(database)
    first, second = await queue(database, resumed_from=source), await queue(database, resumed_from=source)
    now = utc_now()
    lost = ToolCall(ToolCallState.UNKNOWN, "", "", "billing/pay", "lost", arguments="{}")
    again, last = replace(lost, call_id="again", round=1), replace(lost, call_id="last", round=2)
    only = replace(lost, call_id="only", state=ToolCallState.COMPLETED)
    of_all = {"lost": source, "again": first, "last": first, "only": first}
    async with database.write() as connection:
        await connection.execute(executions.update().values(ended_at=now))
        for execution_id in (source, second):
            await JournalRepository(connection, execution_id).put_tool_call(0, "k", lost, 1)
        for key, call in (("k", again), ("k", last), ("o", only)):
            await JournalRepository(connection, first).put_tool_call(0, key, call, 1)
        for call_id, execution_id in of_all.items():
            row: dict[str, Any] = {
                "group_id": "sales",
                "call_id": call_id,
                "execution_id": execution_id,
                "source": "billing",
            }
            row |= {"sent_at": now, "replica": "r", "leased_until": now}
            await connection.execute(gateway_calls.insert().values(row))

    async def known() -> dict[str, str]:
        async with database.read() as connection:
            query = select(gateway_calls).where(gateway_calls.c.call_id.in_(of_all))
            return {row.call_id: row.execution_id for row in await connection.execute(query)}

    async def delete(execution_id: str) -> None:
        async with database.write() as connection:
            assert await RetentionRepository(connection).delete("sales", [execution_id]) == 1

    await delete(first)
    assert await known() == dict.fromkeys(("lost", "again", "last"), source)
    await delete(source)
    assert await known() == dict.fromkeys(("lost", "again", "last"), second)
    await delete(second)
    assert await known() == {}


async def test_what_the_gateway_knows_of_a_call_outlives_the_execution_while_another_one_continues_it(
    database: Database,
) -> None:
    """Otherwise its call would be known as one that was never sent."""
    source, heir = await queue(database), await queue(database)
    now = utc_now()
    call = ToolCall(ToolCallState.INTENT, "", "", "billing/pay", "kept", arguments="{}")
    async with database.write() as connection:
        await connection.execute(executions.update().where(executions.c.id.in_([source, heir])).values(ended_at=now))
        await JournalRepository(connection, source).put_tool_call(0, "k", call, 1)
        await JournalRepository(connection, heir).take_over(source, answers={}, tools={}, effects={0: 0})
        for call_id in ("kept", "forgotten"):
            row: dict[str, Any] = {"group_id": "sales", "call_id": call_id, "execution_id": source, "source": "billing"}
            row |= {"sent_at": now, "replica": "r", "leased_until": now}
            await connection.execute(gateway_calls.insert().values(row))

    async def known() -> set[str]:
        async with database.read() as connection:
            query = select(gateway_calls.c.call_id).where(gateway_calls.c.call_id.in_(["kept", "forgotten"]))
            return set((await connection.execute(query)).scalars())

    async with database.write() as connection:
        assert await RetentionRepository(connection).delete("sales", [source]) == 1
    assert await known() == {"kept"}
    async with database.write() as connection:
        assert await RetentionRepository(connection).delete("sales", [heir]) == 1
    assert await known() == set()
