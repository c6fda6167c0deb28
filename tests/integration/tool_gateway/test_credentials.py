"""Tokens of OAuth clients and of callers, each for its source, its group and its origin alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web

from coxswain.auth.v1 import delegation_pb2, secret_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.clock import utc_now
from services.common.errors import CoxswainError
from services.common.grpc.call import acting_as
from services.common.identity.principal import CredentialKind, Principal, Role
from services.orchestrator.domain.tool_source import (
    AuthKind,
    HttpApi,
    HttpOperation,
    SourceAuth,
    SourceKind,
    ToolSourceSpec,
)
from services.orchestrator.tool_gateway.acting import ActingPrincipal, acting
from tests.support.harness import ALICE, BOB, Harness, loopback_tools, serve_services
from tests.support.http_emulator import HttpEmulator
from tests.support.tool_gateway import FixedSources, GatewayCaller

if TYPE_CHECKING:
    from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceAsyncStub

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Api(HttpEmulator):
    """Issues tokens to clients with the right secret, and answers those who have one."""

    secrets: dict[str, str] = field(default_factory=dict)
    """By client id."""
    issued: list[dict[str, str]] = field(default_factory=list)
    """Forms that were answered with a token, which is the client's id and a number."""
    valid: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)
    """What the next requests for a token are answered with instead."""

    def __post_init__(self) -> None:
        super().__init__()

    def install(self, app: web.Application) -> None:
        app.router.add_post("/token", self._token)
        app.router.add_get("/orders", self._orders)

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if self.answers:
            return self.answers.pop(0)
        if self.secrets.get(form["client_id"]) != form["client_secret"]:
            return web.json_response({"error": "invalid_client", "seen": form["client_secret"]}, status=401)
        self.issued.append(form)
        token = f"{form['client_id']}-{len(self.issued)}"
        self.valid.add(token)
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    async def _orders(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.seen.append(token)
        if token not in self.valid:
            return web.json_response({"error": "unauthorized"}, status=401)
        return web.json_response({"token_of": token})


def source(api: Api, name: str = "orders", *, group_client: str = "cid", **auth: Any) -> ToolSourceSpec:
    operation = HttpOperation("list", "Lists orders.", "GET", "/orders", {"type": "object"})
    values = {"kind": AuthKind.OAUTH_CLIENT, "token_url": f"{api.url}/token", "client_id": group_client} | auth
    return ToolSourceSpec(
        name=name, kind=SourceKind.HTTP, endpoint=HttpApi(api.url, (operation,)), auth=SourceAuth(**values)
    )


@dataclass
class World:
    harness: Harness
    caller: GatewayCaller
    api: Api
    sources: FixedSources

    async def put(self, name: str, value: str, *origins: str, bearer: str = ALICE) -> None:
        stub: SecretServiceAsyncStub = SecretServiceStub(self.harness.channel(bearer))
        await stub.PutSecret(secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=origins))

    async def list(self, name: str = "orders", bearer: str = ALICE) -> pb.ToolOutcome:
        return await self.caller.call(f"{name}/list", bearer=bearer, idempotent=True)


class BothGroups(FixedSources):
    """Two groups call one address by the same name."""

    async def by_name(self, group_id: str, name: str) -> ToolSourceSpec | None:
        return await super().by_name("sales", name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with Api(secrets={"cid": "right", "other": "right"}) as api:
        sources = BothGroups(
            [
                source(api, scopes=("read", "write"), resource="https://orders.example.com"),
                source(api, "elsewhere", token_url="https://issuer.example.com/token"),
                source(api, "private", token_url="https://10.0.0.1/token"),
                source(api, "caller", kind=AuthKind.CALLER),
            ]
        )
        directory = tmp_path_factory.mktemp("credentials")
        # Issuers fail on purpose here, again and again.
        settings = {"tools": loopback_tools(outage_threshold=0)}
        async with serve_services(directory, "orchestrator", "tools", sources=sources, settings=settings) as harness:
            yield World(harness, GatewayCaller.of(harness), api, sources)


async def test_a_token_is_asked_for_once_and_anew_when_it_is_refused(world: World) -> None:
    await world.put("tools/orders", "right", world.api.url)
    outcomes = await asyncio.gather(*(world.list() for _ in range(5)))
    assert {json.loads(outcome.result.structured_json)["token_of"] for outcome in outcomes} == {"cid-1"}
    assert world.api.issued == [
        {
            "grant_type": "client_credentials",
            "client_id": "cid",
            "client_secret": "right",
            "scope": "read write",
            "resource": "https://orders.example.com",
        }
    ]
    world.api.valid.clear()
    again = await world.list()
    assert json.loads(again.result.structured_json) == {"token_of": "cid-2"}
    assert world.api.seen[-2:] == ["cid-1", "cid-2"]


async def test_two_groups_at_one_address_never_share_a_token(world: World) -> None:
    await world.put("tools/orders", "right", world.api.url)
    await world.list()
    foreign = await world.list(bearer=BOB)
    assert foreign.failure.reason == "CREDENTIAL_NOT_CONFIGURED"
    await world.put("tools/orders", "wrong", world.api.url, bearer=BOB)
    refused = await world.list(bearer=BOB)
    assert refused.failure.reason == "CREDENTIAL_REJECTED"
    assert "wrong" not in str(refused)
    await world.put("tools/orders", "right", world.api.url, bearer=BOB)
    mine, theirs = await world.list(), await world.list(bearer=BOB)
    assert mine.result.structured_json != theirs.result.structured_json


async def test_the_secret_of_a_client_goes_to_its_own_issuer_alone(world: World) -> None:
    for name in ("elsewhere", "private"):
        await world.put(f"tools/{name}", "right", world.api.url)
        assert (await world.list(name)).failure.reason == "DESTINATION_NOT_ALLOWED"
    await world.put("tools/private", "right", "https://10.0.0.1")
    assert (await world.list("private")).failure.reason == "DESTINATION_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (web.Response(status=503), "TOOL_UNAVAILABLE"),
        (web.Response(status=429), "TOOL_UNAVAILABLE"),
        (web.Response(text="[" * 100_000), "CREDENTIAL_REJECTED"),
        (web.json_response(["no object"]), "CREDENTIAL_REJECTED"),
        (web.json_response({"access_token": ""}), "CREDENTIAL_REJECTED"),
        (web.json_response({"access_token": 7}), "CREDENTIAL_REJECTED"),
        (web.json_response({"access_token": "a\r\nx: y"}), "CREDENTIAL_REJECTED"),
        (web.Response(body=b"x" * 1_000_000), "CREDENTIAL_REJECTED"),
        (web.Response(status=302, headers={"Location": "https://evil.example.com"}), "CREDENTIAL_REJECTED"),
    ],
)
async def test_whatever_an_issuer_answers_has_an_outcome(world: World, answer: web.Response, reason: str) -> None:
    await world.put("tools/orders", "right", world.api.url)
    world.api.valid.clear()
    world.api.answers = [_copy(answer) for _ in range(4)]
    outcome = await world.list()
    world.api.answers.clear()
    assert outcome.failure.reason == reason, outcome


async def test_a_caller_without_a_token_gets_nobody_elses(world: World) -> None:
    await world.put("tools/caller", "right", world.api.url)
    before = len(world.api.seen)
    assert (await world.list("caller")).failure.reason == "CREDENTIAL_NOT_CONFIGURED"
    assert len(world.api.seen) == before


async def test_a_call_outlasts_its_principal_by_the_grant_of_its_execution(world: World) -> None:
    auth: AuthServiceAsyncStub = AuthServiceStub(world.harness.peers("orchestrator").channel("auth"))
    tools: AuthServiceAsyncStub = AuthServiceStub(world.harness.peers("tools").channel("auth"))
    with acting_as(await world.caller.principal()):
        request = delegation_pb2.CreateDelegationRequest(execution_id="run-9")
        grant = (await auth.CreateDelegation(request)).grant_id
    old = Principal(
        "dev|alice", "sales", Role.ADMIN, False, CredentialKind.DEV, "", "run-9", utc_now(), token="expired"
    )
    principals = ActingPrincipal(tools)
    async with acting(old, grant, "run-9"):
        fresh = await principals.token(old)
        assert fresh not in ("", "expired")
        # It is good for a while.
        assert await principals.token(old) == fresh
    async with acting(old, "", ""):
        assert await principals.token(old) == "expired"
    foreign = Principal(
        "dev|bob", "legal", Role.ADMIN, False, CredentialKind.DEV, "", "run-9", utc_now() - timedelta(1), token="x"
    )
    async with acting(foreign, grant, "run-9"):
        with pytest.raises(CoxswainError, match="another group's"):
            await principals.token(foreign)


def _copy(answer: web.Response) -> web.Response:
    """A response is sent once."""
    body = answer.body if isinstance(answer.body, bytes) else b""
    return web.Response(status=answer.status, body=body, headers=dict(answer.headers))
