"""Tokens that a group makes for machines without an issuer."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from coxswain.auth.v1 import delegation_pb2, group_pb2, principal_pb2, service_token_pb2
from coxswain.auth.v1.service_token_service_pb2_grpc import ServiceTokenServiceStub
from coxswain.common.v1 import access_pb2
from services.auth import tables
from services.auth.settings import AuthSettings
from services.common import hosting
from services.common.clock import utc_now
from services.common.grpc.call import acting_as
from services.common.logging import redact
from tests.integration.auth.support import groups, guarded_settings, internal, make_service_keys, public, refused
from tests.integration.auth.test_revoking import until_it_fails
from tests.support.databricks_identity import WORKSPACE_ID, DatabricksIdentity
from tests.support.harness import ALICE, Harness, serve_services

if TYPE_CHECKING:
    from coxswain.auth.v1.service_token_service_pb2_grpc import ServiceTokenServiceAsyncStub

WHO = principal_pb2.WhoAmIRequest()
MEMBERS = group_pb2.ListMembersRequest()
LIST = service_token_pb2.ListServiceTokensRequest()
OPERATOR, EDITOR, ADMIN = access_pb2.ROLE_OPERATOR, access_pb2.ROLE_EDITOR, access_pb2.ROLE_ADMIN


def tokens(harness: Harness, bearer: str, **headers: Any) -> "ServiceTokenServiceAsyncStub":
    channel: grpc.aio.Channel = harness.channel(bearer, **headers)
    return ServiceTokenServiceStub(channel)


def new(name: str, role: Any = EDITOR, **lifetime: float) -> service_token_pb2.CreateServiceTokenRequest:
    seconds = round(timedelta(**lifetime or {"hours": 1}).total_seconds())
    return service_token_pb2.CreateServiceTokenRequest(name=name, role=role, lifetime=Duration(seconds=seconds))


async def test_a_token_calls_as_its_own_subject_in_its_group_with_its_role(auth: Harness) -> None:
    made = await tokens(auth, ALICE).CreateServiceToken(new("nightly-build"))
    assert made.token.startswith("coxt_")
    assert redact(f"got {made.token}") == "got [redacted]"
    me = (await public(auth, made.token).WhoAmI(WHO)).principal
    assert (me.subject, me.group_id, me.role) == ("token|sales/nightly-build", "sales", EDITOR)
    await groups(auth, made.token).ListMembers(MEMBERS)
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await tokens(auth, made.token).CreateServiceToken(new("another"))
    with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER"):
        await groups(auth, made.token, "legal").ListMembers(MEMBERS)

    [kept] = (await tokens(auth, ALICE).ListServiceTokens(LIST)).service_tokens
    assert (kept.name, kept.subject, kept.role, kept.created_by) == (
        "nightly-build",
        "token|sales/nightly-build",
        EDITOR,
        "dev|alice",
    )
    assert kept.expire_time.ToDatetime() - kept.create_time.ToDatetime() == timedelta(hours=1)
    assert kept.last_use_time.ToDatetime() >= kept.create_time.ToDatetime()
    assert not (await tokens(auth, "dev:bob:legal=admin").ListServiceTokens(LIST)).service_tokens


async def test_a_revoked_token_ends_with_what_it_has_started_and_frees_its_name(
    auth: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hosting, "_ACCESS_CHANGES_SECONDS", 0.05)
    async with serve_services(tmp_path / "own", settings={"auth": AuthSettings()}) as own:
        made = await tokens(own, ALICE).CreateServiceToken(new("build"))
        builds = groups(own, made.token)
        await builds.ListMembers(MEMBERS)
        exchange = principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {made.token}")
        with acting_as((await public(own, "").ExchangeToken(exchange)).principal_token):
            granted = await internal(own).CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="r"))
        assert granted.identity == delegation_pb2.EXECUTION_IDENTITY_GROUP
        revoke = service_token_pb2.RevokeServiceTokenRequest(name="build")
        await tokens(own, ALICE).RevokeServiceToken(revoke)
        await until_it_fails(lambda: builds.ListMembers(MEMBERS))
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
            await builds.ListMembers(MEMBERS)
        issue = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id="r")
        with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
            await internal(own).IssueExecutionPrincipal(issue)
        with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
            await tokens(own, ALICE).RevokeServiceToken(revoke)
        again = await tokens(own, ALICE).CreateServiceToken(new("build"))
        await groups(own, again.token).ListMembers(MEMBERS)


async def test_a_token_expires(auth: Harness) -> None:
    made = await tokens(auth, ALICE).CreateServiceToken(new("build"))
    database = auth.services["auth"]._database  # type: ignore[attr-defined]
    async with database.write() as connection:
        await connection.execute(sa.update(tables.service_tokens).values(expires_at=utc_now()))
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
        await groups(auth, made.token).ListMembers(MEMBERS)


async def test_what_a_token_may_not_be_is_refused(auth: Harness) -> None:
    admin = tokens(auth, ALICE)
    await admin.CreateServiceToken(new("build"))
    with refused(StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await admin.CreateServiceToken(new("build"))
    for request, field in (
        (new("Build it"), "name"),
        (new("b", role=access_pb2.ROLE_PLATFORM_ADMIN), "role"),
        (new("b", seconds=1), "lifetime"),
        (new("b", days=400), "lifetime"),
        (service_token_pb2.CreateServiceTokenRequest(name="b", role=OPERATOR), "lifetime"),
    ):
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await admin.CreateServiceToken(request)
        assert refusal.fields == [field]
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await tokens(auth, "dev:ed:sales=editor").CreateServiceToken(new("mine"))
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
        await groups(auth, "coxt_" + "A" * 43).ListMembers(MEMBERS)


async def test_tokens_are_accepted_outside_of_dev_mode_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DatabricksIdentity() as identity:
        monkeypatch.setenv("DATABRICKS_HOST", identity.url)
        make_service_keys(tmp_path)
        settings = guarded_settings(
            databricks_audiences=(WORKSPACE_ID,), bootstrap_admin=f"{identity.issuer}|ann@example.com"
        )
        async with serve_services(tmp_path, settings={"auth": settings}, identity_mode="databricks") as harness:
            ann = identity.mint(identity.add_user("ann@example.com"))
            made = await tokens(harness, ann).CreateServiceToken(new("build", role=OPERATOR))
            me = (await public(harness, made.token).WhoAmI(WHO)).principal
            assert (me.subject, me.role) == ("token|sales/build", OPERATOR)
