"""An admin ends what a subject has going, at once and for what was issued until then."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import jwt
import pytest
import sqlalchemy as sa
from grpc import StatusCode

from coxswain.auth.v1 import access_change_pb2, delegation_pb2, group_pb2, principal_pb2, service_token_pb2
from coxswain.auth.v1.service_token_service_pb2_grpc import ServiceTokenServiceStub
from coxswain.common.v1 import access_pb2
from services.auth import tables
from services.auth.settings import AuthSettings
from services.auth.usecases import access
from services.common import hosting
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.named_locks import lock_name
from services.common.grpc.call import acting_as
from services.common.identity.principal import Principal
from services.common.identity.remote import RemoteIdentity
from tests.integration.auth.support import groups, internal, public, refused, token_of
from tests.support.harness import ALICE, BOB, Harness, serve_services

MEMBERS = group_pb2.ListMembersRequest()
WHO = principal_pb2.WhoAmIRequest()
CAROL = "dev:carol:sales=editor"
PLATFORM = "dev:root:sales=admin,platform_admin"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "_ACCESS_CHANGES_SECONDS", 0.05)


async def until_it_fails(call: Callable[[], Awaitable[object]]) -> None:
    """Call until what is remembered of the caller is dropped, which would be a minute or more otherwise."""
    async with asyncio.timeout(60):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while True:
                await call()
                await asyncio.sleep(0.02)


async def test_what_was_issued_before_counts_no_longer_in_the_group_and_in_others_it_does(auth: Harness) -> None:
    both = "dev:carol:sales=editor,legal=editor"
    for group in ("sales", "legal"):
        await groups(auth, both, group).ListMembers(MEMBERS)
    await groups(auth, ALICE).RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
    sales = groups(auth, both, "sales")
    await until_it_fails(lambda: sales.ListMembers(MEMBERS))
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED") as refusal:
        await sales.ListMembers(MEMBERS)
    assert "revoked" in refusal.message
    await groups(auth, both, "legal").ListMembers(MEMBERS)
    # A credential that was not known before is a later one, and she is still a member.
    await groups(auth, CAROL).ListMembers(MEMBERS)


async def test_executions_lose_their_grants_and_the_principals_issued_for_them(auth: Harness) -> None:
    token = await token_of(auth, CAROL)
    orchestrator = internal(auth)
    with acting_as(token):
        granted = await orchestrator.CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-1"))
    answer = await groups(auth, ALICE).RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
    assert answer.ended_grants == 1
    issue = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id="run-1")
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await orchestrator.IssueExecutionPrincipal(issue)
    # Between services the token would be good for five minutes.
    with acting_as(token):
        await until_it_fails(lambda: internal(auth).WhoAmI(WHO))
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
            await internal(auth).WhoAmI(WHO)


async def test_nothing_is_granted_to_what_was_issued_before_even_where_nobody_knows_of_it_yet(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "_ACCESS_CHANGES_SECONDS", 300)
    async with serve_services(tmp_path, database_url=database_url) as auth:
        token = await token_of(auth, CAROL)
        orchestrator = internal(auth)
        with acting_as(token):
            granted = await orchestrator.CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-1"))
        issue = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=granted.grant_id, execution_id="run-1")
        of_execution = (await orchestrator.IssueExecutionPrincipal(issue)).principal_token
        await groups(auth, ALICE).RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
        for run, issued_before, code, reason in (
            ("run-2", token, StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"),
            ("run-3", of_execution, StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"),
        ):
            with acting_as(issued_before):
                await orchestrator.WhoAmI(WHO)
                with refused(code, reason):
                    await orchestrator.CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id=run))
                with refused(code, reason):
                    await orchestrator.RenewDelegation(delegation_pb2.RenewDelegationRequest(execution_id="run-1"))
        again = await groups(auth, ALICE).RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
        assert again.ended_grants == 0


async def test_a_principal_is_as_old_as_what_was_read_for_it(auth: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    service: Any = auth.services["auth"]
    with_limits = service._limits.with_limits
    revocation = access_change_pb2.RevokeAccessRequest(subject="dev|carol")
    granted = delegation_pb2.CreateDelegationRequest(execution_id="run-1")
    with acting_as(await token_of(auth, CAROL)):
        grant_id = (await internal(auth).CreateDelegation(granted)).grant_id
    revoked: list[float] = []

    async def revoked_meanwhile(principal: Principal) -> Principal:
        # The last step before a principal is signed: what it says of carol has been read.
        if principal.subject == "dev|carol":
            moment = (await groups(auth, ALICE).RevokeAccess(revocation)).revoke_time
            revoked.append(moment.ToMicroseconds() / 1e6)
        return await with_limits(principal)  # type: ignore[no-any-return]

    monkeypatch.setattr(service._limits, "with_limits", revoked_meanwhile)
    issue = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id="run-1")
    tokens = [
        (await internal(auth).IssueExecutionPrincipal(issue)).principal_token,
        await token_of(auth, "dev:carol:sales=operator"),
    ]
    for token, revoked_at in zip(tokens, revoked, strict=True):
        assert jwt.decode(token, options={"verify_signature": False})["iat"] < revoked_at


async def test_what_is_issued_while_a_revocation_waits_is_revoked_too(
    auth: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Any = auth.services["auth"]
    database: Database = service._database
    waits = asyncio.Event()

    def write() -> Any:
        waits.set()
        return database.write()

    alice = groups(auth, ALICE)
    await alice.ListMembers(MEMBERS)
    monkeypatch.setattr(service._access, "_database", SimpleNamespace(write=write, fetch=database.fetch))
    async with database.write() as connection:
        await lock_name(connection, "access/dev|carol")
        revocation = alice.RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
        await waits.wait()
        issued_meanwhile = utc_now()
    assert (await revocation).revoke_time.ToDatetime(UTC) > issued_meanwhile


async def test_a_credential_of_before_accepts_no_invitation_and_tells_nothing(auth: Harness) -> None:
    alice, dave = groups(auth, ALICE), "dev:dave:legal=editor"
    await groups(auth, dave).ListMembers(MEMBERS)
    await alice.RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|dave"))
    await alice.SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=access_pb2.ROLE_EDITOR))
    for call in (public(auth, dave, "sales").WhoAmI(WHO), groups(auth, dave, "sales").ListMembers(MEMBERS)):
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
            await call
    assert (await public(auth, dave).WhoAmI(WHO)).principal.group_id == "legal"
    listed = {member.subject: member.invited for member in (await alice.ListMembers(MEMBERS)).members}
    assert listed["dev|dave"]


async def test_everywhere_is_for_platform_admins_and_for_every_group(auth: Harness) -> None:
    request = access_change_pb2.RevokeAccessEverywhereRequest(subject="dev|bob")
    await groups(auth, BOB).ListMembers(MEMBERS)
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await groups(auth, ALICE).RevokeAccessEverywhere(request)
    await groups(auth, PLATFORM).RevokeAccessEverywhere(request)
    bobs = groups(auth, BOB)
    await until_it_fails(lambda: bobs.ListMembers(MEMBERS))
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
        await bobs.ListMembers(MEMBERS)


async def test_only_admins_revoke_and_only_in_their_group(auth: Harness) -> None:
    request = access_change_pb2.RevokeAccessRequest(subject="dev|carol")
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await groups(auth, CAROL).RevokeAccess(request)
    await groups(auth, "dev:eve:evil=admin").RevokeAccess(request)
    await groups(auth, CAROL).ListMembers(MEMBERS)


async def test_a_member_who_is_removed_is_refused_within_seconds_whatever_is_remembered(tmp_path: Path) -> None:
    async with serve_services(tmp_path, settings={"auth": AuthSettings()}, principal_cache_seconds=300) as auth:
        alice = groups(auth, ALICE)
        await alice.SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=access_pb2.ROLE_EDITOR))
        dave = groups(auth, "dev:dave", "sales")
        await dave.ListMembers(MEMBERS)
        await alice.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|dave"))
        await until_it_fails(lambda: dave.ListMembers(MEMBERS))
        with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER"):
            await dave.ListMembers(MEMBERS)


async def test_other_processes_ask_auth_for_changes(auth: Harness) -> None:
    remote = RemoteIdentity(auth.peers("models").channel("auth"))
    assert await remote.access_changes(0) == []
    answer = await groups(auth, ALICE).RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
    [change] = await remote.access_changes(0)
    assert (change.subject, change.group_id) == ("dev|carol", "sales")
    assert change.revoked_at == change.changed_at == answer.revoke_time.ToMicroseconds() / 1e6
    with refused(StatusCode.UNIMPLEMENTED, ""):
        await public(auth, ALICE).ListAccessChanges(access_change_pb2.ListAccessChangesRequest())


async def test_a_role_that_a_member_has_already_is_no_change(auth: Harness) -> None:
    remote, alice = RemoteIdentity(auth.peers("models").channel("auth")), groups(auth, ALICE)
    noted = []
    for number, role in enumerate((access_pb2.ROLE_EDITOR, access_pb2.ROLE_EDITOR, access_pb2.ROLE_ADMIN), start=1):
        await alice.SetMember(group_pb2.SetMemberRequest(subject="dev|dave", role=role))
        # Answers to the same question are remembered for a moment.
        [change] = await remote.access_changes(number)
        noted.append(change.changed_at)
    assert noted[0] == noted[1] < noted[2]


async def test_no_number_of_changes_hides_one(auth: Harness) -> None:
    database: Database = auth.services["auth"]._database  # type: ignore[attr-defined]
    now = utc_now()
    made_up = [
        # Of the longest subjects these are more than one message can have.
        {
            "subject": f"{number:05}" + "\U0001f40e" * 507,
            "group_id": "evil",
            "changed_at": now - timedelta(seconds=number // 4),
            "revoked_at": now - timedelta(seconds=number // 4),
        }
        for number in range(2_000)
    ]
    async with database.write() as connection:
        await connection.execute(sa.insert(tables.access_changes), made_up)
    await groups(auth, ALICE).RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
    remote = RemoteIdentity(auth.peers("models").channel("auth"))
    listed = await remote.access_changes(0)
    assert {(change.subject, change.group_id) for change in listed} == {
        ("dev|carol", "sales"),
        *((row["subject"], "evil") for row in made_up),
    }
    assert len(listed) == 2_001
    assert len(await remote.access_changes((now - timedelta(seconds=50)).timestamp())) == 1 + 51 * 4
    # A process of the release before asks for no page, and knows nothing of others.
    first = await internal(auth).ListAccessChanges(access_change_pb2.ListAccessChangesRequest())
    assert first.changes[0].subject == "dev|carol"
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await internal(auth).ListAccessChanges(access_change_pb2.ListAccessChangesRequest(page_token="x"))


async def test_a_group_cannot_have_processes_remember_any_number_of_changes(
    auth: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_MOST_CHANGES_OF_A_GROUP", 2)
    create = group_pb2.CreateGroupRequest(display_name="Beta", admin_subject="dev|carol")
    beta = (await groups(auth, "").CreateGroup(create)).group.id
    carol = groups(auth, "dev:carol", beta)
    token = service_token_pb2.CreateServiceTokenRequest(name="build", role=access_pb2.ROLE_OPERATOR)
    token.lifetime.FromTimedelta(timedelta(hours=1))
    await ServiceTokenServiceStub(auth.channel("dev:carol", group=beta)).CreateServiceToken(token)
    one, two, three = (access_change_pb2.RevokeAccessRequest(subject=f"dev|{name}") for name in ("one", "two", "three"))
    for request in (one, two, two, one):
        await carol.RevokeAccess(request)
    for refused_call in (
        carol.RevokeAccess(three),
        carol.SetMember(group_pb2.SetMemberRequest(subject="dev|three", role=access_pb2.ROLE_OPERATOR)),
    ):
        with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
            await refused_call
        assert (refusal.metadata["quota"], refusal.retry_seconds) == ("access_changes", 60)
    await groups(auth, ALICE).RevokeAccess(three)
    revoke = service_token_pb2.RevokeServiceTokenRequest(name="build")
    await ServiceTokenServiceStub(auth.channel("dev:carol", group=beta)).RevokeServiceToken(revoke)
    await carol.RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))


async def test_members_of_a_deleted_group_are_refused_within_seconds_whatever_is_remembered(
    tmp_path: Path, database_url: str
) -> None:
    settings = {"auth": AuthSettings()}
    async with serve_services(
        tmp_path, database_url=database_url, settings=settings, principal_cache_seconds=300
    ) as auth:
        create = group_pb2.CreateGroupRequest(display_name="Beta", admin_subject="dev|dave")
        beta = (await groups(auth, "").CreateGroup(create)).group.id
        dave = groups(auth, "dev:dave", beta)
        await dave.ListMembers(MEMBERS)
        token = await token_of(auth, "dev:dave")
        await groups(auth, "").DeleteGroup(group_pb2.DeleteGroupRequest(id=beta, confirm_id=beta))
        await until_it_fails(lambda: dave.ListMembers(MEMBERS))
        with refused(StatusCode.PERMISSION_DENIED, "GROUP_NOT_MEMBER"):
            await dave.ListMembers(MEMBERS)
        with acting_as(token):
            await until_it_fails(lambda: internal(auth).WhoAmI(WHO))
            with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED"):
                await internal(auth).WhoAmI(WHO)
