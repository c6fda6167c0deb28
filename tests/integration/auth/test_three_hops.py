"""On behalf of a user through client -> memory -> models -> auth: the workspace sees the user, or nobody."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import Channel

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import memory_service_pb2_grpc, record_pb2
from services.common.db.database import Database
from tests.integration.auth.support import guarded_settings, make_service_keys, refused
from tests.support.databricks_identity import WORKSPACE_ID
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.harness import Harness, serve_services

MODEL = "databricks/databricks-gte-large-en"
NAMESPACE = pb.Namespace(memory_id="crew", kind=record_pb2.MEMORY_KIND_UNIFIED)
OPERATORS_TOKEN = "dapi-of-the-operator"


@dataclass
class World:
    harness: Harness
    workspace: DatabricksWorkspace
    token: str

    def memory(self, token: str) -> Any:
        channel: Channel = self.harness.channel("", headers={"x-forwarded-access-token": token})
        return memory_service_pb2_grpc.MemoryServiceStub(channel)

    def save(self, token: str, text: str) -> Any:
        record = record_pb2.Record(unified=record_pb2.UnifiedRecord(content=text))
        return self.memory(token).SaveRecords(
            pb.SaveRecordsRequest(namespace=NAMESPACE, records=[record], embedding_model=MODEL)
        )


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with DatabricksWorkspace() as workspace:
        workspace.llm.dimensions["databricks-gte-large-en"] = 1024
        identity = workspace.identity
        operator = identity.add_user("operator@example.com")
        identity.add_pat(operator, OPERATORS_TOKEN)
        # Everything that could be used instead of the user's token is there, and shared with the group.
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", OPERATORS_TOKEN)
        identity.add_service_principal("cid", "right")
        monkeypatch.setenv("DATABRICKS_CLIENT_ID", "cid")
        monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "right")
        make_service_keys(tmp_path)
        settings = guarded_settings(
            databricks_audiences=(WORKSPACE_ID,),
            bootstrap_admin=f"{workspace.url}/oidc|ann@example.com",
            shared_credential_groups=("*",),
        )
        async with serve_services(
            tmp_path, "models", "memory", settings={"auth": settings}, identity_mode="databricks"
        ) as harness:
            token = identity.mint(identity.add_user("ann@example.com"))
            yield World(harness, workspace, token)


async def test_the_workspace_sees_the_users_token_three_hops_away(world: World) -> None:
    await world.save(world.token, "cats sleep a lot")
    request = pb.SearchRecordsRequest(namespace=NAMESPACE, text="cats")
    found = await world.memory(world.token).SearchRecords(request)
    assert [result.record.unified.content for result in found.results] == ["cats sleep a lot"]
    assert {call.bearer for call in world.workspace.llm.calls} == {world.token}
    assert not world.workspace.identity.requests(path="/oidc/v1/token")


async def test_with_the_users_session_gone_nobody_else_is_used(world: World) -> None:
    await world.save(world.token, "cats sleep a lot")
    fresh = world.workspace.identity.mint(world.workspace.identity._users["ann@example.com"], expires_in_s=1000)
    await world.memory(fresh).ListNamespaces(pb.ListNamespacesRequest())
    database = Database(f"sqlite:///{world.harness.data_dir / 'auth.db'}", "auth")
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE credential_sessions SET expires_at = '2001-01-01 00:00:00.000000'")
    await database.close()
    world.workspace.llm.calls.clear()
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
        await world.save(fresh, "dogs bark")
    assert world.workspace.llm.calls == []
    assert not world.workspace.identity.requests(path="/oidc/v1/token")


async def test_a_token_that_the_workspace_refuses_is_the_callers_to_replace(world: World) -> None:
    world.workspace.identity.revoke(world.token)
    with refused(StatusCode.UNAUTHENTICATED, "UPSTREAM_CREDENTIAL_REJECTED"):
        await world.save(world.token, "cats sleep a lot")
    assert {call.bearer for call in world.workspace.llm.calls} <= {world.token}
