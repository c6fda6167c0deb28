"""Names that lead to an allowed address when they are checked, and inside when they are looked up again."""

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coxswain.auth.v1 import secret_pb2
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from services.orchestrator.domain.tool_source import (
    AuthKind,
    GrpcProvider,
    HttpApi,
    HttpOperation,
    McpEra,
    McpServer,
    McpTransport,
    OpenApiDocument,
    SourceAuth,
    SourceEndpoint,
    SourceKind,
    ToolSourceSpec,
)
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from tests.support.harness import ALICE, Harness, serve_services
from tests.support.tool_gateway import FixedSources, GatewayCaller

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALLOWED, INSIDE = "127.0.0.1", "127.0.0.2"
ENDING = ".rebind.example.com"
READ = HttpOperation("look", "Looks", "GET", "/look", {"type": "object"})


@dataclass
class Network:
    """One port at both addresses, and names that lead to the allowed one when they are first looked up."""

    port: int
    connections: Counter[str] = field(default_factory=Counter)
    lookups: Counter[str] = field(default_factory=Counter)
    redirects: dict[str, str] = field(default_factory=dict)
    """Where the server at the allowed address redirects to, by the path that is asked for."""

    def url(self, name: str, scheme: str = "http") -> str:
        return f"{scheme}://{name}{ENDING}:{self.port}"

    def resolve(self, host: str) -> str:
        self.lookups[host] += 1
        return ALLOWED if self.lookups[host] == 1 else INSIDE

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections[writer.get_extra_info("sockname")[0]] += 1
        with contextlib.suppress(OSError):
            line = await reader.readline()
            path = line.split(b" ")[1].decode() if line.count(b" ") > 1 else ""
            body = b'{"access_token": "t", "expires_in": 60}'
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            if target := self.redirects.get(path):
                head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network() -> AsyncIterator[Network]:
    with socket.create_server((ALLOWED, 0)) as allowed:
        port = allowed.getsockname()[1]
        made = Network(port)
        with socket.create_server((INSIDE, port)) as inside:
            async with (
                await asyncio.start_server(made.answer, sock=allowed),
                await asyncio.start_server(made.answer, sock=inside),
            ):
                yield made


@pytest.fixture(autouse=True)
def rebinding(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the names into what every look-up of this process ends in."""
    resolve = socket.getaddrinfo

    def rebound(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith(ENDING):
            host = network.resolve(name)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    network.connections.clear()
    network.redirects.clear()


def source(name: str, kind: SourceKind, endpoint: SourceEndpoint, **fields: Any) -> ToolSourceSpec:
    return ToolSourceSpec(name=name, kind=kind, endpoint=endpoint, **fields)


def sources(network: Network) -> list[ToolSourceSpec]:
    url = network.url
    token = SourceAuth(
        AuthKind.OAUTH_CLIENT, secret_name="tools/token", token_url=f"{url('token')}/t", client_id="crews"
    )
    return [
        source("api", SourceKind.HTTP, HttpApi(url("api"), (READ,))),
        source("oauth", SourceKind.HTTP, HttpApi(url("oauth"), (READ,)), auth=token),
        source("document", SourceKind.OPENAPI, OpenApiDocument(url("document"), url=f"{url('document')}/openapi.json")),
        source("legacy", SourceKind.MCP, McpServer(f"{url('legacy')}/mcp", era=McpEra.LEGACY)),
        source("modern", SourceKind.MCP, McpServer(f"{url('modern')}/mcp", era=McpEra.MODERN)),
        source("events", SourceKind.MCP, McpServer(f"{url('events')}/sse", transport=McpTransport.SSE)),
        source("provider", SourceKind.GRPC, GrpcProvider(f"provider{ENDING}:{network.port}", plaintext=True)),
    ]


@dataclass
class World:
    harness: Harness
    caller: GatewayCaller
    sources: FixedSources


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(network: Network, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    fixed = FixedSources(sources(network))
    settings = ToolGatewaySettings(egress_allowed_networks=[f"{ALLOWED}/32"], honor_robots=False)
    async with serve_services(
        tmp_path_factory.mktemp("rebinding"), "tools", sources=fixed, settings={"tools": settings}
    ) as harness:
        put = secret_pb2.PutSecretRequest(name="tools/token", value="s" * 20, allowed_origins=[network.url("token")])
        await SecretServiceStub(harness.channel(ALICE)).PutSecret(put)
        yield World(harness, GatewayCaller.of(harness), fixed)


@pytest.mark.parametrize("name", ["api", "oauth", "document", "legacy", "modern", "events", "provider"])
async def test_the_address_that_was_checked_is_the_one_that_is_called(
    network: Network, world: World, name: str
) -> None:
    """What the listener says is no answer of such a source; that it was asked at all is what counts."""
    [listed] = [one for one in world.sources.sources if one.spec.name == name]
    await world.caller.call(f"{name}/look")
    with contextlib.suppress(grpc.RpcError):
        await world.caller.list(listed.id)
    assert network.connections[ALLOWED] >= 1
    assert network.connections[INSIDE] == 0


@pytest.mark.parametrize("tool", ["web_fetch", "http_request"])
@pytest.mark.parametrize("redirected", [False, True])
async def test_addresses_of_a_call_and_redirects_are_no_way_in(
    network: Network, world: World, tool: str, redirected: bool
) -> None:
    origin = network.url(f"{tool.replace('_', '-')}-{redirected}")
    # Within the origin it is followed; to a number inside, or to a name that leads there by now, it is not.
    network.redirects |= {
        "/start": "/next",
        "/next": f"http://{INSIDE}:{network.port}/x" if redirected else f"{network.url('api')}/x",
    }
    config = {"origins": [origin]} if tool == "http_request" else {}
    for path in ("/start", "/next", "/plain"):
        arguments = json.dumps({"url": origin + path})
        await world.caller.call(tool, arguments, config=config, idempotent=True)
    assert network.connections[ALLOWED] >= 3
    assert network.connections[INSIDE] == 0
