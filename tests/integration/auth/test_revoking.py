"""An admin ends what a subject has going, at once and for what was issued until then."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import jwt
import pytest
from grpc import StatusCode

from coxswain.auth.v1 import access_change_pb2, delegation_pb2, group_pb2, principal_pb2
from coxswain.common.v1 import access_pb2
from services.auth.settings import AuthSettings
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
    async with asyncio.timeout(20):
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
    assert await remote.access_changes() == []
    answer = await groups(auth, ALICE).RevokeAccess(access_change_pb2.RevokeAccessRequest(subject="dev|carol"))
    [change] = await remote.access_changes()
    assert (change.subject, change.group_id) == ("dev|carol", "sales")
    assert change.revoked_at == change.changed_at == answer.revoke_time.ToMicroseconds() / 1e6
    with refused(StatusCode.UNIMPLEMENTED, ""):
        await public(auth, ALICE).ListAccessChanges(access_change_pb2.ListAccessChangesRequest())
