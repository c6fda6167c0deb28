"""The operator limits what groups may do and have, over real gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode
from sqlalchemy import update

from coxswain.auth.v1 import group_pb2, secret_pb2
from coxswain.auth.v1.group_limits_pb2 import (
    GetGroupLimitsRequest,
    GetGroupLimitsResponse,
    GroupLimits,
    GroupTraffic,
    LowerGroupLimitsRequest,
    SetGroupLimitsRequest,
    SetGroupLimitsResponse,
    ShareGroupTrafficRequest,
)
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.common.v1 import access_pb2
from services.auth import tables
from services.auth.service import build
from services.auth.settings import AuthSettings
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.hosting import Host
from tests.integration.auth.support import groups, internal, refused, secrets
from tests.support.group_limits import ADMIN, OPERATOR, limit, lower
from tests.support.harness import ALICE, BOB, Harness, serve_services

LIST = group_pb2.ListMembersRequest()


def a_secret(name: str) -> secret_pb2.PutSecretRequest:
    return secret_pb2.PutSecretRequest(name=name, value="a value", allowed_origins=["https://example.com"])


async def limits_of(harness: Harness, bearer: str = ALICE, group_id: str = "") -> GetGroupLimitsResponse:
    return await groups(harness, bearer).GetGroupLimits(GetGroupLimitsRequest(group_id=group_id))


async def test_limits_are_changed_one_by_one_and_shown(auth: Harness) -> None:
    shown = await limits_of(auth)
    assert (shown.group_id, shown.set, shown.effective) == ("sales", GroupLimits(), GroupLimits())
    changed = await limit(auth, max_crews=3, monthly_cost_ceiling=2.5, max_members=-1)
    assert changed.set == GroupLimits(max_crews=3, monthly_cost_ceiling=2.5, max_members=-1)
    assert changed.effective == GroupLimits(max_crews=3, monthly_cost_ceiling=2.5)
    assert (await limit(auth, max_crews=0)).set.max_crews == 0
    changed = await limit(auth, max_crews=None)
    assert changed.set == GroupLimits(monthly_cost_ceiling=2.5, max_members=-1)
    for bearer, group_id in ((ALICE, ""), (OPERATOR, "sales")):
        assert (await limits_of(auth, bearer, group_id)).set == changed.set
    assert (await limits_of(auth, BOB)).set == GroupLimits()
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await limit(auth, monthly_cost_ceiling=-0.5)
    assert refusal.fields == ["limits.monthly_cost_ceiling"]
    everything = SetGroupLimitsRequest(group_id="sales", update_mask=FieldMask(paths=["*"]))
    assert (await groups(auth, OPERATOR).SetGroupLimits(everything)).set == GroupLimits()


async def test_only_the_operator_changes_limits_and_looks_at_those_of_others(auth: Harness) -> None:
    change = SetGroupLimitsRequest(
        group_id="sales", limits=GroupLimits(max_crews=9), update_mask=FieldMask(paths=["max_crews"])
    )
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await groups(auth, ALICE).SetGroupLimits(change)
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await limits_of(auth, ALICE, "legal")
    with refused(StatusCode.NOT_FOUND, "NOT_FOUND"):
        await limits_of(auth, OPERATOR, "no-such-group")
    change.update_mask.Clear()
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await groups(auth, OPERATOR).SetGroupLimits(change)
    assert refusal.fields == ["update_mask"]
    change.update_mask.paths.append("maxCrews")
    change.limits.max_crews = -2
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await groups(auth, OPERATOR).SetGroupLimits(change)
    assert refusal.fields == ["limits.max_crews"]
    assert (await limits_of(auth)).set == GroupLimits()


async def test_an_admin_lowers_the_limits_of_the_group_and_of_both_the_smaller_counts(auth: Harness) -> None:
    await limit(auth, max_crews=5, calls_per_minute=600, monthly_cost_ceiling=9.5)
    lowered = await lower(auth, max_crews=3, max_secrets=1, calls_burst=200, monthly_cost_ceiling=2.5)
    assert lowered.lowered == GroupLimits(max_crews=3, max_secrets=1, calls_burst=200, monthly_cost_ceiling=2.5)
    assert lowered.effective == GroupLimits(
        max_crews=3, max_secrets=1, calls_burst=200, calls_per_minute=600, monthly_cost_ceiling=2.5
    )
    shown = await limits_of(auth, ALICE)
    assert (shown.lowered, shown.effective) == (lowered.lowered, lowered.effective)
    assert shown.set == GroupLimits(max_crews=5, calls_per_minute=600, monthly_cost_ceiling=9.5)
    assert (await limits_of(auth, BOB)).effective == GroupLimits()
    # Obeyed at once, by that group alone.
    await secrets(auth, ADMIN).PutSecret(a_secret("one"))
    with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await secrets(auth, ADMIN).PutSecret(a_secret("two"))
    assert refusal.metadata == {"quota": "max_secrets", "limit": "1", "used": "1"}
    # The operator's later changes: theirs count where they are smaller, and lift nothing that the group has lowered.
    assert (await limit(auth, max_crews=2)).effective.max_crews == 2
    assert (await limit(auth, max_crews=-1)).effective.max_crews == 3
    assert (await limit(auth, calls_per_minute=100)).effective.calls_burst == 100
    # An absent field is the operator's again.
    back = await lower(auth, max_secrets=None, calls_burst=None)
    assert back.lowered == GroupLimits(max_crews=3, monthly_cost_ceiling=2.5)
    everything = LowerGroupLimitsRequest(update_mask=FieldMask(paths=["*"]))
    assert (await groups(auth, ADMIN).LowerGroupLimits(everything)).lowered == GroupLimits()
    assert (await limits_of(auth)).set == GroupLimits(max_crews=-1, calls_per_minute=100, monthly_cost_ceiling=9.5)


async def test_a_platform_admin_clears_what_a_groups_admins_have_lowered(auth: Harness) -> None:
    await limit(auth, max_crews=5, max_models=5)
    await lower(auth, max_crews=3, max_models=2, calls_per_minute=1)

    async def clear(*paths: str, **more: Any) -> SetGroupLimitsResponse:
        request = SetGroupLimitsRequest(group_id="sales", clear_lowered=FieldMask(paths=paths), **more)
        return await groups(auth, OPERATOR).SetGroupLimits(request)

    cleared = await clear("max_crews")
    assert cleared.lowered == GroupLimits(max_models=2, calls_per_minute=1)
    assert cleared.effective == GroupLimits(max_crews=5, max_models=2, calls_per_minute=1)
    assert cleared.set == GroupLimits(max_crews=5, max_models=5)
    both = await clear("*", limits=GroupLimits(max_models=9), update_mask=FieldMask(paths=["maxModels"]))
    assert (both.lowered, both.effective) == (GroupLimits(), GroupLimits(max_crews=5, max_models=9))
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await clear("max_boats")
    assert refusal.fields == ["clear_lowered.paths[0]"]
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await clear()
    assert refusal.fields == ["update_mask"]


async def test_an_admin_lifts_a_limit_of_calls_that_is_used_up(auth: Harness) -> None:
    await lower(auth, calls_per_minute=1)
    await groups(auth, ALICE).ListMembers(LIST)
    with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await groups(auth, ADMIN).ListMembers(LIST)
    # The group itself has set it.
    assert "GetGroupLimits" in refusal.message
    await lower(auth, calls_per_minute=None)
    await groups(auth, ADMIN).ListMembers(LIST)


async def test_no_admin_lifts_a_limit_above_the_operators(auth: Harness) -> None:
    await limit(auth, max_crews=5, max_schedules=0, calls_per_minute=600, monthly_cost_ceiling=9.5)
    before = await limits_of(auth, ADMIN)
    wrong: list[tuple[str, Any]] = [
        ("max_crews", 6),
        ("max_crews", -1),
        ("max_crews", 10**9),
        ("max_secrets", -1),
        ("max_schedules", 1),
        ("calls_per_minute", 601),
        ("calls_per_minute", 0),
        ("calls_burst", 601),
        ("monthly_cost_ceiling", 9.6),
        ("monthly_cost_ceiling", -0.5),
    ]
    for name, value in wrong:
        with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            # With one that would be allowed: nothing of a wrong request is kept.
            await lower(auth, max_members=1, **{name: value})
        assert refusal.fields == [f"limits.{name}"]
    with refused(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await lower(auth)
    assert refusal.fields == ["update_mask"]
    assert await limits_of(auth, ADMIN) == before


async def test_who_is_no_admin_of_the_group_lowers_nothing_of_it(auth: Harness) -> None:
    before = await limits_of(auth, ADMIN)
    request = LowerGroupLimitsRequest(limits=GroupLimits(max_crews=0), update_mask=FieldMask(paths=["max_crews"]))
    for bearer in ("dev:olaf:sales=operator", "dev:ed:sales=editor", "dev:bob:legal=admin", "dev:mallory", OPERATOR):
        headers = (("authorization", f"Bearer {bearer}"), ("x-group-id", "sales"))
        call = GroupServiceStub(auth.channel("")).LowerGroupLimits(request, metadata=headers)
        assert await call.code() is StatusCode.PERMISSION_DENIED, bearer
    await lower(auth, "dev:bob:legal=admin", max_crews=0)
    assert await limits_of(auth, ADMIN) == before


@pytest.fixture
def still(auth: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clocks, so that no call is given back meanwhile."""
    now = utc_now()
    monkeypatch.setattr("services.auth.usecases.group_traffic.utc_now", lambda: now)
    monkeypatch.setattr(auth.host._listeners[0]._pipeline._traffic, "_clock", lambda: 1000.0)


@pytest.mark.usefixtures("still")
async def test_calls_over_the_limit_are_refused_to_that_group_alone_until_it_is_lifted(auth: Harness) -> None:
    alice, bob = groups(auth, ALICE), groups(auth, BOB)
    await limit(auth, calls_per_minute=3)
    for _ in range(3):
        await alice.ListMembers(LIST)
    with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await alice.ListMembers(LIST)
    assert refusal.metadata == {"quota": "calls_per_minute", "limit": "3", "used": "3"}
    assert refusal.retry_seconds == 20
    for _ in range(5):
        await bob.ListMembers(LIST)
    shown = await eventually_used(auth)
    assert (shown.effective.calls_per_minute, shown.used.calls_per_minute) == (3, 3)
    # Without a restart, and at once in the process of auth.
    await limit(auth, calls_per_minute=None)
    for _ in range(5):
        await alice.ListMembers(LIST)


async def eventually_used(harness: Harness) -> GetGroupLimitsResponse:
    """Return the limits of the group when the calls of all processes have been added up."""
    async with asyncio.timeout(60):
        while True:
            shown = await limits_of(harness, OPERATOR, "sales")
            if shown.used.calls_per_minute:
                return shown
            await asyncio.sleep(0.1)


async def test_none_allowed_is_not_forever_for_who_can_change_it(auth: Harness) -> None:
    await limit(auth, "ops", calls_per_minute=0)
    with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await groups(auth, OPERATOR).ListMembers(LIST)
    assert refusal.retry_seconds is None
    await limit(auth, "ops", calls_per_minute=None)
    await groups(auth, OPERATOR).ListMembers(LIST)


async def test_members_and_secrets_are_limited_also_when_they_come_at_once(auth: Harness) -> None:
    await limit(auth, max_members=2, max_secrets=1)
    alice = groups(auth, ALICE)
    invitations = [
        group_pb2.SetMemberRequest(subject=f"dev|guest{number}", role=access_pb2.ROLE_OPERATOR) for number in range(6)
    ]
    outcomes = await asyncio.gather(*(alice.SetMember(each) for each in invitations), return_exceptions=True)
    assert sum(isinstance(each, group_pb2.SetMemberResponse) for each in outcomes) == 2
    put = [a_secret(f"key{number}") for number in range(4)]
    stored = await asyncio.gather(*(secrets(auth, ALICE).PutSecret(each) for each in put), return_exceptions=True)
    assert sum(isinstance(each, secret_pb2.PutSecretResponse) for each in stored) == 1
    with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await alice.SetMember(group_pb2.SetMemberRequest(subject="dev|late", role=access_pb2.ROLE_OPERATOR))
    assert refusal.metadata == {"quota": "max_members", "limit": "2", "used": "2"}
    # What stands can be changed.
    kept = (await alice.ListMembers(LIST)).members[0].subject
    await alice.SetMember(group_pb2.SetMemberRequest(subject=kept, role=access_pb2.ROLE_EDITOR))
    name = (await secrets(auth, ALICE).ListSecrets(secret_pb2.ListSecretsRequest())).secrets[0].name
    await secrets(auth, ALICE).PutSecret(a_secret(name))
    used = (await limits_of(auth)).used
    assert (used.max_members, used.max_secrets) == (2, 1)
    await groups(auth, BOB).SetMember(invitations[0])


async def test_the_installations_defaults_count_where_nothing_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COXSWAIN_LIMIT_MAX_SECRETS", "0")
    monkeypatch.setenv("COXSWAIN_LIMIT_MAX_MEMBERS", "5")
    monkeypatch.setenv("COXSWAIN_LIMIT_MAX_CREWS", "-1")
    async with serve_services(tmp_path) as auth:
        assert (await limits_of(auth)).effective == GroupLimits(max_secrets=0, max_members=5)
        with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED"):
            await secrets(auth, ALICE).PutSecret(a_secret("key"))
        assert (await limit(auth, max_secrets=-1)).effective == GroupLimits(max_members=5)
        await secrets(auth, ALICE).PutSecret(a_secret("key"))


@pytest.mark.usefixtures("still")
async def test_processes_tell_each_other_what_they_have_seen(auth: Harness) -> None:
    await limit(auth, calls_per_minute=60, calls_burst=50, max_open_streams=9)

    async def share(process: str, calls: int, streams: int) -> tuple[float, int]:
        told = GroupTraffic(group_id="sales", calls=calls, open_streams=streams)
        request = ShareGroupTrafficRequest(process_id=process, groups=[told])
        (shared,) = (await internal(auth).ShareGroupTraffic(request)).groups
        return shared.calls_left, shared.other_streams

    assert await share("one", 20, 2) == (30, 0)
    assert await share("two", 20, 3) == (10, 2)
    assert await share("one", 0, 0) == (10, 3)
    assert await share("two", 0, 0) == (10, 0)
    assert await share("two", 40, 0) == (-30, 0)


@pytest.mark.usefixtures("still")
async def test_what_a_process_tells_again_counts_once_and_only_limited_calls_are_answered(auth: Harness) -> None:
    await limit(auth, calls_per_minute=60, calls_burst=50, max_open_streams=9)
    told = GroupTraffic(group_id="sales", calls=20)

    async def share(process: str, sequence: int) -> float:
        request = ShareGroupTrafficRequest(process_id=process, sequence=sequence, groups=[told])
        (shared,) = (await internal(auth).ShareGroupTraffic(request)).groups
        return shared.calls_left

    assert [await share("one", 1), await share("one", 1), await share("two", 1)] == [30, 30, 10]
    assert [await share("one", 2), await share("one", 1), await share("one", 2)] == [-10, -10, -10]
    await limit(auth, calls_per_minute=None)
    request = ShareGroupTrafficRequest(process_id="one", sequence=3, groups=[told])
    (shared,) = (await internal(auth).ShareGroupTraffic(request)).groups
    assert not shared.HasField("calls_left")


@contextlib.asynccontextmanager
async def another_process(auth: Harness) -> AsyncIterator[str]:
    """Serve the same database a second time, as another replica does; yield its public address."""
    settings = auth.host._settings
    host = Host(settings, {})
    service = await host.add("auth", build, AuthSettings())
    port, _ = await host.open(
        public_address="127.0.0.1:0", internal_address=f"unix:{auth.data_dir}/second.sock", identity=service.identity
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await host.close(1)


async def test_two_replicas_share_the_calls_of_a_group(auth: Harness) -> None:
    await limit(auth, calls_per_minute=6, calls_burst=10)
    async with another_process(auth) as address, grpc.aio.insecure_channel(address) as channel:
        for _ in range(10):
            await groups(auth, ALICE).ListMembers(LIST)
        await eventually_used(auth)
        elsewhere = GroupServiceStub(channel)
        refusals = 0
        # It learns of the others' calls with its next exchange after its own first one.
        async with asyncio.timeout(60):
            while not refusals:
                call = elsewhere.ListMembers(LIST, metadata=(("authorization", f"Bearer {ALICE}"),))
                refusals += await call.code() is StatusCode.RESOURCE_EXHAUSTED
                await asyncio.sleep(0.3)


async def test_a_subject_uses_so_many_credentials_at_the_same_time(tmp_path: Path, database_url: str) -> None:
    settings = {"auth": AuthSettings(sessions_per_subject=2)}
    async with serve_services(tmp_path, settings=settings, database_url=database_url) as auth:
        one, two, three = (f"dev:alice:sales=operator,team{number}=operator" for number in range(3))
        for bearer in (one, two, one):
            await groups(auth, bearer, "sales").ListMembers(LIST)
        for bearer in (three, three):
            with refused(StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
                await groups(auth, bearer, "sales").ListMembers(LIST)
            assert refusal.metadata == {"quota": "sessions_per_subject", "limit": "2", "used": "2"}
            assert refusal.retry_seconds is not None
            assert refusal.retry_seconds >= 1
        # What is in use stays so, and others are not concerned.
        for bearer in (one, two, "dev:olaf:sales=operator"):
            await groups(auth, bearer, "sales").ListMembers(LIST)
        # One that has expired makes room.
        database: Database = auth.services["auth"]._database  # type: ignore[attr-defined]
        async with database.write() as connection:
            await connection.execute(update(tables.credential_sessions).values(expires_at=utc_now()))
        await groups(auth, three, "sales").ListMembers(LIST)
