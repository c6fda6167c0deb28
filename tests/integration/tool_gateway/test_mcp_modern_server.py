"""Tools of a real server of the modern era (version 2 of the official package), called like crews call them."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.ids import new_id
from services.orchestrator.domain.tool_source import McpEra, ToolSourceSpec
from services.orchestrator.tool_gateway.ports import NotSent, OutcomeUnknown, SourceAnswer
from tests.support.harness import serve_services
from tests.support.mcp_calls import Caller, Told, calling, over_http, principal, request
from tests.support.mcp_servers.processes import MODERN, McpServerProcess, modern_python, serving
from tests.support.tool_gateway import FixedSources, GatewayCaller


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpServerProcess]:
    ledger: Path = tmp_path_factory.mktemp("mcp") / "ledger"
    with serving(modern_python(), MODERN, ledger, "--ttl", "3600000") as running:
        yield running


@pytest.fixture(params=[McpEra.AUTO, McpEra.MODERN, McpEra.LEGACY])
def source(request: pytest.FixtureRequest, server: McpServerProcess) -> ToolSourceSpec:
    """The server, which speaks both eras, in each of them."""
    return over_http(server.url, era=request.param)


@pytest.fixture
def modern(server: McpServerProcess) -> ToolSourceSpec:
    return over_http(server.url)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as ready:
        yield ready


async def test_it_is_listed_and_called(caller: Caller, source: ToolSourceSpec) -> None:
    tools = {tool.name: tool for tool in await caller.adapter.list_tools(source, principal())}
    assert tools["add"].idempotent_hint is True
    told = Told()
    result = await caller.call(source, "add", {"a": 1, "b": 2}, told)
    assert (result.structured, result.text) == ({"total": 3, "label": "sum"}, '{"total":3,"label":"sum"}')
    assert told.sent_times == 1
    failed = await caller.call(source, "fail")
    assert failed.is_error


async def test_arguments_arrive_as_they_were_written(caller: Caller, modern: ToolSourceSpec) -> None:
    value: dict[str, Any] = {
        "none": None,
        "empty": {},
        "list": [],
        "big": 10**30,
        "float": 1e16,
        "text": 'ü\n"\\',
        "deep": [[[{}]]],
    }
    assert (await caller.call(modern, "echo", {"value": value})).structured == {"result": repr(value)}


async def test_progress_is_passed_on(caller: Caller, source: ToolSourceSpec) -> None:
    told = Told()
    await caller.call(source, "steps", {"count": 100}, told)
    assert told.steps[-1] == ("step 100", 1.0)


@pytest.mark.parametrize(
    ("region", "header"), [("eu-west", "eu-west"), (" ü", "=?base64?IMO8?="), ("=?base64?eA==?=", None)]
)
async def test_marked_arguments_are_repeated_as_headers(
    caller: Caller, modern: ToolSourceSpec, region: str, header: str | None
) -> None:
    result = await caller.call(modern, "routed", {"region": region})
    assert result.structured == {"result": header or "=?base64?PT9iYXNlNjQ/ZUE9PT89?="}


async def test_input_is_asked_of_a_person_and_the_state_goes_back_untouched(
    caller: Caller, modern: ToolSourceSpec
) -> None:
    told = Told()
    result = await caller.call(modern, "deliver", told=told)
    assert result.structured == {"result": "accept Main Street the state"}
    assert (told.questions[0].text, told.sent_times) == ("Where to?", 1)
    declined = await caller.call(modern, "deliver", told=Told(SourceAnswer("decline")))
    assert declined.structured == {"result": "decline  the state"}
    told = Told()
    assert (await caller.call(modern, "visit", told=told)).structured == {"result": "accept"}
    assert told.questions[0].url == "https://example.com/in"


@pytest.mark.parametrize(("tool", "words"), [("roots", "roots/list"), ("insists", "needs sampling")])
async def test_what_is_not_offered_is_an_error_in_words(
    caller: Caller, modern: ToolSourceSpec, tool: str, words: str
) -> None:
    told = Told()
    result = await caller.call(modern, tool, told=told)
    assert result.is_error
    assert words in result.text
    assert told.questions == []


async def test_a_task_is_followed_and_answered(
    caller: Caller, modern: ToolSourceSpec, server: McpServerProcess
) -> None:
    told = Told()
    result = await caller.call(modern, "long_job", {"key": "asked", "ask": True}, told)
    assert result.structured == {"result": "job asked done Ann"}
    assert [json.loads(handle) for handle in told.handles] == [{"task": "asked"}]
    assert len(told.questions) == 1
    assert server.paid("asked") == 1


async def test_a_task_is_found_again_by_its_handle(
    caller: Caller, modern: ToolSourceSpec, server: McpServerProcess
) -> None:
    told = Told()
    call = asyncio.create_task(caller.call(modern, "long_job", {"key": "found", "polls": 20}, told))
    await told.changes.wait(lambda: bool(told.handles))
    async with calling() as other:
        result = await other.adapter.resume(request(modern, "long_job"), told.handles[0], Told())
    assert result.structured == {"result": "job found done"}
    assert (await call).structured == result.structured
    assert server.paid("found") == 1


async def test_a_task_that_fails_is_an_error_and_a_lost_one_unknown(caller: Caller, modern: ToolSourceSpec) -> None:
    failed = await caller.call(modern, "long_job", {"key": "failed", "fail": True})
    assert failed.is_error
    assert "the printer burns" in failed.text
    for handle in ['{"task":"nobody knows it"}', "", "not json", "[]", '{"task":7}']:
        with pytest.raises(OutcomeUnknown):
            await caller.adapter.resume(request(modern, "long_job"), handle, Told())


async def test_a_cancelled_call_is_cancelled_at_the_server(
    caller: Caller, modern: ToolSourceSpec, server: McpServerProcess
) -> None:
    told = Told()
    task = asyncio.create_task(caller.call(modern, "long_job", {"key": "task", "polls": 10**6}, told))
    await told.changes.wait(lambda: bool(told.handles))
    plain = asyncio.create_task(caller.call(modern, "pay", {"key": "plain", "pause": 3600}))
    await server.has_paid("plain")
    for call in (task, plain):
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert server.paid("cancelled task") == 1
    await server.has_paid("cancelled plain")


async def test_news_of_a_changed_list_are_heard(caller: Caller, modern: ToolSourceSpec) -> None:
    names = [tool.name for tool in await caller.adapter.list_tools(modern, principal())]
    assert "grown" not in names
    # The list is fresh for an hour, so only the server's own word makes it stale.
    grown = False
    while not grown:
        await caller.call(modern, "grow")
        grown = "grown" in [tool.name for tool in await caller.adapter.list_tools(modern, principal())]
    assert (await caller.call(modern, "grown")).text == "new"


async def test_each_principal_calls_with_a_credential_of_its_own(caller: Caller, modern: ToolSourceSpec) -> None:
    caller.credentials.tokens = {"red": "red-token", "blue": "blue-token"}
    for group in ("red", "blue"):
        result = await caller.adapter.call(request(modern, "who", by=principal(group)), Told())
        assert result.structured == {"result": hashlib.sha256(f"Bearer {group}-token".encode()).hexdigest()}


async def test_a_server_that_dies_after_the_work_leaves_the_outcome_unknown(
    caller: Caller, modern: ToolSourceSpec, server: McpServerProcess
) -> None:
    with pytest.raises(OutcomeUnknown):
        await caller.call(modern, "pay", {"key": "died", "then": "die"})
    await asyncio.to_thread(server.wait)
    with pytest.raises(NotSent, match="cannot be reached"):
        await caller.call(modern, "pay", {"key": "never"})
    await asyncio.to_thread(server.restart)
    assert (await caller.call(modern, "pay", {"key": "after"})).structured == {"result": "paid after"}
    assert (server.paid("died"), server.paid("never"), server.paid("after")) == (1, 0, 1)


async def test_crews_reach_it_through_the_gateway(tmp_path: Path, server: McpServerProcess) -> None:
    sources = FixedSources([over_http(server.url)])
    async with serve_services(tmp_path, "tools", sources=sources) as harness:
        gateway = GatewayCaller.of(harness)
        listed = {tool.name: tool for tool in await gateway.list(sources.sources[0].id)}
        assert listed["add"].idempotent_hint
        added = await gateway.call("billing/add", '{"a": 1, "b": 2}')
        assert json.loads(added.result.structured_json) == {"total": 3, "label": "sum"}
        call_id, seen = new_id(), []
        async for event in gateway.events("billing/deliver", call_id=call_id):
            seen.append(event.WhichOneof("event"))
            if event.WhichOneof("event") == "question":
                assert event.question.text == "Where to?"
                assert await gateway.answer(call_id, event.question.number, street="Side Street")
            elif event.WhichOneof("event") == "outcome":
                assert "accept Side Street the state" in event.outcome.result.text
        assert [kind for kind in seen if kind != "progress"] == ["question", "outcome"]
        done = await gateway.call("billing/long_job", '{"key": "through the gateway"}')
        assert "job through the gateway done" in done.result.text
        unknown = await gateway.call("billing/pay", '{"key": "died in the gateway", "then": "die"}')
        assert unknown.WhichOneof("outcome") == "unknown"
        await asyncio.to_thread(server.restart)
        assert (await gateway.call("billing/pay", '{"key": "later"}')).result.text == '{"result":"paid later"}'
    assert [server.paid(key) for key in ("through the gateway", "died in the gateway", "later")] == [1, 1, 1]
