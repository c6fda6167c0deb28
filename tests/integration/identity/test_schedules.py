"""A schedule acts as its group while nobody is there: for as long as who saved it last is a member, and no longer."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode
from sqlalchemy import select

from coxswain.auth.v1 import delegation_pb2, group_pb2, principal_pb2
from coxswain.common.v1 import access_pb2
from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.v1 import schedule_pb2 as pb
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from services.auth.settings import OidcIssuer
from services.auth.tables import credential_sessions, grants
from services.common.clock import utc_now
from services.common.db.database import Database
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tables import executions, schedules
from tests.integration.auth.support import guarded_settings, internal, make_service_keys, refused
from tests.integration.identity.support import World, add_crew, ask_as, database_of, question, serve_world
from tests.support.databricks_identity import DatabricksIdentity, User
from tests.support.harness import Harness, serve_services

EAGER = {"orchestrator": OrchestratorSettings(schedule_poll_seconds=0.02)}
NEW_YEAR = "0 0 1 1 *"
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass
class Clock:
    """Lets time pass in the databases, and waits for what comes of it."""

    harness: Harness
    orchestrator: Database
    auth: Database
    ticks: int = 0

    async def fire(self, channel: grpc.aio.Channel, schedule_id: str) -> pb.Schedule:
        """Make a schedule due and return it as it is when it has fired; `channel` is of whoever may see it."""
        self.ticks += 1
        moment = utc_now().replace(microsecond=0) - timedelta(days=1) + timedelta(seconds=self.ticks)
        async with self.orchestrator.write() as connection:
            await connection.execute(
                schedules.update().where(schedules.c.id == schedule_id).values(next_fire_at=moment)
            )
        while True:
            found = (await ScheduleServiceStub(channel).GetSchedule(pb.GetScheduleRequest(id=schedule_id))).schedule
            if found.HasField("last_fire_time") and found.last_fire_time.ToDatetime(UTC) == moment:
                return found
            await asyncio.sleep(0.02)

    async def issue(self, execution_id: str) -> delegation_pb2.IssueExecutionPrincipalResponse:
        """Ask for the principal of an execution, as the worker that runs it does."""
        async with self.orchestrator.read() as connection:
            query = select(executions.c.grant_id).where(executions.c.id == execution_id)
            grant_id = (await connection.execute(query)).scalar_one()
        return await internal(self.harness).IssueExecutionPrincipal(
            delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id=execution_id)
        )


async def add_schedule(channel: grpc.aio.Channel, name: str = "daily", **start: Any) -> pb.Schedule:
    started = execution_pb2.StartExecutionRequest(crew_id=await add_crew(channel), **start)
    schedule = pb.Schedule(name=name, cron=NEW_YEAR, start=started)
    answer = await ScheduleServiceStub(channel).CreateSchedule(pb.CreateScheduleRequest(schedule=schedule))
    made: pb.Schedule = answer.schedule
    return made


async def save(channel: grpc.aio.Channel, schedule: pb.Schedule) -> pb.Schedule:
    request = pb.UpdateScheduleRequest(id=schedule.id, schedule=schedule, update_mask=FieldMask(paths=["*"]))
    answer = await ScheduleServiceStub(channel).UpdateSchedule(request)
    saved: pb.Schedule = answer.schedule
    return saved


async def started_by(channel: grpc.aio.Channel, schedule: pb.Schedule) -> list[str]:
    """Return the subjects for whom a schedule's executions act, in the order of their ids."""
    request = execution_pb2.ListExecutionsRequest(schedule_id=schedule.id)
    listed = await ExecutionServiceStub(channel).ListExecutions(request)
    return [execution.subject for execution in sorted(listed.executions, key=lambda execution: execution.id)]


# ---- users of a workspace


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str) -> AsyncIterator[World]:
    """Looks for due schedules all the time. Bob is an editor of the group "sales", of which Ann is an admin."""
    async with serve_world(
        tmp_path, monkeypatch, database_url=database_url, service_principal=False, settings=EAGER
    ) as served:
        await served.add_member("bob")
        yield served


@pytest.fixture
async def clock(world: World, database_url: str) -> AsyncIterator[Clock]:
    async with (
        database_of(world.harness, database_url, "orchestrator") as orchestrator,
        database_of(world.harness, database_url, "auth") as auth,
    ):
        yield Clock(world.harness, orchestrator, auth)


async def test_a_schedule_outlives_the_token_it_was_saved_with_and_acts_as_the_group(
    world: World, clock: Clock
) -> None:
    token = world.token("bob")
    made = await add_schedule(world.channel(token))
    async with clock.auth.write() as connection:
        await connection.execute(credential_sessions.update().values(expires_at=LONG_AGO))
    with refused(StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
        await world.inference(token).Complete(question("Whose token is this?"))

    anns = world.channel(world.token("ann"))
    fired = await clock.fire(anns, made.id)
    assert not fired.HasField("last_error")
    request = execution_pb2.GetExecutionRequest(id=fired.last_execution_id)
    execution = (await ExecutionServiceStub(anns).GetExecution(request)).execution
    assert (execution.subject, execution.schedule_id) == (world.subject("bob"), made.id)
    assert execution.identity == delegation_pb2.EXECUTION_IDENTITY_GROUP

    issued = await clock.issue(execution.id)
    assert issued.principal.credential_kind == principal_pb2.CREDENTIAL_KIND_GROUP
    assert await ask_as(world, issued.principal_token)() == world.groups_token
    assert {call.bearer for call in world.workspace.llm.calls} == {world.groups_token}


async def test_a_schedule_starts_nothing_for_who_was_removed_until_another_editor_saves_it(
    world: World, clock: Clock
) -> None:
    made = await add_schedule(world.channel(world.token("bob")))
    anns = world.channel(world.token("ann"))
    before = await clock.fire(anns, made.id)
    remove = group_pb2.RemoveMemberRequest(subject=world.subject("bob"))
    await world.groups(world.token("ann")).RemoveMember(remove)

    refusal = await clock.fire(anns, made.id)
    assert refusal.last_error.reason == "DELEGATION_REVOKED"
    assert world.subject("bob") in refusal.last_error.message
    assert refusal.last_execution_id == before.last_execution_id
    assert refusal.next_fire_time == made.next_fire_time, "it goes on trying at its times"
    assert await started_by(anns, made) == [world.subject("bob")]
    with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
        await clock.issue(before.last_execution_id)

    await world.add_member("eve")
    saved = await save(world.channel(world.token("eve")), refusal)
    assert saved.subject == world.subject("eve")
    mended = await clock.fire(anns, made.id)
    assert not mended.HasField("last_error")
    assert await started_by(anns, made) == [world.subject("bob"), world.subject("eve")]
    assert (await clock.issue(mended.last_execution_id)).principal.subject == world.subject("eve")


@pytest.mark.parametrize(
    "on_expiry",
    [
        delegation_pb2.ON_CREDENTIAL_EXPIRY_UNSPECIFIED,
        delegation_pb2.ON_CREDENTIAL_EXPIRY_USE_GROUP_IDENTITY,
    ],
)
async def test_a_schedule_of_a_member_who_became_an_operator_goes_on_with_an_operators_rights(
    world: World, clock: Clock, on_expiry: delegation_pb2.OnCredentialExpiry.ValueType
) -> None:
    made = await add_schedule(world.channel(world.token("bob")), on_credential_expiry=on_expiry)
    await world.add_member("bob", access_pb2.ROLE_OPERATOR)
    fired = await clock.fire(world.channel(world.token("ann")), made.id)
    assert not fired.HasField("last_error"), fired.last_error
    principal = (await clock.issue(fired.last_execution_id)).principal
    assert (principal.subject, principal.role) == (world.subject("bob"), access_pb2.ROLE_OPERATOR)
    assert principal.credential_kind == principal_pb2.CREDENTIAL_KIND_GROUP
    # What operators may not do by hand they cannot do by a schedule they once saved either.
    with refused(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await save(world.channel(world.token("bob")), fired)


# ---- members by a claim


async def test_a_schedule_of_a_member_by_claim_alone_ends_when_the_claim_is_too_old(
    tmp_path: Path, database_url: str
) -> None:
    make_service_keys(tmp_path)
    async with DatabricksIdentity() as issuer:

        def subject(name: str) -> str:
            return f"{issuer.issuer}|{name}"

        def token(name: str, *groups: str) -> str:
            values = {"sub": name, "aud": ["coxswain"], "client_id": None, "scope": None, "groups": groups}
            return issuer.mint(User(user_name=name, id="1"), claims=values)

        trusted = {
            "issuer": issuer.issuer,
            "audiences": ["coxswain"],
            "groups_claim": "groups",
            "groups": {"leads": {"group": "sales", "role": "editor"}},
        }
        auth_settings = guarded_settings(
            oidc_issuers=(OidcIssuer.model_validate(trusted),), bootstrap_admin=subject("ann")
        )
        async with (
            serve_services(
                tmp_path,
                "models",
                "orchestrator",
                database_url=database_url,
                settings=EAGER | {"auth": auth_settings},
                identity_mode="jwt",
            ) as harness,
            database_of(harness, database_url, "orchestrator") as orchestrator,
            database_of(harness, database_url, "auth") as auth,
        ):
            clock = Clock(harness, orchestrator, auth)
            anns = harness.channel(token("ann"))
            made = await add_schedule(harness.channel(token("olga", "leads")))
            before = await clock.fire(anns, made.id)
            assert not before.HasField("last_error")

            async with auth.write() as connection:
                claimed_at = utc_now() - timedelta(seconds=auth_settings.claimed_role_seconds)
                await connection.execute(
                    grants.update().where(grants.c.subject == subject("olga")).values(claimed_at=claimed_at)
                )
            refusal = await clock.fire(anns, made.id)
            assert refusal.last_error.reason == "DELEGATION_REVOKED"
            assert subject("olga") in refusal.last_error.message
            assert await started_by(anns, made) == [subject("olga")]
            with refused(StatusCode.PERMISSION_DENIED, "DELEGATION_REVOKED"):
                await clock.issue(before.last_execution_id)

            # Whoever still has the claim proves it by saving the schedule again; whoever has not cannot.
            with refused(StatusCode.FAILED_PRECONDITION, "GROUP_REQUIRED"):
                await save(harness.channel(token("olga")), refusal)
            await save(harness.channel(token("olga", "leads")), refusal)
            assert not (await clock.fire(anns, made.id)).HasField("last_error")
            assert await started_by(anns, made) == [subject("olga")] * 2
