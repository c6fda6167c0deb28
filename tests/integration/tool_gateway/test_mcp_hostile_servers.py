"""MCP servers that send too much, too deep, too often or nothing at all: bounded, said in words, and nobody waits."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from services.common.errors import FailedPrecondition, Unavailable
from services.orchestrator.tool_gateway.ports import OutcomeUnknown, ToolResult
from tests.support.mcp_calls import Caller, Told, calling, over_http, principal
from tests.support.mcp_emulator import PAY, McpEmulator, event, raw, result, stream

MIB = 1024 * 1024


@pytest.fixture
async def server() -> AsyncIterator[McpEmulator]:
    with McpEmulator() as running:
        yield running


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as ready:
        yield ready


@asynccontextmanager
async def loop_goes_on() -> AsyncIterator[None]:
    """Hold that other work of the loop runs all the while, by how much of it got its turn."""
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    began = time.monotonic()
    try:
        yield
    finally:
        working.cancel()
    assert turns > 10 * (time.monotonic() - began)


async def test_a_result_of_a_gibibyte_is_not_read(caller: Caller, server: McpEmulator) -> None:
    async def huge(asked: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = 1024 * MIB
        await response.prepare(asked)
        for _ in range(1024):
            await response.write(b" " * MIB)
            server.sent_bytes += MIB
        return response

    server.on["tools/call"] = huge
    async with loop_goes_on():
        told = await caller.call(over_http(server.address), "pay")
    assert told.is_error
    assert "more than 16777216 bytes" in told.text
    assert server.sent_bytes < 64 * MIB


@pytest.mark.parametrize(
    "piece",
    [b": ping\n\n" * 10_000, b"data: " + b"x" * 100_000, b"\n" * 65536],
    ids=["comments", "one event", "line ends"],
)
async def test_a_stream_without_end_is_left(caller: Caller, server: McpEmulator, piece: bytes) -> None:
    async def endless(asked: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = await stream(asked)
        while True:
            await response.write(piece)
            server.sent_bytes += len(piece)

    server.on["tools/call"] = endless
    async with loop_goes_on():
        [end] = await asyncio.gather(caller.call(over_http(server.address), "pay"), return_exceptions=True)
    if isinstance(end, ToolResult):
        assert "more than 16777216 bytes" in end.text
    else:
        assert isinstance(end, OutcomeUnknown)
        assert "without end" in str(end)
    assert server.sent_bytes < 64 * MIB


async def test_a_flood_of_progress_is_thinned_out(caller: Caller, server: McpEmulator) -> None:
    async def flood(asked: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        token = message["params"]["_meta"]["progressToken"]
        response = await stream(asked)
        for number in range(20):
            step = {"progressToken": token, "progress": number, "total": 0, "message": "\x1b[2J\u202e" + "x" * 5000}
            await response.write(event({"jsonrpc": "2.0", "method": "notifications/progress", "params": step}) * 100)
        done = {"content": [{"type": "text", "text": "done"}]}
        await response.write(event({"jsonrpc": "2.0", "id": message["id"], "result": done}))
        return response

    server.on["tools/call"] = flood
    told = Told()
    began = time.monotonic()
    async with loop_goes_on():
        assert (await caller.call(over_http(server.address), "pay", told=told)).text == "done"
    assert 1 <= len(told.steps) <= 2 + 4 * (time.monotonic() - began)
    text, fraction = told.steps[-1]
    assert (text[:5], fraction) == ("[2Jxx", None)
    assert len(text) <= 1024


@pytest.mark.parametrize("method", ["ping", "sampling/createMessage", "elicitation/create"])
async def test_a_flood_of_questions_is_left(caller: Caller, server: McpEmulator, method: str) -> None:
    async def asks(asked: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        response = await stream(asked)
        for number in range(3000):
            form = {"message": f"{number}", "requestedSchema": {"type": "object", "properties": {}}}
            await response.write(event({"jsonrpc": "2.0", "id": number, "method": method, "params": form}))
        return response

    server.legacy().on["tools/call"] = asks
    told = Told()
    async with loop_goes_on():
        with pytest.raises(OutcomeUnknown, match="asks without end"):
            await caller.call(over_http(server.address), "pay", told=told)
    assert sum("method" not in seen.message and "id" in seen.message for seen in server.seen) <= 1000
    assert len(told.questions) <= 20


async def test_text_is_made_valid(caller: Caller, server: McpEmulator) -> None:
    server.on["tools/call"] = raw(
        b'{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"a\xff\\u0000\\ud800b"}],'
        b'"structuredContent":{"k\\u0000":"\\udfff"}}}'
    )
    told = await caller.call(over_http(server.address), "pay")
    assert "\0" not in told.text
    assert json.loads(told.text.split("\n")[0]) == told.structured == {"k\ufffd": "\ufffd"}
    assert told.text.split("\n")[1] == "a\ufffd\ufffd\ufffdb"


async def test_a_list_of_ten_thousand_tools_is_refused_in_words(caller: Caller, server: McpEmulator) -> None:
    server.on["tools/list"] = result({"tools": [PAY | {"name": f"tool-{number}"} for number in range(10_000)]})
    async with loop_goes_on():
        with pytest.raises(FailedPrecondition, match="more than 5000 tools"):
            await caller.adapter.list_tools(over_http(server.address), principal())
    server.on["tools/list"] = result({"tools": [PAY | {"name": f"tool-{number}"} for number in range(600)]})
    with pytest.raises(FailedPrecondition, match="allowed_tools"):
        await caller.adapter.list_tools(over_http(server.address), principal())
    chosen = over_http(server.address, allowed_tools=("tool-1*",), denied_tools=("tool-11*",))
    assert len(await caller.adapter.list_tools(chosen, principal())) == 100


async def test_schemas_that_are_too_large_are_not_kept(caller: Caller, server: McpEmulator) -> None:
    def tool(name: str, size: int) -> dict[str, Any]:
        return PAY | {"name": name, "inputSchema": {"type": "object", "$comment": "x" * size}}

    server.on["tools/list"] = result({"tools": [tool("large", 300_000), tool("small", 1000)]})
    assert [t.name for t in await caller.adapter.list_tools(over_http(server.address), principal())] == ["small"]
    server.on["tools/list"] = result({"tools": [tool(f"t{number}", 200_000) for number in range(50)]})
    with pytest.raises(FailedPrecondition, match="schemas of the server's tools are larger"):
        await caller.adapter.list_tools(over_http(server.address), principal())


@pytest.mark.parametrize("cursor", ["the same", "x" * 5000, 7, "growing"])
async def test_a_list_that_does_not_end_is_left(caller: Caller, server: McpEmulator, cursor: Any) -> None:
    pages = 0

    async def page(asked: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        nonlocal pages
        pages += 1
        following = f"page {pages}" if cursor == "growing" else cursor
        return await result({"tools": [PAY], "nextCursor": following})(asked, message)

    server.on["tools/list"] = page
    with pytest.raises((FailedPrecondition, Unavailable)):
        await caller.adapter.list_tools(over_http(server.address), principal())
    assert pages <= 200


async def test_odd_tools_are_left_out_and_the_others_are_listed(caller: Caller, server: McpEmulator) -> None:
    recursive: dict[str, Any] = {
        "type": "object",
        "properties": {"next": {"$ref": "#"}},
        "$defs": {"a": {"$ref": "#/$defs/a"}},
    }
    odd = [
        7,
        {"name": "", "inputSchema": {}},
        {"name": "a\u202eb", "inputSchema": {}},
        {"name": "x" * 200, "inputSchema": {}},
        {"name": "no schema"},
        {"name": "array", "inputSchema": {"type": "array"}},
        {
            "name": "marked",
            "inputSchema": {"type": "object", "properties": {"n": {"type": "number", "x-mcp-header": "N"}}},
        },
        PAY | {"description": "second of its name"},
    ]
    good = {
        "name": "good",
        "title": "Good\x00",
        "description": "Hidden\u200b text. " + "x" * 5000,
        "inputSchema": recursive,
        "outputSchema": recursive,
    }
    server.on["tools/list"] = result({"tools": [PAY, *odd, good]})
    tools = await caller.adapter.list_tools(over_http(server.address), principal())
    assert [tool.name for tool in tools] == ["pay", "good"]
    assert tools[0].description == "Pay once."
    assert tools[1].description.startswith("Hidden text. xxx")
    assert len(tools[1].description.encode()) <= 4096
    assert tools[1].warnings == ("the description was cut after 4096 bytes",)
    server.on["tools/call"] = result({"content": [], "structuredContent": {"next": {"next": {}}}})
    assert (await caller.call(over_http(server.address), "good")).structured == {"next": {"next": {}}}


async def test_a_result_that_breaks_its_promise_is_an_error_that_names_it(caller: Caller, server: McpEmulator) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    server.on["tools/list"] = result({"tools": [PAY | {"outputSchema": schema}]})
    server.on["tools/call"] = result({"content": [], "structuredContent": {"total": "much"}})
    told = await caller.call(over_http(server.address), "pay")
    assert told.is_error
    assert "total: has to be of type integer" in told.text
    assert "The call was made" in told.text
    server.on["tools/call"] = result({"content": [{"type": "text", "text": "much"}]})
    told = await caller.call(over_http(server.address), "pay")
    assert told.is_error
    assert "no structured result" in told.text
    server.on["tools/call"] = result({"isError": True, "content": [{"type": "text", "text": "broke"}]})
    told = await caller.call(over_http(server.address), "pay")
    assert (told.is_error, told.text) == (True, "broke")


async def test_odd_contents_are_noted(caller: Caller, server: McpEmulator) -> None:
    file = {"type": "image", "data": "AAAA", "mimeType": "image/png"}
    server.on["tools/call"] = result(
        {
            "content": [
                7,
                {"type": "text", "text": 7},
                {"type": "hologram"},
                {"type": "image", "data": "not base64!", "mimeType": "image/png"},
                {"type": "audio", "data": "AAAA", "mimeType": "../../etc\n"},
                {"type": "resource", "resource": {"uri": "file:///../../a/passwd%00", "blob": "AAAA"}},
                {"type": "resource_link", "uri": "https://example.com/secret", "name": "a page"},
                *[file] * 30,
            ]
        }
    )
    told = await caller.call(over_http(server.address), "pay")
    assert 'type "hologram" was left out' in told.text
    assert "not base64" in told.text
    assert "passwd" not in told.text, "a file is named by whoever stores it, under the name that it gets"
    assert len(told.files) == 20
    assert len({stored.name for stored in told.files}) == 20
    for stored in told.files:
        assert "/" not in stored.name
        assert not stored.name.startswith(".")
    assert told.files[0].media_type == "application/octet-stream"
    # A link is asked of the server itself, and fetched from nowhere else.
    assert [seen.message["params"]["uri"] for seen in server.seen if seen.method == "resources/read"] == [
        "https://example.com/secret"
    ]


async def test_a_server_that_never_answers_holds_nobody(caller: Caller, server: McpEmulator) -> None:
    held = asyncio.Event()

    async def never(asked: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        await held.wait()
        return web.Response()

    server.on["tools/call"] = never
    async with loop_goes_on():
        calls = [asyncio.create_task(caller.call(over_http(server.address), "pay")) for _ in range(20)]
        await server.changes.wait(lambda: server.times("tools/call") == 20)
        for call in calls:
            call.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True)
        )
    await server.changes.wait(lambda: server.abandoned == 20)


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * MIB + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(50_000)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\nnot packed",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"\x00" * 1000,
        b"",
    ],
)
async def test_what_is_hardly_http_is_no_answer(caller: Caller, answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as odd:
        port = odd.sockets[0].getsockname()[1]
        with pytest.raises((Unavailable, FailedPrecondition)):
            await caller.adapter.list_tools(over_http(f"http://127.0.0.1:{port}/mcp"), principal())


@pytest.mark.parametrize("header", ["a\r\nb", "\0"])
async def test_a_header_that_cannot_be_written_is_refused(caller: Caller, server: McpEmulator, header: str) -> None:
    with pytest.raises(FailedPrecondition, match="header"):
        await caller.adapter.list_tools(over_http(server.address, headers={"x-team": header}), principal())
    assert server.seen == []


@pytest.mark.parametrize("session", ["two words", "x" * 2000, "ü"])
async def test_an_odd_session_id_is_refused(caller: Caller, server: McpEmulator, session: str) -> None:
    async def initialize(asked: web.Request, message: dict[str, Any]) -> web.StreamResponse:
        content = {"protocolVersion": "2025-11-25", "capabilities": {}}
        body = {"jsonrpc": "2.0", "id": message["id"], "result": content}
        return web.json_response(body, headers={"Mcp-Session-Id": session})

    server.legacy().on["initialize"] = initialize
    with pytest.raises(FailedPrecondition, match="session id"):
        await caller.adapter.list_tools(over_http(server.address), principal())
