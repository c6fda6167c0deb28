"""Every method of auth with marked secrets, succeeding and failing: none is shown, logged or stored in clear."""

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from coxswain.auth.v1 import (
    access_change_pb2,
    auth_service_pb2,
    credential_pb2,
    delegation_pb2,
    group_limits_pb2,
    group_pb2,
    group_service_pb2,
    principal_pb2,
    secret_pb2,
    secret_service_pb2,
    service_token_pb2,
    service_token_service_pb2,
)
from coxswain.common.v1 import access_pb2
from services.common.audit import configure_audit, stop_audit
from services.common.db.database import Database
from services.common.logging import configure_logging
from tests.integration.auth.support import calling_service, exchange, guarded_settings, make_service_keys
from tests.support.databricks_identity import WORKSPACE_ID, DatabricksIdentity
from tests.support.harness import Harness, serve_services

PROVIDER_KEY = "marked-provider-key-6fd1"
PAT = "marked-personal-token-83ab"
CLIENT_SECRET = "marked-client-secret-c01e"
OPERATORS_TOKEN = "marked-operators-token-19dd"
SERVICES = [
    service
    for module in (auth_service_pb2, secret_service_pb2, group_service_pb2, service_token_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
# These give a secret to whom it belongs, and are the only ones.
GIVE_SECRETS = {"CreateServiceToken", "ResolveCredential", "ExchangeToken", "IssueExecutionPrincipal"}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything logged, at DEBUG, through the product's own pipeline."""
    written = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("DEBUG", service="auth")
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@dataclass
class World:
    harness: Harness
    identity: DatabricksIdentity
    token: str
    principal: str
    public: grpc.aio.Channel
    internal: grpc.aio.Channel
    seen: list[str] = field(default_factory=list)
    called: set[str] = field(default_factory=set)
    service_token_made: str = "not made yet"

    @property
    def secrets(self) -> tuple[str, ...]:
        return (PROVIDER_KEY, PAT, CLIENT_SECRET, OPERATORS_TOKEN, self.token, self.principal, self.service_token_made)

    def service_token(self, method: str = "") -> str:
        return self.harness.host._identity(calling_service(method)).token_for("auth")

    async def call(self, method: str, request: Message, *, internal: bool = False, token: str | None = None) -> Any:
        """Call a method and keep everything that came back; return the answer, None when it failed."""
        [service] = [service for service in SERVICES if method in service.methods_by_name]
        descriptor = service.methods_by_name[method]
        channel = self.internal if internal else self.public
        path = f"/{service.full_name}/{method}"
        kind = {False: channel.unary_unary, True: channel.unary_stream}[descriptor.server_streaming]
        metadata = (
            (("x-coxswain-service", self.service_token(method)), ("x-coxswain-principal", self.principal))
            if internal
            else (("authorization", f"Bearer {self.token if token is None else token}"),)
        )
        stub: Any = kind(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        self.called.add(method)
        try:
            if descriptor.server_streaming:
                answer = [message async for message in stub(request, metadata=metadata)]
            else:
                answer = await stub(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            self.seen += [repr(error), error.details() or "", repr(error.trailing_metadata())]
            return None
        if method not in GIVE_SECRETS:
            self.seen.append(repr(answer))
        return answer


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> AsyncIterator[World]:
    async with DatabricksIdentity() as identity:
        identity.add_service_principal("cid", CLIENT_SECRET)
        monkeypatch.setenv("DATABRICKS_HOST", identity.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", OPERATORS_TOKEN)
        monkeypatch.setenv("OPENAI_API_KEY", PROVIDER_KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", "no address")
        make_service_keys(tmp_path)
        configure_audit(str(tmp_path / "audit.log"), tmp_path, service="auth")
        settings = guarded_settings(
            databricks_audiences=(WORKSPACE_ID,),
            bootstrap_admin=f"{identity.issuer}|ann@example.com",
            shared_credential_groups=("*",),
            egress_allowed_networks=["127.0.0.0/8"],
        )
        async with serve_services(tmp_path, settings={"auth": settings}, identity_mode="databricks") as harness:
            token = identity.mint(identity.add_user("ann@example.com"))
            principal = await exchange(harness, token)
            yield World(
                harness=harness,
                identity=identity,
                token=token,
                principal=principal,
                public=grpc.aio.insecure_channel(harness.address),
                internal=grpc.aio.insecure_channel(harness.internal_address),
            )


def put(name: str, value: str, *origins: str) -> secret_pb2.PutSecretRequest:
    return secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=origins)


async def every_method(world: World) -> None:
    """Call each method so that it succeeds, and so that it fails wherever a secret is near."""
    home, call = world.identity.url, world.call
    llm, databricks = credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS
    client = json.dumps({"client_id": "cid", "client_secret": CLIENT_SECRET})
    for request in (
        put("llm/openai", PROVIDER_KEY, home),
        put("databricks/pat", PAT, home),
        put("databricks/api-key", PAT, home),
        put("databricks/oauth-client", client, home),
    ):
        assert await call("PutSecret", request) is not None
    for request in (
        put("llm/openai", PROVIDER_KEY),
        put("llm/openai", PROVIDER_KEY + "\n", home),
        put("NO NAME", PAT, home),
        put("llm/openai", PROVIDER_KEY, PROVIDER_KEY),
        put("databricks/oauth-client", CLIENT_SECRET, home),
    ):
        assert await call("PutSecret", request) is None
    await call("ListSecrets", secret_pb2.ListSecretsRequest())
    await call("ListSecrets", secret_pb2.ListSecretsRequest(page_token=world.token))
    assert (await call("RotateKey", secret_pb2.RotateKeyRequest()))[-1].key_id == "k1"
    await call("WhoAmI", principal_pb2.WhoAmIRequest())
    await call("GetJwks", principal_pb2.GetJwksRequest())
    for wrong in (world.token[:-20] + "A" * 20, world.principal, world.service_token(), world.token + PAT):
        await call("WhoAmI", principal_pb2.WhoAmIRequest(), token=wrong)
        await call("ExchangeToken", principal_pb2.ExchangeTokenRequest(forwarded_access_token=wrong))
    await call(
        "ExchangeToken", principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {world.token}", group_id=world.token)
    )
    for purpose, provider in ((llm, "openai"), (llm, "anthropic"), (databricks, ""), (3, ""), (2, "")):
        for destination in ("", home, "https://example.com", f"https://{PAT}@example.com"):
            wanted: dict[str, Any] = {"purpose": purpose, "provider": provider, "destination_origin": destination}
            await call("ResolveCredential", credential_pb2.ResolveCredentialRequest(**wanted), internal=True)
            explain = credential_pb2.ExplainCredentialRequest(**wanted)
            await call("ExplainCredential", explain)
            several = credential_pb2.ExplainCredentialsRequest(credentials=[explain])
            await call("ExplainCredentials", several, internal=True)
    granted = await call(
        "CreateDelegation", delegation_pb2.CreateDelegationRequest(execution_id="run-1"), internal=True
    )
    issue = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id="run-1")
    assert await call("IssueExecutionPrincipal", issue, internal=True) is not None
    assert (
        await call("RenewDelegation", delegation_pb2.RenewDelegationRequest(execution_id="run-1"), internal=True)
        is not None
    )
    await call("RevokeDelegation", delegation_pb2.RevokeDelegationRequest(execution_id="run-1"), internal=True)
    assert await call("IssueExecutionPrincipal", issue, internal=True) is None
    create = group_pb2.CreateGroupRequest(display_name="Legal", admin_subject="x|y", request_id="r")
    group = (await call("CreateGroup", create)).group
    await call("ListGroups", group_pb2.ListGroupsRequest())
    await call("DeleteGroup", group_pb2.DeleteGroupRequest(id=group.id, confirm_id=group.id))
    await call("SetMember", group_pb2.SetMemberRequest(subject="x|y", role=access_pb2.ROLE_OPERATOR))
    await call("ListMembers", group_pb2.ListMembersRequest())
    await call("RemoveMember", group_pb2.RemoveMemberRequest(subject="x|y"))
    await call("GetGroupLimits", group_limits_pb2.GetGroupLimitsRequest())
    await call("SetGroupLimits", group_limits_pb2.SetGroupLimitsRequest(group_id="sales"))
    await call("ShareGroupTraffic", group_limits_pb2.ShareGroupTrafficRequest(process_id="p"), internal=True)
    await call("LowerGroupLimits", group_limits_pb2.LowerGroupLimitsRequest())
    await call("GetLimitsOfGroups", group_limits_pb2.GetLimitsOfGroupsRequest(group_ids=["sales"]), internal=True)
    await call("RevokeAccess", access_change_pb2.RevokeAccessRequest(subject="x|y"))
    await call("RevokeAccessEverywhere", access_change_pb2.RevokeAccessEverywhereRequest(subject="x|y"))
    await call("ListAccessChanges", access_change_pb2.ListAccessChangesRequest(), internal=True)
    made = service_token_pb2.CreateServiceTokenRequest(
        name="build", role=access_pb2.ROLE_OPERATOR, lifetime=Duration(seconds=3600)
    )
    world.service_token_made = (await call("CreateServiceToken", made)).token
    await call("WhoAmI", principal_pb2.WhoAmIRequest(), token=world.service_token_made)
    await call("ListServiceTokens", service_token_pb2.ListServiceTokensRequest())
    await call("RevokeServiceToken", service_token_pb2.RevokeServiceTokenRequest(name="build"))
    await call("WhoAmI", principal_pb2.WhoAmIRequest(), token=world.service_token_made)
    await call("DeleteSecret", secret_pb2.DeleteSecretRequest(name="llm/openai"))
    # With the group's own gone, the operator's are met: a token, and a key whose origin is not known.
    await call("DeleteSecret", secret_pb2.DeleteSecretRequest(name="databricks/pat"))
    await call("ExplainCredential", credential_pb2.ExplainCredentialRequest(purpose=llm, provider="openai"))
    await call(
        "ExplainCredential",
        credential_pb2.ExplainCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH),
    )


async def everything_stored(world: World) -> str:
    database = Database(f"sqlite:///{world.harness.data_dir / 'auth.db'}", "auth")
    stored = []
    async with database.read() as connection:
        tables = (await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars()
        for table in list(tables):
            rows = await connection.exec_driver_sql(f"SELECT * FROM {table}")
            stored += [repr(row) for row in rows]
    await database.close()
    return "\n".join(stored)


async def test_no_method_tells_logs_or_stores_a_secret(world: World, log: io.StringIO) -> None:
    await every_method(world)
    stop_audit()
    assert "PutSecret" in (world.harness.data_dir / "audit.log").read_text()
    assert world.called == {method.name for service in SERVICES for method in service.methods}
    files = _files(world.harness.data_dir)
    logged = log.getvalue()
    assert "call_refused" in logged
    for secret in world.secrets:
        # Of a token, its signature alone would do.
        for part in {secret, secret.rpartition(".")[2]}:
            assert [text[:300] for text in world.seen if part in text] == []
            assert part not in logged
            assert part not in await everything_stored(world)
            assert part.encode().hex() not in await everything_stored(world)
            assert not any(part.encode() in content for content in files)


def _files(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
