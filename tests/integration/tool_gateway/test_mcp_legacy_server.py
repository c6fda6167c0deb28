"""Tools of a real server of the legacy era (version 1 of the official package), called like crews call them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.domain.tool_source import McpEra, ToolSourceSpec
from services.orchestrator.tool_gateway.ports import NotSent, OutcomeUnknown, SourceAnswer
from tests.support.mcp_calls import Caller, Told, calling, over_http, request
from tests.support.mcp_servers.processes import LEGACY, McpServerProcess, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpServerProcess]:
    with serving(sys.executable, LEGACY, tmp_path_factory.mktemp("mcp") / "ledger", "--events") as running:
        yield running


@pytest.fixture(scope="module")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[McpServerProcess]:
    ledger: Path = tmp_path_factory.mktemp("mcp") / "ledger"
    with serving(sys.executable, LEGACY, ledger, "--transport", "sse", path="/sse") as running:
        yield running


@pytest.fixture(params=["streamable HTTP", "SSE"])
def source(request: pytest.FixtureRequest) -> ToolSourceSpec:
    """The server by each of the two transports of its era."""
    if request.param == "SSE":
        return over_http(request.getfixturevalue("old_server").url, sse=True)
    return over_http(request.getfixturevalue("server").url)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as ready:
        yield ready


async def test_it_is_listed_with_schemas_and_hints(caller: Caller, source: ToolSourceSpec) -> None:
    tools = {tool.name: tool for tool in await caller.adapter.list_tools(source, request(source, "").principal)}
    assert {"add", "pay", "deliver", "picture"} <= tools.keys()
    add = tools["add"]
    assert add.description == "Add two numbers."
    assert add.arguments_schema["required"] == ["a", "b"]
    assert add.output_schema is not None
    assert add.output_schema["required"] == ["total", "label"]
    assert (add.idempotent_hint, tools["pay"].idempotent_hint) == (True, None)


async def test_structured_results_come_as_json_and_errors_as_errors(caller: Caller, source: ToolSourceSpec) -> None:
    added = await caller.call(source, "add", {"a": 1, "b": 2})
    assert (added.structured, added.text, added.is_error) == (
        {"total": 3, "label": "sum"},
        '{"total":3,"label":"sum"}',
        False,
    )
    failed = await caller.call(source, "fail")
    assert failed.is_error
    assert "out of paper" in failed.text
    wrong = await caller.call(source, "add", {"a": "x", "b": 2})
    assert wrong.is_error
    assert "valid integer" in wrong.text


async def test_arguments_arrive_as_they_were_written(caller: Caller, source: ToolSourceSpec) -> None:
    value: dict[str, Any] = {
        "none": None,
        "empty": {},
        "list": [],
        "big": 10**30,
        "float": 1e16,
        "text": 'ü\n"\\',
        "deep": [[[{}]]],
    }
    assert (await caller.call(source, "echo", {"value": value})).structured == {"result": repr(value)}


async def test_progress_is_passed_on_the_last_of_it_always(caller: Caller, source: ToolSourceSpec) -> None:
    told = Told()
    await caller.call(source, "steps", {"count": 200}, told)
    assert told.steps[-1] == ("step 200", 1.0)
    assert len(told.steps) < 100


async def test_a_form_and_a_page_are_asked_of_a_person(caller: Caller, source: ToolSourceSpec) -> None:
    told = Told()
    result = await caller.call(source, "deliver", told=told)
    assert result.structured == {"result": "accept Main Street"}
    assert told.questions[0].text == "Where to?"
    assert told.questions[0].schema is not None
    assert told.questions[0].schema["properties"]["street"] == {"type": "string", "title": "Street"}
    assert (await caller.call(source, "deliver", told=Told(SourceAnswer("decline")))).structured == {
        "result": "decline "
    }
    told = Told()
    assert (await caller.call(source, "visit", told=told)).structured == {"result": "accept"}
    assert told.questions[0].url == "https://example.com/sign-in"


async def test_a_form_for_a_password_is_declined_without_asking(caller: Caller, source: ToolSourceSpec) -> None:
    told = Told()
    assert (await caller.call(source, "sign_in", told=told)).structured == {"result": "decline"}
    assert told.questions == []
    assert 'field "password"' in told.steps[-1][0]


async def test_a_call_that_needs_a_visit_first_is_made_after_it(caller: Caller, source: ToolSourceSpec) -> None:
    told = Told()
    assert (await caller.call(source, "needs_visit", told=told)).structured == {"result": "was there"}
    assert [question.url for question in told.questions] in ([], ["https://example.com/first"])


async def test_sampling_is_refused_in_words(caller: Caller, source: ToolSourceSpec) -> None:
    told = Told()
    result = await caller.call(source, "ask_model", told=told)
    assert "does not offer sampling/createMessage" in result.text
    assert "sampling/createMessage" in told.steps[-1][0]


async def test_pictures_become_files_and_links_are_read_from_the_same_server(
    caller: Caller, source: ToolSourceSpec
) -> None:
    picture = await caller.call(source, "picture")
    assert [(file.name, file.media_type, file.content[1:4]) for file in picture.files] == [
        ("picture-image.png", "image/png", b"PNG")
    ]
    links = await caller.call(source, "links", {"count": 7})
    assert "This is note 4." in links.text
    assert "This is note 5." not in links.text
    assert "not read: note 5" in links.text


async def test_a_changed_list_is_read_anew(caller: Caller, source: ToolSourceSpec) -> None:
    await caller.call(source, "grow")
    assert (await caller.call(source, "grown")).text == "new"


async def test_a_stream_that_breaks_off_is_read_on_and_the_work_done_once(
    caller: Caller, server: McpServerProcess
) -> None:
    result = await caller.call(over_http(server.url), "interrupted", {"key": "interrupted"})
    assert result.structured == {"result": "continued"}
    assert server.paid("interrupted") == 1


async def test_a_restarted_server_is_called_in_a_new_session(caller: Caller, server: McpServerProcess) -> None:
    source = over_http(server.url, era=McpEra.LEGACY)
    await caller.call(source, "pay", {"key": "before"})
    await asyncio.to_thread(server.restart)
    assert (await caller.call(source, "pay", {"key": "after"})).structured == {"result": "paid after"}
    assert (server.paid("before"), server.paid("after")) == (1, 1)


async def test_a_server_that_dies_after_the_work_leaves_the_outcome_unknown(
    caller: Caller, server: McpServerProcess
) -> None:
    source = over_http(server.url, era=McpEra.LEGACY)
    told = Told()
    with pytest.raises(OutcomeUnknown):
        await caller.call(source, "pay", {"key": "died", "then": "die"}, told)
    assert (server.paid("died"), told.sent_times) == (1, 1)
    await asyncio.to_thread(server.wait)
    with pytest.raises(NotSent, match="cannot be reached"):
        await caller.call(source, "pay", {"key": "never"})
    await asyncio.to_thread(server.restart)
    assert (server.paid("died"), server.paid("never")) == (1, 0)


async def test_a_cancelled_call_is_cancelled_at_the_server(caller: Caller, server: McpServerProcess) -> None:
    source = over_http(server.url)
    calling = asyncio.create_task(caller.call(source, "pay", {"key": "cancelled", "pause": 3600}))
    await server.has_paid("cancelled")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    # The session went with it; another one serves what follows.
    assert (await caller.call(source, "pay", {"key": "next"})).structured == {"result": "paid next"}
