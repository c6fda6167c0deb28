"""MCP servers that break off, refuse, change or lie: what a call makes of it, and how often it was made."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from services.common.egress import AddressPolicy
from services.common.errors import FailedPrecondition, Unavailable
from services.common.identity.principal import Principal
from services.orchestrator.domain.tool_source import McpEra, OnToolChange, ToolSourceSpec
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown
from services.orchestrator.tool_identity import listed_hash
from tests.support.child_process import free_port
from tests.support.mcp_calls import Caller, Told, calling, once, over_http, principal, request
from tests.support.mcp_emulator import (
    PAY,
    Answer,
    McpEmulator,
    cut,
    error,
    event,
    events,
    raw,
    result,
    status,
    stream,
    text_result,
)

PROGRESS = event(
    {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "x", "progress": 1}}
)


@pytest.fixture
async def server() -> AsyncIterator[McpEmulator]:
    async with McpEmulator() as running:
        yield running


@pytest.fixture(params=["modern", "legacy"])
async def either(request: pytest.FixtureRequest, server: McpEmulator) -> McpEmulator:
    """A server of each era."""
    return server.legacy() if request.param == "legacy" else server


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as ready:
        yield ready


LOST: dict[str, Answer] = {
    "cut": cut,
    "500": status(500),
    "500 with an error": error(-32603, status=500),
    "502": status(502),
    "503 with Retry-After": status(503, Retry_After="1"),
    "504": status(504),
    "408": status(408),
    "499": status(499),
    "accepted only": status(202),
    "no JSON": raw(b"<html>"),
    "half an answer": raw(b'{"jsonrpc":"2.0","id":ID,"result":{"content":[{"ty'),
    "HTML": raw(b"<p>hello</p>", "text/html"),
    "answer of another request": raw(b'{"jsonrpc":"2.0","id":12345,"result":{"content":[]}}'),
    "neither result nor error": raw(b'{"jsonrpc":"2.0","id":ID}'),
    "a number": raw(b"7"),
    "deep": raw(b'{"jsonrpc":"2.0","id":ID,"result":{"content":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"),
    "NaN": raw(b'{"jsonrpc":"2.0","id":ID,"result":{"content":[],"structuredContent":NaN}}'),
    "a number too large": raw(b'{"jsonrpc":"2.0","id":ID,"result":{"content":[],"structuredContent":1e999}}'),
    "too many digits": raw(
        b'{"jsonrpc":"2.0","id":ID,"result":{"content":[],"structuredContent":' + b"9" * 5000 + b"}}"
    ),
    "empty stream": events(),
    "stream that ends": events(PROGRESS),
    "stream that is cut": events(PROGRESS, end="cut"),
    "stream with rubbish": events(b"data: {{{\n\n"),
    "unknown result type": result({"resultType": "surprise", "content": []}),
}


@pytest.mark.parametrize("answer", LOST.values(), ids=LOST.keys())
async def test_a_lost_answer_leaves_the_outcome_unknown_and_the_call_made_once(
    caller: Caller, either: McpEmulator, answer: Answer
) -> None:
    if answer is LOST["unknown result type"] and "initialize" in either.on:
        answer = cut
    either.on["tools/call"] = answer
    told = Told()
    with pytest.raises(OutcomeUnknown):
        await caller.call(over_http(either.address), "pay", told=told)
    assert (either.times("tools/call"), told.sent_times) == (1, 1)


@pytest.mark.parametrize("when", ["server/discover", "initialize", "tools/list"])
@pytest.mark.parametrize("answer", [cut, status(500), status(503), raw(b"<html>")], ids=["cut", "500", "503", "HTML"])
async def test_what_fails_before_the_call_leaves_it_unsent(
    caller: Caller, server: McpEmulator, when: str, answer: Answer
) -> None:
    server.legacy().on[when] = answer
    told = Told()
    if when == "server/discover":
        # A server that cannot say what it is may still shake hands.
        assert (await caller.call(over_http(server.address), "pay", told=told)).text == "paid"
        return
    with pytest.raises(NotSent):
        await caller.call(over_http(server.address), "pay", told=told)
    assert (server.times("tools/call"), told.sent_times) == (0, 0)


async def test_a_server_that_is_not_there_is_not_sent_anything(caller: Caller) -> None:
    port, told = free_port(), Told()
    with pytest.raises(NotSent, match="cannot be reached"):
        await caller.call(over_http(f"http://127.0.0.1:{port}/mcp"), "pay", told=told)
    assert told.sent_times == 0
    with pytest.raises(Unavailable):
        await caller.adapter.list_tools(over_http(f"http://127.0.0.1:{port}/mcp"), principal())


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refused_credential_is_said_to_be_that(caller: Caller, either: McpEmulator, code: int) -> None:
    either.on["tools/call"] = status(code)
    with pytest.raises(CallRefused) as refused:
        await caller.call(over_http(either.address), "pay")
    assert refused.value.reason == "UPSTREAM_CREDENTIAL_REJECTED"
    assert either.times("tools/call") == 1


@pytest.mark.parametrize("where", ["named", "well-known", "elsewhere", "another resource"])
async def test_whoever_lists_a_server_that_wants_a_token_is_told_where_to_get_one(
    caller: Caller, either: McpEmulator, where: str
) -> None:
    address, login = either.address, f"{either.url}/login"
    known = "/.well-known/oauth-protected-resource/mcp"
    metadata = {"named": "/meta", "elsewhere": "/meta"}.get(where, known)
    resource = "https://other.example.com/mcp" if where == "another resource" else address
    either.documents = {
        metadata: {"resource": resource, "authorization_servers": [login], "scopes_supported": ["a b", "read"]},
        "/.well-known/oauth-authorization-server/login": {"issuer": login, "token_endpoint": f"{login}/token"},
    }
    named = f"https://other.example.com{metadata}" if where == "elsewhere" else either.url + metadata
    challenge = "Bearer" if where == "well-known" else f'Bearer error="invalid_token", resource_metadata="{named}"'
    for method in ("server/discover", "initialize"):
        either.on[method] = status(401, WWW_Authenticate=challenge)
    caller.credentials.tokens = {"group": "marked-7d31f0c2"}
    with pytest.raises(FailedPrecondition) as refused:
        await caller.adapter.list_tools(over_http(address), principal())
    assert refused.value.reason == "UPSTREAM_CREDENTIAL_REJECTED"
    told = f"takes tokens of {login}; for a client of it set oauth_client (token_url: {login}/token, scopes: read)"
    assert (told in refused.value.message) == (where in {"named", "well-known"})
    asked = [seen for seen in either.seen if seen.http_method == "GET" and seen.path in either.documents]
    assert not any("authorization" in seen.headers for seen in asked), "nobody gets the credential for that"


@pytest.mark.parametrize("odd", [True, 5, "read", {"read": 1}, [7, None, {}], None])
async def test_odd_metadata_of_a_server_leave_a_refusal_what_it_is(
    caller: Caller, either: McpEmulator, odd: object
) -> None:
    login, known = f"{either.url}/login", "/.well-known/oauth-protected-resource/mcp"
    resource = {"resource": either.address, "authorization_servers": [login], "scopes_supported": ["read"]}
    server = {"issuer": login, "token_endpoint": f"{login}/token"}
    for method in ("server/discover", "initialize"):
        either.on[method] = status(401, WWW_Authenticate="Bearer")
    for name in (*resource, *server):
        either.documents = {
            known: {field: odd if field == name else value for field, value in resource.items()},
            "/.well-known/oauth-authorization-server/login": {
                field: odd if field == name else value for field, value in server.items()
            },
        }
        with pytest.raises(FailedPrecondition) as refused:
            await caller.adapter.list_tools(over_http(either.address), principal())
        assert refused.value.reason == "UPSTREAM_CREDENTIAL_REJECTED"
        # What else it says counts.
        known_issuer = name not in {"resource", "authorization_servers"}
        assert (f"takes tokens of {login}" in refused.value.message) == known_issuer


async def test_a_call_that_was_refused_for_an_old_token_is_made_with_the_new_one(
    caller: Caller, server: McpEmulator
) -> None:
    caller.credentials.tokens = {"group": "old"}
    caller.credentials.renewed = {"group": "new"}
    server.on["tools/call"] = once(first=status(401), then=text_result("paid"))
    assert (await caller.call(over_http(server.address), "pay")).text == "paid"
    assert [seen.headers["authorization"] for seen in server.seen if seen.method == "tools/call"] == [
        "Bearer old",
        "Bearer new",
    ]


async def test_a_credential_that_a_server_repeats_is_not_passed_on(caller: Caller, either: McpEmulator) -> None:
    token = 'marked-"7d31f0c2"'

    async def repeats(asked: web.Request, message: dict[str, object]) -> web.StreamResponse:
        seen = asked.headers["authorization"]
        content = {"content": [{"type": "text", "text": seen}], "structuredContent": {seen: [seen]}, "isError": True}
        return await result(content)(asked, message)

    either.on["tools/call"] = repeats
    caller.credentials.tokens = {"group": token}
    told = await caller.call(over_http(either.address), "pay")
    assert "7d31f0c2" not in repr(told)
    assert "[secret]" in told.text
    for code in (400, 404, 422):
        either.on["tools/call"] = error(-32602, f"wrong: {token}", status=code)
        assert "7d31f0c2" not in repr(await caller.call(over_http(either.address), "pay"))
    either.on["tools/list"] = result({"tools": [PAY | {"description": f"Send Bearer {token}"}]})
    [tool] = await caller.adapter.list_tools(over_http(either.address), principal())
    assert "7d31f0c2" not in repr(tool)


async def test_a_server_that_takes_no_more_names_the_time(caller: Caller, either: McpEmulator) -> None:
    either.on["tools/call"] = status(429, Retry_After="7")
    with pytest.raises(NotSent) as refused:
        await caller.call(over_http(either.address), "pay")
    assert refused.value.retry_after == 7


async def test_redirects_are_followed_within_the_origin_only(caller: Caller, either: McpEmulator) -> None:
    async with McpEmulator() as other:
        either.on["tools/call"] = once(first=status(307, Location="/elsewhere"), then=text_result("paid"))
        assert (await caller.call(over_http(either.address), "pay")).text == "paid"
        assert either.seen[-1].path == "/elsewhere"
        either.on["tools/call"] = status(307, Location=other.address)
        with pytest.raises(CallRefused) as refused:
            await caller.call(over_http(either.address), "pay")
        assert refused.value.reason == "DESTINATION_NOT_ALLOWED"
        either.on["tools/call"] = status(302, Location="/elsewhere")
        with pytest.raises(CallRefused):
            await caller.call(over_http(either.address), "pay")
        either.on["tools/call"] = status(308, Location="/mcp")
        with pytest.raises(CallRefused, match="more than 3 times"):
            await caller.call(over_http(either.address), "pay")
        assert other.seen == []


async def test_no_group_reaches_this_machine(server: McpEmulator) -> None:
    async with calling(AddressPolicy(setting="ALLOWED")) as caller:
        for url in (server.address, server.address.replace("127.0.0.1", "localhost")):
            with pytest.raises(CallRefused) as refused:
                await caller.call(over_http(url), "pay")
            assert refused.value.reason == "DESTINATION_NOT_ALLOWED"
    assert server.seen == []


@pytest.mark.parametrize(
    "gone",
    [status(404), error(-32000, "Bad Request: No valid session ID provided", status=400, with_id=False), status(400)],
    ids=["404", "400 with an error", "400"],
)
async def test_a_lost_session_is_begun_anew_once(caller: Caller, server: McpEmulator, gone: Answer) -> None:
    server.legacy()
    await caller.call(over_http(server.address), "pay")
    server.on["tools/call"] = once(first=gone, then=text_result("paid"))
    told = Told()
    assert (await caller.call(over_http(server.address), "pay", told=told)).text == "paid"
    sessions = [seen.headers.get("mcp-session-id") for seen in server.seen if seen.method == "tools/call"]
    assert sessions == ["s1", "s1", "s2"]
    server.on["tools/call"] = gone
    with pytest.raises(NotSent):
        await caller.call(over_http(server.address), "pay")
    assert server.times("tools/call") == 5


@pytest.mark.parametrize("code", [404, 405, 413, 415, 422])
async def test_what_a_server_refuses_for_good_is_refused(caller: Caller, server: McpEmulator, code: int) -> None:
    server.on["tools/call"] = status(code)
    with pytest.raises(CallRefused, match=f"HTTP {code}"):
        await caller.call(over_http(server.address), "pay")
    assert server.times("tools/call") == 1


async def test_an_error_of_the_server_is_told_to_the_model(caller: Caller, either: McpEmulator) -> None:
    for answer in (
        error(-32602, "no such thing"),
        error(-32602, "no such thing", status=400),
        error(-32603, "no such thing"),
    ):
        either.on["tools/call"] = answer
        told = await caller.call(over_http(either.address), "pay")
        assert told.is_error
        assert "no such thing" in told.text


async def test_missing_headers_are_learnt_from_a_new_list(caller: Caller, server: McpEmulator) -> None:
    await caller.call(over_http(server.address), "pay")
    marked = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    server.on["tools/list"] = result({"tools": [PAY | {"inputSchema": marked}]})

    async def wants_header(asked: web.Request, message: dict[str, object]) -> web.StreamResponse:
        known = asked.headers.get("Mcp-Param-Region") == "eu"
        return await (text_result("paid") if known else error(-32020, status=400))(asked, message)

    server.on["tools/call"] = wants_header
    assert (await caller.call(over_http(server.address), "pay", {"region": "eu"})).text == "paid"
    assert server.times("tools/call") == 3


async def test_a_server_of_another_revision_is_asked_again(caller: Caller, server: McpEmulator) -> None:
    await caller.call(over_http(server.address), "pay")
    server.legacy().on["tools/call"] = error(-32022, status=400, data={"supported": ["2025-11-25"]})
    with pytest.raises(NotSent):
        await caller.call(over_http(server.address), "pay")
    server.on["tools/call"] = text_result("paid")
    assert (await caller.call(over_http(server.address), "pay")).text == "paid"
    assert server.times("initialize") == 1


@pytest.mark.parametrize(
    ("answer", "handshakes"),
    [
        (error(-32022, status=400, data={"supported": ["2025-11-25"]}), 1),
        (error(-32022, status=400, data={"supported": ["2026-07-28"]}), 0),
        (error(-32021, status=400), 0),
        (error(-32601), 1),
        (error(-32601, status=404), 1),
        (status(404), 1),
        (result({"supportedVersions": ["2025-06-18"]}), 1),
    ],
)
async def test_the_era_is_found_out(caller: Caller, server: McpEmulator, answer: Answer, handshakes: int) -> None:
    server.legacy().on["server/discover"] = answer
    assert (await caller.call(over_http(server.address), "pay")).text == "paid"
    assert server.times("initialize") == handshakes


async def test_revisions_that_are_not_known_are_named(caller: Caller, server: McpEmulator) -> None:
    server.on["server/discover"] = error(-32022, status=400, data={"supported": ["2099-01-01"]})
    with pytest.raises(CallRefused, match="2099-01-01"):
        await caller.call(over_http(server.address), "pay")
    server.on["initialize"] = result({"protocolVersion": "1999-01-01", "capabilities": {}})
    with pytest.raises(FailedPrecondition, match="1999-01-01"):
        await caller.adapter.list_tools(over_http(server.address, era=McpEra.LEGACY), principal())


async def test_an_expired_state_starts_over_and_asks_nobody_twice(caller: Caller, server: McpEmulator) -> None:
    states: list[object] = []

    async def asks(asked: web.Request, message: dict[str, dict[str, object]]) -> web.StreamResponse:
        states.append(message["params"].get("requestState"))
        if len(states) == 2:
            return await error(-32602, "invalid requestState", status=400)(asked, message)
        if message["params"].get("inputResponses") is None:
            form = {"mode": "form", "message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}
            question = {"a": {"method": "elicitation/create", "params": form}}
            content = {
                "resultType": "input_required",
                "inputRequests": question,
                "requestState": f"state {len(states)}",
            }
            return await result(content)(asked, message)
        return await text_result("paid")(asked, message)

    server.on["tools/call"] = asks
    told = Told()
    assert (await caller.call(over_http(server.address), "pay", told=told)).text == "paid"
    assert states == [None, "state 1", None, "state 3"]
    assert len(told.questions) == 1


async def test_a_server_that_asks_for_ever_is_left(caller: Caller, server: McpEmulator) -> None:
    form = {"mode": "form", "message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}
    question = {"a": {"method": "elicitation/create", "params": form}}
    server.on["tools/call"] = result({"resultType": "input_required", "inputRequests": question})
    with pytest.raises(CallRefused, match="10 times"):
        await caller.call(over_http(server.address), "pay")


async def test_a_call_that_cannot_be_asked_about_is_not_said_to_be_unsent(caller: Caller, server: McpEmulator) -> None:
    source = over_http(server.address)
    for method, answer in (
        ("server/discover", status(401)),
        ("server/discover", status(429)),
        ("tools/list", status(500)),
        ("tasks/get", error(-32602, "Task not found")),
        ("tasks/get", result({"taskId": "t", "status": "completed"})),
    ):
        before, server.on[method] = server.on.get(method), answer
        with pytest.raises(OutcomeUnknown):
            await caller.adapter.resume(request(source, "pay"), '{"task":"t"}', Told())
        if before is not None:
            server.on[method] = before
    assert server.times("tools/call") == 0


@pytest.mark.parametrize("code", [-32020, -32022, -32042, -32602])
async def test_a_failed_task_is_never_made_again(caller: Caller, server: McpEmulator, code: int) -> None:
    server.on["tools/call"] = result(
        {"resultType": "task", "taskId": "t", "status": "failed", "error": {"code": code, "message": "it burns"}}
    )
    told = await caller.call(over_http(server.address), "pay")
    assert (told.is_error, server.times("tools/call")) == (True, 1)
    assert "it burns" in told.text


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (text_result("done"), "done"),
        (error(-32603, "it burns"), "it burns"),
        (error(-32020, "it burns"), "it burns"),
    ],
    ids=["result", "error", "error like that of a call that was not taken"],
)
async def test_a_tool_that_requires_a_task_of_the_legacy_era_is_called_as_one(
    caller: Caller, server: McpEmulator, end: Answer, outcome: str
) -> None:
    server.legacy().on |= {
        "tools/list": result({"tools": [PAY | {"execution": {"taskSupport": "required"}}]}),
        "tools/call": result({"task": {"taskId": "t", "status": "working", "pollInterval": 10}}),
        "tasks/get": once(
            first=result({"taskId": "t", "status": "working", "statusMessage": "half", "pollInterval": 10}),
            then=result({"taskId": "t", "status": "completed"}),
        ),
        "tasks/result": end,
    }
    told = await caller.call(over_http(server.address), "pay")
    assert outcome in told.text
    made = [seen.message["params"]["task"] for seen in server.seen if seen.method == "tools/call"]
    assert made == [{"ttl": 3_600_000}]


async def test_a_task_of_a_lost_session_is_unknown(caller: Caller, server: McpEmulator) -> None:
    server.legacy().on |= {
        "tools/list": result({"tools": [PAY | {"execution": {"taskSupport": "required"}}]}),
        "tools/call": result({"task": {"taskId": "t", "status": "working", "pollInterval": 10}}),
        "tasks/get": status(404),
    }
    with pytest.raises(OutcomeUnknown):
        await caller.call(over_http(server.address), "pay")
    assert server.times("tools/call") == 1


async def test_a_task_that_wants_what_is_not_offered_is_cancelled(caller: Caller, server: McpEmulator) -> None:
    server.on["tools/call"] = result(
        {
            "resultType": "task",
            "taskId": "t",
            "status": "input_required",
            "inputRequests": {"a": {"method": "sampling/createMessage", "params": {}}},
        }
    )
    told = await caller.call(over_http(server.address), "pay")
    assert told.is_error
    assert [seen.headers["mcp-name"] for seen in server.seen if seen.method == "tasks/cancel"] == ["t"]


async def test_only_calls_that_may_be_repeated_share_connections(caller: Caller, server: McpEmulator) -> None:
    source = over_http(server.address)
    for idempotent in (True, True, False, False):
        await caller.adapter.call(request(source, "pay", idempotent=idempotent), Told())
    peers = [seen.peer for seen in server.seen if seen.method == "tools/call"]
    assert peers[0] == peers[1]
    assert len(set(peers)) == 3


async def test_a_cancelled_call_closes_its_connection(caller: Caller, server: McpEmulator) -> None:
    async def never(asked: web.Request, message: dict[str, object]) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    server.on["tools/call"] = never
    call = asyncio.create_task(caller.call(over_http(server.address), "pay"))
    await server.changes.wait(lambda: server.times("tools/call") == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.changes.wait(lambda: server.abandoned == 1)


async def test_a_cancelled_call_in_a_session_is_told_to_the_server(caller: Caller, server: McpEmulator) -> None:
    async def never(asked: web.Request, message: dict[str, object]) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    server.legacy().on["tools/call"] = never
    call = asyncio.create_task(caller.call(over_http(server.address), "pay"))
    await server.changes.wait(lambda: server.times("tools/call") == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.changes.wait(lambda: any(seen.http_method == "DELETE" for seen in server.seen))
    told = [seen.message for seen in server.seen if seen.method == "notifications/cancelled"]
    made = [seen.message for seen in server.seen if seen.method == "tools/call"]
    assert [message["params"]["requestId"] for message in told] == [made[0]["id"]]


async def test_groups_share_neither_lists_nor_sessions_nor_what_is_known(caller: Caller, either: McpEmulator) -> None:
    caller.credentials.tokens = {"red": "r", "blue": "b"}
    tools = {"resultType": "complete", "tools": [PAY], "ttlMs": 60000, "cacheScope": "public"}
    either.on["tools/list"] = result(tools)
    source = over_http(either.address)
    for group in ("red", "blue"):
        for _ in range(2):
            await caller.adapter.call(request(source, "pay", by=principal(group)), Told())
    assert (either.times("server/discover"), either.times("tools/list")) == (2, 2)
    by_session = {
        (seen.headers.get("mcp-session-id"), seen.headers["authorization"])
        for seen in either.seen
        if seen.method == "tools/call"
    }
    assert len(by_session) == 2


@pytest.mark.parametrize(("scope", "lists"), [("private", 2), ("public", 1), ("whatever", 2)])
async def test_a_list_is_shared_by_credentials_only_if_it_is_public(
    caller: Caller, server: McpEmulator, scope: str, lists: int
) -> None:
    caller.credentials.tokens = {"ann": "a", "bob": "b"}
    server.on["tools/list"] = result({"tools": [PAY], "ttlMs": 60000, "cacheScope": scope})
    for subject in ("ann", "bob", "ann", "bob"):
        await caller.adapter.call(request(over_http(server.address), "pay", by=principal(subject=subject)), Told())
    assert server.times("tools/list") == lists


async def test_who_asks_for_a_list_gets_what_the_server_says_now(caller: Caller, server: McpEmulator) -> None:
    source = over_http(server.address)
    server.on["tools/list"] = result({"tools": [PAY], "ttlMs": 60000, "cacheScope": "public"})
    assert len(await caller.adapter.list_tools(source, principal())) == 1
    server.on["tools/list"] = result({"tools": [PAY, {**PAY, "name": "book"}], "ttlMs": 60000, "cacheScope": "public"})
    assert len(await caller.adapter.list_tools(source, principal())) == 2
    # Calls go by the newest list.
    await caller.call(source, "book")
    assert server.times("tools/list") == 2


async def test_a_tool_that_is_no_longer_what_was_meant_is_not_called(caller: Caller, either: McpEmulator) -> None:
    source = over_http(either.address)
    (listed,) = await caller.adapter.list_tools(source, principal())
    meant = replace(request(source, "pay"), tool_hash=listed_hash(listed))
    await caller.adapter.call(meant, Told())
    either.on["tools/list"] = result({"tools": [{**PAY, "description": "Pays twice."}], "ttlMs": 0})
    (changed,) = await caller.adapter.list_tools(source, principal())
    with pytest.raises(CallRefused, match="no longer what was accepted") as refused:
        await caller.adapter.call(meant, Told())
    assert refused.value.reason == "TOOL_CHANGED"
    # Another process of the gateway has read the change, and it was accepted.
    either.on["tools/list"] = result({"tools": [{**PAY, "description": "Pays thrice."}], "ttlMs": 0})
    accepted = listed_hash(replace(changed, description="Pays thrice."))
    await caller.adapter.call(replace(meant, tool_hash=accepted), Told())
    with pytest.raises(CallRefused):
        await caller.adapter.call(replace(meant, tool_hash=listed_hash(changed)), Told())
    # A source that lets changes pass is called all the same.
    passing = replace(source, on_change=OnToolChange.EVENT)
    await caller.adapter.call(replace(meant, source=passing, tool_hash=listed_hash(changed)), Told())
    assert either.times("tools/call") == 3
    # A call that goes on being refused does not read the list each time.
    lists = either.times("tools/list")
    for _ in range(3):
        with pytest.raises(CallRefused):
            await caller.adapter.call(meant, Told())
    assert either.times("tools/list") == lists


async def test_a_tool_at_another_address_is_another_one(caller: Caller, server: McpEmulator) -> None:
    source = over_http(server.address)
    (listed,) = await caller.adapter.list_tools(source, principal())
    moved = over_http(f"{server.address}?moved")
    with pytest.raises(CallRefused) as refused:
        await caller.adapter.call(replace(request(moved, "pay"), tool_hash=listed_hash(listed)), Told())
    assert refused.value.reason == "TOOL_CHANGED"
    assert server.times("tools/call") == 0


async def test_a_tool_that_is_not_listed_is_not_called(caller: Caller, either: McpEmulator) -> None:
    with pytest.raises(CallRefused) as refused:
        await caller.call(over_http(either.address), "steal")
    assert refused.value.reason == "TOOL_NOT_FOUND"
    assert either.times("tools/call") == 0


async def test_a_kept_session_is_used_by_the_next_principal_under_their_own_name(
    caller: Caller, server: McpEmulator
) -> None:
    asked_for: list[str] = []
    headers = caller.credentials.headers

    async def watched(source: ToolSourceSpec, principal: Principal, url: str) -> dict[str, str]:
        asked_for.append(principal.subject)
        return await headers(source, principal, url)

    caller.credentials.headers = watched  # type: ignore[method-assign]
    server.legacy()
    source = over_http(server.address)
    await caller.adapter.call(request(source, "pay", by=principal(subject="ann")), Told())
    asked_for.clear()
    await caller.adapter.call(request(source, "pay", by=principal(subject="bob")), Told())
    assert server.times("initialize") == 1
    assert set(asked_for) == {"bob"}


async def test_what_a_server_asks_beside_its_answer_belongs_to_the_call(caller: Caller, server: McpEmulator) -> None:
    answered = asyncio.Event()

    async def beside(asked: web.Request, message: dict[str, object]) -> web.StreamResponse:
        response = await stream(asked)
        await server.changes.wait(lambda: server.times("tools/call") == 1)
        form = {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}
        await response.write(event({"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": form}))
        await answered.wait()
        return response

    async def waits(asked: web.Request, message: dict[str, object]) -> web.StreamResponse:
        await server.changes.wait(lambda: any(seen.message.get("id") == "q1" for seen in server.seen))
        answered.set()
        return await text_result("paid")(asked, message)

    server.legacy().on |= {"GET": beside, "tools/call": waits}
    told = Told()
    assert (await caller.call(over_http(server.address), "pay", told=told)).text == "paid"
    assert [question.text for question in told.questions] == ["Sure?"]
    replies = [seen.message for seen in server.seen if seen.message.get("id") == "q1"]
    assert replies == [
        {
            "jsonrpc": "2.0",
            "id": "q1",
            "result": {"action": "accept", "content": {"street": "Main Street", "name": "Ann"}},
        }
    ]
