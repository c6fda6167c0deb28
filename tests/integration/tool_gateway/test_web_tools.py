"""Pages, searches and requests, through the gateway as worker hosts call it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from aiohttp import web

from coxswain.auth.v1 import secret_pb2
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.ids import new_id
from tests.support.harness import ALICE, BOB, Harness, loopback_tools, serve_services
from tests.support.hostile_site import Site
from tests.support.search_emulator import SearchEmulator
from tests.support.tool_gateway import GatewayCaller

if TYPE_CHECKING:
    from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "marked-search-key-a91c"
TOKEN = "marked-order-token-77d0"


@dataclass
class World:
    harness: Harness
    caller: GatewayCaller
    site: Site
    search: SearchEmulator

    async def fetch(self, path: str, start: int = 0, **fields: Any) -> pb.ToolOutcome:
        arguments = json.dumps({"url": self.site.url + path, "start": start})
        return await self.caller.call("web_fetch", arguments, idempotent=True, **fields)

    async def request(self, path: str, config: dict[str, Any] | None = None, **arguments: Any) -> pb.ToolOutcome:
        given = json.dumps({"url": self.site.url + path, **arguments})
        return await self.caller.call("http_request", given, config={"origins": [self.site.url]} | (config or {}))

    async def put(self, name: str, value: str, *origins: str, bearer: str = ALICE) -> None:
        stub: SecretServiceAsyncStub = SecretServiceStub(self.harness.channel(bearer))
        await stub.PutSecret(secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=origins))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with Site() as site, SearchEmulator(keys={KEY}) as search:
        settings = loopback_tools(search_base_url=search.url)
        async with serve_services(
            tmp_path_factory.mktemp("web"), "orchestrator", "tools", settings={"tools": settings}
        ) as harness:
            yield World(harness, GatewayCaller.of(harness), site, search)


@pytest.fixture(autouse=True)
def plain_site(world: World) -> None:
    world.site.robots, world.site.robots_status = None, 200
    world.site.seen.clear()
    world.site.headers.clear()
    world.search.asked.clear()


async def test_a_page_is_read_as_text(world: World) -> None:
    outcome = await world.fetch("/page")
    assert outcome.result.text == f"# News\n\nAddress: {world.site.url}/page\n\n# News\n\nAll is well."
    assert world.site.headers[-1]["User-Agent"] == "coxswain"
    assert not {"Cookie", "Authorization"} & set(world.site.headers[-1])


async def test_a_long_page_is_read_in_parts_from_one_reading(world: World) -> None:
    parts, start = [], 0
    while True:
        text = (await world.fetch("/long", start)).result.text
        parts.append(text)
        if "Call again with start=" not in text:
            break
        start = int(text.partition("Call again with start=")[2].partition(" ")[0])
    assert len(parts) == 4
    assert sum(part.count("word") for part in parts) >= 29_990
    assert world.site.seen["/long"] == 1
    beyond = await world.fetch("/long", 10_000_000)
    assert beyond.result.is_error


@pytest.mark.parametrize(
    ("path", "text", "is_error"),
    [
        ("/file.pdf", "From a file", False),
        ("/data.json", '"ok": true', False),
        ("/bytes", "bad", False),
        ("/moved", "All is well.", False),
        ("/image", "image/gif, which has no text", True),
        ("/nothing", "HTTP status 404", True),
        ("/loop", "without an end", True),
        ("/deep", "", None),
        ("/deep.json", "[[[", False),
        ("/bomb", "", None),
        ("/endless", "this is its beginning", None),
    ],
)
async def test_whatever_a_site_sends_has_an_outcome(world: World, path: str, text: str, is_error: bool | None) -> None:
    outcome = await world.fetch(path)
    assert outcome.WhichOneof("outcome") == "result", outcome
    assert "\0" not in outcome.result.text
    assert len(outcome.result.text) < 60_000
    if is_error is not None:
        assert outcome.result.is_error is is_error
        assert text in outcome.result.text


async def test_a_silent_site_ends_with_the_time_of_the_call(world: World) -> None:
    request = pb.ExecuteToolCallRequest()
    request.timeout.FromMilliseconds(300)
    outcome = await world.fetch("/silent", timeout=request.timeout)
    assert (outcome.failure.reason, outcome.failure.temporary) == ("TOOL_TIMEOUT", True)


async def test_robots_txt_is_honored_and_a_broken_one_closes_the_site(world: World) -> None:
    async with Site() as site:
        site.robots = "User-agent: *\nDisallow: /page\n"
        url = json.dumps({"url": f"{site.url}/page"})
        refused = await world.caller.call("web_fetch", url)
        assert refused.result.is_error
        assert "robots.txt" in refused.result.text
        assert site.seen["/page"] == 0
        allowed = await world.caller.call("web_fetch", json.dumps({"url": f"{site.url}/file.pdf"}))
        assert "From a file" in allowed.result.text
        assert site.seen["/robots.txt"] == 1
    async with Site() as broken:
        broken.robots_status = 500
        assert (await world.caller.call("web_fetch", json.dumps({"url": f"{broken.url}/page"}))).result.is_error
        assert broken.seen["/page"] == 0


async def test_redirects_to_other_origins_are_named_and_not_followed(world: World) -> None:
    async with Site() as other:
        world.site.elsewhere = f"{other.url}/page"
        outcome = await world.fetch("/away")
        assert outcome.result.is_error
        assert f"{other.url}/page" in outcome.result.text
        made = await world.request("/away")
        assert made.result.is_error
        assert not other.seen


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/",
        "http://10.0.0.1/",
        "https://[fd00::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "http://2852039166/",
        "https://user@example.com@10.0.0.1/",
        "https://example.com\\@10.0.0.1/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//10.0.0.1/",
        "http://example.com/",
        "",
        "https://",
        "https://exa mple.com/",
        "https://\ufeff10.0.0.1/",
    ],
)
@pytest.mark.parametrize("tool", ["web_fetch", "http_request"])
async def test_no_address_leads_inside(world: World, tool: str, url: str) -> None:
    config = {"origins": ["http://169.254.169.254", "https://169.254.169.254", "http://10.0.0.1", "https://[fd00::1]"]}
    outcome = await world.caller.call(tool, json.dumps({"url": url}), config=config if tool == "http_request" else {})
    refused = outcome.failure.reason == ("DESTINATION_NOT_ALLOWED" if url else "TOOL_ARGUMENTS")
    assert refused or outcome.result.is_error, outcome


async def test_a_crew_says_which_origins_are_read(world: World) -> None:
    allowed = await world.fetch("/page", config={"origins": [world.site.url]})
    assert not allowed.result.is_error
    refused = await world.fetch("/page", config={"origins": ["https://docs.example.com"]})
    assert refused.result.is_error
    assert "only https://docs.example.com" in refused.result.text


@pytest.mark.parametrize("wire", ["tavily", "serper"])
async def test_a_search_is_made_with_the_groups_key_on_either_wire(
    world: World, wire: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world.search.pages = [
        {"title": "One\0", "url": "https://one.example.com", "text": "first \u202e", "date": "2026-05-01"},
        {"title": "Two", "url": "javascript:alert(1)", "text": "no page", "date": ""},
        {"title": "Three", "url": "https://three.example.com", "text": "third", "date": ""},
    ]
    settings = loopback_tools(search_base_url=world.search.url, search_wire=wire)
    async with serve_services(
        tmp_path_factory.mktemp(wire), "orchestrator", "tools", settings={"tools": settings}
    ) as harness:
        served = World(harness, GatewayCaller.of(harness), world.site, world.search)
        missing = await served.caller.call("web_search", '{"query": "ships"}')
        assert missing.failure.reason == "CREDENTIAL_NOT_CONFIGURED"
        await served.put("tools/search", KEY, world.search.url)
        outcome = await served.caller.call("web_search", '{"query": "ships"}', config={"max_results": 3})
        foreign = await served.caller.call("web_search", '{"query": "ships"}', bearer=BOB)
    assert json.loads(outcome.result.structured_json)["results"] == [
        {"title": "One\ufffd", "url": "https://one.example.com", "snippet": "first", "date": "2026-05-01"},
        {"title": "Three", "url": "https://three.example.com", "snippet": "third", "date": ""},
    ]
    assert outcome.result.text.startswith("1. One\ufffd (2026-05-01)\nhttps://one.example.com\nfirst")
    assert [asked.key for asked in world.search.asked] == [KEY]
    assert foreign.failure.reason == "CREDENTIAL_NOT_CONFIGURED"


async def test_faults_of_the_search_service_are_told_without_the_key(world: World) -> None:
    await world.put("tools/search", KEY, world.search.url)

    async def search() -> pb.ToolOutcome:
        return await world.caller.call("web_search", '{"query": "ships"}', idempotent=True)

    world.search.failures = [web.json_response({"error": f"bad query {KEY}"}, status=400)]
    assert (await search()).result.is_error
    world.search.failures = [web.Response(status=429, headers={"Retry-After": "0"}), web.Response(status=503)]
    assert not (await search()).result.is_error
    world.search.failures = [web.Response(status=500) for _ in range(3)]
    assert (await search()).failure.reason == "TOOL_UNAVAILABLE"
    world.search.failures = [web.Response(text="[" * 100_000), web.Response(text="<html>"), web.Response(text="[]")]
    assert (await search()).failure.reason == "TOOL_UNAVAILABLE"
    world.search.keys.clear()
    refused = await search()
    world.search.keys.add(KEY)
    assert refused.failure.reason == "UPSTREAM_CREDENTIAL_REJECTED"
    assert KEY not in str(refused)


async def test_requests_keep_to_what_the_crew_allows(world: World) -> None:
    read = await world.request("/data.json")
    assert json.loads(read.result.structured_json)["ok"] is True
    refused = await world.request("/orders", method="POST", json={"n": 1})
    assert refused.result.is_error
    assert world.site.seen["/orders"] == 0
    made = await world.request("/orders", {"read_only": False}, method="POST", json={"n": 1e16, "x": None})
    assert json.loads(made.result.structured_json) == {"state": "made"}
    assert json.loads(world.site.bodies[-1]) == {"n": 1e16, "x": None}
    elsewhere = await world.request("/orders", {"origins": ["https://api.example.com"]})
    assert elsewhere.result.is_error
    for headers in ({"Authorization": "x"}, {"host": "x"}, {"X-Forwarded-For": "x"}, {"a b": "x"}, {"a": "x\r\ny: z"}):
        assert (await world.request("/data.json", headers=headers)).result.is_error, headers


async def test_a_secret_goes_only_where_it_belongs(world: World) -> None:
    await world.put("tools/http/orders", TOKEN, world.site.url)
    await world.put("tools/billing", TOKEN, world.site.url)
    await world.request("/data.json", {"secret": "tools/http/orders", "secret_header": "X-Key", "secret_prefix": ""})
    assert world.site.headers[-1]["x-key"] == TOKEN
    async with Site() as other:
        url = json.dumps({"url": f"{other.url}/data.json"})
        config = {"origins": [other.url], "secret": "tools/http/orders"}
        outcome = await world.caller.call("http_request", url, config=config)
        assert outcome.failure.reason == "DESTINATION_NOT_ALLOWED"
        assert not other.seen
        # The secret of a source is used under its policies alone.
        config["secret"] = "tools/billing"
        with pytest.raises(grpc.aio.AioRpcError, match=r"config\.secret: has to match") as refused:
            await world.caller.call("http_request", url, config=config)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert TOKEN not in str(outcome)
    foreign = await world.caller.call(
        "http_request",
        json.dumps({"url": f"{world.site.url}/data.json"}),
        config={"origins": [world.site.url], "secret": "tools/http/orders"},
        bearer=BOB,
    )
    assert foreign.failure.reason == "CREDENTIAL_NOT_CONFIGURED"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {"X-HTTP-Method-Override": "DELETE"}),
        ("", {"x-http-method": "DELETE"}),
        ("", {"X-Method-Override": "DELETE"}),
        ("", {"X_HTTP_Method_Override": "DELETE"}),
        ("?a=1&_method=delete", {}),
        ("?%5fmethod=delete", {}),
        ("?a=1;_method=delete", {}),
        ("?X-HTTP-Method-Override=PUT", {}),
        ("?_HttpMethod=PATCH", {}),
    ],
)
async def test_a_request_that_reads_is_not_made_another_one(
    world: World, method: str, query: str, headers: dict[str, str]
) -> None:
    for config in ({}, {"read_only": False}):
        refused = await world.request(f"/orders{query}", config, method=method, headers=headers)
        assert refused.result.is_error
        assert "would make it another request" in refused.result.text
    assert world.site.seen["/orders"] == 0
    assert not (await world.request("/data.json?method=delete", headers={"x-methods": "1"})).result.is_error


@pytest.mark.parametrize(("method", "times"), [("POST", 1), ("PUT", 1), ("DELETE", 1), ("GET", 6)])
async def test_a_request_whose_answer_is_lost_is_repeated_only_if_it_reads(
    world: World, method: str, times: int
) -> None:
    outcome = await world.request("/lost", {"read_only": False}, method=method)
    # Three attempts at reading, and aiohttp makes two of each.
    assert world.site.seen["/lost"] == times
    assert outcome.WhichOneof("outcome") == ("failure" if method == "GET" else "unknown")


@pytest.mark.parametrize("arguments", ["[]", "null", '{"a": NaN}', '{"a": "\\ud800"}', "{", "1" * 5000, "[" * 50_000])
async def test_arguments_that_are_no_object_are_refused(world: World, arguments: str) -> None:
    with pytest.raises(Exception, match="arguments_json"):
        await world.caller.call("web_fetch", arguments)


async def test_unknown_tools_and_sources_are_failures(world: World) -> None:
    assert (await world.caller.call("no_such_tool")).failure.reason == "TOOL_NOT_FOUND"
    # No source of the group lends its name to a built-in tool.
    for name in ("billing/pay", "billing/web_fetch", "/web_fetch", "web_fetch/"):
        assert (await world.caller.call(name)).failure.reason == "TOOL_NOT_FOUND", name


async def test_calls_of_one_id_share_their_outcome_over_the_wire(world: World) -> None:
    call_id = new_id()
    arguments = json.dumps({"url": f"{world.site.url}/page"})
    outcomes = await asyncio.gather(*(world.caller.call("web_fetch", arguments, call_id=call_id) for _ in range(5)))
    assert len({outcome.result.text for outcome in outcomes}) == 1
    assert world.site.seen["/page"] == 1
    again = await world.caller.call("web_fetch", arguments, call_id=call_id)
    assert again.replayed
