"""How an execution acts for somebody after their call has ended."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from grpc import StatusCode
from sqlalchemy import select

from coxswain.auth.v1 import delegation_pb2, group_pb2, principal_pb2
from coxswain.common.v1 import access_pb2
from services.auth.settings import AuthSettings
from services.auth.tables import grants
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.grpc.call import acting_as
from tests.integration.auth.support import groups, internal, refused, token_of
from tests.support.harness import Harness


async def delegate(
    auth: Harness, bearer: str, execution_id: str, **terms: delegation_pb2.ExecutionIdentity | int
) -> str:
    with acting_as(await token_of(auth, bearer)):
        request = delegation_pb2.CreateDelegationRequest(execution_id=execution_id, **terms)  # type: ignore[arg-type]
        return (await internal(auth).CreateDelegation(request)).grant_id


async def issue(auth: Harness, grant_id: str, execution_id: str) -> delegation_pb2.IssueExecutionPrincipalResponse:
    return await internal(auth).IssueExecutionPrincipal(
        delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id=execution_id)
    )


async def test_an_execution_gets_principals_through_its_grant_until_it_is_revoked(auth: Harness) -> None:
    grant_id = await delegate(auth, "dev:alice:sales=editor", "run-1")
    principal = (await issue(auth, grant_id, "run-1")).principal
    assert (principal.subject, principal.group_id, principal.role) == ("dev|alice", "sales", 3)
    assert principal.execution_id == "run-1"
    assert principal.credential_kind == principal_pb2.CREDENTIAL_KIND_GROUP
    await internal(auth).RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id="run-1"))
    await internal(auth).RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id="run-1"))
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED") as refusal:
        await issue(auth, grant_id, "run-1")
    assert refusal.metadata == {"execution_id": "run-1"}


async def test_an_executions_principal_is_accepted_by_services(auth: Harness) -> None:
    grant_id = await delegate(auth, "dev:alice:sales=editor", "run-1")
    with acting_as((await issue(auth, grant_id, "run-1")).principal_token):
        me = await internal(auth, "models").WhoAmI(principal_pb2.WhoAmIRequest())
    assert (me.principal.execution_id, me.principal.group_id) == ("run-1", "sales")


async def test_the_same_request_returns_the_same_grant_even_at_the_same_time(auth: Harness) -> None:
    grants = await asyncio.gather(*(delegate(auth, "dev:alice:sales=editor", "run-1") for _ in range(8)))
    assert len(set(grants)) == 1


@pytest.mark.parametrize(
    ("bearer", "terms"),
    [
        ("dev:bob:sales=editor", {}),
        ("dev:alice:legal=editor", {}),
        ("dev:alice:sales=editor", {"identity": delegation_pb2.EXECUTION_IDENTITY_USER}),
        ("dev:alice:sales=editor", {"on_credential_expiry": delegation_pb2.ON_CREDENTIAL_EXPIRY_FAIL}),
    ],
)
async def test_an_execution_has_one_grant_on_one_set_of_terms(
    auth: Harness, bearer: str, terms: dict[str, int]
) -> None:
    await delegate(auth, "dev:alice:sales=editor", "run-1")
    with refused(StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await delegate(auth, bearer, "run-1", **terms)


async def test_a_grant_opens_nothing_for_another_execution(auth: Harness) -> None:
    grant_id = await delegate(auth, "dev:alice:sales=editor", "run-1")
    for wrong in ((grant_id, "run-2"), ("no-such-grant", "run-1")):
        with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
            await issue(auth, *wrong)


async def test_going_on_as_the_group_needs_the_role_editor(auth: Harness) -> None:
    terms = {"on_credential_expiry": delegation_pb2.ON_CREDENTIAL_EXPIRY_USE_GROUP_IDENTITY}
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED") as refusal:
        await delegate(auth, "dev:olga:sales=operator", "run-1", **terms)
    assert refusal.metadata == {"required": "EDITOR", "actual": "OPERATOR"}
    await delegate(auth, "dev:edna:sales=editor", "run-1", **terms)


async def test_an_execution_never_administers_the_installation(auth: Harness) -> None:
    grant_id = await delegate(auth, "", "run-1")
    assert not (await issue(auth, grant_id, "run-1")).principal.platform_admin


async def test_an_execution_of_a_group_passes_on_its_right_but_a_users_does_not(auth: Harness) -> None:
    schedule = await delegate(auth, "dev:alice:sales=editor", "schedule-1")
    with acting_as((await issue(auth, schedule, "schedule-1")).principal_token):
        run = (
            await internal(auth).CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-1"))
        ).grant_id
    assert (await issue(auth, run, "run-1")).principal.role == 3
    own = await delegate(auth, "dev:alice:sales=editor", "run-2", identity=delegation_pb2.EXECUTION_IDENTITY_USER)
    with (
        acting_as((await issue(auth, own, "run-2")).principal_token),
        refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"),
    ):
        await internal(auth).CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-3"))


async def test_only_its_own_subject_renews_a_delegation_and_only_with_a_token(auth: Harness) -> None:
    await delegate(auth, "dev:alice:sales=editor", "run-1", identity=delegation_pb2.EXECUTION_IDENTITY_USER)
    request = delegation_pb2.RenewDelegationRequest(execution_id="run-1")
    for bearer in ("dev:bob:sales=admin", "dev:alice:legal=editor"):
        with acting_as(await token_of(auth, bearer)), refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
            await internal(auth).RenewDelegation(request)
    with (
        acting_as(await token_of(auth, "dev:alice:sales=editor")),
        refused(StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED"),
    ):
        await internal(auth).RenewDelegation(request)


# ---- roles that are no stored memberships


CLAIM_LIFETIME = timedelta(seconds=AuthSettings().claimed_role_seconds)
A_MINUTE = timedelta(minutes=1)


@pytest.fixture
async def database(auth: Harness, database_url: str) -> AsyncIterator[Database]:
    """Auth's own."""
    on_postgres = database_url.startswith("postgresql")
    opened = Database(database_url if on_postgres else f"sqlite:///{auth.data_dir / 'auth.db'}", "auth")
    yield opened
    await opened.close()


async def let_pass(database: Database, time: timedelta) -> None:
    """Make all grants older, as the clock would have; roles claimed before them included."""
    async with database.write() as connection:
        for row in await connection.execute(select(grants)):
            older = {"created_at": row.created_at - time, "claimed_at": row.claimed_at and row.claimed_at - time}
            await connection.execute(grants.update().where(grants.c.id == row.id).values(older))


async def test_a_role_that_only_a_token_carried_counts_for_a_stated_time(auth: Harness, database: Database) -> None:
    grant_id = await delegate(auth, "dev:alice:sales=editor", "run-1")
    await let_pass(database, CLAIM_LIFETIME - A_MINUTE)
    assert (await issue(auth, grant_id, "run-1")).principal.role == 3
    await let_pass(database, A_MINUTE)
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED") as refusal:
        await issue(auth, grant_id, "run-1")
    assert refusal.metadata == {"execution_id": "run-1"}
    assert 'the execution "run-1" belongs to dev|alice' in refusal.message
    assert f"{utc_now():%Y-%m-%d}" in refusal.message or f"{utc_now() - A_MINUTE:%Y-%m-%d}" in refusal.message
    assert "again with a fresh token" in refusal.message
    # What is started anew has a time of its own; what is asked for again has not.
    again = await delegate(auth, "dev:alice:sales=editor", "run-2")
    assert (await issue(auth, again, "run-2")).principal.role == 3
    assert await delegate(auth, "dev:alice:sales=editor", "run-1") == grant_id
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await issue(auth, grant_id, "run-1")


async def test_a_stored_membership_outlives_what_a_token_carried(auth: Harness, database: Database) -> None:
    grant_id = await delegate(auth, "dev:alice:sales=editor", "run-1")
    await let_pass(database, CLAIM_LIFETIME)
    admin = groups(auth, "dev:ada:sales=admin")
    member = group_pb2.SetMemberRequest(subject="dev|alice", role=access_pb2.ROLE_OPERATOR)
    await admin.SetMember(member)
    assert (await issue(auth, grant_id, "run-1")).principal.role == 2
    await let_pass(database, 10 * CLAIM_LIFETIME)
    assert (await issue(auth, grant_id, "run-1")).principal.role == 2
    await admin.RemoveMember(group_pb2.RemoveMemberRequest(subject="dev|alice"))
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await issue(auth, grant_id, "run-1")


async def test_what_a_schedule_starts_has_no_more_time_than_the_schedule(auth: Harness, database: Database) -> None:
    schedule = await delegate(auth, "dev:alice:sales=editor", "schedule-1")
    await let_pass(database, CLAIM_LIFETIME - A_MINUTE)
    with acting_as((await issue(auth, schedule, "schedule-1")).principal_token):
        run = (
            await internal(auth).CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-1"))
        ).grant_id
    with acting_as((await issue(auth, run, "run-1")).principal_token):
        its_own = (
            await internal(auth).CreateDelegation(delegation_pb2.CreateDelegationRequest(execution_id="run-2"))
        ).grant_id
    await let_pass(database, A_MINUTE)
    for grant_id, execution_id in ((schedule, "schedule-1"), (run, "run-1"), (its_own, "run-2")):
        with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
            await issue(auth, grant_id, execution_id)


async def test_grants_of_the_release_before_are_as_old_as_what_was_claimed(auth: Harness, database: Database) -> None:
    grant_id = await delegate(auth, "dev:alice:sales=editor", "run-1")
    async with database.write() as connection:
        await connection.execute(grants.update().values(claimed_at=None))
    assert (await issue(auth, grant_id, "run-1")).principal.role == 3
    await let_pass(database, CLAIM_LIFETIME)
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await issue(auth, grant_id, "run-1")
