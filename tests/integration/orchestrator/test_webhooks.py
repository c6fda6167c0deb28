"""Webhooks over real gRPC, with a receiver on this machine."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from prometheus_client import REGISTRY
from sqlalchemy import func, select, text
from sqlalchemy.dialects import sqlite

from coxswain.auth.v1 import group_pb2
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.common.v1.access_pb2 import ROLE_OPERATOR
from coxswain.orchestrator.v1 import execution_pb2 as pb
from coxswain.orchestrator.v1 import webhook_pb2
from coxswain.orchestrator.v1.schedule_pb2 import CreateScheduleRequest, Schedule
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from coxswain.orchestrator.v1.webhook_service_pb2_grpc import WebhookServiceStub
from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.egress import AddressPolicy
from services.common.http import EgressClient
from services.common.identity.access_changes import EVERYBODY, AccessChange
from services.orchestrator import webhook_client
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.group_event import EventFilter, Position
from services.orchestrator.domain.webhook import Attempt, Backlog, Delivery, DeliveryState, Webhook, WebhookPlan
from services.orchestrator.events import new_event
from services.orchestrator.lease_store import LeaseStore
from services.orchestrator.push_credentials import PushCredentials
from services.orchestrator.repositories.events import EventRepository
from services.orchestrator.repositories.webhook_work import WebhookWork, execution_news, read_webhook_work
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tables import executions, webhook_deliveries, webhooks
from services.orchestrator.usecases import (
    webhook_intake,
    webhook_limits,
    webhook_places,
    webhook_sender,
    webhook_sources,
)
from services.orchestrator.usecases.waiting_work import WaitingWork
from services.orchestrator.usecases.webhook_groups import WebhookGroups
from services.orchestrator.usecases.webhook_sources import Found
from services.orchestrator.webhook_client import SigningKeys, WebhookClient
from tests.integration.orchestrator.support import (
    EVERY_FIELD,
    Worker,
    create_crew,
    executions_of,
    refused,
    start,
    start_request,
    working,
)
from tests.integration.orchestrator.use_cases import Orchestrator
from tests.support.harness import ALICE, BOB, Harness, serve_services
from tests.support.http_emulator import Gate
from tests.support.pages import recipe
from tests.support.webhook_receiver import Posted, WebhookReceiver

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.webhook_service_pb2_grpc import WebhookServiceAsyncStub

CODE = grpc.StatusCode
KIND = pb.ExecutionEventKind
STATE = webhook_pb2.WebhookDeliveryState
SUCCEEDED = pb.ExecutionSucceeded(result=pb.TaskOutput(text="brief"))


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver() as started:
        yield started


def webhooks_of(harness: Harness, bearer: str = ALICE) -> "WebhookServiceAsyncStub":
    channel: grpc.aio.Channel = harness.channel(bearer)
    return WebhookServiceStub(channel)


async def create(harness: Harness, url: str, bearer: str = ALICE, **fields: Any) -> webhook_pb2.CreateWebhookResponse:
    request = webhook_pb2.CreateWebhookRequest(webhook=webhook_pb2.Webhook(url=url, **fields))
    return await webhooks_of(harness, bearer).CreateWebhook(request)


async def finish(worker: Worker, execution_id: str, tasks: int = 3) -> None:
    """Run an execution: with its start it has `tasks` and three events."""
    await worker.claim(execution_id)
    for _ in range(tasks):
        await worker.emit(execution_id, pb.TaskStarted(agent_role="Reader"))
    await worker.end(execution_id, ExecutionState.SUCCEEDED, SUCCEEDED)


async def deliveries_of(harness: Harness, webhook_id: str, **fields: Any) -> list[webhook_pb2.WebhookDelivery]:
    request = webhook_pb2.ListWebhookDeliveriesRequest(webhook_id=webhook_id, **fields)
    return list((await webhooks_of(harness).ListWebhookDeliveries(request)).deliveries)


async def eventually(
    harness: Harness, webhook_id: str, condition: Callable[[list[webhook_pb2.WebhookDelivery]], Any], **fields: Any
) -> list[webhook_pb2.WebhookDelivery]:
    """Wait until the deliveries, newest first, meet a condition."""
    async with asyncio.timeout(60):
        while True:
            if condition(found := await deliveries_of(harness, webhook_id, **fields)):
                return found
            await asyncio.sleep(0.05)


async def eventually_in(harness: Harness, webhook_id: str, state: Any, count: int) -> list[webhook_pb2.WebhookDelivery]:
    """Wait until so many deliveries are in a state."""
    return await eventually(harness, webhook_id, lambda found: len(found) >= count, state=state)


def sequences(posted: list[Posted], execution_id: str) -> list[int]:
    """Return the events of one execution in the order in which they were first taken."""
    return list(
        dict.fromkeys(sequence for execution, sequence in (each.event for each in posted) if execution == execution_id)
    )


def verifier() -> Callable[..., bool]:
    """Return what the page tells receivers to do."""
    names: dict[str, Any] = {}
    exec(recipe("webhooks.md", "What is posted", "python"), names)
    verify: Callable[..., bool] = names["verify"]
    return verify


async def test_a_group_gets_its_events_in_order_and_signed_and_no_other_groups(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    ours = await create(harness, f"{receiver.url}/ours")
    theirs = await create(harness, f"{receiver.url}/theirs", BOB)
    chosen = await create(
        harness,
        f"{receiver.url}/chosen",
        labels={"team": "a"},
        kinds=[KIND.EXECUTION_EVENT_KIND_EXECUTION_SUCCEEDED, KIND.EXECUTION_EVENT_KIND_QUESTION_RAISED],
    )
    one, two = await start(harness, labels={"team": "a"}), await start(harness)
    other = await start(harness, BOB)
    await finish(worker, one.id)
    await executions_of(harness).CancelExecution(pb.CancelExecutionRequest(id=two.id))
    posted = await receiver.has(8, "/ours")
    assert sequences(posted, one.id) == [1, 2, 3, 4, 5, 6]
    assert sequences(posted, two.id) == [1, 2]
    assert [each.event for each in await receiver.has(1, "/theirs")] == [(other.id, 1)]
    [told] = await receiver.has(1, "/chosen")
    assert (told.event, told.body["labels"], told.body["crewId"]) == ((one.id, 6), {"team": "a"}, one.crew_id)
    assert "result" not in told.body["event"]["executionSucceeded"], "results can be large: they are read on their own"
    # No receiver but the one with the key takes it, nor with anything changed.
    verify = verifier()
    for each in posted:
        assert verify(ours.signing_key, each.headers, each.raw)
        assert each.headers["Idempotency-Key"] == each.headers["webhook-id"] == each.body["id"]
    first = posted[0]
    assert not verify(theirs.signing_key, first.headers, first.raw)
    assert not verify(ours.signing_key, first.headers, first.raw + b" ")
    assert not verify(ours.signing_key, {**first.headers, "webhook-timestamp": "1"}, first.raw)
    made = await eventually_in(harness, ours.webhook.id, STATE.WEBHOOK_DELIVERY_STATE_DELIVERED, 8)
    assert {(each.attempts, each.last_status_code, each.last_error) for each in made} == {(1, 204, "")}
    assert {each.kind for each in made} >= {KIND.EXECUTION_EVENT_KIND_EXECUTION_CANCELLED}
    # The key is in no answer after the first, and in no row.
    listed = await webhooks_of(harness).ListWebhooks(webhook_pb2.ListWebhooksRequest())
    assert [each.id for each in listed.webhooks] == [ours.webhook.id, chosen.webhook.id]
    secret = ours.signing_key.removeprefix("whsec_")
    assert len(secret) == 44
    assert secret not in str(listed)
    async with worker.database.read() as connection:
        rows = [
            str(row) for table in (webhooks, webhook_deliveries) for row in await connection.execute(table.select())
        ]
    assert not any(secret in row for row in rows)
    # Of another group's nothing can be seen or done.
    stub, webhook_id = webhooks_of(harness, BOB), ours.webhook.id
    for call in (
        stub.GetWebhook(webhook_pb2.GetWebhookRequest(id=webhook_id)),
        stub.UpdateWebhook(webhook_pb2.UpdateWebhookRequest(id=webhook_id, update_mask=EVERY_FIELD)),
        stub.ListWebhookDeliveries(webhook_pb2.ListWebhookDeliveriesRequest(webhook_id=webhook_id)),
        stub.RetryWebhookDelivery(webhook_pb2.RetryWebhookDeliveryRequest(id=made[0].id)),
    ):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await call
    assert not (await stub.DeleteWebhook(webhook_pb2.DeleteWebhookRequest(id=webhook_id))).deleted


async def test_an_execution_is_started_with_a_webhook_of_its_own(
    harness: Harness, worker: Worker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await start(harness)
    wanted = pb.ExecutionWebhook(
        url=receiver.url,
        kinds=[KIND.EXECUTION_EVENT_KIND_EXECUTION_QUEUED, KIND.EXECUTION_EVENT_KIND_EXECUTION_SUCCEEDED],
    )
    request = pb.StartExecutionRequest(crew_id=other.crew_id, inputs=other.inputs, request_id="mine", webhook=wanted)
    stub = executions_of(harness, "dev:olga:sales=operator")
    with monkeypatch.context() as patched:
        # What is committed does not fail any more.
        patched.delattr(WebhookRepository, "page")
        started = await stub.StartExecution(request)
    assert started == await stub.StartExecution(request)
    one = started.execution.id
    await asyncio.gather(finish(worker, one), finish(worker, other.id))
    posted = await receiver.has(2)
    assert [each.event for each in posted] == [(one, 1), (one, 6)]
    assert all(verifier()(started.webhook_signing_key, each.headers, each.raw) for each in receiver.posted)
    hooks = webhooks_of(harness)
    [webhook] = (await hooks.ListWebhooks(webhook_pb2.ListWebhooksRequest(execution_id=one))).webhooks
    assert (webhook.execution_id, webhook.task_id, list(webhook.kinds)) == (one, "", list(wanted.kinds))
    assert not (await hooks.ListWebhooks(webhook_pb2.ListWebhooksRequest())).webhooks
    all_of_them = webhook_pb2.ListWebhooksRequest(single_executions=True)
    assert list((await hooks.ListWebhooks(all_of_them)).webhooks) == [webhook]
    assert not (await webhooks_of(harness, BOB).ListWebhooks(all_of_them)).webhooks
    assert [each.sequence for each in await deliveries_of(harness, webhook.id)] == [6, 1]

    async def finished() -> bool:
        async with worker.database.read() as connection:
            return bool((await connection.execute(select(webhooks.c.finished))).scalar_one())

    async with asyncio.timeout(60):
        while not await finished():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    # The next key is an admin's.
    await hooks.RotateWebhookSigningKey(webhook_pb2.RotateWebhookSigningKeyRequest(id=webhook.id))
    again = await stub.StartExecution(request)
    assert (again.execution.id, again.webhook_signing_key) == (one, "")
    for url in ("https://10.0.0.1/", ""):
        bad = pb.StartExecutionRequest(crew_id=other.crew_id, inputs=other.inputs, webhook=pb.ExecutionWebhook(url=url))
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await stub.StartExecution(bad)
        assert set(refusal.violations) == {"webhook.url"}
    channel: grpc.aio.Channel = harness.channel(ALICE)
    schedule = Schedule(name="daily", cron="0 6 * * *", start=request)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await ScheduleServiceStub(channel).CreateSchedule(CreateScheduleRequest(schedule=schedule))
    assert set(refusal.violations) == {"schedule.start.webhook"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_new_key_signs_beside_the_former_one_for_a_while(harness: Harness, receiver: WebhookReceiver) -> None:
    stub, verify = webhooks_of(harness), verifier()
    made = await create(harness, receiver.url)
    request = webhook_pb2.RotateWebhookSigningKeyRequest(id=made.webhook.id, request_id="first")
    rotated, repeated = await stub.RotateWebhookSigningKey(request), await stub.RotateWebhookSigningKey(request)
    assert rotated == repeated
    assert rotated.webhook.revision == 2
    assert rotated.signing_key != made.signing_key
    await start(harness)
    [posted] = await receiver.has(1)
    signatures = posted.headers["webhook-signature"].split()
    alone = [dict(posted.headers) | {"webhook-signature": signature} for signature in signatures]
    assert [verify(rotated.signing_key, headers, posted.raw) for headers in alone] == [True, False]
    assert [verify(made.signing_key, headers, posted.raw) for headers in alone] == [False, True]
    # What others have seen is no key from now on.
    request = webhook_pb2.RotateWebhookSigningKeyRequest(id=made.webhook.id, former_key_lifetime=Duration())
    last = await stub.RotateWebhookSigningKey(request)
    await start(harness)
    posted = (await receiver.has(2))[1]
    assert verify(last.signing_key, posted.headers, posted.raw)
    assert len(posted.headers["webhook-signature"].split()) == 1
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await webhooks_of(harness, BOB).RotateWebhookSigningKey(request)
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await webhooks_of(harness, "dev:eve:sales=editor").RotateWebhookSigningKey(request)


async def test_failures_of_the_receiver_lose_nothing_and_keep_the_order(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    made = await create(harness, receiver.url)
    receiver.fail_each = 5
    ids = [(await start(harness)).id for _ in range(3)]
    await asyncio.gather(*(finish(worker, execution_id, 2) for execution_id in ids))
    posted = await receiver.has(15)
    for execution_id in ids:
        assert sequences(posted, execution_id) == [1, 2, 3, 4, 5]
    failed = [each for each in receiver.posted if each.status == 503]
    assert len(failed) >= 3
    # What is made again is the same delivery, with a new signature.
    keys = {each.event: each.headers["Idempotency-Key"] for each in receiver.posted}
    assert all(keys[each.event] == each.headers["Idempotency-Key"] for each in receiver.posted)
    delivered = await eventually_in(harness, made.webhook.id, STATE.WEBHOOK_DELIVERY_STATE_DELIVERED, 15)
    assert max(each.attempts for each in delivered) >= 2


async def test_a_receiver_that_is_down_gets_everything_when_it_is_back(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    made = await create(harness, receiver.url)
    await receiver.stop()
    one = await start(harness)
    await finish(worker, one.id)
    first = (await eventually(harness, made.webhook.id, lambda found: found and found[-1].attempts))[-1]
    assert (first.sequence, first.last_status_code) == (1, 0)
    assert first.last_error == "the receiver could not be reached (ClientConnectorError)"
    waiting = await deliveries_of(harness, made.webhook.id, state=STATE.WEBHOOK_DELIVERY_STATE_PENDING)
    assert [each.HasField("next_attempt_time") for each in reversed(waiting)] == [True] + [False] * (len(waiting) - 1)
    await receiver.start()
    assert sequences(await receiver.has(6), one.id) == [1, 2, 3, 4, 5, 6]


async def test_a_receiver_that_is_gone_stops_its_webhook_until_it_is_switched_on_again(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    stub = webhooks_of(harness)
    made = await create(harness, receiver.url)
    receiver.statuses = [410]
    one = await start(harness)
    [failed] = await eventually_in(harness, made.webhook.id, STATE.WEBHOOK_DELIVERY_STATE_FAILED, 1)
    assert failed.last_status_code == 410
    stopped = (await stub.GetWebhook(webhook_pb2.GetWebhookRequest(id=made.webhook.id))).webhook
    assert (stopped.paused, stopped.gone, stopped.revision) == (True, True, 2)
    await finish(worker, one.id, 0)
    request = webhook_pb2.UpdateWebhookRequest(
        id=made.webhook.id, webhook=webhook_pb2.Webhook(), update_mask=FieldMask(paths=["paused"]), expected_revision=1
    )
    with refused(CODE.ABORTED, "REVISION_MISMATCH"):
        await stub.UpdateWebhook(request)
    request.expected_revision = 2
    on = (await stub.UpdateWebhook(request)).webhook
    assert (on.paused, on.gone, on.revision, on.url) == (False, False, 3, receiver.url)
    # What happened meanwhile follows.
    assert sequences(await receiver.has(2), one.id) == [2, 3]
    again = await stub.RetryWebhookDelivery(webhook_pb2.RetryWebhookDeliveryRequest(id=failed.id))
    assert (again.delivery.state, again.delivery.attempts) == (STATE.WEBHOOK_DELIVERY_STATE_PENDING, 0)
    posted = await receiver.has(3)
    assert (posted[-1].event, posted[-1].body["id"]) == ((one.id, 1), failed.id)
    # Deleting it stops what waits.
    receiver.statuses = [500] * 100
    two = await start(harness)
    await eventually(harness, made.webhook.id, bool, execution_id=two.id)
    for deleted in (True, False):
        answer = await stub.DeleteWebhook(webhook_pb2.DeleteWebhookRequest(id=made.webhook.id))
        assert answer.deleted is deleted
    async with worker.database.read() as connection:
        assert (await connection.execute(webhook_deliveries.select())).first() is None


@pytest.mark.parametrize(
    ("most", "taken"),
    [pytest.param(Backlog(3, 1_000_000), 3, id="in number"), pytest.param(Backlog(1000, 1), 1, id="in bytes")],
)
async def test_events_wait_where_they_are_stored_while_too_many_deliveries_do(
    harness: Harness, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch, most: Backlog, taken: int
) -> None:
    for module in (webhook_intake, webhook_sender):
        monkeypatch.setattr(module, "MOST_PENDING", most)
    if most.size == 1:
        monkeypatch.setattr(webhook_sources, "BYTES_AT_ONCE", 1)
    monkeypatch.setattr(webhook_sender, "_BACKOFF", Backoff(0.2, 1.0))
    receiver.statuses = [503] * 100
    made = await create(harness, receiver.url, paused=True)
    ids = [(await start(harness)).id for _ in range(6)]
    await webhooks_of(harness).UpdateWebhook(
        webhook_pb2.UpdateWebhookRequest(id=made.webhook.id, update_mask=FieldMask(paths=["paused"]))
    )
    # All six are there before the first are taken, and each attempt comes after another look for events.
    tried = await eventually(harness, made.webhook.id, lambda found: any(each.attempts > 1 for each in found))
    assert len(tried) == taken
    receiver.statuses = []
    assert {each.event[0] for each in await receiver.has(6)} == set(ids)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_group_whose_receivers_are_slow_holds_up_no_other_group(
    harness: Harness, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_client, "_SECONDS", 300.0)
    async with WebhookReceiver() as slow:
        slow.gate = Gate()
        for _ in range(20):
            await create(harness, slow.url)
        await create(harness, receiver.url, BOB)
        await start(harness)
        await slow.changes.wait(lambda: slow.held >= 4)
        other = await start(harness, BOB)
        assert [each.event for each in await receiver.has(1)] == [(other.id, 1)]
        assert (slow.held, slow.posted) == (4, [])
        gate, slow.gate = slow.gate, None
        gate.release()
        await slow.has(20)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_slow_receivers_of_executions_hold_up_none_of_their_group(
    harness: Harness, worker: Worker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_client, "_SECONDS", 300.0)
    monkeypatch.setattr(webhook_limits, "MAX_BOUND_WEBHOOKS", 5)

    async def end_all() -> None:
        async with worker.database.write() as connection:
            await connection.execute(executions.update().values(state="SUCCEEDED", ended_at=utc_now()))

    async with WebhookReceiver() as slow:
        slow.gate = Gate()
        for _ in range(5):
            await start(harness, webhook=pb.ExecutionWebhook(url=slow.url))
        await slow.changes.wait(lambda: slow.held >= 4)
        await create(harness, receiver.url)
        other = await start(harness)
        assert [each.event for each in await receiver.has(1)] == [(other.id, 1)]
        assert (slow.held, slow.posted) == (4, [])
        for limit in (5, 10):
            with refused(CODE.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
                await start(harness, webhook=pb.ExecutionWebhook(url=slow.url))
            assert (refusal.metadata["quota"], refusal.metadata["limit"]) == ("execution_webhooks", str(limit))
            # What has ended makes room, although nothing of it is posted.
            await end_all()
            for _ in range(10 - limit):
                await start(harness, webhook=pb.ExecutionWebhook(url=slow.url))
            await end_all()
        gate, slow.gate = slow.gate, None
        gate.release()
        await slow.has(10)


async def test_one_subject_leaves_places_of_webhooks_to_others_of_the_group(
    harness: Harness, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_limits, "MAX_BOUND_WEBHOOKS_OF_SUBJECT", 2)
    wanted = pb.ExecutionWebhook(url=receiver.url)
    for _ in range(2):
        await start(harness, webhook=wanted)
    with refused(CODE.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await start(harness, webhook=wanted)
    assert (refusal.metadata["quota"], refusal.metadata["limit"]) == ("subject_execution_webhooks", "2")
    assert refusal.message.startswith("you have 2 webhooks")
    # Without a webhook it is started, and another member has places of their own.
    await start(harness)
    await start(harness, "dev:carol:sales=editor", webhook=wanted)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_slow_receivers_of_four_groups_hold_up_no_fifth(
    harness: Harness, worker: Worker, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_client, "_SECONDS", 300.0)
    monkeypatch.setattr(webhook_places, "_SLOW_SECONDS", 0.1)
    lag = WaitingWork(worker.database, LeaseStore(worker.database))
    async with WebhookReceiver() as slow:
        slow.gate = Gate()
        for number in range(4):
            bearer = f"dev:ann:slow-{number}=admin"
            for _ in range(4):
                await create(harness, slow.url, bearer)
            await start(harness, bearer)
        await slow.changes.wait(lambda: slow.held == 16)
        await create(harness, receiver.url, BOB)
        other = await start(harness, BOB)
        assert [each.event for each in await receiver.has(1)] == [(other.id, 1)]
        assert (slow.held, slow.posted) == (16, [])
        await lag.count()
        assert (REGISTRY.get_sample_value("coxswain_webhook_oldest_seconds", {"waiting": "undelivered"}) or 0) > 0
        gate, slow.gate = slow.gate, None
        gate.release()
        await slow.has(16)
    async with asyncio.timeout(60):
        while REGISTRY.get_sample_value("coxswain_webhook_oldest_seconds", {"waiting": "undelivered"}):
            await lag.count()


async def test_the_answer_of_a_receiver_that_was_replaced_does_not_stop_the_new_one(
    harness: Harness, receiver: WebhookReceiver
) -> None:
    stub = webhooks_of(harness)
    made = await create(harness, f"{receiver.url}/old")
    receiver.statuses, receiver.gate = [410], Gate()
    one = await start(harness)
    await receiver.changes.wait(lambda: receiver.held == 1)
    await stub.UpdateWebhook(
        webhook_pb2.UpdateWebhookRequest(
            id=made.webhook.id,
            webhook=webhook_pb2.Webhook(url=f"{receiver.url}/new"),
            update_mask=FieldMask(paths=["url"]),
        )
    )
    gate, receiver.gate = receiver.gate, None
    gate.release()
    assert [each.event for each in await receiver.has(1, "/new")] == [(one.id, 1)]
    now = (await stub.GetWebhook(webhook_pb2.GetWebhookRequest(id=made.webhook.id))).webhook
    assert (now.paused, now.gone, now.revision) == (False, False, 2)


async def test_a_retry_that_is_asked_for_during_an_attempt_is_kept(harness: Harness, receiver: WebhookReceiver) -> None:
    made = await create(harness, receiver.url)
    receiver.statuses, receiver.gate = [503] * 100, Gate()
    await start(harness)
    await receiver.changes.wait(lambda: receiver.held == 1)
    receiver.gate.release()
    await receiver.changes.wait(lambda: receiver.held == 2)
    [delivery] = await deliveries_of(harness, made.webhook.id)
    assert delivery.attempts == 1
    await webhooks_of(harness).RetryWebhookDelivery(webhook_pb2.RetryWebhookDeliveryRequest(id=delivery.id))
    receiver.gate.release()
    await receiver.changes.wait(lambda: receiver.held == 3)
    [delivery] = await deliveries_of(harness, made.webhook.id)
    # The attempt that ran is the first one after the request.
    assert delivery.attempts == 1


async def test_events_that_cannot_be_taken_hold_up_nothing_that_is_due(
    harness: Harness, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await create(harness, receiver.url)
    receiver.statuses = [503]
    one = await start(harness)
    await eventually(harness, made.webhook.id, lambda found: found and found[0].attempts == 1)
    failures = 0

    async def fail(*_: object) -> Found:
        nonlocal failures
        failures += 1
        receiver.changes.notify()
        raise RuntimeError("no body")

    with monkeypatch.context() as patched:
        patched.setattr(webhook_sources.GroupSource, "after", fail)
        two = await start(harness)
        await receiver.changes.wait(lambda: failures > 0)
        assert [each.event for each in await receiver.has(1)] == [(one.id, 1)]
    assert [each.event for each in await receiver.has(2)] == [(one.id, 1), (two.id, 1)]


async def test_an_attempt_that_fails_unexpectedly_is_made_again(
    harness: Harness, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await create(harness, receiver.url)

    async def fail(*_: object) -> Attempt:
        raise KeyError("no client")

    with monkeypatch.context() as patched:
        patched.setattr(WebhookClient, "post", fail)
        await start(harness)
        [delivery] = await eventually(harness, made.webhook.id, lambda found: found and found[0].attempts)
        assert (delivery.last_status_code, delivery.last_error) == (0, "the attempt failed unexpectedly")
    await eventually_in(harness, made.webhook.id, STATE.WEBHOOK_DELIVERY_STATE_DELIVERED, 1)


async def test_what_a_process_that_died_was_sending_is_sent_by_another(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    made = await create(harness, receiver.url)
    until = utc_now() + timedelta(seconds=1)
    async with worker.database.write() as connection:
        await connection.execute(webhooks.update().values(sender="dead", sender_until=until))
    one = await start(harness)
    [posted] = await receiver.has(1)
    assert posted.event == (one.id, 1)
    assert utc_now() >= until
    await eventually_in(harness, made.webhook.id, STATE.WEBHOOK_DELIVERY_STATE_DELIVERED, 1)


async def test_requests_are_repeated_safely_and_bad_addresses_are_refused(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    stub = webhooks_of(harness)
    request = webhook_pb2.CreateWebhookRequest(webhook=webhook_pb2.Webhook(url=receiver.url), request_id="one")
    first, second = await stub.CreateWebhook(request), await stub.CreateWebhook(request)
    assert first == second
    request.webhook.description = "another"
    with refused(CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await stub.CreateWebhook(request)
    for url in (
        "http://8.8.8.8/hook",
        "https://10.0.0.1/hook",
        "https://169.254.169.254/latest",
        "https://[fd00::1]/",
        "https://user:password@example.com/",
        "https://0x7f000001.example/\\@example.com",
        "ftp://example.com",
        "example.com/hook",
        "https://[::1",
        "https://[foo]/",
        "https://ex\u2100mple.com/",
    ):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await create(harness, url)
        assert set(refusal.violations) == {"webhook.url"}, url
        assert "password" not in refusal.message
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await stub.UpdateWebhook(
            webhook_pb2.UpdateWebhookRequest(
                id=first.webhook.id,
                webhook=webhook_pb2.Webhook(url="https://10.0.0.1"),
                update_mask=FieldMask(paths=["url"]),
            )
        )
    # One whose address is not allowed any more can be paused, and not be given another such address.
    async with worker.database.write() as connection:
        await connection.execute(webhooks.update().values(url="https://10.0.0.1/"))
    change = webhook_pb2.UpdateWebhookRequest(
        id=first.webhook.id, webhook=webhook_pb2.Webhook(paused=True), update_mask=FieldMask(paths=["paused"])
    )
    assert (await stub.UpdateWebhook(change)).webhook.paused
    change = webhook_pb2.UpdateWebhookRequest(
        id=first.webhook.id,
        webhook=webhook_pb2.Webhook(url="https://10.0.0.2/"),
        update_mask=FieldMask(paths=["url"]),
    )
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await stub.UpdateWebhook(change)
    made = await asyncio.gather(*(create(harness, receiver.url) for _ in range(36)), return_exceptions=True)
    assert len([each for each in made if not isinstance(each, BaseException)]) == 31
    with refused(CODE.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED") as refusal:
        await create(harness, receiver.url)
    assert refusal.metadata["quota"] == "webhooks"
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await create(harness, receiver.url, "dev:eve:sales=editor")


async def test_the_webhooks_of_a_deleted_group_and_those_of_who_has_left_it_are_paused(
    harness: Harness, worker: Worker, receiver: WebhookReceiver
) -> None:
    async def paused() -> dict[str, bool]:
        async with worker.database.read() as connection:
            rows = await connection.execute(webhooks.select())
            # The release before leaves alone what is bound to an execution.
            assert all(row.paused for row in rows if row.execution_id)
            rows = await connection.execute(webhooks.select())
            return {row.id: row.paused and row.held for row in rows}

    bound = []
    for bearer in ("dev:olga:sales=operator", "dev:otto:sales=operator"):
        wanted = pb.ExecutionWebhook(url=f"{receiver.url}/bound")
        crew_id = (await create_crew(harness, name=bearer)).id
        execution = (
            await executions_of(harness, bearer).StartExecution(start_request(crew_id, webhook=wanted))
        ).execution
        listed = await webhooks_of(harness).ListWebhooks(webhook_pb2.ListWebhooksRequest(execution_id=execution.id))
        bound.append(listed.webhooks[0].id)
    ours = (await create(harness, receiver.url, "dev:olga:sales=admin")).webhook.id
    await receiver.has(2, "/bound")
    left = AccessChange("dev|olga", "sales", utc_now().timestamp())
    await WebhookGroups(worker.database, _Told([left])).once()
    assert await paused() == {bound[0]: True, bound[1]: False, ours: False}
    async with worker.database.write() as connection:
        await connection.execute(webhooks.delete().where(webhooks.c.execution_id.is_not(None)))
    theirs = (await create(harness, receiver.url, BOB)).webhook.id
    channel: grpc.aio.Channel = harness.channel(ALICE)
    member = group_pb2.SetMemberRequest(subject="dev|zoe", role=ROLE_OPERATOR)
    await GroupServiceStub(channel).SetMember(member)
    channel = harness.channel("")
    await GroupServiceStub(channel).DeleteGroup(group_pb2.DeleteGroupRequest(id="sales", confirm_id="sales"))

    async with asyncio.timeout(60):
        while await paused() != {ours: True, theirs: False}:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    # One that was switched on since then belongs to who has the group now.
    async with worker.database.write() as connection:
        later = utc_now() + timedelta(seconds=10)
        await connection.execute(webhooks.update().values(paused=False, updated_at=later))
    deleted = AccessChange(EVERYBODY, "sales", utc_now().timestamp())
    await WebhookGroups(worker.database, _Told([deleted])).once()
    assert await paused() == {ours: False, theirs: False}


class _Told:
    """Tells of some changes."""

    def __init__(self, changes: list[AccessChange]) -> None:
        self._changes = changes

    async def access_changes(self, _since: float) -> list[AccessChange]:
        return self._changes


async def test_what_commits_late_is_not_lost_and_nothing_is_posted_twice_by_two_replicas(
    postgres_url: str, tmp_path: Path, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One event at a time, so that batches end everywhere.
    monkeypatch.setattr(webhook_sources, "BYTES_AT_ONCE", 1)
    rounds: Counter[Database] = Counter()

    async def counted(database: Database, *arguments: Any) -> WebhookWork:
        work = await read_webhook_work(database, *arguments)
        rounds[database] += 1
        receiver.changes.notify()
        return work

    monkeypatch.setattr(webhook_sender, "read_webhook_work", counted)
    settings = {"orchestrator": OrchestratorSettings()}
    async with (
        serve_services(tmp_path, "models", "orchestrator", database_url=postgres_url, settings=settings) as one,
        serve_services(tmp_path, "models", "orchestrator", database_url=postgres_url, settings=settings) as other,
        working(one, postgres_url) as worker,
    ):
        await create(other, receiver.url)
        ids = [(await start(one)).id for _ in range(4)]
        await receiver.has(4)
        async with worker.database.write() as connection:
            # This one has a lower number than those that commit before it.
            await connection.execute(select(func.pg_current_xact_id()))
            await worker.claim(ids[0])
            await finish(worker, ids[1])
            rounds.clear()
            # Each replica has seen them, and what it posts may be no reason to leave out what is still to come.
            await receiver.changes.wait(lambda: len(rounds) == 2 and min(rounds.values()) >= 2)
            await EventRepository(connection).append(ids[0], [new_event(pb.TaskStarted(agent_role="Reader"))])
        for _ in range(2):
            await worker.emit(ids[0], pb.TaskStarted(agent_role="Reader"))
        await worker.end(ids[0], ExecutionState.SUCCEEDED, SUCCEEDED)
        await asyncio.gather(*(finish(worker, execution_id) for execution_id in ids[2:]))
        posted = await receiver.has(24)
        for execution_id in ids:
            assert sequences(posted, execution_id) == [1, 2, 3, 4, 5, 6]
        assert len(receiver.posted) == 24
        assert len({each.headers["Idempotency-Key"] for each in receiver.posted}) == 24


class _PlainSeal:
    """Seals nothing."""

    def seal(self, _row: str, plaintext: bytes) -> bytes:
        return plaintext

    def open(self, _row: str, sealed: bytes) -> bytes | None:
        return sealed


@pytest.mark.parametrize(
    ("networks", "location", "error"),
    [
        ([], "", "may not be called from here"),
        (["127.0.0.0/8", "::1/128"], "/elsewhere", "answered with status 302; redirects are not followed"),
    ],
    ids=["a name that leads inside", "a redirect"],
)
async def test_no_attempt_goes_where_groups_may_not(
    receiver: WebhookReceiver, networks: list[str], location: str, error: str
) -> None:
    scheme = "http" if networks else "https"
    receiver.statuses, receiver.headers = [302], {"Location": location}
    attempt = await post_once(f"{scheme}://localhost:{receiver.port}/", networks)
    assert error in attempt.error
    assert [each.path for each in receiver.posted] == (["/"] if networks else [])


async def test_what_a_receiver_has_taken_is_delivered_whenever_its_answer_ends(
    receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_client, "_ANSWER_SECONDS", 0.1)
    receiver.body_gate = Gate()
    assert await post_once(receiver.url, ["127.0.0.0/8"]) == Attempt(200)


async def post_once(url: str, networks: list[str]) -> Attempt:
    """Make one attempt of a client that may call some networks besides the public ones."""
    allowed = OrchestratorSettings(egress_allowed_networks=networks).egress_allowed_networks
    egress = EgressClient(AddressPolicy(allowed, setting="COXSWAIN_ORCHESTRATOR_EGRESS_ALLOWED_NETWORKS"))
    keys: Any = _PlainSeal()
    now = utc_now()
    plan = WebhookPlan(url, "", EventFilter(), paused=False)
    webhook = Webhook("w", "sales", plan, b"key", Position(0, 0), "alice", 1, now, now)
    pending = DeliveryState.PENDING
    delivery = Delivery("d", "w", "e", 1, "execution_queued", pending, 0, 0, "", b"{}", now, None, now, None)
    try:
        return await WebhookClient(egress, SigningKeys(keys), PushCredentials(keys)).post(webhook, delivery)
    finally:
        await egress.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_new_events_of_an_execution_are_found_without_reading_the_earlier_ones(
    orchestrator: Orchestrator,
) -> None:
    query = select(webhooks.c.id).where(execution_news()).compile(dialect=sqlite.dialect())
    async with orchestrator.database.read() as connection:
        plan = await connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))
    assert "(execution_id=? AND sequence>?)" in str(plan.all())
