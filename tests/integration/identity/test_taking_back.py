"""Who is removed, and what is deleted, is of no use any more within the stated time; other groups never had any."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from coxswain.auth.v1 import delegation_pb2, group_pb2, principal_pb2, secret_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.common.grpc.call import acting_as
from tests.integration.auth.support import internal, refused
from tests.integration.identity.support import (
    API_KEY,
    CREDENTIAL_SECONDS,
    PRINCIPAL_SECONDS,
    World,
    add_crew,
    ask_as,
    question,
    serve_world,
)

SLACK_SECONDS = 60
"""What a busy machine may take beyond a stated time. Without any check, nothing below would ever end."""


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[World]:
    """On SQLite and on PostgreSQL, with no credential that would go before a group's stored one."""
    async with serve_world(tmp_path, monkeypatch, database_url=database_url, service_principal=False) as served:
        yield served


async def until_refused(call: Callable[[], Awaitable[Any]], within: float) -> grpc.aio.AioRpcError:
    """Repeat a call until it is refused and return how; AssertionError when that takes too long."""
    end = time.monotonic() + within + SLACK_SECONDS
    while time.monotonic() < end:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            return error
        await asyncio.sleep(0.05)
    raise AssertionError(f"still served after {within} s")


async def start_execution(world: World, token: str) -> Any:
    """Store an execution that no worker takes and return a stub and its id."""
    channel = world.channel(token)
    executions = ExecutionServiceStub(channel)
    request = execution_pb2.StartExecutionRequest(crew_id=await add_crew(channel))
    return executions, (await executions.StartExecution(request)).execution.id


async def test_a_removed_member_is_refused_soon_and_their_open_watches_end(world: World) -> None:
    await world.add_member("bob")
    token = world.token("bob")
    executions, execution_id = await start_execution(world, token)
    leaves = executions.WatchExecution(execution_pb2.WatchExecutionRequest(id=execution_id))
    assert (await leaves.read()).event.HasField("execution_queued")

    anns, _ = await start_execution(world, world.token("ann"))
    stays = anns.WatchExecution(execution_pb2.WatchExecutionRequest(id=execution_id))
    await stays.read()

    remove = group_pb2.RemoveMemberRequest(subject=world.subject("bob"))
    await world.groups(world.token("ann")).RemoveMember(remove)
    get = execution_pb2.GetExecutionRequest(id=execution_id)
    refusal = await until_refused(lambda: executions.GetExecution(get), PRINCIPAL_SECONDS)
    assert refusal.code() is StatusCode.FAILED_PRECONDITION
    with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED"):
        async with asyncio.timeout(PRINCIPAL_SECONDS + SLACK_SECONDS):
            await leaves.read()

    await anns.CancelExecution(execution_pb2.CancelExecutionRequest(id=execution_id))
    rest = [response.event.WhichOneof("event") async for response in stays]
    assert rest == ["execution_cancelled"], "who is still a member goes on watching"


async def as_the_group(world: World, token: str) -> str:
    """Return a principal token with which an execution acts as the group of the token's user."""
    exchange = principal_pb2.ExchangeTokenRequest(forwarded_access_token=token)
    principal = await AuthServiceStub(world.harness.channel("")).ExchangeToken(exchange)
    auth = internal(world.harness)
    execution_id = f"run-{token[-12:]}"
    with acting_as(principal.principal_token):
        granted = await auth.CreateDelegation(
            delegation_pb2.CreateDelegationRequest(
                execution_id=execution_id, identity=delegation_pb2.EXECUTION_IDENTITY_GROUP
            )
        )
    issued = await auth.IssueExecutionPrincipal(
        delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id=execution_id)
    )
    return issued.principal_token


async def until_asked_with(ask: Callable[[], Awaitable[str | None]], credential: str) -> None:
    """Repeat a call until it is made with a credential; AssertionError when that takes too long."""
    end = time.monotonic() + CREDENTIAL_SECONDS + SLACK_SECONDS
    while (used := await ask()) != credential:
        assert time.monotonic() < end, f"still called with {used}"
        await asyncio.sleep(0.05)


async def test_a_replaced_secret_gives_way_soon_and_a_deleted_one_is_used_no_more(world: World) -> None:
    ann = world.token("ann")
    ask = ask_as(world, await as_the_group(world, ann))
    assert await ask() == world.groups_token

    other = world.workspace.identity.add_pat(world.workspace.identity.add_user("another-bot@example.com"))
    await world.store_token(ann, other)
    await until_asked_with(ask, other)

    await world.secrets(ann).DeleteSecret(secret_pb2.DeleteSecretRequest(name=API_KEY))
    await until_asked_with(ask, world.operators_token)
    used = {await ask() for _ in range(20)}
    assert used == {world.operators_token}


async def test_admins_of_other_groups_have_no_use_of_a_groups_secret(world: World) -> None:
    group = await world.add_group("eve")
    eve, ann = world.token("eve"), world.token("ann")
    asks = [ask_as(world, await as_the_group(world, token)) for token in (ann, eve)]
    for _ in range(3):
        assert [await ask() for ask in asks] == [world.groups_token, world.operators_token]
    listed = await world.secrets(eve).ListSecrets(secret_pb2.ListSecretsRequest())
    assert list(listed.secrets) == []
    with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
        await world.secrets(eve).DeleteSecret(secret_pb2.DeleteSecretRequest(name=API_KEY))
    for token, chosen in ((eve, "sales"), (ann, group)):
        with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER"):
            await world.secrets(token, chosen).ListSecrets(secret_pb2.ListSecretsRequest())
        with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER"):
            await world.inference(token, chosen).Complete(question("?"))
