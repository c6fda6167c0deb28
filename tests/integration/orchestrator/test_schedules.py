"""Schedules: kept over real gRPC, fired on real databases."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import Select, select

from coxswain.auth.v1.delegation_pb2 import EXECUTION_IDENTITY_GROUP, EXECUTION_IDENTITY_USER
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2, webhook_pb2
from coxswain.orchestrator.v1 import schedule_pb2 as pb
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from coxswain.orchestrator.v1.webhook_service_pb2_grpc import WebhookServiceStub
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import NotFound, PermissionDenied, Unavailable
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.execution import ExecutionIdentity, OnCredentialExpiry, OverlapPolicy, Start
from services.orchestrator.domain.group_event import EventFilter, GroupEvent, Position
from services.orchestrator.domain.schedule import Plan, Schedule
from services.orchestrator.repositories.crews import CrewRepository
from services.orchestrator.repositories.executions import ExecutionRepository
from services.orchestrator.repositories.group_events import GroupEventReader
from services.orchestrator.repositories.schedules import ScheduleRepository
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tables import schedules, webhook_deliveries
from services.orchestrator.usecases import scheduler
from services.orchestrator.usecases.scheduler import Scheduler
from tests.integration.orchestrator.support import (
    EVERY_FIELD,
    create_crew,
    crews,
    executions_of,
    refused,
    start_request,
    working,
)
from tests.integration.orchestrator.use_cases import ALICE, Orchestrator
from tests.support.harness import BOB, Harness, serve_services
from tests.support.webhook_receiver import WebhookReceiver

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceAsyncStub

NEW_YEAR = "0 0 1 1 *"
CAROL = "dev:carol:sales=editor"
OPERATOR = "dev:olga:sales=operator"


def schedules_of(harness: Harness, bearer: str = "dev:alice:sales=admin") -> "ScheduleServiceAsyncStub":
    channel: grpc.aio.Channel = harness.channel(bearer)
    return ScheduleServiceStub(channel)


def schedule(crew_id: str, **fields: Any) -> pb.Schedule:
    given: dict[str, Any] = {"name": "daily", "cron": NEW_YEAR, "start": start_request(crew_id)}
    return pb.Schedule(**given | fields)


def replacing(wanted: pb.Schedule, expected_revision: int = 0) -> pb.UpdateScheduleRequest:
    """Return the request to replace all of a schedule."""
    return pb.UpdateScheduleRequest(
        id=wanted.id, schedule=wanted, update_mask=EVERY_FIELD, expected_revision=expected_revision
    )


async def create(harness: Harness, bearer: str = "dev:alice:sales=admin", **fields: Any) -> pb.Schedule:
    crew = await create_crew(harness, bearer, name=f"crew of {fields.get('name', 'daily')}")
    request = pb.CreateScheduleRequest(schedule=schedule(crew.id, **fields))
    return (await schedules_of(harness, bearer).CreateSchedule(request)).schedule


# ---- keeping


async def test_a_schedule_is_kept_as_it_was_given_and_tells_when_it_fires(harness: Harness) -> None:
    stub = schedules_of(harness)
    made = await create(harness, time_zone="Asia/Kathmandu")
    year = utc_now().astimezone().year
    assert made.next_fire_time.ToDatetime() in {datetime(y, 12, 31, 18, 15) for y in (year, year + 1)}  # noqa: DTZ001
    assert made.start.inputs["topic"].string_value == "ships"
    assert (made.subject, made.start.identity) == ("dev|alice", EXECUTION_IDENTITY_GROUP)
    assert not made.HasField("last_fire_time")
    assert not made.HasField("last_error")
    assert made.create_time == made.update_time
    assert (await stub.GetSchedule(pb.GetScheduleRequest(id=made.id))).schedule == made
    assert list((await stub.ListSchedules(pb.ListSchedulesRequest())).schedules) == [made]


async def test_schedules_are_listed_by_name_in_pages(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = schedules_of(harness)
    for name in ("weekly", "daily", "monthly"):
        await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(crew.id, name=name)))
    names, token = [], ""
    while True:
        page = await stub.ListSchedules(pb.ListSchedulesRequest(page_size=2, page_token=token))
        names += [found.name for found in page.schedules]
        token = page.next_page_token
        if not token:
            break
    assert names == ["daily", "monthly", "weekly"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
        await stub.ListSchedules(pb.ListSchedulesRequest(page_token="forged"))


async def test_names_of_any_letters_are_listed_to_the_last(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = schedules_of(harness)
    names = sorted(letter * 128 for letter in '\U0001f600\u0416\u00e9"')
    for name in names:
        await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(crew.id, name=name)))
    found, token = [], ""
    for _ in names:
        page = await stub.ListSchedules(pb.ListSchedulesRequest(page_size=1, page_token=token))
        found += [one.name for one in page.schedules]
        token = page.next_page_token
    assert (found, token) == (names, "")


async def test_a_change_replaces_all_and_acts_for_who_made_it(harness: Harness) -> None:
    made = await create(harness)
    wanted = pb.Schedule()
    wanted.CopyFrom(made)
    wanted.name, wanted.cron, wanted.paused = "yearly", "0 0 2 1 *", True
    wanted.start.inputs["topic"].string_value = "boats"
    stub = schedules_of(harness, CAROL)
    changed = (await stub.UpdateSchedule(replacing(wanted))).schedule
    assert (changed.id, changed.name, changed.paused, changed.subject) == (made.id, "yearly", True, "dev|carol")
    assert changed.start.inputs["topic"].string_value == "boats"
    assert not changed.HasField("next_fire_time")
    changed.paused = False
    resumed = (await stub.UpdateSchedule(replacing(changed))).schedule
    assert resumed.next_fire_time.ToDatetime().day == 2
    assert (await stub.GetSchedule(pb.GetScheduleRequest(id=made.id))).schedule == resumed


async def test_a_schedule_is_found_changed_and_deleted_by_name(harness: Harness) -> None:
    made = await create(harness)
    stub = schedules_of(harness)
    assert (await stub.GetSchedule(pb.GetScheduleRequest(name="daily"))).schedule == made
    given = pb.Schedule(time_zone="Asia/Kathmandu", start=execution_pb2.StartExecutionRequest(priority=7))
    mask = FieldMask(paths=["timeZone", "start.priority"])
    request = pb.UpdateScheduleRequest(name="daily", schedule=given, update_mask=mask)
    changed = (await stub.UpdateSchedule(request)).schedule
    assert (changed.id, changed.name, changed.cron) == (made.id, "daily", NEW_YEAR)
    assert (changed.time_zone, changed.start.priority) == ("Asia/Kathmandu", 7)
    assert changed.start.inputs == made.start.inputs
    request.update_mask.paths[:] = ["subject"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.UpdateSchedule(request)
    assert "time_zone" in refusal.violations["update_mask.paths[0]"]
    for _ in range(2):
        await stub.DeleteSchedule(pb.DeleteScheduleRequest(name="daily"))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.GetSchedule(pb.GetScheduleRequest(name="daily"))


async def test_a_change_of_what_was_changed_meanwhile_is_refused(harness: Harness) -> None:
    made = await create(harness)
    stub = schedules_of(harness)
    request = replacing(made, expected_revision=made.revision)
    changed = (await stub.UpdateSchedule(request)).schedule
    assert (made.revision, changed.revision) == (1, 2)
    request.schedule.cron = "0 0 2 1 *"
    with refused(grpc.StatusCode.ABORTED, "REVISION_MISMATCH") as refusal:
        await stub.UpdateSchedule(request)
    assert (refusal.metadata["resource"], refusal.metadata["actual"]) == ("schedule", "2")
    assert (await stub.GetSchedule(pb.GetScheduleRequest(id=made.id))).schedule == changed


async def test_a_change_whose_answer_was_lost_can_be_repeated(harness: Harness) -> None:
    made = await create(harness)
    wanted = pb.Schedule()
    wanted.CopyFrom(made)
    wanted.cron = "0 0 2 1 *"
    stub = schedules_of(harness)
    request = replacing(wanted, expected_revision=made.revision)
    first = (await stub.UpdateSchedule(request)).schedule
    again = (await stub.UpdateSchedule(request)).schedule
    assert (again.cron, again.next_fire_time) == (first.cron, first.next_fire_time)


async def test_deleting_twice_is_one_deletion_and_frees_the_name(harness: Harness) -> None:
    made = await create(harness)
    stub = schedules_of(harness)
    for _ in range(2):
        await stub.DeleteSchedule(pb.DeleteScheduleRequest(id=made.id))
    assert not (await stub.ListSchedules(pb.ListSchedulesRequest())).schedules
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.GetSchedule(pb.GetScheduleRequest(id=made.id))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.UpdateSchedule(replacing(made))
    again = await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(made.start.crew_id)))
    assert again.schedule.id != made.id


async def test_a_repeated_request_makes_one_schedule(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = schedules_of(harness)
    request = pb.CreateScheduleRequest(schedule=schedule(crew.id), request_id="r")
    made = await asyncio.gather(*(stub.CreateSchedule(request) for _ in range(5)))
    assert len({answer.schedule.id for answer in made}) == 1
    request.schedule.paused = True
    with refused(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await stub.CreateSchedule(request)


async def test_a_name_is_given_once_in_a_group(harness: Harness) -> None:
    made = await create(harness)
    other = await create(harness, name="other")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS") as refusal:
        await schedules_of(harness).CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(made.start.crew_id)))
    assert "daily" in refusal.message
    other.name = "daily"
    with refused(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        await schedules_of(harness).UpdateSchedule(replacing(other))
    await create(harness, BOB)


async def test_groups_do_not_see_each_others_schedules(harness: Harness) -> None:
    made = await create(harness)
    stub = schedules_of(harness, BOB)
    assert not (await stub.ListSchedules(pb.ListSchedulesRequest())).schedules
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.GetSchedule(pb.GetScheduleRequest(id=made.id))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.UpdateSchedule(replacing(made))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.DeleteSchedule(pb.DeleteScheduleRequest(id=made.id))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(made.start.crew_id)))
    assert (await schedules_of(harness).GetSchedule(pb.GetScheduleRequest(id=made.id))).schedule == made


async def test_operators_see_schedules_and_do_not_change_them(harness: Harness) -> None:
    made = await create(harness)
    stub = schedules_of(harness, OPERATOR)
    assert (await stub.GetSchedule(pb.GetScheduleRequest(id=made.id))).schedule == made
    for call in (
        stub.CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(made.start.crew_id, name="mine"))),
        stub.UpdateSchedule(replacing(made)),
        stub.DeleteSchedule(pb.DeleteScheduleRequest(id=made.id)),
    ):
        with refused(grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await call


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"cron": "0 25 * * *"}, "schedule.cron", "from 0 to 23"),
        ({"cron": "0 0 * * * *"}, "schedule.cron", "five fields"),
        ({"time_zone": "Europe/Zurick"}, "schedule.time_zone", "Europe/Zurich"),
        ({"name": ""}, "schedule.name", ""),
        ({"name": "a\0b"}, "schedule.name", "control character"),
        ({"name": "a\x1b[31m"}, "schedule.name", "control character"),
        ({"cron": "@daily"}, "schedule.cron", "five fields"),
        ({"start": {"crew_id": "", "inputs": {}}}, "schedule.start.crew_id", ""),
        ({"start": {"inputs": {}}}, "schedule.start.crew", ""),
    ],
)
async def test_what_could_never_fire_is_refused_by_field(
    harness: Harness, change: dict[str, Any], field: str, told: str
) -> None:
    crew = await create_crew(harness)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await schedules_of(harness).CreateSchedule(pb.CreateScheduleRequest(schedule=schedule(crew.id, **change)))
    assert told in refusal.violations[field]


async def test_what_could_not_be_started_is_refused_by_field(harness: Harness) -> None:
    crew = await create_crew(harness)
    stub = schedules_of(harness)
    request = pb.CreateScheduleRequest(schedule=schedule(crew.id))
    del request.schedule.start.inputs["topic"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.CreateSchedule(request)
    assert "{topic}" in refusal.violations["schedule.start.inputs.topic"]
    request = pb.CreateScheduleRequest(schedule=schedule(crew.id))
    request.schedule.start.identity = EXECUTION_IDENTITY_USER
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.CreateSchedule(request)
    assert "GROUP" in refusal.violations["schedule.start.identity"]
    request = pb.CreateScheduleRequest(schedule=schedule(crew.id))
    request.schedule.start.model = "nothing"
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await stub.CreateSchedule(request)
    assert "nothing" in refusal.violations["schedule.start.model"]
    request = pb.CreateScheduleRequest(schedule=schedule(crew.id))
    request.schedule.start.crew_revision = 7
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await stub.CreateSchedule(request)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.UpdateSchedule(replacing(schedule(crew.id)))
    assert "id" in refusal.violations


@pytest.mark.parametrize("changed", [False, True])
async def test_broken_rules_and_all_other_faults_are_named_at_once(harness: Harness, changed: bool) -> None:
    stub = schedules_of(harness)
    made = await create(harness, name="kept")
    wanted = schedule(made.start.crew_id, name="", cron="0 25 * * *", time_zone="Europe/Zurick")
    wanted.id = made.id
    start = wanted.start
    del start.inputs["topic"]
    start.inputs["count"].number_value = float("nan")
    start.model, start.priority, start.identity = "nothing", -1, EXECUTION_IDENTITY_USER
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        if changed:
            await stub.UpdateSchedule(replacing(wanted))
        else:
            await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=wanted))
    assert set(refusal.violations) == {
        "schedule.name",
        "schedule.cron",
        "schedule.time_zone",
        "schedule.start.inputs.topic",
        "schedule.start.inputs.count",
        "schedule.start.model",
        "schedule.start.priority",
        "schedule.start.identity",
    }
    assert (await stub.GetSchedule(pb.GetScheduleRequest(id=made.id))).schedule == made


async def test_a_crew_that_is_not_there_is_named_with_other_faults(harness: Harness) -> None:
    stub = schedules_of(harness)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=schedule("nothing", cron="never")))
    assert set(refusal.violations) == {"schedule.cron", "schedule.start.crew"}
    assert "nothing" in refusal.violations["schedule.start.crew"]
    newer = schedule((await create_crew(harness)).id, cron="never")
    newer.start.crew_revision = 7
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=newer))
    assert set(refusal.violations) == {"schedule.cron", "schedule.start.crew_revision"}
    assert "0 for the newest" in refusal.violations["schedule.start.crew_revision"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.CreateSchedule(pb.CreateScheduleRequest())
    assert set(refusal.violations) == {"schedule.name", "schedule.cron", "schedule.start"}
    unknown = schedule("nothing")
    unknown.start.identity = 99  # type: ignore[assignment]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await stub.CreateSchedule(pb.CreateScheduleRequest(schedule=unknown))
    assert "schedule.start.identity" in refusal.violations


# ---- firing, over real gRPC


@pytest.fixture
async def firing(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Harness, Database]]:
    """Services that look for due schedules all the time, and the orchestrator's database."""
    settings = {"orchestrator": OrchestratorSettings(schedule_poll_seconds=0.02)}
    async with (
        serve_services(tmp_path, "models", "orchestrator", database_url=database_url, settings=settings) as served,
        working(served, database_url) as worker,
    ):
        yield served, worker.database


async def make_due(database: Database, **ago: float) -> datetime:
    """Let all schedules fire for a moment that has passed, as the clock would have; return it."""
    moment = (utc_now() - timedelta(**ago)).replace(microsecond=0)
    async with database.write() as connection:
        await connection.execute(schedules.update().values(next_fire_at=moment))
    return moment


async def fired(harness: Harness, schedule_id: str, moment: datetime) -> pb.Schedule:
    """Wait until a schedule has fired for a moment; return it as it is then."""
    stub = schedules_of(harness)
    while True:
        found = (await stub.GetSchedule(pb.GetScheduleRequest(id=schedule_id))).schedule
        if found.HasField("last_fire_time") and found.last_fire_time.ToDatetime(UTC) == moment:
            return found
        await asyncio.sleep(0.02)


async def test_a_due_schedule_starts_one_execution_that_acts_as_the_group(firing: tuple[Harness, Database]) -> None:
    harness, database = firing
    made = await create(harness)
    moment = await make_due(database, seconds=1)
    found = await fired(harness, made.id, moment)
    assert found.next_fire_time == made.next_fire_time
    assert not found.HasField("last_error")
    assert found.update_time == made.update_time, "nobody has changed it"
    stub = executions_of(harness)
    request = execution_pb2.ListExecutionsRequest(schedule_id=made.id)
    [execution] = (await stub.ListExecutions(request)).executions
    execution = (await stub.GetExecution(execution_pb2.GetExecutionRequest(id=execution.id))).execution
    assert (execution.id, execution.schedule_id) == (found.last_execution_id, made.id)
    assert (execution.subject, execution.identity) == ("dev|alice", EXECUTION_IDENTITY_GROUP)
    assert (execution.crew_id, execution.inputs["topic"].string_value) == (made.start.crew_id, "ships")
    ours = await stub.StartExecution(start_request(made.start.crew_id))
    assert ours.execution.schedule_id == ""
    assert [found.id for found in (await stub.ListExecutions(request)).executions] == [execution.id]


async def test_a_schedule_that_cannot_start_anything_says_why_and_fires_again_next_time(
    firing: tuple[Harness, Database],
) -> None:
    harness, database = firing
    made = await create(harness)
    await crews(harness).DeleteCrew(crew_pb2.DeleteCrewRequest(id=made.start.crew_id))
    found = await fired(harness, made.id, await make_due(database, seconds=2))
    assert found.last_error.reason == "NOT_FOUND"
    assert made.start.crew_id in found.last_error.message
    assert found.last_execution_id == ""
    assert found.next_fire_time == made.next_fire_time
    found.paused = True
    paused = (await schedules_of(harness).UpdateSchedule(replacing(found))).schedule
    assert not paused.HasField("last_error"), "what it told of is over"
    found.paused = False
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await schedules_of(harness).UpdateSchedule(replacing(found))
    other = await create_crew(harness, name="other")
    found.start.crew_id = other.id
    await schedules_of(harness).UpdateSchedule(replacing(found))
    mended = await fired(harness, made.id, await make_due(database, seconds=1))
    assert not mended.HasField("last_error")
    assert mended.last_execution_id


async def test_a_schedule_that_starts_nothing_is_told_to_webhooks_and_watchers(
    firing: tuple[Harness, Database],
) -> None:
    harness, database = firing
    made = await create(harness, name="nightly")
    hooks = WebhookServiceStub(harness.channel("dev:alice:sales=admin"))
    kinds = [execution_pb2.EXECUTION_EVENT_KIND_SCHEDULE_STARTED_NOTHING]
    async with WebhookReceiver() as receiver:
        chosen = webhook_pb2.Webhook(url=receiver.url, kinds=kinds, schedule_id=made.id, crew_id=made.start.crew_id)
        hook = (await hooks.CreateWebhook(webhook_pb2.CreateWebhookRequest(webhook=chosen))).webhook
        other = webhook_pb2.Webhook(url=f"{receiver.url}/other", labels={"of": "others"})
        await hooks.CreateWebhook(webhook_pb2.CreateWebhookRequest(webhook=other))
        watching: Any = executions_of(harness).WatchExecutions(execution_pb2.WatchExecutionsRequest(kinds=kinds))
        assert not (await watching.read()).HasField("event")
        await crews(harness).DeleteCrew(crew_pb2.DeleteCrewRequest(id=made.start.crew_id))
        moments = []
        for number in (1, 2):
            moments.append(await make_due(database, seconds=5 - number))
            await fired(harness, made.id, moments[-1])
            await receiver.has(number)
        posted = [json_format.ParseDict(each.body, webhook_pb2.WebhookNotification()) for each in receiver.posted]
        assert {each.path for each in receiver.posted} == {"/"}
        told = posted[0].event.schedule_started_nothing
        assert (told.schedule_id, told.schedule_name, told.error.reason) == (made.id, "nightly", "NOT_FOUND")
        assert [each.event.schedule_started_nothing.due_time.ToDatetime(UTC) for each in posted] == moments
        assert (posted[0].schedule_id, posted[0].crew_id) == (made.id, made.start.crew_id)
        seen = [await watching.read() for _ in moments]
        assert [response.event for response in seen] == [each.event for each in posted]
        # Each delivery is on its own, and can be made again.
        listing = webhook_pb2.ListWebhookDeliveriesRequest(webhook_id=hook.id)
        first = (await hooks.ListWebhookDeliveries(listing)).deliveries[-1]
        assert (first.execution_id, first.sequence, first.kind) == ("", 0, kinds[0])
        await hooks.RetryWebhookDelivery(webhook_pb2.RetryWebhookDeliveryRequest(id=first.id))
        assert (await receiver.has(3))[2].body["id"] == posted[0].id
        # In a database that was restored on another server events are read again.
        of_events = await database.fetch(select(webhook_deliveries.c.event_id))
        assert len({row["event_id"] for row in of_events} - {None}) == 2
        watching.cancel()


async def test_a_schedule_of_a_name_starts_whichever_crew_has_it(firing: tuple[Harness, Database]) -> None:
    harness, database = firing
    first = await create_crew(harness, name="brief")
    planned = schedule("")
    planned.start.crew_name = "brief"
    made = (await schedules_of(harness).CreateSchedule(pb.CreateScheduleRequest(schedule=planned))).schedule
    assert (made.start.crew_name, made.start.crew_id) == ("brief", "")
    await crews(harness).DeleteCrew(crew_pb2.DeleteCrewRequest(id=first.id))
    second = await create_crew(harness, name="brief")
    found = await fired(harness, made.id, await make_due(database, seconds=2))
    request = execution_pb2.GetExecutionRequest(id=found.last_execution_id)
    assert (await executions_of(harness).GetExecution(request)).execution.crew_id == second.id


# ---- firing, with auth played


def plan(orchestrator: Orchestrator, name: str = "daily") -> Plan:
    start = Start(orchestrator.crew_id, 0, {}, {}, "", 0, None, ExecutionIdentity.UNSPECIFIED, OnCredentialExpiry.PARK)
    return Plan(name, NEW_YEAR, "", start, paused=False)


async def created(orchestrator: Orchestrator, name: str = "daily") -> Schedule:
    return await orchestrator.schedules.create(ALICE, plan(orchestrator, name), [], None)


def _replica(orchestrator: Orchestrator) -> Scheduler:
    return Scheduler(orchestrator.database, orchestrator.starter, orchestrator.grants, orchestrator.bus, 3600)


async def test_replicas_start_one_execution_for_each_time(orchestrator: Orchestrator) -> None:
    made = [await created(orchestrator, f"schedule {number}") for number in range(8)]
    replicas = [_replica(orchestrator) for _ in range(4)]
    rows: list[Any] = []
    for turn in range(1, 4):
        await make_due(orchestrator.database, seconds=10 - turn)
        await asyncio.gather(*(replica.once() for replica in replicas))
        rows = await orchestrator.rows()
        assert sorted(row.schedule_id for row in rows) == sorted([one.id for one in made] * turn)
    # Who lost has left no grant behind: those of schedules and executions are all there are.
    assert orchestrator.grants.unrevoked == {one.delegate_id for one in made} | {row.id for row in rows}


async def test_missed_runs_are_caught_up_with_a_single_execution(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    moment = await make_due(orchestrator.database, days=800)
    for _ in range(2):
        await orchestrator.scheduler.once()
    assert len(await orchestrator.rows()) == 1
    after = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert (after.last_fire_at, after.next_fire_at) == (moment, made.next_fire_at)


async def told_to_the_group(database: Database) -> list[GroupEvent]:
    """Return the events of schedules in the group, when all that was stored can be read."""
    while True:
        read = await GroupEventReader(database).after("sales", Position(0, 0), 100)
        if not read.held_back:
            return [each for each in read.events if not each.execution_id]
        await asyncio.sleep(0.02)


async def test_events_of_a_schedule_keep_the_crew_of_its_name_and_its_labels_without_its_start(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(orchestrator)
    start = replace(
        planned.start, crew_id="", crew_name="c", labels={"team": "sales"}, overlap_policy=OverlapPolicy.SKIP
    )
    first = replace(planned, start=start)
    made = await orchestrator.schedules.create(ALICE, first, [], None)
    for seconds in (3, 2):
        await make_due(orchestrator.database, seconds=seconds)
        await orchestrator.scheduler.once()
    changed = replace(first, start=replace(start, labels={"team": "ops"}))
    await orchestrator.schedules.update(ALICE, ResourceKey(made.id), lambda _: (changed, []))
    async with orchestrator.database.write() as connection:
        await CrewRepository(connection).delete(orchestrator.crew_id, utc_now())
    await make_due(orchestrator.database, seconds=1)
    await orchestrator.scheduler.once()
    fetch = orchestrator.database.fetch
    asked: list[str] = []

    async def noted(query: Select[Any]) -> list[dict[str, Any]]:
        asked.append(str(query.compile(dialect=orchestrator.database.engine.dialect)))
        return await fetch(query)

    monkeypatch.setattr(orchestrator.database, "fetch", noted)
    told = await told_to_the_group(orchestrator.database)
    assert [(each.crew_id, each.labels) for each in told] == [
        (orchestrator.crew_id, {"team": "sales"}),
        ("", {"team": "ops"}),
    ]
    chosen = EventFilter(crew_id=orchestrator.crew_id, labels={"team": "sales"})
    assert [chosen.shows(each) for each in told] == [True, False]
    # A start holds inputs of any size, and a page is of hundreds of events.
    assert asked
    assert not any("schedules" in query for query in asked)


async def until_fired(orchestrator: Orchestrator, count: int) -> None:
    """Pass and pass again until as many executions have been started in all."""
    while len(await orchestrator.rows()) < count:
        await orchestrator.scheduler.once()


async def test_a_schedule_stays_due_while_auth_is_away_and_says_so(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    moment = await make_due(orchestrator.database, seconds=5)
    orchestrator.grants.away = True
    await orchestrator.scheduler.once()
    assert await orchestrator.rows() == []
    waiting = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert waiting.last_error is not None
    assert waiting.last_error.reason == "DEPENDENCY_UNAVAILABLE"
    assert (waiting.next_fire_at, waiting.last_fire_at) == (moment, None)
    orchestrator.grants.away = False
    await until_fired(orchestrator, 1)
    after = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert (after.last_fire_at, after.last_error) == (moment, None)


async def test_what_is_postponed_waits_before_it_is_tried_again(orchestrator: Orchestrator) -> None:
    await created(orchestrator)
    await make_due(orchestrator.database, seconds=5)
    orchestrator.grants.away = True
    patient = _replica(orchestrator)
    await patient.once()
    asked = orchestrator.grants.asked
    await patient.once()
    assert orchestrator.grants.asked == asked


async def test_all_that_is_due_is_fired_however_much_is_postponed(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_READ_AT_ONCE", 2)
    made = [await created(orchestrator, f"schedule {number}") for number in range(7)]
    stuck = {one.delegate_id for one in made[:5]}
    await make_due(orchestrator.database, seconds=5)
    issue = orchestrator.grants.issue

    async def broken(grant_id: str, execution_id: str) -> None:
        if execution_id in stuck:
            raise Unavailable("a row of auth's is broken")
        await issue(grant_id, execution_id)

    monkeypatch.setattr(orchestrator.grants, "issue", broken)
    await orchestrator.scheduler.once()
    assert {row.schedule_id for row in await orchestrator.rows()} == {one.id for one in made[5:]}


async def test_a_start_that_hangs_is_postponed(orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await created(orchestrator)
    moment = await make_due(orchestrator.database, seconds=5)
    monkeypatch.setattr(scheduler, "_LONGEST_START_SECONDS", 0.01)

    async def hangs(grant_id: str, execution_id: str) -> None:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    with monkeypatch.context() as hanging:
        hanging.setattr(orchestrator.grants, "issue", hangs)
        await orchestrator.scheduler.once()
    waiting = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert waiting.last_error is not None
    assert "longer than 0.01 s" in waiting.last_error.message
    assert waiting.next_fire_at == moment
    monkeypatch.undo()
    await until_fired(orchestrator, 1)


async def test_whenever_it_is_cancelled_each_time_is_fired_for_once(orchestrator: Orchestrator) -> None:
    await created(orchestrator)
    chance = random.Random(7)
    for turn in range(1, 21):
        await make_due(orchestrator.database, seconds=100 - turn)
        attempt = asyncio.create_task(orchestrator.scheduler.once())
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        await until_fired(orchestrator, turn)
    assert len(await orchestrator.rows()) == 20


async def test_what_fails_before_all_is_stored_leaves_no_grant(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await created(orchestrator)
    await make_due(orchestrator.database, seconds=5)

    async def full(*_: Any) -> None:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(ExecutionRepository, "insert", full)
        await orchestrator.scheduler.once()
    assert orchestrator.grants.unrevoked == {made.delegate_id}
    await until_fired(orchestrator, 1)


async def test_a_refusal_of_this_service_costs_no_time(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await created(orchestrator)
    moment = await make_due(orchestrator.database, seconds=5)

    async def refuses(grant_id: str, execution_id: str) -> None:
        raise PermissionDenied("orchestrator may not", reason="SERVICE_NOT_ALLOWED")

    monkeypatch.setattr(orchestrator.grants, "issue", refuses)
    await orchestrator.scheduler.once()
    waiting = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert waiting.next_fire_at == moment
    assert waiting.last_error is not None
    assert waiting.last_error.reason == "SERVICE_NOT_ALLOWED"


async def test_a_zone_this_process_does_not_know_costs_no_time(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    moment = await make_due(orchestrator.database, seconds=5)
    async with orchestrator.database.write() as connection:
        await connection.execute(schedules.update().values(time_zone="Mars/Olympus"))
    await orchestrator.scheduler.once()
    waiting = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert waiting.next_fire_at == moment
    assert waiting.last_error is not None
    assert "Mars/Olympus" in waiting.last_error.message
    await orchestrator.schedules.update(ALICE, ResourceKey(made.id), lambda _: (plan(orchestrator), []))
    await make_due(orchestrator.database, seconds=4)
    await until_fired(orchestrator, 1)


async def test_a_schedule_without_a_next_time_gets_one_when_it_is_saved_again(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    async with orchestrator.database.write() as connection:
        await connection.execute(schedules.update().values(next_fire_at=None))
    again = await orchestrator.schedules.update(ALICE, ResourceKey(made.id), lambda _: (plan(orchestrator), []))
    assert again.next_fire_at == made.next_fire_at


async def test_who_may_not_act_any_more_is_named_and_the_next_to_save_takes_over(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    orchestrator.grants.unrevoked.clear()
    moment = await make_due(orchestrator.database, seconds=5)
    await orchestrator.scheduler.once()
    failed = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert failed.last_error is not None
    assert (failed.last_error.reason, "dev|alice" in failed.last_error.message) == ("DELEGATION_REVOKED", True)
    assert (failed.last_fire_at, failed.next_fire_at) == (moment, made.next_fire_at)
    await orchestrator.schedules.update(
        replace(ALICE, subject="dev|carol"), ResourceKey(made.id), lambda _: (plan(orchestrator), [])
    )
    await make_due(orchestrator.database, seconds=4)
    await until_fired(orchestrator, 1)
    assert [row.subject for row in await orchestrator.rows()] == ["dev|carol"]


async def test_paused_and_deleted_schedules_do_not_fire(orchestrator: Orchestrator) -> None:
    paused, deleted = await created(orchestrator, "paused"), await created(orchestrator, "deleted")
    await orchestrator.schedules.update(
        ALICE, ResourceKey(paused.id), lambda _: (replace(plan(orchestrator, "paused"), paused=True), [])
    )
    await orchestrator.schedules.delete(ALICE, ResourceKey(deleted.id))
    async with orchestrator.database.read() as connection:
        assert set(await connection.scalars(select(schedules.c.next_fire_at))) == {None}
    await orchestrator.scheduler.once()
    assert await orchestrator.rows() == []
    assert len(orchestrator.grants.unrevoked) == 1


async def test_what_was_read_before_a_change_does_not_fire_after_it(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    moment = await make_due(orchestrator.database, seconds=5)
    issue = orchestrator.grants.issue

    async def changed_meanwhile(grant_id: str, execution_id: str) -> None:
        await issue(grant_id, execution_id)
        wanted = plan(orchestrator)
        wanted = replace(wanted, start=replace(wanted.start, labels={"changed": "yes"}))
        await orchestrator.schedules.update(ALICE, ResourceKey(made.id), lambda _: (wanted, []))
        orchestrator.grants.issue = issue  # type: ignore[method-assign]

    orchestrator.grants.issue = changed_meanwhile  # type: ignore[method-assign]
    await orchestrator.scheduler.once()
    assert await orchestrator.rows() == []
    await until_fired(orchestrator, 1)
    [row] = await orchestrator.rows()
    assert row.labels == {"changed": "yes"}
    after = await orchestrator.schedules.get(ALICE, ResourceKey(made.id))
    assert after.last_fire_at == moment, "the change came when it was due already"
    assert orchestrator.grants.unrevoked == {after.delegate_id, row.id}


async def test_one_schedule_that_fails_unexpectedly_does_not_keep_others_from_firing(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await created(orchestrator, "bad"), await created(orchestrator, "good")
    await make_due(orchestrator.database, seconds=5)
    issue = orchestrator.grants.issue

    async def broken(grant_id: str, execution_id: str) -> None:
        if execution_id == bad.delegate_id:
            raise RuntimeError("the password is hunter2")
        await issue(grant_id, execution_id)

    monkeypatch.setattr(orchestrator.grants, "issue", broken)
    await orchestrator.scheduler.once()
    assert [row.schedule_id for row in await orchestrator.rows()] == [good.id]
    # Nobody knows whether it would fail again: its time is not given up.
    assert (await orchestrator.schedules.get(ALICE, ResourceKey(bad.id))).last_fire_at is None
    told = (await orchestrator.schedules.get(ALICE, ResourceKey(bad.id))).last_error
    assert told is not None
    assert (told.reason, "hunter2" in told.message) == ("INTERNAL", False)


async def test_a_refused_change_leaves_schedule_and_grants_as_they_were(orchestrator: Orchestrator) -> None:
    made = await created(orchestrator)
    await created(orchestrator, "other")
    before = set(orchestrator.grants.unrevoked)
    with pytest.raises(Exception, match="named"):
        await orchestrator.schedules.update(ALICE, ResourceKey(made.id), lambda _: (plan(orchestrator, "other"), []))
    with pytest.raises(Exception, match="named"):
        await created(orchestrator, "other")
    with pytest.raises(NotFound):
        await orchestrator.schedules.update(ALICE, ResourceKey("nothing"), lambda _: (plan(orchestrator), []))
    assert orchestrator.grants.unrevoked == before
    assert await orchestrator.schedules.get(ALICE, ResourceKey(made.id)) == made


async def test_a_time_at_which_nothing_starts_is_counted_by_the_replica_that_stores_it(
    orchestrator: Orchestrator,
) -> None:
    made = await created(orchestrator)
    async with orchestrator.database.write() as connection:
        await CrewRepository(connection).delete(orchestrator.crew_id, utc_now())
    await make_due(orchestrator.database, seconds=1)
    async with orchestrator.database.read() as connection:
        due = await ScheduleRepository(connection).find_due(made.id, utc_now())
    assert due is not None
    counted = scheduler.FIRED.labels("failed")
    before = counted._value.get()
    # Each of them has seen that it is due before another one has stored that it has fired.
    await asyncio.gather(*(_replica(orchestrator)._fire_at(due, utc_now()) for _ in range(3)))
    assert counted._value.get() - before == 1
    assert len(await told_to_the_group(orchestrator.database)) == 1
