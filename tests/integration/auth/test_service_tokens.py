"""Tokens that a group makes for machines without an issuer."""

from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import sqlalchemy as sa
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from coxswain.auth.v1 import access_change_pb2, delegation_pb2, group_pb2, principal_pb2, service_token_pb2
from coxswain.auth.v1.service_token_service_pb2_grpc import ServiceTokenServiceStub
from coxswain.common.v1 import access_pb2
from services.auth import tables
from services.auth.repositories.grants import GrantRepository
from services.auth.settings import AuthSettings
from services.common import hosting
from services.common.clock import utc_now
from services.common.grpc.call import acting_as
from services.common.logging import redact
from tests.integration.auth.support import groups, guarded_settings, internal, make_service_keys, public, refused
from tests.integration.auth.test_revoking import until_it_fails
from tests.support.databricks_identity import WORKSPACE_ID, DatabricksIdentity
from tests.support.group_limits import OPERATOR as OPERATOR_OF_ALL
from tests.support.harness import ALICE, BOB, Harness, serve_services

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


async def change(harness: Harness, statement: sa.Executable) -> None:
    service: Any = harness.services["auth"]
    async with service._database.write() as connection:
        await connection.execute(statement)


def expired_since(name: str, time: timedelta) -> sa.Executable:
    row = tables.service_tokens
    return sa.update(row).where(row.c.name == name).values(expires_at=utc_now() - time)


async def exchange(harness: Harness, token: str, group_id: str = "") -> str:
    request = principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {token}", group_id=group_id)
    return (await public(harness, "").ExchangeToken(request)).principal_token


async def names(harness: Harness) -> list[str]:
    return [kept.name for kept in (await tokens(harness, ALICE).ListServiceTokens(LIST)).service_tokens]


async def grant(harness: Harness, token: str, execution_id: str) -> delegation_pb2.IssueExecutionPrincipalRequest:
    with acting_as(await exchange(harness, token, "sales")):
        request = delegation_pb2.CreateDelegationRequest(execution_id=execution_id)
        granted = await internal(harness).CreateDelegation(request)
    return delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id=execution_id)


async def test_a_token_expires_and_what_it_has_started_ends_with_it_neither_sooner_nor_later(auth: Harness) -> None:
    made = await tokens(auth, ALICE).CreateServiceToken(new("build", days=365))
    issue = await grant(auth, made.token, "run-1")
    long_ago = utc_now() - timedelta(days=300)
    await change(auth, sa.update(tables.grants).values(created_at=long_ago, claimed_at=long_ago))
    assert (await internal(auth).IssueExecutionPrincipal(issue)).principal.role == EDITOR
    unseen = await tokens(auth, ALICE).CreateServiceToken(new("unseen"))
    for name in ("build", "unseen"):
        await change(auth, expired_since(name, timedelta()))
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
        await groups(auth, unseen.token).ListMembers(MEMBERS)
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED") as refusal:
        await internal(auth).IssueExecutionPrincipal(issue)
    assert "token|sales/build, a token that has expired" in refusal.message


async def test_a_token_is_revoked_in_all_groups_or_not_at_all(auth: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await tokens(auth, ALICE).CreateServiceToken(new("build"))
    subject = "token|sales/build"
    await groups(auth, BOB).SetMember(group_pb2.SetMemberRequest(subject=subject, role=OPERATOR))
    await exchange(auth, made.token, "legal")
    issue = await grant(auth, made.token, "run-1")
    revoke = service_token_pb2.RevokeServiceTokenRequest(name="build")

    async def fail(*args: object) -> int:
        raise RuntimeError("the process ends here")

    with monkeypatch.context() as patched:
        patched.setattr(GrantRepository, "revoke_of_subject", fail)
        with refused(StatusCode.INTERNAL, "INTERNAL"):
            await tokens(auth, ALICE).RevokeServiceToken(revoke)
    await tokens(auth, ALICE).RevokeServiceToken(revoke)
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await internal(auth).IssueExecutionPrincipal(issue)
    for group_id in ("sales", "legal"):
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
            await exchange(auth, made.token, group_id)


async def test_a_token_of_the_same_name_counts_whatever_the_clock_of_who_revoked_the_last_one(auth: Harness) -> None:
    ahead = utc_now() + timedelta(minutes=1)
    row = {"subject": "token|sales/build", "group_id": "", "changed_at": ahead, "revoked_at": ahead}
    await change(auth, sa.insert(tables.access_changes).values(row))
    made = await tokens(auth, ALICE).CreateServiceToken(new("build"))
    assert made.service_token.create_time.ToDatetime(UTC) > ahead
    assert await exchange(auth, made.token)


async def test_tokens_make_no_tokens(auth: Harness) -> None:
    made = await tokens(auth, ALICE).CreateServiceToken(new("build", ADMIN))
    with refused(StatusCode.PERMISSION_DENIED, "TOKEN_NOT_ALLOWED"):
        await tokens(auth, made.token).CreateServiceToken(new("another"))
    assert await names(auth) == ["build"]


REMOVE = group_pb2.RemoveMemberRequest(subject="dev|dave")
REVOKE = access_change_pb2.RevokeAccessRequest(subject="dev|dave")
EVERYWHERE = access_change_pb2.RevokeAccessEverywhereRequest(subject="dev|dave")
DAVE = "dev:dave:legal=admin"


async def dave_joins(harness: Harness) -> None:
    for subject in ("dev|alice", "dev|dave"):
        await groups(harness, ALICE).SetMember(group_pb2.SetMemberRequest(subject=subject, role=ADMIN))
    await tokens(harness, DAVE, group="sales").ListServiceTokens(LIST)


@pytest.mark.parametrize(
    ("method", "request_", "bearer", "ended"),
    [
        ("RemoveMember", REMOVE, ALICE, ["daves"]),
        ("RevokeAccess", REVOKE, ALICE, ["daves"]),
        ("RevokeAccessEverywhere", EVERYWHERE, OPERATOR_OF_ALL, ["daves", "elsewhere"]),
        ("RevokeAccess", access_change_pb2.RevokeAccessRequest(subject="token|sales/daves"), ALICE, ["daves"]),
    ],
)
async def test_a_token_ends_with_the_access_of_who_made_it(
    auth: Harness, method: str, request_: Any, bearer: str, ended: list[str]
) -> None:
    await dave_joins(auth)
    made = {
        "alices": await tokens(auth, ALICE).CreateServiceToken(new("alices")),
        "daves": await tokens(auth, DAVE, group="sales").CreateServiceToken(new("daves")),
        "elsewhere": await tokens(auth, DAVE, group="legal").CreateServiceToken(new("elsewhere")),
    }
    answer = await getattr(groups(auth, bearer), method)(request_)
    assert answer.ended_service_tokens == len(ended)
    for name, each in made.items():
        if name in ended:
            with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
                await exchange(auth, each.token)
        else:
            assert await exchange(auth, each.token)


@pytest.mark.parametrize(
    ("method", "request_", "refusal"),
    [
        ("RemoveMember", REMOVE, (StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER")),
        ("RevokeAccess", REVOKE, (StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")),
    ],
)
async def test_who_has_lost_access_makes_no_token_where_nobody_knows_of_it_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, request_: Any, refusal: tuple[StatusCode, str]
) -> None:
    monkeypatch.setattr(hosting, "_ACCESS_CHANGES_SECONDS", 300)
    async with serve_services(tmp_path, settings={"auth": AuthSettings()}, principal_cache_seconds=300) as auth:
        await dave_joins(auth)
        await getattr(groups(auth, ALICE), method)(request_)
        with refused(*refusal):
            await tokens(auth, DAVE, group="sales").CreateServiceToken(new("late"))
        assert await names(auth) == []


async def test_a_group_has_so_many_tokens_and_expired_ones_are_listed_for_30_days(tmp_path: Path) -> None:
    async with serve_services(tmp_path, settings={"auth": AuthSettings(service_tokens_per_group=2)}) as auth:
        service: Any = auth.services["auth"]
        await tokens(auth, ALICE).CreateServiceToken(new("one"))
        made = await tokens(auth, ALICE).CreateServiceToken(new("two"))
        issue = await grant(auth, made.token, "run-1")
        with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
            await tokens(auth, ALICE).CreateServiceToken(new("three"))
        assert refusal.metadata == {"quota": "service_tokens", "limit": "2", "used": "2"}
        await tokens(auth, "dev:bob:legal=admin").CreateServiceToken(new("three"))
        await change(auth, expired_since("one", timedelta(days=29)))
        await change(auth, expired_since("two", timedelta(days=31)))
        assert await service._service_tokens.clean() == 1
        assert await names(auth) == ["one"]
        # What the removed one has started does not go on with another of its name.
        await tokens(auth, ALICE).CreateServiceToken(new("two"))
        with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
            await internal(auth).IssueExecutionPrincipal(issue)


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
        (
            service_token_pb2.CreateServiceTokenRequest(name="b", role=EDITOR, lifetime=Duration(seconds=2**63 - 1)),
            "lifetime",
        ),
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
